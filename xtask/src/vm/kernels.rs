//! Which kernels are booted, as data.

/// A kernel that Debian builds for its cloud images: small, and with everything mux needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// Another name for it, of its branch.
    pub(crate) alias: Option<&'static str>,
    /// Where Debian keeps it: address of the archive and suite. The security suites have the
    /// latest of a stable branch, and a small index.
    pub(crate) archive: &'static str,
    /// See `archive`.
    pub(crate) suite: &'static str,
    /// Whether the daemon is to splice there without being forced to
    /// (`mux_userspace::kernel::allow`).
    pub(crate) splices: bool,
}

const ARCHIVE: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://security.debian.org/debian-security";

/// Every kernel, oldest first.
pub(crate) const SOURCES: [Source; 4] = [
    Source {
        name: "5.10",
        alias: None,
        archive: SECURITY,
        suite: "bullseye-security",
        splices: false,
    },
    Source {
        name: "6.1",
        alias: None,
        archive: SECURITY,
        suite: "bookworm-security",
        splices: true,
    },
    Source {
        name: "6.12",
        alias: None,
        archive: SECURITY,
        suite: "trixie-security",
        splices: true,
    },
    Source {
        name: "newest",
        alias: Some("7.x"),
        archive: ARCHIVE,
        suite: "trixie-backports",
        splices: true,
    },
];

/// For the command line.
pub(crate) fn by_name(name: &str) -> Result<&'static Source, String> {
    SOURCES.iter().find(|source| source.name == name || source.alias == Some(name)).ok_or_else(
        || {
            let names: Vec<&str> = SOURCES
                .iter()
                .flat_map(|source| [Some(source.name), source.alias])
                .flatten()
                .collect();
            format!("no such kernel; there are: {}", names.join(", "))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kernel_is_refused_with_the_known_ones() {
        assert!(by_name("6.1").is_ok_and(|source| source.suite == "bookworm-security"));
        assert!(by_name("7.x").is_ok_and(|source| source.name == "newest"));
        assert!(by_name("4.19").is_err_and(|text| text.contains("6.12")));
    }
}
