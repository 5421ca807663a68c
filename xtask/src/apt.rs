//! Installing Debian packages: only those that are missing, as root or through a `sudo` that
//! asks nothing, and without starting any daemon that a package brings.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::sh;

/// Which of `packages` are not installed. A system without dpkg lacks them all.
pub(crate) fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages.iter().copied().filter(|package| !installed(package)).collect()
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// Installs those of `packages` that are missing.
///
/// # Errors
/// This is not Debian, there is no way to become root, or `apt-get` fails; the
/// message holds the command to type.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install {}", missing.join(" "));
    if sh::find("apt-get").is_none() {
        bail!("missing packages (Debian's names): {}\nthere is no apt-get here", missing.join(" "));
    }
    let Some(root) = as_root() else {
        bail!("missing packages: {}\nhint: as root: {by_hand}", missing.join(" "));
    };
    sh::status(format!("installing {}", missing.join(" ")));
    let _guard = NoDaemons::new(&root)?;
    sh::run(apt_get(&root).arg("update")).context("cannot update the package lists")?;
    // --no-remove: rustc-web conflicts with Debian's own rustc; an installed one is the user's.
    let arguments = ["install", "--yes", "--no-remove", "--no-install-recommends"];
    sh::run(apt_get(&root).args(arguments).args(&missing))
        .with_context(|| format!("hint: as root, by hand: {by_hand}"))
}

/// How this process becomes root: not at all, or through a `sudo` that needs no password.
enum Root {
    Already,
    Sudo,
}

fn as_root() -> Option<Root> {
    if rustix::process::geteuid().is_root() {
        Some(Root::Already)
    } else {
        sh::succeeds(Command::new("sudo").args(["-n", "true"])).then_some(Root::Sudo)
    }
}

fn apt_get(root: &Root) -> Command {
    let mut command = match root {
        Root::Already => sh::program("apt-get"),
        Root::Sudo => {
            let mut sudo = sh::program("sudo");
            sudo.args(["-n", "-E", "apt-get"]);
            sudo
        }
    };
    command.arg("-qq").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Debian's hook that says whether a package may start its daemon.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// "Forbidden by policy" is 101.
const POLICY_TEXT: &str =
    "#!/bin/sh\n# Put here by `cargo xtask` while it installs packages.\nexit 101\n";

/// While this lives, packages that are installed start no daemon: a test brings up its own
/// nginx and sshd, on its own ports. A policy that is already there is left alone.
struct NoDaemons<'a> {
    root: &'a Root,
    ours: bool,
}

impl<'a> NoDaemons<'a> {
    fn new(root: &'a Root) -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { root, ours: false });
        }
        match root {
            Root::Already => write_policy(Path::new(POLICY))?,
            Root::Sudo => {
                let own = std::env::temp_dir().join(format!("mux-policy-{}", std::process::id()));
                write_policy(&own)?;
                let placed = sh::run(
                    Command::new("sudo").args(["-n", "install", "-m", "755"]).arg(&own).arg(POLICY),
                );
                let _ = fs::remove_file(&own);
                placed?;
            }
        }
        Ok(Self { root, ours: true })
    }
}

impl Drop for NoDaemons<'_> {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        let removed = match self.root {
            Root::Already => fs::remove_file(POLICY).is_ok(),
            Root::Sudo => sh::succeeds(Command::new("sudo").args(["-n", "rm", "-f", POLICY])),
        };
        if !removed {
            sh::status(format!(
                "could not remove {POLICY}; remove it, or no package starts daemons"
            ));
        }
    }
}

/// Writes the policy; refuses to follow or replace anything that is at `path` already.
fn write_policy(path: &Path) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
        file.write_all(POLICY_TEXT.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o755))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_cannot_exist_is_missing() {
        assert_eq!(missing(&["mux-no-such-package"]), ["mux-no-such-package"]);
    }

    #[test]
    fn policy_is_executable_and_never_overwrites() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("policy-rc.d");
        write_policy(&path)?;
        assert!(sh::is_executable(&path));
        assert!(write_policy(&path).is_err());
        Ok(())
    }
}
