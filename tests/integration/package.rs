//! What packages bring: the unit, and the rules that a fresh installation serves by.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use mux_tests::{Daemon, Scratch, mux, repository, run};

/// "Exposure" by systemd's reckoning, from 0 to 10: SECURITY.md names it.
const EXPOSURE: f64 = 2.0;

/// The unit, with the daemon under test as its program, since systemd looks whether it is there.
fn unit(scratch: &Scratch) -> Result<PathBuf> {
    let text = fs::read_to_string(repository().join("packaging/systemd/mux.service"))?;
    ensure!(text.contains("ExecStart=/usr/bin/mux "), "{text}");
    let program = mux()?.canonicalize()?;
    scratch.write("mux.service", text.replace("/usr/bin/mux", &program.display().to_string()))
}

fn analyze(arguments: &[&str], unit: &PathBuf) -> Result<String> {
    let mut command = Command::new("systemd-analyze");
    let output = run(command.args(arguments).arg(unit).env("SYSTEMD_COLORS", "0"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {text}");
    Ok(text)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() -> Result<()> {
    let scratch = Scratch::new()?;
    let said = analyze(&["verify", "--man=no"], &unit(&scratch)?)?;
    // An unknown key is a warning for systemd.
    ensure!(!said.contains("mux.service:"), "{said}");
    Ok(())
}

#[test]
fn the_unit_is_confined() -> Result<()> {
    let scratch = Scratch::new()?;
    let said = analyze(&["security", "--offline=true", "--no-pager"], &unit(&scratch)?)?;
    let line = said.lines().last().unwrap_or_default();
    let (_, level) = line.split_once("for mux.service: ").context(said.clone())?;
    let level: f64 = level.split_whitespace().next().unwrap_or_default().parse()?;
    ensure!(level <= EXPOSURE, "{said}");
    Ok(())
}

#[test]
fn the_rules_of_the_package_are_right_and_serve_this_machine_only() -> Result<()> {
    let rules = repository().join("packaging/debian/rules.toml");
    let output = Daemon::check(&rules)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.is_empty(), "{said}");
    let text = fs::read_to_string(rules)?;
    let listens: Vec<_> = text.lines().filter(|line| line.starts_with("listen")).collect();
    ensure!(listens == ["listen = \"127.0.0.1:3000\""], "{listens:?}");
    Ok(())
}
