//! The daemon's sandbox: once it serves, it can reach the files that are its business and make the
//! system calls that it has a use for, and no others.
//!
//! Entered after privileges are dropped and before the first thread is started: a thread has what
//! the one that started it has. For the daemon only: a program that embeds mux and
//! commands like `mux check` are never confined. The keeper, and thus a successor until it enters
//! its own, has a wider one (`server/confined.rs`).

mod calls;
mod paths;

use std::{io, path::Path};

use tracing::{info, warn};

pub(super) use self::calls::compile;
use self::paths::Paths;
use super::{Check, privileges};
use crate::{
    admin::view::SecurityStatus,
    rules::config::{Config, Confinement, SecurityConfig},
    sys,
};

/// A sandbox that is ready to be entered.
#[derive(Debug)]
pub struct Sandbox {
    /// `None`: switched off.
    paths: Option<Paths>,
    seccomp: Confinement,
}

impl Sandbox {
    /// Opens what the daemon is to be able to reach, while there are the rights to. `rules` is its
    /// rules file, which a reload reads again.
    #[must_use]
    pub fn prepare(config: &Config, rules: &Path) -> Self {
        let SecurityConfig { user: _, landlock, seccomp, keeper: _ } = config.security;
        let paths = (landlock == Confinement::Auto).then(|| Paths::of(config, rules));
        Self { paths, seccomp }
    }

    /// Enters it, for good, as far as the kernel can; says once how far that is, and gives that with
    /// what else the process may do. `no_new_privs` must be set.
    pub fn enter(self) -> SecurityStatus {
        // Before: the C library may look the name up in files, and the filter has an opinion on
        // prctl(2).
        let standing = privileges::standing();
        let landlock = self.paths.map(Paths::restrict);
        // Last: it forbids the calls of the other one.
        let seccomp = (self.seccomp == Confinement::Auto).then(calls::restrict);
        let missing = [&landlock, &seccomp].iter().any(|result| matches!(result, Some(Err(_))));
        let (landlock, seccomp) = (describe(landlock), describe(seccomp));
        if missing {
            warn!(landlock, seccomp, "sandbox: not all of it is in force");
        } else {
            info!(landlock, seccomp, "sandbox");
        }
        SecurityStatus { landlock, seccomp, ..standing }
    }
}

/// How entering one half went, in words.
fn describe(entered: Option<Result<String, String>>) -> String {
    entered.map_or_else(|| "off".into(), |result| result.unwrap_or_else(|why| why))
}

/// What `mux doctor` says: what would be in force.
pub(crate) fn checks(config: &SecurityConfig) -> [Check; 3] {
    [no_new_privs(), landlock(config.landlock), seccomp(config.seccomp)]
}

/// It has no switch: a daemon that serves executes nothing, and without it a process that has no
/// CAP_SYS_ADMIN can install neither of the other two.
fn no_new_privs() -> Check {
    const NAME: &str = "no_new_privs";
    match rustix::thread::no_new_privs() {
        Ok(true) => Check::ok(NAME, "set already, by whoever starts mux"),
        Ok(false) => Check::ok(NAME, "set before the first connection, always"),
        Err(error) => Check::warning(NAME, format!("not to be had: {error}"), ""),
    }
}

fn landlock(wanted: Confinement) -> Check {
    const NAME: &str = "Landlock";
    match (wanted, sys::landlock_abi()) {
        (Confinement::Off, _) => Check::warning(NAME, "off by [security] landlock", ""),
        (Confinement::Auto, Ok(abi)) => Check::ok(NAME, paths::describe(abi)),
        (Confinement::Auto, Err(error)) => {
            Check::warning(NAME, format!("not to be had: {error}"), landlock_remedy(&error))
        }
    }
}

fn landlock_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "use a kernel from 5.13 that is built with it",
        Some(libc::EOPNOTSUPP) => "add `landlock` to the kernel's `lsm=` at boot",
        _ => "",
    }
}

fn seccomp(wanted: Confinement) -> Check {
    const NAME: &str = "seccomp";
    match wanted {
        Confinement::Off => Check::warning(NAME, "off by [security] seccomp", ""),
        Confinement::Auto if !sys::has_seccomp() => {
            Check::warning(NAME, "not to be had", "use a kernel that is built with it")
        }
        Confinement::Auto => match calls::describe() {
            Ok(what) => Check::ok(NAME, what),
            Err(error) => Check::warning(NAME, error, ""),
        },
    }
}

#[cfg(test)]
mod tests;
