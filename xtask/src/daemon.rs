//! Building the daemon, with the eBPF object of this source where that is possible.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    ebpf,
    provenance::{self, Provenance},
    sh, toolchain,
};

/// cargo's profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Optimised.
    Release,
    /// Quick to build, slow to run.
    Debug,
}

impl Profile {
    /// Its directory below the target directory.
    fn dir(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

/// Which eBPF object to embed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// The committed one if it is of this source, else a fresh one if a toolchain is there.
    Best,
    /// A fresh one.
    Fresh,
}

/// Builds the daemon and returns where it is.
///
/// # Errors
/// cargo fails, or a fresh object was asked for and cannot be built.
pub(crate) fn build(profile: Profile, object: Object) -> Result<PathBuf> {
    let mut cargo = sh::cargo();
    cargo.args(["build", "--package", "mux-userspace", "--bin", "mux"]);
    match profile {
        Profile::Release => cargo.arg("--release"),
        Profile::Debug => &mut cargo,
    };
    embed(&mut cargo, object)?;
    sh::run(&mut cargo)?;
    Ok(sh::target_dir().join(profile.dir()).join("mux"))
}

/// Makes `cargo` embed the object; says in one line which.
fn embed(cargo: &mut Command, object: Object) -> Result<()> {
    cargo.env_remove("MUX_EBPF_OBJECT");
    let current = is_current()?;
    if current && object == Object::Best {
        sh::status("eBPF object: the committed one, which is of this source");
        return Ok(());
    }
    match (ebpf::select(false), object) {
        (Ok(toolchain), _) => {
            cargo.env("MUX_EBPF_OBJECT", ebpf::build(&toolchain)?);
            sh::status(format!("eBPF object: built from source by {}", toolchain.version));
        }
        (Err(error), Object::Fresh) => return Err(error),
        (Err(_), Object::Best) => sh::status(format!(
            "eBPF object: the committed one, although its source has changed since: \
             no toolchain here can build it\nhint: `cargo xtask ebpf --install`, or by hand:\n{}",
            toolchain::install_commands()
        )),
    }
    Ok(())
}

/// Whether the committed object was made of the source as it is now.
///
/// # Errors
/// Source or provenance cannot be read.
pub(crate) fn is_current() -> Result<bool> {
    let root = sh::root();
    let committed = Provenance::load(root)?;
    let now = provenance::source_hash(root).context("cannot hash the eBPF half's source")?;
    let object_there = root.join(provenance::OBJECT).is_file();
    Ok(object_there && committed.is_some_and(|provenance| provenance.source_sha256 == now))
}
