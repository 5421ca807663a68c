//! Limits: of the machine, and of the configuration.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Server, Starter, Upstream, admin::AdminSocket, eventually_true};

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
    // Who is accepted with the last descriptor has no upstream, and is reset, on a busy machine before
    // its connect(2) has returned.
    let clients = (0..200)
        .map(|_| daemon.connect())
        .filter(|client| !client.as_ref().is_err_and(is_reset))
        .collect::<Result<Vec<_>>>()?;
    daemon.wait_log("cannot accept")?;
    // A full queue is readable all the time: whoever asked again at once would use a whole core.
    let (used, start) = (daemon.proc().usage()?.nanos, Instant::now());
    eventually_true("a second passes", || start.elapsed() >= Duration::from_secs(1))?;
    let used = Duration::from_nanos(daemon.proc().usage()?.nanos - used);
    ensure!(used < Duration::from_millis(200), "{used:?} of a second, to wait");
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

fn is_reset(error: &anyhow::Error) -> bool {
    let error = error.root_cause().downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
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

/// As many connections as just fit leave no descriptors for pipes.
#[test]
fn a_flow_without_a_pipe_is_copied_and_says_why() -> Result<()> {
    let server = Server::echo()?;
    let rules = |most: &str| {
        let to = server.name();
        format!(
            "[[rule]]\nupstream = \"{to}\"\nrelay = \"splice\"\n[limits]\nmax_connections = {most}\n"
        )
    };
    let output = Starter::new(&rules("1000")).descriptors(256).fail()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let (_, most) = text.split_once("to at most ").with_context(|| text.clone())?;
    let daemon = Starter::new(&rules(most.trim())).descriptors(256).start()?;
    let client = daemon.connect()?;
    echoes(&client)?;
    drop(client);
    let entry = daemon.wait_access(|_| true)?;
    ensure!(entry.relay() == "copy", "{entry:?}");
    ensure!(entry.note().starts_with("splice: there was no pipe to be had"), "{entry:?}");
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

fn tcp(address: &str) -> Result<Conn> {
    Conn::tcp(address.parse()?)
}

/// The global place was taken first, and held while the listener's was waited for: connections that
/// waited for a full listener took the places of all others.
#[test]
fn a_full_listener_does_not_starve_another_one() -> Result<()> {
    let admin = AdminSocket::new()?;
    let daemon = Starter::new(&format!(
        "[[listener]]\nname = \"full\"\naddress = \"127.0.0.1:0\"\nmax_connections = 1\n\
         [[listener]]\nname = \"other\"\naddress = \"127.0.0.1:0\"\n\
         [[rule]]\nupstream = \"builtin:echo\"\n[limits]\nmax_connections = 2\n{}",
        admin.rules()
    ))
    .user_space()
    .arguments(&["--threads", "1"])
    .start()?;
    let full = tcp(daemon.listener("full"))?;
    echoes(&full)?;
    let waiting = tcp(daemon.listener("full"))?;
    admin.wait_metric("mux_limit_reached_total{limit=\"listener\"}", 1.0)?;
    echoes(&tcp(daemon.listener("other"))?).context("another listener's client")?;
    drop(full);
    echoes(&waiting)
}

/// With an equal share for each core, those that the kernel happened to give to one core were closed
/// before there were too many, and of the others there could be too many.
#[test]
fn sniffed_connections_are_limited_over_all_cores() -> Result<()> {
    const MOST: usize = 8;
    let admin = AdminSocket::new()?;
    let daemon = Starter::new(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nsniff_timeout = \"5m\"\n\
         [[rule]]\nmatch = {{ prefix = \"echo\" }}\nupstream = \"builtin:echo\"\n\
         [limits]\nmax_sniffing = {MOST}\n{}",
        admin.rules()
    ))
    .user_space()
    .arguments(&["--threads", "4"])
    .start()?;
    let used = "mux_limit_used{limit=\"sniffing\"}";
    let mut slow = Vec::new();
    for number in 1..=MOST {
        slow.push(daemon.connect()?);
        admin.wait_metric(used, number as f64)?;
    }
    ensure!(daemon.access_count() == 0, "one was closed before there were {MOST}");
    // The oldest goes, whichever core it is on, and one for each that comes.
    for oldest in 0..3 {
        echoes(&daemon.connect()?)?;
        let access = daemon.access_of(slow[oldest].local()?)?;
        ensure!(access.close() == "sniffing-limit", "{access:?}");
        slow.push(daemon.connect()?);
        admin.wait_metric(used, MOST as f64)?;
    }
    admin.wait_metric("mux_limit_reached_total{limit=\"sniffing\"}", 3.0)?;
    daemon.wait_log("a limit is reached limit=\"sniffing\"")?;
    let closed = daemon.access()?.into_iter().filter(|line| line.close() == "sniffing-limit");
    ensure!(closed.count() == 3);
    Ok(())
}

/// Fills all places of a limit of four with clients that say nothing, and expects the next one to be
/// served in the place of the first; with flows in most places it has to wait.
fn slow_clients_make_room(rules: &str, limit: &str) -> Result<()> {
    let admin = AdminSocket::new()?;
    let rules = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nsniff_timeout = \"5m\"\n{rules}\n{}\
         [[rule]]\nmatch = {{ prefix = \"echo\" }}\nupstream = \"builtin:echo\"\n",
        admin.rules()
    );
    let daemon = Starter::new(&rules).user_space().arguments(&["--threads", "2"]).start()?;
    let sniffing = |number: usize| admin.wait_metric("mux_sniffing_connections", number as f64);
    let mut slow = Vec::new();
    for number in 1..=4 {
        slow.push(daemon.connect()?);
        sniffing(number)?;
    }
    let mut flows = Vec::new();
    for (number, oldest) in slow.iter().enumerate().take(3) {
        let flow = daemon.connect()?;
        if number < 2 {
            echoes(&flow).with_context(|| format!("client {number} after the slow ones"))?;
            let access = daemon.access_of(oldest.local()?)?;
            ensure!(access.close() == "sniffing-limit", "{access:?}");
        }
        flows.push(flow);
    }
    // Two flows and two slow ones: the third made one of these go as well.
    echoes(&flows[2])?;
    // Three flows: the one slow client has its place in good faith.
    let waiting = daemon.connect()?;
    admin.wait_metric(&format!("mux_limit_reached_total{{limit=\"{limit}\"}}"), 4.0)?;
    sniffing(1)?;
    drop(flows.pop());
    echoes(&waiting)?;
    sniffing(1)
}

#[test]
fn slow_clients_cannot_keep_a_listener_full() -> Result<()> {
    slow_clients_make_room("max_connections = 4\n", "listener")
}

/// Though the file allows as many to be sniffed as there may be at all.
#[test]
fn slow_clients_cannot_keep_all_places() -> Result<()> {
    slow_clients_make_room("[limits]\nmax_connections = 4\nmax_sniffing = 100\n", "connections")
}

#[test]
fn where_the_file_does_not_say_half_of_the_connections_may_be_sniffed() -> Result<()> {
    let rules = "[[rule]]\nupstream = \"builtin:echo\"\n[limits]\nmax_connections = 31\n";
    let daemon = Daemon::user_space(rules)?;
    daemon.wait_log("limits connections=31 sniffing=16")?;
    Ok(())
}

/// Each limit that a connection can meet: a count under its name, and a line in the log.
#[test]
fn every_limit_is_counted_and_said() -> Result<()> {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let rule = "[[rule]]\nname = \"all\"\nupstream = \"builtin:echo\"\n";
    let group = "[[rule]]\nname = \"all\"\nupstream = \"web\"\n[[upstream]]\nname = \"web\"\n";
    let endpoints = "endpoints = [\"builtin:echo\"]\nmax_connections = 1\n";
    let cases = [
        ("connections", format!("{listener}{rule}[limits]\nmax_connections = 1\n"), ""),
        ("listener", format!("{listener}max_connections = 1\n{rule}"), " name=\"listener-1\""),
        ("rule", format!("{listener}{rule}max_connections = 1\n"), " name=\"all\""),
        ("upstream", format!("{listener}{group}{endpoints}"), " name=\"web\""),
        (
            "endpoint",
            format!(
                "{listener}{group}\
                 endpoints = [{{ address = \"builtin:echo\", max_connections = 1 }}]\n"
            ),
            " name=\"web\"",
        ),
        (
            "queue",
            format!("{listener}{group}{endpoints}queue = {{ length = 1, timeout = \"5m\" }}\n"),
            " name=\"web\"",
        ),
        ("source", format!("{listener}{rule}[limits]\nper_source = {{ connections = 1 }}\n"), ""),
        ("rate", format!("{listener}{rule}[limits]\nper_source = {{ rate = \"1/h\" }}\n"), ""),
    ];
    for (limit, rules, whose) in cases {
        let admin = AdminSocket::new()?;
        let rules = format!("{rules}{}", admin.rules());
        let daemon = Starter::new(&rules).user_space().arguments(&["--threads", "1"]).start()?;
        let series = format!("mux_limit_reached_total{{limit=\"{limit}\"}}");
        let context = || format!("the limit of `{limit}`");
        let first = daemon.connect()?;
        echoes(&first).with_context(context)?;
        admin.wait_metric(&series, 0.0)?;
        let queued = match limit {
            "queue" => Some(daemon.connect()?),
            _ => None,
        };
        if queued.is_some() {
            admin.wait_metric("mux_limit_used{limit=\"queue web\"}", 1.0)?;
        }
        // It may be reset before we know that we are connected.
        let second = daemon.connect().ok();
        admin.wait_metric(&series, 1.0).with_context(context)?;
        daemon.wait_log(&format!("a limit is reached limit=\"{limit}\"{whose}"))?;
        drop((first, second, queued));
    }
    Ok(())
}
