//! `mux check`: warnings as text and as JSON, `--strict`, and what the daemon logs of them.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{Scratch, Starter, mux, run};
use serde_json::{Value, json};

/// One warning that the file shows, and two about its surroundings. RFC 6761 6.4: names below
/// `invalid` do not resolve.
const RULES: &str = "listen = '127.0.0.1:0'

[[rule]]
name = 'slow'
match = { regex = 'Host: a' }
upstream = 'no-such-host.invalid:80'

[[rule]]
name = 'ssh'
match = 'ssh'
upstream = 'unix:/nonexistent/mux-test.sock'
";

fn check(directory: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(mux()?);
    command.current_dir(directory).args(["check", "--rules", "rules.toml"]).args(arguments);
    run(&mut command)
}

#[test]
fn warnings_as_people_see_them() -> Result<()> {
    let scratch = Scratch::new()?;
    scratch.write("rules.toml", RULES)?;
    let output = check(scratch.path(), &[])?;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "rules.toml: ok: 1 listener(s), 2 rule(s), 2 upstream(s), 3 warnings\n"
    );
    for part in [
        "warning: rule `slow` makes rule `ssh` wait\n --> rules.toml:5:19\n",
        "5 | match = { regex = 'Host: a' }\n  |                   ^^^^^^^^^ never says no",
        "warning: `no-such-host.invalid` does not resolve\n --> rules.toml:6:12\n",
        "warning: /nonexistent/mux-test.sock is not there\n  --> rules.toml:11:12\n",
        "= hint: ",
    ] {
        ensure!(error.contains(part), "no {part:?} in:\n{error}");
    }
    Ok(())
}

#[test]
fn strict_takes_them_for_errors() -> Result<()> {
    let scratch = Scratch::new()?;
    scratch.write("rules.toml", RULES)?;
    let output = check(scratch.path(), &["--strict"])?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(78) && output.stdout.is_empty(), "{error}");
    ensure!(error.ends_with("has 3 warnings, and `--strict` allows none\n"), "{error}");

    scratch.write("rules.toml", "listen = '127.0.0.1:0'\n[[rule]]\nupstream = 80\n")?;
    let output = check(scratch.path(), &["--strict"])?;
    ensure!(output.status.code() == Some(0) && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

#[test]
fn findings_for_programs() -> Result<()> {
    let scratch = Scratch::new()?;
    scratch.write("rules.toml", RULES)?;
    let output = check(scratch.path(), &["--json"])?;
    ensure!(output.status.code() == Some(0) && output.stderr.is_empty(), "{output:?}");
    let findings: Value = serde_json::from_slice(&output.stdout)?;
    let counts = json!([findings["ok"], findings["listeners"], findings["rules"]]);
    assert_eq!(counts, json!([true, 1, 2]), "{findings:#}");
    assert_eq!(findings["errors"], json!([]));
    assert_eq!(
        findings["warnings"][0],
        json!({
            "message": "rule `slow` makes rule `ssh` wait", "line": 5, "column": 19,
            "label": "never says no before the sniff timeout, 3s",
            "hint": "anchor it with `^` and do without `.*`, or put the rule after those that wait",
        })
    );
    let places: Vec<_> = findings["warnings"]
        .as_array()
        .context("a list")?
        .iter()
        .map(|warning| (warning["line"].as_u64(), warning["column"].as_u64()))
        .collect();
    assert_eq!(places, [(Some(5), Some(19)), (Some(6), Some(12)), (Some(11), Some(12))]);

    scratch.write("rules.toml", "listen = '127.0.0.1:0'\nx = 1\n[[rule]]\nupstream = 80\n")?;
    let output = check(scratch.path(), &["--json"])?;
    ensure!(output.status.code() == Some(78) && output.stderr.is_empty(), "{output:?}");
    let findings: Value = serde_json::from_slice(&output.stdout)?;
    let error = &findings["errors"][0];
    assert_eq!(findings["ok"], false);
    assert_eq!(error["message"], "unknown key `x` in a rules file");
    assert_eq!(json!([error["line"], error["column"]]), json!([2, 1]));
    Ok(())
}

/// What the file alone shows; the rest can change while the daemon runs.
#[test]
fn the_daemon_logs_what_the_file_shows() -> Result<()> {
    let daemon = Starter::new(RULES).user_space().start()?;
    let stopped = daemon.stop()?;
    let warnings: Vec<&String> =
        stopped.log.iter().filter(|line| line.contains(" WARN ")).collect();
    let [warning] = &warnings[..] else { anyhow::bail!("not one warning: {warnings:#?}") };
    ensure!(
        warning.contains(":5:19: rule `slow` makes rule `ssh` wait: never says no"),
        "{warning}"
    );
    Ok(())
}
