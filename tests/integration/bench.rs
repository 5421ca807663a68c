//! The benchmark's two ends, `mux-bench serve` and `mux-bench load`, with the daemon between them and
//! without: every unit is counted, and a wrong answer is a fault. No claims about speed.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mux_tests::{Daemon, Process, run_ok};
use serde_json::Value;

/// Units of each work.
const UNITS: u64 = 200;

struct Server {
    addresses: Value,
    _process: Process,
}

impl Server {
    fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    fn start_with(options: &[&str]) -> Result<Self> {
        let process = Process::start(program().args(["serve", "--threads", "2"]).args(options))?;
        let addresses =
            process.wait_out("the addresses", |line| serde_json::from_str::<Value>(line).ok())?;
        Ok(Self { addresses, _process: process })
    }

    fn address(&self, service: &str) -> Result<&str> {
        self.addresses[service].as_str().with_context(|| format!("no {service}"))
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mux-bench"))
}

/// Does a work; the generator's result.
fn load(target: &str, work: &str) -> Result<Value> {
    let count = UNITS.to_string();
    let arguments = ["load", "--target", target, "--connections", "4", "--threads", "2"];
    let out =
        run_ok(program().args(arguments).args(["--count", &count]).args(work.split_whitespace()))?;
    Ok(serde_json::from_str(out.lines().last().context("a result")?)?)
}

#[test]
fn every_unit_is_counted_with_and_without_the_daemon() -> Result<()> {
    let server = Server::start()?;
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nname = \"echo\"\nmatch = {{ prefix = \"ECHO\" }}\nupstream = \"{}\"\n\
         [[rule]]\nname = \"sink\"\nmatch = {{ prefix = \"TINY\" }}\nupstream = \"{}\"\n\
         [[rule]]\nname = \"tls\"\nmatch = \"tls\"\nupstream = \"{}\"\n\
         [[rule]]\nname = \"http\"\nmatch = \"http\"\nupstream = \"{}\"\n",
        server.address("echo")?,
        server.address("sink")?,
        server.address("hello")?,
        server.address("http")?,
    ))?;
    let through = daemon.address().to_string();
    for (service, work) in [
        ("http", "http"),
        ("http", "http --size 100000"),
        ("http", "http --close"),
        ("echo", "echo --size 16384"),
        ("sink", "tiny"),
        ("hello", "hello --names 5"),
        ("http", "connect"),
    ] {
        for target in [server.address(service)?, &through] {
            let found = load(target, work)?;
            ensure!(found["faults"] == serde_json::json!({}), "{work} to {target}: {found}");
            ensure!(found["units"] == UNITS, "{work} to {target}: {found}");
        }
    }
    daemon.stop()?;
    Ok(())
}

#[test]
fn the_server_listens_where_it_is_told_to() -> Result<()> {
    let server = Server::start_with(&["--ip", "127.0.0.2"])?;
    for service in ["http", "echo", "source", "sink", "hello"] {
        ensure!(server.address(service)?.starts_with("127.0.0.2:"), "{}", server.addresses);
    }
    let found = load(server.address("echo")?, "echo")?;
    ensure!(found["units"] == UNITS && found["faults"] == serde_json::json!({}), "{found}");
    Ok(())
}

#[test]
fn a_wrong_answer_is_a_fault() -> Result<()> {
    let server = Server::start()?;
    // The echo service sends a request back.
    let found = load(server.address("echo")?, "http")?;
    let faults = found["faults"].as_object().context("faults")?;
    ensure!(faults.contains_key("an answer is not what it should be"), "{found}");
    // The HTTP service closes on what is no request.
    let found = load(server.address("http")?, "hello")?;
    ensure!(found["faults"].as_object().is_some_and(|faults| !faults.is_empty()), "{found}");
    Ok(())
}
