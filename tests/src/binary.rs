//! Finding the daemon under test.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

/// Makes a copy of the daemon that every user can execute, wherever the repository is.
///
/// Another process writes it: what this one has open for writing, the processes inherit that other
/// threads are just starting, and what is open for writing cannot be executed (`ETXTBSY`).
///
/// # Errors
/// It cannot be copied.
pub(crate) fn for_others(copy: &Path) -> Result<PathBuf> {
    let mut install = Command::new("install");
    let status = install.arg("--mode=755").arg(mux()?).arg(copy).status();
    let status = status.context("cannot run install (Debian: coreutils)")?;
    ensure!(status.success(), "copying the daemon to {}: {status}", copy.display());
    Ok(copy.to_owned())
}

/// The daemon's path: `MUX_BIN`, else `release/mux` or `debug/mux` in the target directory that
/// this test binary is in.
///
/// # Errors
/// There is none; the message says what to build.
pub fn mux() -> Result<PathBuf> {
    if let Some(path) = env::var_os("MUX_BIN") {
        let path = PathBuf::from(path);
        if !path.is_absolute() || !path.is_file() {
            bail!("MUX_BIN={} is not the absolute path of a file", path.display());
        }
        return Ok(path);
    }
    let own = env::current_exe().context("where is this test?")?;
    // target/PROFILE/deps/integration-…, or target/PROFILE/crowd
    let places = || own.ancestors().skip(2).take(2);
    let all =
        places().flat_map(|target| ["release/mux", "debug/mux"].map(|name| target.join(name)));
    all.into_iter().find(|path| path.is_file()).with_context(|| {
        format!(
            "there is no daemon to test in {}\nhint: `cargo build --release -p mux-userspace`, or name one with MUX_BIN=/path/to/mux",
            places().last().unwrap_or(Path::new(".")).display()
        )
    })
}
