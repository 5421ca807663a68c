//! `cargo xtask torture -- …`: builds the daemon and the torture program, and runs it with the
//! privileges that the kernel relay and network namespaces want.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
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
    let mut command = program(&mux)?;
    command.args(&args.arguments);
    let status = command.status().context("cannot start the torture program")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// What `cargo xtask test` runs: hundreds of flows on loopback, over links that lose packets, and,
/// between threads that use up the CPUs, while the relay is switched and packets overtake others. Each
/// is good only if what it is there for has happened (`--expect`).
const SMALL: [&[&str]; 3] = [
    &["--flows", "400"],
    &["--flows", "100", "--netns", "--loss", "2", "--no-sack", "--send-buffer", "131072"],
    &["--flows", "100", "--netns", "--delay", "20", "--no-sack", "--hogs", "2", "--flip", "150"],
];

/// The torture in a small size.
///
/// # Errors
/// A wrong byte, a hung flow, books that do not balance.
pub(crate) fn small(mux: &Path) -> Result<()> {
    SMALL.iter().try_for_each(|arguments| sh::run(program(mux)?.args(*arguments)))
}

/// Builds the program; the command to run it with.
fn program(mux: &Path) -> Result<Command> {
    sh::run(sh::cargo().args([
        "build",
        "--release",
        "--package",
        "mux-tests",
        "--bin",
        "torture",
    ]))?;
    let torture: PathBuf = sh::target_dir().join("release/torture");
    let mut command = Privileges::here().command(&torture);
    command.arg("--mux").arg(mux);
    Ok(command)
}
