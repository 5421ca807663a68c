//! `cargo xtask dist`: manual pages and shell completions, in `target/dist`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::sh;

/// `cargo xtask dist`.
#[derive(clap::Args, Debug)]
pub(crate) struct DistArgs {}

/// Writes them; says where.
///
/// # Errors
/// cargo fails.
pub(crate) fn command(_: &DistArgs) -> Result<()> {
    println!("{}", write()?.display());
    Ok(())
}

/// Writes them, and returns the directory that they are in.
pub(crate) fn write() -> Result<PathBuf> {
    // Where the package's list of files looks for them, whatever CARGO_TARGET_DIR is.
    let directory = sh::root().join("target/dist");
    if directory.exists() {
        // Pages of commands that are no more.
        std::fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    let mut cargo = sh::cargo();
    // Not optimised: it runs for a moment.
    cargo.args(["run", "--quiet", "--package", "mux-userspace", "--example", "manual", "--"]);
    sh::run(cargo.arg(&directory))?;
    Ok(directory)
}
