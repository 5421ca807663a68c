//! Which kernels may splice by default, as data.
//!
//! Some kernels have bugs in sockmap that no program can work around; a self-test cannot
//! provoke them all. A kernel that is not on this list splices only with
//! `[kernel] sockmap = "force"`, and after the self-test all the same.

use std::fmt;

/// A kernel's version, as kernel.org counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 6 of 6.12.35.
    pub major: u16,
    /// 12 of 6.12.35.
    pub minor: u16,
    /// 35 of 6.12.35.
    pub patch: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

const fn v(major: u16, minor: u16, patch: u16) -> Version {
    Version { major, minor, patch }
}

/// The oldest kernel that the relay can work on at all: `bpf_skc_to_tcp_sock` (5.9) and sockmap
/// look-ups (5.8), as tried on 5.10.
pub const OLDEST: Version = v(5, 10, 0);

/// A bug that no program can work around, and where it is fixed.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// What it does.
    pub effect: &'static str,
    /// The fix in Linus's tree (6.16).
    pub fix: &'static str,
    /// First stable releases with the fix, older branches first.
    pub fixed_in: &'static [Version],
}

/// The bugs. A kernel on the list has all of them fixed.
pub const BUGS: &[Bug] = &[
    Bug {
        effect: "bytes are sent twice after a partial send",
        fix: "3b4f14b794287be137ea2c6158765d1ea1e018a4",
        fixed_in: &[v(6, 1, 142), v(6, 6, 94), v(6, 12, 34), v(6, 16, 0)],
    },
    Bug {
        effect: "bytes are lost when a send is retried",
        fix: "7683167196bd727ad5f3c3fc6a9ca70f54520a81",
        fixed_in: &[v(6, 1, 142), v(6, 6, 95), v(6, 12, 35), v(6, 16, 0)],
    },
    Bug {
        effect: "a socket is used after free while sending",
        fix: "8259eb0e06d8f64c700f5fbdb28a5c18e10de291",
        fixed_in: &[v(6, 1, 142), v(6, 6, 94), v(6, 12, 34), v(6, 16, 0)],
    },
];

/// Whether a kernel may splice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// By default.
    Allowed,
    /// Only when forced.
    Forcible(String),
    /// Never.
    TooOld(String),
}

/// Judges a version.
#[must_use]
pub fn judge(version: Version) -> Standing {
    if version < OLDEST {
        return Standing::TooOld(format!("Linux {version} is older than {OLDEST}"));
    }
    for bug in BUGS {
        if !has_fix(version, bug) {
            return Standing::Forcible(format!(
                "Linux {version} is not known to have commit {}: {}",
                &bug.fix[..12],
                bug.effect
            ));
        }
    }
    Standing::Allowed
}

fn has_fix(version: Version, bug: &Bug) -> bool {
    let Some((mainline, branches)) = bug.fixed_in.split_last() else { return false };
    version >= *mainline
        || branches.iter().any(|fixed| {
            (version.major, version.minor) == (fixed.major, fixed.minor) && version >= *fixed
        })
}

/// The running kernel's version. Debian's `uname -r` holds its ABI number instead of the patch
/// level, which stands in `uname -v` ("#1 SMP … Debian 6.1.142-1 (2025-07-06)").
#[must_use]
pub fn running() -> Option<Version> {
    let uname = rustix::system::uname();
    parse(&uname.release().to_string_lossy(), &uname.version().to_string_lossy())
}

/// Reads a version from what uname(2) says.
#[must_use]
pub fn parse(release: &str, version: &str) -> Option<Version> {
    if let Some((_, debian)) = version.split_once("Debian ") {
        return numbers(debian);
    }
    numbers(release)
}

fn numbers(text: &str) -> Option<Version> {
    let mut parts = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?
        .split('.')
        .map(|part| part.parse().ok());
    Some(Version {
        major: parts.next()??,
        minor: parts.next()??,
        patch: parts.next().flatten().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        assert_eq!(parse("6.18.44-fc-v669", "#1 SMP"), Some(v(6, 18, 44)));
        assert_eq!(
            parse("6.1.0-38-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.147-1 (2025-08-02)"),
            Some(v(6, 1, 147))
        );
        assert_eq!(parse("7.0-rc1", ""), Some(v(7, 0, 0)));
        assert_eq!(parse("nonsense", ""), None);
    }

    #[test]
    fn only_kernels_with_every_fix_splice_by_default() {
        for allowed in
            [v(6, 1, 142), v(6, 6, 95), v(6, 12, 35), v(6, 16, 0), v(6, 18, 44), v(7, 1, 0)]
        {
            assert_eq!(judge(allowed), Standing::Allowed, "{allowed}");
        }
        for forcible in
            [v(5, 10, 262), v(5, 15, 200), v(6, 1, 141), v(6, 6, 94), v(6, 12, 34), v(6, 15, 9)]
        {
            assert!(matches!(judge(forcible), Standing::Forcible(_)), "{forcible}");
        }
        assert!(matches!(judge(v(5, 4, 300)), Standing::TooOld(_)));
    }
}
