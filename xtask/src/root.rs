//! Root directories: a small Debian of this machine's release, made once by mmdebstrap, unpacked for
//! each use.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::sh;

/// A kind of root directory.
pub(crate) struct Kind {
    /// Its archive's name below `.cache/deb`.
    pub(crate) name: &'static str,
    /// What it has besides the essential packages.
    pub(crate) packages: &'static [&'static str],
}

impl Kind {
    /// Unpacks it into a new directory. Needs root, and mmdebstrap.
    ///
    /// # Errors
    /// Packages cannot be had.
    pub(crate) fn unpack(&self, to: &Path) -> Result<()> {
        let archive = self.archive()?;
        fs::create_dir(to)?;
        let mut tar = sh::program("tar");
        sh::run(tar.arg("--extract").arg("--file").arg(archive).arg("-C").arg(to))
    }

    fn archive(&self) -> Result<PathBuf> {
        let archive = sh::root().join(".cache/deb").join(format!("{}.tar", self.name));
        if archive.exists() {
            return Ok(archive);
        }
        let parent = archive.parent().context("a directory")?;
        fs::create_dir_all(parent)?;
        let new = parent.join("new.tar");
        sh::status("making a small Debian, once");
        let mut make = sh::program("mmdebstrap");
        make.args(["--quiet", "--variant=essential"]);
        if !self.packages.is_empty() {
            make.arg(format!("--include={}", self.packages.join(",")));
        }
        sh::run(make.arg(release()?).arg(&new).args(sources()))?;
        // Renamed when complete: what an interrupted run leaves is never taken for the whole.
        fs::rename(new, &archive)?;
        Ok(archive)
    }
}

/// The code name of this machine's Debian.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("this system has no code name")?.trim_matches('"').to_owned())
}

/// Where this machine gets its packages; none: mmdebstrap's own idea.
fn sources() -> Vec<&'static str> {
    let files = ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"];
    files.into_iter().filter(|file| Path::new(file).exists()).collect()
}
