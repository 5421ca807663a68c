//! The tools that measure, for a second each: they run to their end, and print what
//! docs/measurements.md is made of. No claims about speed.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mux_tests::{Relay, mux, need, run_ok};

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    run_ok(Command::new(program).args(arguments).env("MUX_BIN", mux()?))
}

/// The number before this word, in the line that begins so.
fn number(text: &str, line: &str, word: &str) -> Result<u64> {
    let line = text.lines().map(str::trim_start).find(|found| found.starts_with(line));
    let line = line.with_context(|| text.to_owned())?;
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let at = words.iter().position(|found| *found == word).with_context(|| line.to_owned())?;
    let before = at.checked_sub(1).and_then(|at| words.get(at));
    before.and_then(|number| number.parse().ok()).with_context(|| line.to_owned())
}

#[test]
fn failover_goes_through_its_phases() -> Result<()> {
    let arguments = ["--clients", "2", "--seconds", "1", "--only", "defaults"];
    let text = output(env!("CARGO_BIN_EXE_failover"), &arguments)?;
    for phase in ["all up", "a killed", "a restarted", "a stopped", "a continued"] {
        let line = text.lines().find(|line| line.trim_start().starts_with(phase));
        let line = line.with_context(|| text.clone())?;
        let requests = line.trim_start().strip_prefix(phase).unwrap_or_default();
        let requests = requests.split_whitespace().next().and_then(|number| number.parse().ok());
        ensure!(requests.is_some_and(|requests: u64| requests > 0), "{text}");
    }
    ensure!(text.contains("counters: connect_failed="), "{text}");
    Ok(())
}

#[test]
fn slow_clients_and_honest_ones_are_measured() -> Result<()> {
    let arguments =
        "loris --attackers 40 --pause 1 --max-sniffing 10 --clients 2 --seconds 1 --rounds 1";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let text = output(env!("CARGO_BIN_EXE_crowd"), &arguments)?;
    for line in ["0 quiet  new", "0 quiet  open", "0 attack new", "0 attack open"] {
        ensure!(number(&text, line, "done")? > 0, "{text}");
    }
    let evicted = text.lines().find_map(|line| line.strip_prefix("sniffing_limit: "));
    ensure!(evicted.is_some_and(|count| count != "0"), "{text}");
    Ok(())
}

#[test]
fn many_flows_are_held_and_used() -> Result<()> {
    need!(Relay::Sockmap);
    let arguments = ["many", "--flows", "20", "--seconds", "1"];
    let text = output(env!("CARGO_BIN_EXE_crowd"), &arguments)?;
    ensure!(number(&text, "through mux:", "spliced")? == 20, "{text}");
    ensure!(number(&text, "used:", "exchanges")? == 100, "{text}");
    Ok(())
}
