//! The package under systemd: a Debian in a virtual machine, whose first process is systemd, so that the
//! unit's namespaces, filters and its user are in force. `boot.sh` is what is done there; here is what
//! has to come of it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::trial::{self, NEWER, VERSION};
use crate::{
    root::Kind,
    sh,
    vm::{NotToBeHad, boot_debian},
};

const DEBIAN: Kind = Kind {
    name: "systemd",
    packages: &["curl", "iproute2", "kmod", "procps", "systemd", "systemd-sysv"],
};
const SCRIPT: &str = include_str!("boot.sh");
const UNIT: &str = "[Unit]\nAfter=multi-user.target\n\
                    [Service]\nType=oneshot\nExecStart=/bin/sh /trial.sh\n";
const ACTIVE: &str = "active";
/// It is emulated, at a twentieth of the speed, and there may be other work.
const LIMIT: Duration = Duration::from_secs(900);

/// Boots it.
///
/// # Errors
/// The service does not do what it should.
pub(super) fn run(package: &Path) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let root = directory.path().join("debian");
    DEBIAN.unpack(&root)?;
    let put = |from: &Path, name: &str| fs::copy(from, root.join(name));
    put(package, "mux.deb")?;
    put(&trial::newer(package, &directory)?, "newer.deb")?;
    sh::run(sh::program("chroot").arg(&root).args(["dpkg", "--install", "/mux.deb"]))?;

    fs::write(root.join("trial.sh"), SCRIPT)?;
    fs::set_permissions(root.join("trial.sh"), fs::Permissions::from_mode(0o755))?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("trial.service"), UNIT)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    let wanted = units.join("multi-user.target.wants/trial.service");
    symlink("/etc/systemd/system/trial.service", wanted)?;
    let target = units.join("default.target");
    let _ = fs::remove_file(&target);
    symlink("/lib/systemd/system/multi-user.target", target)?;
    symlink("/lib/systemd/systemd", root.join("init"))?;

    sh::status("the package under systemd, in a virtual machine: some minutes");
    match boot_debian(&root, LIMIT) {
        Ok(said) => judge(&said),
        Err(error) if error.is::<NotToBeHad>() => {
            sh::status(format!("skipped: {error:#}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// What the script said: a line `NAME: VALUE` for each thing it looked at.
fn judge(said: &str) -> Result<()> {
    let says = |name: &str, expected: &str| -> Result<()> {
        let prefix = format!("trial: {name}: ");
        let value = said.lines().find_map(|line| line.trim_end().strip_prefix(&prefix));
        let value = value.with_context(|| format!("nothing about `{name}`:\n{said}"))?;
        // `inactive` is not `active`.
        let is = if expected == ACTIVE { value == ACTIVE } else { value.contains(expected) };
        ensure!(is, "{name}: {value}, not {expected}:\n{said}");
        Ok(())
    };
    says("after the boot", "drwxr-xr-x root root /run/mux")?;
    says("started", ACTIVE)?;
    says("answer", VERSION)?;
    says("relay", "sockmap")?;
    says("capabilities", "CapEff: 0000000000000000")?;
    says("seccomp", "Seccomp: 2")?;
    says("landlock", "landlock=\"ABI")?;
    says("reloaded", "rules: 1 changed")?;
    says("reloaded with wrong rules", "nothing has changed")?;
    says("killed", ACTIVE)?;
    says("another process after the kill", "yes")?;
    says("answer after the kill", VERSION)?;
    // By the newer package's own script.
    says("upgraded", ACTIVE)?;
    says("another process after the upgrade", "yes")?;
    says("answer after the upgrade", NEWER)?;
    says("killed after the upgrade", ACTIVE)?;
    says("answer after that kill", NEWER)?;
    says("stopped", "inactive success")?;
    says("refused system calls", "0")?;
    says("removed", "inactive")?;
    sh::status(
        "the package under systemd: started, reloaded, killed, upgraded, killed, stopped, removed",
    );
    Ok(())
}
