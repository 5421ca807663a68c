//! `cargo xtask run -- …`: builds the daemon, gets it the privileges that the kernel relay wants,
//! and becomes it, so that Ctrl-C, signals and the terminal reach the daemon itself.

use std::{
    ffi::OsString,
    io::IsTerminal as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use caps::{CapSet, Capability};

use crate::{
    daemon::{self, Object, Profile},
    sh,
};

/// `cargo xtask run`.
#[derive(clap::Args, Debug)]
pub(crate) struct RunArgs {
    /// Build without optimisation
    #[arg(long, conflicts_with = "release")]
    debug: bool,
    /// Build with optimisation (the default)
    #[arg(long)]
    release: bool,
    /// Build the eBPF half from source even if the committed object is of this source
    #[arg(long)]
    rebuild: bool,
    /// The daemon's arguments
    #[arg(last = true, value_name = "MUX ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// What the exit code of a usage error is, here as in the daemon (EX_USAGE).
const USAGE: u8 = 64;

/// Builds and becomes the daemon; returns only if it cannot.
///
/// # Errors
/// The build fails or the daemon cannot be started.
pub(crate) fn command(args: &RunArgs) -> Result<ExitCode> {
    if args.arguments.is_empty() {
        eprintln!(
            "error: the daemon needs a rules file\n\
             hint: `cargo xtask run -- --rules rules.toml`, then `curl localhost:3000`;\n\
             `cargo xtask run -- --help` shows the daemon's own arguments"
        );
        return Ok(ExitCode::from(USAGE));
    }
    let profile = if args.debug { Profile::Debug } else { Profile::Release };
    let object = if args.rebuild { Object::Fresh } else { Object::Best };
    let mux = daemon::build(profile, object)?;
    let privileges = Privileges::here();
    sh::status(privileges.explanation());
    // exec keeps the working directory: paths among the arguments are relative to the caller's.
    let error = privileges.command(&mux).args(&args.arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", mux.display()))
}

/// How the daemon comes to CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privileges {
    /// By being root.
    Root,
    /// By the capabilities that this process passes on.
    Capabilities,
    /// By `sudo -E`, which may ask for a password.
    Sudo,
    /// Not at all.
    None,
}

impl Privileges {
    /// What this process can give.
    pub(crate) fn here() -> Self {
        Self::choose(
            rustix::process::geteuid().is_root(),
            has_capabilities(),
            sh::find("sudo").is_some()
                && (has_terminal() || sh::succeeds(Command::new("sudo").args(["-n", "true"]))),
        )
    }

    fn choose(root: bool, capabilities: bool, sudo: bool) -> Self {
        match (root, capabilities, sudo) {
            (true, _, _) => Self::Root,
            (false, true, _) => Self::Capabilities,
            (false, false, true) => Self::Sudo,
            (false, false, false) => Self::None,
        }
    }

    /// One line for a person.
    pub(crate) fn explanation(self) -> &'static str {
        match self {
            Self::Root => "privileges: root (the daemon drops them after start)",
            Self::Capabilities => "privileges: CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are there",
            Self::Sudo => "privileges: through `sudo -E` (the daemon drops them after start)",
            Self::None => {
                "privileges: none, and no sudo; mux relays in user space only\n\
                 hint: for the kernel relay run it as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
            }
        }
    }

    /// The command that starts `mux` with them.
    pub(crate) fn command(self, mux: &Path) -> Command {
        let mut command = match self {
            Self::Root | Self::Capabilities | Self::None => Command::new(mux),
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                // `--` because what follows is not sudo's.
                sudo.args(["-E", "--"]).arg(mux);
                sudo
            }
        };
        sh::without_rust(&mut command);
        command
    }
}

/// Ambient, not only effective: the rest is lost when an unprivileged process execs.
fn has_capabilities() -> bool {
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON].into_iter().all(
        |capability| {
            [CapSet::Effective, CapSet::Ambient]
                .into_iter()
                .all(|set| caps::has_cap(None, set, capability).unwrap_or(false))
        },
    )
}

/// Whether sudo could ask for a password.
fn has_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_roundabout_privileges_win() {
        assert_eq!(Privileges::choose(true, true, true), Privileges::Root);
        assert_eq!(Privileges::choose(false, true, true), Privileges::Capabilities);
        assert_eq!(Privileges::choose(false, false, true), Privileges::Sudo);
        assert_eq!(Privileges::choose(false, false, false), Privileges::None);
    }

    #[test]
    fn sudo_gets_the_daemon_after_its_own_options() {
        let command = Privileges::Sudo.command(Path::new("/x/mux"));
        assert_eq!(sh::shown(&command), "sudo -E -- /x/mux");
    }
}
