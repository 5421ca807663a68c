//! The daemon is killed (SIGKILL) while flows are in the kernel (L11 in `relay/LIFECYCLE.md`).

use std::{
    io::{self, ErrorKind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Conn, Daemon, Need, Pattern, Relay, Upstream, bpf::Objects, eventually_true, join, need,
};

const FLOWS: u64 = 100;
/// What both ends of a stream send before they wait for the other's.
const PIECE: u64 = 4096;

/// What one end of a flow sends.
const fn pattern(flow: u64, end: u64) -> Pattern {
    Pattern::new(1000 + 2 * flow + end)
}

/// Sends and receives, the other end does the same, until the flow is reset: a clean end would say that
/// this was all. Every byte before is right; returns how many there were.
fn converse(conn: &Conn, own: Pattern, other: Pattern, streaming: &AtomicU64) -> Result<u64> {
    let mut at = 0;
    loop {
        let sent = conn.send_pattern(own, at, PIECE);
        if let Err(error) = sent.and_then(|()| conn.expect_pattern(other, at, PIECE)) {
            let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
            let reset = kind == Some(ErrorKind::ConnectionReset);
            return if reset { Ok(at) } else { Err(error.context(format!("after {at} bytes"))) };
        }
        at += PIECE;
        if at == PIECE {
            streaming.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[test]
fn killing_the_daemon_resets_its_spliced_flows_and_leaves_nothing() -> Result<()> {
    need!(Need::Root);
    killing_the_daemon_resets_its_flows_and_leaves_nothing(Relay::Sockmap)
}

/// The programs may be gone before our sockets are, so that their RST is not put right: who sends
/// something is told, who is silent is not.
#[test]
fn killing_the_daemon_resets_flows_whose_packets_are_translated_and_leaves_nothing() -> Result<()> {
    need!(Need::Root);
    killing_the_daemon_resets_its_flows_and_leaves_nothing(Relay::Packet)
}

fn killing_the_daemon_resets_its_flows_and_leaves_nothing(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = relay.rule(&upstream.name());
    let daemon = Daemon::start(&rules, &[])?;
    let address = daemon.address();
    let objects = Objects::of(&daemon)?;
    let flows: Vec<_> = (0..FLOWS).map(|_| daemon.flow(&upstream)).collect::<Result<_>>()?;
    let streaming = AtomicU64::new(0);
    let kept = thread::scope(|scope| {
        let mut ends = Vec::new();
        for (flow, (client, server)) in (0..).zip(&flows) {
            // Half of them stream both ways, the others are silent, where they may be.
            let streams = relay == Relay::Packet || flow % 2 == 0;
            for (conn, own, other) in [(client, 0, 1), (server, 1, 0)] {
                let (own, other) = (pattern(flow, own), pattern(flow, other));
                let streaming = &streaming;
                ends.push(scope.spawn(move || {
                    if streams {
                        converse(conn, own, other, streaming)
                    } else {
                        conn.expect_reset()
                    }
                }));
            }
        }
        // Both ways.
        let streams = if relay == Relay::Packet { 2 * FLOWS } else { FLOWS };
        eventually_true("every stream moves", || streaming.load(Ordering::Acquire) == streams)?;
        let kept = daemon.kill();
        let mut received = 0;
        for end in ends {
            received += join(end, "an end")?;
        }
        println!("{} KiB arrived before, all of them right", received >> 10);
        anyhow::Ok(kept)
    })?;
    // Closing sockets takes psocks and maps apart in the background.
    eventually_true("programs and maps are gone", || {
        objects.loaded().is_ok_and(|left| left.is_empty())
    })?;
    drop((flows, kept));

    // On the same address, at once.
    let again = Daemon::start(&format!("listen = \"{address}\"\n{rules}"), &[])?;
    let (client, server) = again.flow(&upstream).context("the first connection")?;
    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()?;
    ensure!(again.access_of(client.local()?)?.relay() == relay.name());
    again.stop()?;
    Ok(())
}
