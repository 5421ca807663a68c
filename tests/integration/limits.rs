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
    // Of our own user: another's limits are not ours to change.
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nupstream = \"{}\"\n[security]\nuser = \"root\"\n",
        server.name()
    ))?;
    // Less than it had when it worked its budget out.
    daemon.proc().limit_descriptors(64)?;
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
fn a_configuration_that_cannot_fit_is_refused() -> Result<()> {
    let rules = |most: u32| {
        format!("[[rule]]\nupstream = \"builtin:echo\"\n[limits]\nmax_connections = {most}\n")
    };
    let output = Starter::new(&rules(1000)).user_space().descriptors(1024).fail()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(78), "{}: {text}", output.status);
    ensure!(text.contains("1000 connections can need"), "{text}");
    ensure!(text.contains("LimitNOFILE") && text.contains("max_connections"), "{text}");
    let daemon = Starter::new(&rules(100)).user_space().descriptors(1024).start()?;
    echoes(&daemon.connect()?)?;
    // Where the file does not say, it is what fits.
    let rules = "[[rule]]\nupstream = \"builtin:echo\"\n";
    let daemon = Starter::new(rules).user_space().descriptors(1024).start()?;
    let line = daemon.wait_log("limits connections=")?;
    let most = line.split("connections=").nth(1).and_then(|rest| rest.split(' ').next());
    let most: u32 = most.context("a number")?.parse()?;
    ensure!((100..500).contains(&most), "{line}");
    Ok(())
}

/// The oldest gives its place: clients that are slow take those of one another only.
#[test]
fn a_new_connection_takes_the_place_of_the_one_sniffed_for_longest() -> Result<()> {
    let rules = "[[rule]]\nmatch = { prefix = \"echo\" }\nupstream = \"builtin:echo\"\n\
                 [limits]\nmax_sniffing = 2\n";
    let daemon = Starter::new(rules).user_space().arguments(&["--threads", "1"]).start()?;
    let flow = daemon.connect()?;
    flow.send("echo")?;
    flow.expect("echo")?;
    let slow = [daemon.connect()?, daemon.connect()?];
    for client in &slow {
        client.send_one_by_one("ec")?;
    }
    let new = daemon.connect()?;
    let access = daemon.access_of(slow[0].local()?)?;
    ensure!(access.close() == "sniffing-limit", "{access:?}");
    for client in [&flow, &new, &slow[1]] {
        client.send(if std::ptr::eq(client, &slow[1]) { "ho" } else { "echo" })?;
        client.expect("echo")?;
    }
    Ok(())
}

fn from(number: u8, daemon: &Daemon) -> Result<Conn> {
    Conn::tcp_from([127, 0, 0, number].into(), daemon.address())
}

#[test]
fn a_source_has_its_own_limits() -> Result<()> {
    let daemon = Daemon::user_space(
        "[[rule]]\nupstream = \"builtin:echo\"\n\
         [limits]\nper_source = { connections = 2 }\n",
    )?;
    let held = [from(1, &daemon)?, from(1, &daemon)?];
    held.iter().try_for_each(echoes)?;
    let refused = Conn::reset_from([127, 0, 0, 1].into(), daemon.address())?;
    let access = daemon.access_of(refused)?;
    ensure!(access.close() == "source-limit", "{access:?}");
    echoes(&from(2, &daemon)?)?;
    drop(held);
    eventually_true("there is a place again", || {
        from(1, &daemon).is_ok_and(|client| echoes(&client).is_ok())
    })
}

#[test]
fn a_source_has_its_own_rate() -> Result<()> {
    let daemon = Daemon::user_space(
        "[[rule]]\nupstream = \"builtin:echo\"\n\
         [limits]\nper_source = { rate = \"3/h\" }\n",
    )?;
    for _ in 0..3 {
        echoes(&from(1, &daemon)?)?;
    }
    let refused = Conn::reset_from([127, 0, 0, 1].into(), daemon.address())?;
    let access = daemon.access_of(refused)?;
    ensure!(access.close() == "source-rate", "{access:?}");
    echoes(&from(2, &daemon)?)
}
