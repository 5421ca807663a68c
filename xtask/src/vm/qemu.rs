//! Which QEMU: this machine's, or one of its own below `.cache/vm`. The latter where Debian's package
//! cannot be installed, as on a machine whose `qemu-utils` is a backport, which excludes it; that is the
//! user's.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::debian::Apt;
use crate::{apt, sh};

/// The emulator, and Debian's package of it.
pub(crate) const PROGRAM: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
/// Where its packages have libraries, and what it loads into machines.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];
/// What programs of this machine bring, and must not be mixed.
const NOT_UNPACKED: [&str; 1] = ["libc6_"];

/// A QEMU.
#[derive(Clone, Debug)]
pub(crate) enum Qemu {
    /// In `PATH`.
    Installed,
    /// Below this directory.
    Unpacked(PathBuf),
}

impl Qemu {
    /// Finds one, installs one, or unpacks one.
    ///
    /// # Errors
    /// There is none to be had.
    pub(crate) fn get(cache: &Path) -> Result<Self> {
        let unpacked = cache.join("qemu");
        if sh::find(PROGRAM.0).is_some() {
            return Ok(Self::Installed);
        }
        if unpacked.join("usr/bin").join(PROGRAM.0).exists() {
            return Ok(Self::Unpacked(unpacked));
        }
        match apt::install(&[PROGRAM.1]) {
            Ok(()) => Ok(Self::Installed),
            Err(why) => {
                sh::status(format!("{why:#}"));
                sh::status("getting a QEMU of its own instead, once");
                unpack(cache, &unpacked)?;
                Ok(Self::Unpacked(unpacked))
            }
        }
    }

    /// A command that starts it.
    pub(crate) fn command(&self) -> Command {
        match self {
            Self::Installed => sh::program(PROGRAM.0),
            Self::Unpacked(root) => {
                let mut command = sh::program(root.join("usr/bin").join(PROGRAM.0));
                let mut paths = OsString::new();
                for library in LIBRARIES {
                    paths.push(root.join(library));
                    paths.push(":");
                }
                command.env("LD_LIBRARY_PATH", paths);
                for firmware in FIRMWARE {
                    command.arg("-L").arg(root.join(firmware));
                }
                command
            }
        }
    }
}

fn unpack(cache: &Path, to: &Path) -> Result<()> {
    let work = cache.join("qemu.new");
    let _ = fs::remove_dir_all(&work);
    let apt = Apt::of_this_machine(&work)?;
    sh::output(apt.command("apt-get").args(["-o", "APT::Update::Error-Mode=any", "update"]))?;
    // By a status without any package, everything that it needs is downloaded.
    let arguments = ["install", "--download-only", "--yes", "--no-install-recommends", PROGRAM.1];
    sh::output(apt.command("apt-get").args(arguments))?;
    for entry in fs::read_dir(work.join("cache/archives")).context("downloaded packages")? {
        let package = entry?;
        let name = package.file_name().to_string_lossy().into_owned();
        if name.ends_with(".deb") && !NOT_UNPACKED.iter().any(|not| name.starts_with(not)) {
            let mut unpack = sh::program("dpkg-deb");
            sh::run(unpack.arg("-x").arg(package.path()).arg(work.join("root")))?;
        }
    }
    fs::rename(work.join("root"), to)?;
    Ok(fs::remove_dir_all(work)?)
}
