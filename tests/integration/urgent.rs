//! TCP's urgent byte is a byte of the stream like any other: every relay that reads it delivers it in its place,
//! and what comes after it, and the end of the stream (L12 in `relay/LIFECYCLE.md`).

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Relay, Upstream, on_each_relay_but_packet};

on_each_relay_but_packet!(
    an_urgent_byte_of_the_prefix_is_replayed,
    an_urgent_byte_is_delivered_and_the_stream_goes_on,
    bytes_behind_an_urgent_byte_do_not_wait_for_more,
    the_end_after_an_urgent_byte_comes_after_all_bytes,
);

struct Flow {
    daemon: Daemon,
    client: Conn,
    server: Conn,
    relay: Relay,
}

impl Flow {
    fn open(relay: Relay) -> Result<Self> {
        let upstream = Upstream::tcp()?;
        let daemon = Daemon::start(&relay.rule(&upstream.name()), &[])?;
        let (client, server) = daemon.flow(&upstream)?;
        Ok(Self { daemon, client, server, relay })
    }

    /// Both ends end their streams, after `up` and `down` bytes besides the greetings.
    fn finish(self, up: u64, down: u64) -> Result<()> {
        let Self { daemon, client, server, relay } = self;
        client.finish()?;
        server.expect_end().context("the client's end")?;
        server.finish()?;
        client.expect_end().context("the server's end")?;
        finished(&daemon, &client, relay, (up + 5, down + 5))?;
        daemon.stop()?;
        Ok(())
    }
}

fn finished(daemon: &Daemon, client: &Conn, relay: Relay, bytes: (u64, u64)) -> Result<()> {
    let access = daemon.access_of(client.local()?)?;
    ensure!((access.relay(), access.close()) == (relay.name(), "finished"), "{access:?}");
    ensure!(access.bytes() == bytes, "{bytes:?}: {access:?}");
    Ok(())
}

/// The urgent byte is among the first ones, before there is an upstream, or comes just when the flow
/// goes to its relay.
fn an_urgent_byte_of_the_prefix_is_replayed(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rule = format!(
        "[[rule]]\nmatch = {{ prefix = \"he\" }}\nupstream = \"{}\"\nrelay = \"{}\"\n",
        upstream.name(),
        relay.name()
    );
    let daemon = Daemon::start(&rule, &[])?;
    for length in 1..=5 {
        let client = daemon.connect()?;
        client.send_urgent(&"hello"[..length])?;
        client.send(&"hello"[length..])?;
        client.send_urgent("!")?;
        client.send(" and on")?;
        let server = upstream.accept()?;
        server.expect("hello! and on").with_context(|| format!("urgent byte {length}"))?;
        server.send_urgent("olleh")?;
        server.send("?")?;
        client.expect("olleh?")?;
        client.finish()?;
        server.expect_end()?;
        server.finish()?;
        client.expect_end()?;
        finished(&daemon, &client, relay, (13, 6))?;
    }
    daemon.stop()?;
    Ok(())
}

fn an_urgent_byte_is_delivered_and_the_stream_goes_on(relay: Relay) -> Result<()> {
    let flow = Flow::open(relay)?;
    for _ in 0..50 {
        for (from, to) in [(&flow.client, &flow.server), (&flow.server, &flow.client)] {
            from.send("abc")?;
            from.send_urgent("def!")?;
            from.send("ghi")?;
            to.expect("abcdef!ghi")?;
        }
    }
    flow.finish(500, 500)
}

/// The daemon finds all of it at once, as when it is busy, and a read stops at the urgent byte.
fn bytes_behind_an_urgent_byte_do_not_wait_for_more(relay: Relay) -> Result<()> {
    let flow = Flow::open(relay)?;
    for length in [1, 2, 1000, 40_000] {
        let mut stream = vec![b'.'; length];
        flow.daemon.signal(rustix::process::Signal::STOP)?;
        flow.client.send(&stream)?;
        flow.client.send_urgent("!")?;
        flow.client.send("rest")?;
        flow.daemon.signal(rustix::process::Signal::CONT)?;
        stream.extend_from_slice(b"!rest");
        flow.server.expect(&stream)?;
    }
    flow.finish(41_003 + 20, 0)
}

/// A FIN behind it is the end of the stream only after what is before it.
fn the_end_after_an_urgent_byte_comes_after_all_bytes(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&relay.rule(&upstream.name()), &[])?;
    for after in ["", "and what follows"] {
        for stopped in [false, true] {
            let (client, server) = daemon.flow(&upstream)?;
            if stopped {
                daemon.signal(rustix::process::Signal::STOP)?;
            }
            for conn in [&client, &server] {
                conn.send("before")?;
                conn.send_urgent("!")?;
                conn.send(after)?;
                conn.finish()?;
            }
            if stopped {
                daemon.signal(rustix::process::Signal::CONT)?;
            }
            for conn in [&client, &server] {
                conn.expect(format!("before!{after}"))?;
                conn.expect_end()?;
            }
            let bytes = 5 + 7 + after.len() as u64;
            finished(&daemon, &client, relay, (bytes, bytes))?;
        }
    }
    daemon.stop()?;
    Ok(())
}
