//! Landlock: which files the daemon can reach once it serves.
//!
//! A rule is for a directory rather than for a file wherever a file is replaced by renaming another
//! one over it, as editors, logrotate and Kubernetes do: Landlock knows files by their inodes.
//!
//! Ports are not restricted: a reload may bring any upstream. Connecting to Unix sockets by their
//! path is not, either: that right came with ABI 9 (Linux 7.1), and a reload may bring any of those,
//! too; their file permissions decide.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use crate::{
    rules::config::{Config, ListenAddress},
    sys,
};

/// What is restricted where the kernel can: files (5.13) to ioctls of devices (6.10). Nothing that a
/// later ABI adds is denied before somebody has thought about it.
const FILES: ABI = ABI::V5;
/// Signals and abstract sockets (6.12).
const SCOPES: ABI = ABI::V6;

/// Read by the C library when it looks up names: `hosts`, `resolv.conf`, `nsswitch.conf` and the
/// modules that the latter names; and what its memory allocator and a panic's backtrace look at.
const READ: [&str; 9] = [
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/run/systemd/resolve",
    "/sys/devices/system/cpu",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
];
/// Where `/etc/resolv.conf` may be a link to.
const RESOLVER: &str = "/etc/resolv.conf";
const RANDOM: [&str; 2] = ["/dev/random", "/dev/urandom"];
const NULL: &str = "/dev/null";

/// Files, and what may be done with them.
#[derive(Debug, Default)]
pub(super) struct Paths(Vec<(PathBuf, BitFlags<AccessFs>)>);

impl Paths {
    /// Those that a daemon with this configuration has to do with.
    pub(super) fn of(config: &Config, rules: &Path) -> Self {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut paths = Self::default();
        for path in READ {
            paths.add(path, read);
        }
        for path in RANDOM {
            paths.add(path, AccessFs::ReadFile);
        }
        paths.add(NULL, AccessFs::ReadFile | AccessFs::WriteFile);
        paths.add_directory(Path::new(RESOLVER), AccessFs::ReadFile);
        paths.add_directory(rules, AccessFs::ReadFile);
        for file in &config.network_files {
            paths.add_directory(file.path(), AccessFs::ReadFile);
        }
        if let Some(log) = &config.log.access_file {
            paths.add_log(log);
        }
        if let Some(admin) = &config.admin.socket {
            paths.add_directory(&admin.path, AccessFs::RemoveFile);
        }
        for listener in &config.listeners {
            if let ListenAddress::Unix(path) = &listener.address {
                paths.add_directory(path, AccessFs::MakeSock | AccessFs::RemoveFile);
            }
        }
        paths
    }

    /// From here on nothing else can be reached. What is in force, or why nothing is.
    pub(super) fn restrict(self) -> Result<String, String> {
        let RestrictionStatus { ruleset, .. } = self
            .ruleset()
            .and_then(RulesetCreated::restrict_self)
            .map_err(|error| format!("refused: {error}"))?;
        match (ruleset, sys::landlock_abi()) {
            (RulesetStatus::NotEnforced, Err(error)) => Err(format!("not to be had: {error}")),
            (RulesetStatus::NotEnforced, Ok(abi)) => Err(format!("ABI {abi} enforces nothing")),
            (RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced, abi) => {
                Ok(describe(abi.unwrap_or_default()))
            }
        }
    }

    fn ruleset(self) -> Result<RulesetCreated, RulesetError> {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(FILES))?
            .scope(scopes(std::env::var_os("NOTIFY_SOCKET").as_deref()))?
            .create()?;
        for (path, access) in self.0 {
            ruleset = ruleset.add_rules(path_beneath_rules([path], access))?;
        }
        Ok(ruleset)
    }

    fn add(&mut self, path: impl Into<PathBuf>, access: impl Into<BitFlags<AccessFs>>) {
        self.0.push((path.into(), access.into()));
    }

    /// The directory that a file is in, and, where it is a link, the one that its target is in.
    fn add_directory(&mut self, file: &Path, access: impl Into<BitFlags<AccessFs>>) {
        let access = access.into();
        self.add(directory(file), access);
        if let Ok(target) = file.canonicalize() {
            self.add(directory(&target), access);
        }
    }

    /// A log, which is opened again once it has been rotated.
    fn add_log(&mut self, log: &Path) {
        match log.metadata() {
            // A device or a pipe: nobody replaces it, and its directory is not ours.
            Ok(metadata) if !metadata.is_file() => self.add(log, AccessFs::WriteFile),
            Ok(_) | Err(_) => self.add_directory(log, AccessFs::WriteFile | AccessFs::MakeReg),
        }
    }
}

/// Signals and abstract sockets of other processes: none of the daemon's business, unless its service
/// manager is told there that it is ready.
fn scopes(notify: Option<&std::ffi::OsStr>) -> BitFlags<Scope> {
    let all = Scope::from_all(SCOPES);
    if notify.is_some_and(|socket| socket.as_encoded_bytes().starts_with(b"@")) {
        all & !Scope::AbstractUnixSocket
    } else {
        all
    }
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        Some(_) | None => ".".into(),
    }
}

/// What a kernel with this ABI restricts.
pub(super) fn describe(abi: u32) -> String {
    let restricted = [(1, "files"), (5, "ioctls of devices"), (6, "signals, abstract sockets")];
    let restricted: Vec<&str> =
        restricted.iter().filter(|(since, _)| abi >= *since).map(|(_, what)| *what).collect();
    format!("ABI {abi}: {}", restricted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_restricted_grows_with_the_kernel() {
        assert_eq!(describe(1), "ABI 1: files");
        assert_eq!(describe(5), "ABI 5: files, ioctls of devices");
        assert_eq!(describe(7), "ABI 7: files, ioctls of devices, signals, abstract sockets");
    }

    #[test]
    fn an_abstract_notify_socket_stays_reachable() {
        assert!(!scopes(Some("@notify".as_ref())).contains(Scope::AbstractUnixSocket));
        assert!(scopes(Some("/run/systemd/notify".as_ref())).contains(Scope::AbstractUnixSocket));
        assert_eq!(scopes(None), Scope::AbstractUnixSocket | Scope::Signal);
    }

    #[test]
    fn the_directory_of_a_bare_name_is_the_current_one() {
        assert_eq!(directory(Path::new("rules.toml")), Path::new("."));
        assert_eq!(directory(Path::new("/etc/mux/rules.toml")), Path::new("/etc/mux"));
    }
}
