//! Limits of upstreams and endpoints, and the queue for a place under them.

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Starter, Upstream, eventually, eventually_true};

/// A daemon with one core, so that connections are served in the order in which they come, and a
/// group of these keys behind it.
fn start(keys: &str) -> Result<Daemon> {
    let rules = format!(
        "[[rule]]\nmatch = {{ regex = '^[a-z]' }}\nupstream = \"g\"\n[[upstream]]\nname = \"g\"\n{keys}\n"
    );
    Starter::new(&rules).user_space().arguments(&["--threads", "1"]).start()
}

/// One place, and a queue of these keys.
fn one_place(upstream: &Upstream, queue: &str) -> Result<Daemon> {
    start(&format!(
        "endpoints = [\"{}\"]\nmax_connections = 1\nqueue = {{ {queue} }}",
        upstream.name()
    ))
}

fn client(daemon: &Daemon, hello: &str) -> Result<Conn> {
    let client = daemon.connect()?;
    client.send(hello)?;
    Ok(client)
}

#[test]
fn who_waits_is_served_in_order_and_who_finds_the_queue_full_is_not() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = one_place(&upstream, "length = 2, timeout = \"1h\"")?;
    let first = client(&daemon, "first")?;
    let server = upstream.accept()?;
    server.expect("first")?;
    let second = client(&daemon, "second")?;
    let third = client(&daemon, "third")?;
    let refused = client(&daemon, "refused")?;
    let access = daemon.access_of(refused.local()?)?;
    ensure!(access.close() == "queue-full", "{access:?}");
    ensure!(refused.to_end().map_or(true, |bytes| bytes.is_empty()));
    ensure!(!upstream.has_connection()?, "one connection at a time");
    drop((first, server));

    let server = upstream.accept().context("the second is not served")?;
    server.expect("second")?;
    ensure!(!upstream.has_connection()?, "one connection at a time");
    // What came while it waited is not lost.
    second.send(" and more")?;
    server.expect(" and more")?;
    drop((second, server));
    upstream.accept().context("the third is not served")?.expect("third")?;
    drop(third);
    let stopped = daemon.stop()?;
    ensure!(stopped.counter("upstream_queued") == 2);
    ensure!(stopped.counter("upstream_queue_full") == 1);
    ensure!(stopped.counter("upstream_queue_micros") > 0);
    Ok(())
}

#[test]
fn who_waits_too_long_is_closed() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = one_place(&upstream, "length = 5, timeout = \"100ms\"")?;
    let _first = client(&daemon, "first")?;
    let _server = upstream.accept()?;
    let late = client(&daemon, "late")?;
    let access = daemon.access_of(late.local()?)?;
    ensure!(access.close() == "queue-timeout" && access.duration_ms() >= 100.0, "{access:?}");
    ensure!(late.to_end().map_or(true, |bytes| bytes.is_empty()));
    ensure!(!upstream.has_connection()?);
    Ok(())
}

/// Its place is another's: with room for one, that is the only way for the other to get in.
fn a_place_is_given_up(queue: &str, leave: impl Fn(Conn) -> Result<()>) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = one_place(&upstream, &format!("length = 1, timeout = \"1h\"{queue}"))?;
    let first = client(&daemon, "first")?;
    let server = upstream.accept()?;
    let leaver = client(&daemon, "leaver")?;
    let full = client(&daemon, "full")?;
    ensure!(daemon.access_of(full.local()?)?.close() == "queue-full");
    let address = leaver.local()?;
    leave(leaver)?;
    let access = daemon.access_of(address)?;
    ensure!(access.close() == "client-left", "{access:?}");
    let next = client(&daemon, "next")?;
    drop((first, server));
    upstream.accept()?.expect("next")?;
    drop(next);
    ensure!(daemon.stop()?.counter("upstream_queue_left") == 1);
    Ok(())
}

#[test]
fn a_client_that_closes_gives_up_its_place() -> Result<()> {
    a_place_is_given_up("", |client| {
        drop(client);
        Ok(())
    })
}

#[test]
fn a_client_that_resets_gives_up_its_place_whatever_the_file_says() -> Result<()> {
    a_place_is_given_up("", Conn::reset)?;
    a_place_is_given_up(", half_closed = \"waits\"", Conn::reset)
}

#[test]
fn a_client_that_has_said_all_may_wait_for_the_answer() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = one_place(&upstream, "length = 1, timeout = \"1h\", half_closed = \"waits\"")?;
    let first = client(&daemon, "first")?;
    let server = upstream.accept()?;
    let second = client(&daemon, "all")?;
    second.finish()?;
    // It is in the queue, FIN and all, when the next one does not fit.
    let full = client(&daemon, "full")?;
    ensure!(daemon.access_of(full.local()?)?.close() == "queue-full");
    drop((first, server));
    let server = upstream.accept()?;
    server.expect("all")?;
    server.expect_end()?;
    server.send("answer")?;
    drop(server);
    second.expect("answer")?;
    second.expect_end()
}

/// Each endpoint has its own limit; the group is full when all are.
#[test]
fn endpoints_have_limits_of_their_own() -> Result<()> {
    let (a, b) = (Upstream::tcp()?, Upstream::tcp()?);
    let daemon = start(&format!(
        "endpoints = [{{ address = \"{}\", max_connections = 1 }}, \
         {{ address = \"{}\", max_connections = 1 }}]\nbalance = \"first\"",
        a.name(),
        b.name()
    ))?;
    let first = client(&daemon, "first")?;
    let on_a = a.accept()?;
    let _second = client(&daemon, "second")?;
    let _on_b = b.accept()?;
    let third = client(&daemon, "third")?;
    let access = daemon.access_of(third.local()?)?;
    ensure!(access.close() == "upstream-limit", "{access:?}");
    drop((first, on_a));
    // Once its place is given back.
    eventually_true("a is used again", || {
        let Ok(client) = client(&daemon, "again") else { return false };
        served(&daemon, &client, &a).unwrap_or(false)
    })
}

/// Whether this client gets to `upstream`, rather than being refused.
fn served(daemon: &Daemon, client: &Conn, upstream: &Upstream) -> Result<bool> {
    let address = client.local()?.to_string();
    eventually("an answer, of either kind", || {
        let is_refused =
            daemon.access().is_ok_and(|lines| lines.iter().any(|line| line.client() == address));
        match upstream.has_connection() {
            Ok(true) => Some(true),
            Ok(false) | Err(_) => is_refused.then_some(false),
        }
    })
}

/// The daemon's end does not wait for the queue.
#[test]
fn who_waits_is_not_forgotten_at_the_end() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = format!(
        "[[rule]]\nmatch = {{ regex = '^[a-z]' }}\nupstream = \"g\"\n[[upstream]]\nname = \"g\"\nendpoints = [\"{}\"]\n\
         max_connections = 1\nqueue = {{ length = 1, timeout = \"1h\" }}\n\
         [timeouts]\ndrain = \"100ms\"\n",
        upstream.name()
    );
    let daemon = Starter::new(&rules).user_space().arguments(&["--threads", "1"]).start()?;
    let first = client(&daemon, "first")?;
    let server = upstream.accept()?;
    let waiting = client(&daemon, "waiting")?;
    let address = waiting.local()?.to_string();
    let full = client(&daemon, "full")?;
    ensure!(daemon.access_of(full.local()?)?.close() == "queue-full");
    let stopped = daemon.stop()?;
    let access = stopped.access.iter().find(|access| access.client() == address);
    let access = access.context("no line for the one that waited")?;
    ensure!(access.close() == "drain-deadline", "{access:?}");
    drop((first, server, waiting));
    Ok(())
}
