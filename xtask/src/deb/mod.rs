//! `cargo xtask deb`: a Debian package of mux. What is in it is in mux-userspace/Cargo.toml and
//! `packaging/debian`. `trial` lives its life without systemd, `boot` with it.

mod boot;
mod trial;

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    apt,
    daemon::{self, Object, Profile},
    dist, sh,
};

/// The version that `packaging` was written for.
const CARGO_DEB: &str = "3.8.0";

/// `cargo xtask deb`.
#[derive(clap::Args, Debug)]
pub(crate) struct DebArgs {
    /// Then run lintian on it, install it into a Debian of its own, serve, upgrade, purge. As root
    #[arg(long)]
    test: bool,
    /// Try this package out, and make none
    #[arg(long, value_name = "FILE", requires = "test")]
    package: Option<PathBuf>,
}

/// Makes the package; says where it is.
///
/// # Errors
/// A step fails, or a program is missing and cannot be installed.
pub(crate) fn command(args: &DebArgs) -> Result<()> {
    let package = args.package.clone().map_or_else(build, Ok)?;
    println!("{}", package.display());
    if args.test { test(&package) } else { Ok(()) }
}

/// Makes the package and tries it out.
pub(crate) fn build_and_test() -> Result<()> {
    test(&build()?)
}

fn build() -> Result<PathBuf> {
    apt::install(&["dpkg-dev"])?;
    install_cargo_deb()?;
    dist::write()?;
    daemon::build(Profile::Release, Object::Best)?;
    let path = sh::output(sh::cargo().args([
        "deb",
        "--package",
        "mux-userspace",
        "--no-build",
        "--strip",
        "--no-dbgsym",
        "--quiet",
    ]))?;
    let path = path.lines().last().context("cargo-deb names no package")?;
    Ok(PathBuf::from(path))
}

fn test(package: &std::path::Path) -> Result<()> {
    apt::install(&["lintian", "mmdebstrap"])?;
    lintian(package)?;
    trial::run(package)?;
    boot::run(package)
}

fn install_cargo_deb() -> Result<()> {
    if sh::find("cargo-deb").is_some() {
        return Ok(());
    }
    sh::status(format!("installing cargo-deb {CARGO_DEB}"));
    sh::run(sh::cargo().args(["install", "cargo-deb", "--locked", "--version", CARGO_DEB]))
}

/// What is overridden is explained where it is, in `packaging/debian/lintian-overrides`.
fn lintian(package: &std::path::Path) -> Result<()> {
    sh::run(
        Command::new("lintian")
            // It does not like to be root, which CI is.
            .args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"])
            .arg(package),
    )
}
