//! `mux doctor`'s exit code: whether the best relay is to be had.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mux_tests::{Need, Scratch, mux, need, run};
use serde_json::Value;

const BEST: i32 = 0;
const NOT_THE_BEST: i32 = 1;

/// Runs it with these rules; the exit code, and what it says.
fn doctor(wrapper: &[&str], sockmap: &str) -> Result<(i32, Value)> {
    let scratch = Scratch::new()?;
    let rules = format!(
        "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = \"builtin:echo\"\n\
         [kernel]\nsockmap = \"{sockmap}\"\n"
    );
    let file = scratch.write("rules.toml", rules)?;
    let mux = mux()?;
    let mut command = match wrapper {
        [] => Command::new(mux),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(mux);
            command
        }
    };
    let output = run(command.args(["doctor", "--json", "--rules"]).arg(file))?;
    let code = output.status.code().context("no exit code")?;
    Ok((code, serde_json::from_slice(&output.stdout)?))
}

fn status<'a>(report: &'a Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().map_or(&[][..], Vec::as_slice);
    let check = checks.iter().find(|check| check["name"] == name);
    check.and_then(|check| check["status"].as_str()).unwrap_or("not there")
}

#[test]
fn the_doctors_exit_code_is_0_where_the_kernel_relay_is_to_be_had() -> Result<()> {
    need!(Need::Root);
    let mode = std::env::var("MUX_TEST_SOCKMAP").unwrap_or_else(|_| "auto".into());
    let (code, report) = doctor(&[], &mode)?;
    ensure!((code, &report["relay"]) == (BEST, &"sockmap".into()), "{code}: {report}");
    ensure!(status(&report, "self-test") == "ok", "{report}");
    Ok(())
}

#[test]
fn the_doctors_exit_code_is_1_where_it_is_switched_off() -> Result<()> {
    let (code, report) = doctor(&[], "off")?;
    ensure!(code == NOT_THE_BEST && report["relay"] != "sockmap", "{code}: {report}");
    ensure!(status(&report, "self-test") == "skipped", "{report}");
    Ok(())
}

#[test]
fn the_doctors_exit_code_is_1_without_capabilities_and_it_names_them() -> Result<()> {
    need!(Need::Root);
    // Root without capabilities: what its bounding set does not have, exec does not give.
    let without = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
    let (code, report) = doctor(&without, "force")?;
    ensure!(code == NOT_THE_BEST && report["relay"] != "sockmap", "{code}: {report}");
    ensure!(status(&report, "capabilities") == "problem", "{report}");
    ensure!(report.to_string().contains("CAP_BPF"), "{report}");
    Ok(())
}

/// It is in the way of every start.
#[test]
fn the_self_test_takes_less_than_a_second() -> Result<()> {
    need!(Need::Root);
    let mode = std::env::var("MUX_TEST_SOCKMAP").unwrap_or_else(|_| "auto".into());
    let mut best = u64::MAX;
    // The best of three: another program may have had the processor.
    for _ in 0..3 {
        let (_, report) = doctor(&[], &mode)?;
        let checks = report["checks"].as_array().context("checks")?;
        let found = checks.iter().find(|check| check["name"] == "self-test");
        let found = found.and_then(|check| check["found"].as_str()).context("a self-test")?;
        let took = found.split_once(" passed in ").and_then(|(_, rest)| rest.split(' ').next());
        best = best.min(took.context(found.to_owned())?.parse()?);
    }
    println!("{best} ms");
    ensure!(best < 1000, "the self-test took {best} ms");
    Ok(())
}
