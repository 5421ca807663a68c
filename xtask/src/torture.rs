//! `cargo xtask torture -- …`: builds the daemon and the torture program, and runs it with the
//! privileges that the kernel relay and network namespaces want.

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::{
    daemon::{self, Object, Profile},
    run::Privileges,
    sh,
};

/// `cargo xtask torture`.
#[derive(clap::Args, Debug)]
pub(crate) struct TortureArgs {
    /// Arguments of the torture program; `--help` shows them
    #[arg(last = true, value_name = "TORTURE ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Builds and runs; the exit code is the program's.
///
/// # Errors
/// The build fails, or the program cannot be started.
pub(crate) fn command(args: &TortureArgs) -> Result<ExitCode> {
    let mux = daemon::build(Profile::Release, Object::Best)?;
    sh::run(sh::cargo().args([
        "build",
        "--release",
        "--package",
        "mux-tests",
        "--bin",
        "torture",
    ]))?;
    let torture = sh::target_dir().join("release/torture");
    let mut command: Command = Privileges::here().command(&torture);
    command.arg("--mux").arg(&mux).args(&args.arguments);
    let status = command.status().with_context(|| format!("cannot start {}", torture.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
