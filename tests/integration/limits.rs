//! Limits: of the machine, and of the configuration.

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Server, Starter, Upstream, eventually_true};

fn echoes(client: &Conn) -> Result<()> {
    client.send("echo?")?;
    client.expect("echo?")
}

#[test]
fn running_out_of_descriptors_is_survived() -> Result<()> {
    let server = Server::echo()?;
    let daemon = Starter::new(&format!("[[rule]]\nupstream = \"{}\"\n", server.name()))
        .user_space()
        .descriptors(64)
        .start()?;
    let clients = (0..200).map(|_| daemon.connect()).collect::<Result<Vec<_>>>()?;
    daemon.wait_log("cannot accept")?;
    // Those that have a place are served.
    let served = server.served();
    ensure!(served > 0 && served < clients.len(), "{served} served");
    drop(clients);
    eventually_true("it serves again", || {
        daemon.connect().is_ok_and(|client| echoes(&client).is_ok())
    })?;
    eventually_true("descriptors are back", || {
        daemon.proc().descriptors().is_ok_and(|count| count < 40)
    })?;
    let log = daemon.stop()?.log;
    let said = log.iter().filter(|line| line.contains("cannot accept")).count();
    ensure!(said <= 20, "said {said} times");
    Ok(())
}

/// Connections beyond the limit wait in the backlog, and are served when there is a place.
fn waits(rules: &str, most: usize, threads: &str) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = rules.replace("UPSTREAM", &upstream.name());
    let daemon = Starter::new(&rules).user_space().arguments(&["--threads", threads]).start()?;
    let mut clients = Vec::new();
    for number in 0..most + 1 {
        let client = daemon.connect()?;
        client.send(format!("client {number}"))?;
        clients.push(client);
    }
    let mut servers = Vec::new();
    for _ in 0..most {
        servers.push(upstream.accept().context("a connection below the limit is not served")?);
    }
    ensure!(!upstream.has_connection()?, "one more than the limit");
    // The first to come is the first to go.
    let (first, server) = (clients.remove(0), servers.remove(0));
    server.expect("client 0")?;
    drop((first, server));
    let last = upstream.accept().context("the waiting connection is not served")?;
    last.expect(format!("client {most}"))
}

#[test]
fn connections_beyond_the_limit_wait() -> Result<()> {
    waits("[[rule]]\nupstream = \"UPSTREAM\"\n[limits]\nmax_connections = 3\n", 3, "1")
}

#[test]
fn connections_beyond_a_listeners_limit_wait() -> Result<()> {
    waits(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nmax_connections = 2\n[[rule]]\nupstream = \"UPSTREAM\"\n",
        2,
        "1",
    )
}

/// A place must not be held by a core that has no connection to give it to.
#[test]
fn a_limit_below_the_number_of_cores_starves_no_core() -> Result<()> {
    let server = Server::echo()?;
    let daemon = Starter::new(&format!(
        "[[rule]]\nupstream = \"{}\"\n[limits]\nmax_connections = 1\n",
        server.name()
    ))
    .user_space()
    .arguments(&["--threads", "4"])
    .start()?;
    // The kernel spreads connections over the cores by their ports.
    for number in 0..40 {
        let client = daemon.connect()?;
        echoes(&client).with_context(|| format!("connection {number}, alone"))?;
        client.finish()?;
        client.expect_end()?;
    }
    daemon.stop()?;
    Ok(())
}

fn refused(rules: &str, close: &str) -> Result<()> {
    let server = Server::echo()?;
    let daemon = Daemon::user_space(&rules.replace("UPSTREAM", server.name()))?;
    let first = daemon.connect()?;
    echoes(&first)?;
    let second = daemon.connect()?;
    let access = daemon.access_of(second.local()?)?;
    ensure!(access.close() == close, "{access:?}");
    // Refused is closed, one way or the other, and without an answer.
    ensure!(second.to_end().map_or(true, |bytes| bytes.is_empty()));
    drop(first);
    eventually_true("there is a place again", || {
        daemon.connect().is_ok_and(|client| echoes(&client).is_ok())
    })
}

#[test]
fn connections_beyond_a_rules_limit_are_refused() -> Result<()> {
    refused("[[rule]]\nupstream = \"UPSTREAM\"\nmax_connections = 1\n", "rule-limit")
}

#[test]
fn connections_beyond_an_upstreams_limit_are_refused() -> Result<()> {
    refused(
        "[[rule]]\nupstream = \"web\"\n\
         [[upstream]]\nname = \"web\"\nendpoints = [\"UPSTREAM\"]\nmax_connections = 1\n",
        "upstream-limit",
    )
}

#[test]
fn sniffing_beyond_its_limit_is_refused_and_flows_are_not() -> Result<()> {
    let daemon = Daemon::user_space(
        "[[rule]]\nmatch = { prefix = \"echo\" }\nupstream = \"builtin:echo\"\n\
         [limits]\nmax_sniffing = 2\n",
    )?;
    let flow = daemon.connect()?;
    flow.send("echo")?;
    flow.expect("echo")?;
    let slow = [daemon.connect()?, daemon.connect()?];
    for client in &slow {
        client.send_one_by_one("ec")?;
    }
    let refused = daemon.connect()?;
    let access = daemon.access_of(refused.local()?)?;
    ensure!(access.close() == "sniffing-limit", "{access:?}");
    echoes(&flow)?;
    for client in &slow {
        client.send("ho")?;
        client.expect("echo")?;
    }
    Ok(())
}
