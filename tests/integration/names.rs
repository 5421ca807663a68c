//! Names: all their addresses, answers that change, a resolver that fails. The daemon has an
//! /etc/hosts of its own.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Need, Scratch, Server, Starter, Upstream, eventually_true, need};

/// Servers on one port of several loopback addresses, each of which says its address.
fn servers<const N: usize>(addresses: [&str; N]) -> Result<(u16, [Server; N])> {
    // Somebody may have the port of the first one on another address.
    for _ in 0..20 {
        let port = Upstream::at("127.0.0.1:0".parse()?, 1)?.address().port();
        let started: Option<Vec<Server>> = addresses
            .iter()
            .map(|ip| {
                let address: SocketAddr = format!("{ip}:{port}").parse().ok()?;
                Upstream::at(address, 1024).ok()?.tagged(ip).ok()
            })
            .collect();
        if let Some(Ok(started)) = started.map(TryInto::try_into) {
            return Ok((port, started));
        }
    }
    anyhow::bail!("no port that is free on all addresses")
}

/// A file of hosts that another program reads while it is being changed.
struct Hosts(Scratch);

impl Hosts {
    fn new(addresses: &[&str]) -> Result<Self> {
        let hosts = Self(Scratch::new()?);
        hosts.set(addresses)?;
        Ok(hosts)
    }

    /// Has `web.test` be these addresses.
    fn set(&self, addresses: &[&str]) -> Result<()> {
        let lines: Vec<String> =
            addresses.iter().map(|address| format!("{address} web.test\n")).collect();
        // In place: the daemon has the file itself, not its name.
        self.0.write("hosts", lines.concat()).map(drop)
    }

    fn start(&self, port: u16, keys: &str) -> Result<Daemon> {
        let rules = format!(
            "[[rule]]\nmatch = {{ regex = '^[a-z]' }}\nupstream = \"g\"\n[[upstream]]\nname = \"g\"\n\
             endpoints = [\"web.test:{port}\"]\n{keys}\n"
        );
        Starter::new(&rules).user_space().hosts(&self.0.join("hosts")).start()
    }
}

/// Who answers.
fn ask(daemon: &Daemon) -> Result<String> {
    let client = daemon.connect()?;
    client.send("who?")?;
    client.finish()?;
    Ok(String::from_utf8(client.to_end()?)?)
}

#[test]
fn all_addresses_of_a_name_are_used() -> Result<()> {
    need!(Need::Root);
    let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let (port, servers) = servers(addresses)?;
    let daemon = Hosts::new(&addresses)?.start(port, "")?;
    for _ in 0..9 {
        ask(&daemon)?;
    }
    let served: Vec<usize> = servers.iter().map(Server::served).collect();
    ensure!(served == [3, 3, 3], "{served:?}");
    let access = daemon.wait_access(|access| access.close() == "finished")?;
    ensure!(access.endpoint().starts_with(&format!("web.test:{port} (127.0.0.")), "{access:?}");
    Ok(())
}

#[test]
fn an_address_that_refuses_costs_no_connection() -> Result<()> {
    need!(Need::Root);
    let (port, [server]) = servers(["127.0.0.2"])?;
    let daemon = Hosts::new(&["127.0.0.9", "127.0.0.2"])?.start(port, "retries = 0")?;
    for _ in 0..6 {
        ensure!(ask(&daemon)? == "127.0.0.2");
    }
    ensure!(server.served() == 6);
    Ok(())
}

/// A backlog that is full drops SYNs, as a machine that is off does.
#[test]
fn an_address_that_is_silent_delays_a_connection_and_no_more() -> Result<()> {
    need!(Need::Root);
    let (port, [_server]) = servers(["127.0.0.2"])?;
    let silent = Upstream::at(format!("127.0.0.9:{port}").parse()?, 0)?;
    let _filler = Conn::tcp(silent.address())?;
    let daemon = Hosts::new(&["127.0.0.9", "127.0.0.2"])?
        .start(port, "retries = 0\nconnect_timeout = \"1h\"")?;
    for _ in 0..4 {
        ensure!(ask(&daemon)? == "127.0.0.2");
    }
    Ok(())
}

/// One connects and says something wrong: only a check finds out, and only of that address.
#[test]
fn an_address_that_fails_its_checks_is_left_out() -> Result<()> {
    need!(Need::Root);
    let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.9"];
    let (port, _servers) = servers(addresses)?;
    let health = "health = { interval = \"50ms\", rise = 1, fall = 2, expect_regex = '0\\.[23]$' }";
    let daemon = Hosts::new(&addresses)?.start(port, health)?;
    eventually_true("the third one is left out", || {
        let answers: Result<Vec<String>> = (0..9).map(|_| ask(&daemon)).collect();
        answers.is_ok_and(|answers| !answers.contains(&addresses[2].to_owned()))
    })?;
    let answers = (0..6).map(|_| ask(&daemon)).collect::<Result<Vec<_>>>()?;
    for address in &addresses[..2] {
        ensure!(answers.iter().any(|answer| answer == address), "{answers:?}");
    }
    ensure!(daemon.log_count("endpoint is down") == 0, "the name is well");
    Ok(())
}

/// Each client has its own of a name's addresses.
#[test]
fn by_source_a_client_comes_to_the_same_address() -> Result<()> {
    need!(Need::Root);
    let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let (port, _servers) = servers(addresses)?;
    let daemon = Hosts::new(&addresses)?.start(port, "balance = \"source-hash\"")?;
    let ask_from = |last: u8| -> Result<String> {
        let client = Conn::tcp_from([127, 0, 1, last].into(), daemon.address())?;
        client.send("who?")?;
        client.finish()?;
        Ok(String::from_utf8(client.to_end()?)?)
    };
    let mut seen = Vec::new();
    for client in 1..=20 {
        let first = ask_from(client)?;
        for _ in 0..2 {
            ensure!(ask_from(client)? == first, "client {client}");
        }
        seen.push(first);
    }
    for address in addresses {
        ensure!(seen.iter().any(|answer| answer == address), "nobody comes to {address}: {seen:?}");
    }
    Ok(())
}

/// Both families, of which one has no server.
#[test]
fn families_are_tried_in_turn() -> Result<()> {
    need!(Need::Root);
    need!(Need::Ipv6);
    let (port, [_server]) = servers(["127.0.0.2"])?;
    let daemon = Hosts::new(&["::1", "127.0.0.2"])?.start(port, "retries = 0")?;
    for _ in 0..4 {
        ensure!(ask(&daemon)? == "127.0.0.2");
    }
    Ok(())
}

#[test]
fn a_new_answer_is_for_new_connections_only() -> Result<()> {
    need!(Need::Root);
    let (port, [_other]) = servers(["127.0.0.3"])?;
    let first = Upstream::at(format!("127.0.0.2:{port}").parse()?, 1024)?;
    let hosts = Hosts::new(&["127.0.0.2"])?;
    let daemon = hosts.start(port, "resolve = \"100ms\"")?;
    let client = daemon.connect()?;
    client.send("hello")?;
    let server = first.accept()?;
    server.expect("hello")?;
    hosts.set(&["127.0.0.3"])?;
    eventually_true("the new address is used", || {
        // Until then the first one has connections that nobody serves.
        let Ok(probe) = daemon.connect() else { return false };
        if probe.send("who?").is_err() {
            return false;
        }
        if first.has_connection().unwrap_or(false) {
            drop(first.accept());
            return false;
        }
        daemon
            .access()
            .is_ok_and(|lines| lines.iter().any(|access| access.endpoint().contains("127.0.0.3")))
    })?;
    client.send("still")?;
    server.expect("still")?;
    server.send("there")?;
    client.expect("there")
}

#[test]
fn a_resolver_that_fails_takes_nothing_away() -> Result<()> {
    need!(Need::Root);
    let (port, [_server]) = servers(["127.0.0.2"])?;
    let hosts = Hosts::new(&["127.0.0.2"])?;
    let daemon = hosts.start(port, "resolve = \"100ms\"")?;
    ensure!(ask(&daemon)? == "127.0.0.2");
    hosts.set(&[])?;
    daemon.wait_log("name cannot be looked up")?;
    for _ in 0..5 {
        ensure!(ask(&daemon)? == "127.0.0.2");
    }
    hosts.set(&["127.0.0.2"])?;
    daemon.wait_log("name can be looked up again")?;
    ensure!(ask(&daemon)? == "127.0.0.2");
    let stopped = daemon.stop()?;
    ensure!(stopped.counter("resolve_failed") > 0 && stopped.counter("resolved") > 1);
    let said = stopped.log.iter().filter(|line| line.contains("cannot be looked up")).count();
    ensure!(said == 1, "said {said} times");
    Ok(())
}

/// A daemon that starts before its resolver serves as soon as there is an answer.
#[test]
fn a_name_that_cannot_be_looked_up_at_first_is_looked_up_again() -> Result<()> {
    need!(Need::Root);
    let (port, [_server]) = servers(["127.0.0.2"])?;
    let hosts = Hosts::new(&[])?;
    let daemon = hosts.start(port, "resolve = \"200ms\"\nretries = 0")?;
    let client = daemon.connect()?;
    client.send("who?")?;
    client.expect_reset()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "unreachable", "{access:?}");
    ensure!(access.error().contains("web.test"), "{access:?}");
    hosts.set(&["127.0.0.2"])?;
    eventually_true("it is served", || ask(&daemon).is_ok_and(|answer| answer == "127.0.0.2"))
        .context("the name is known now")
}
