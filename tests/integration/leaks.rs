//! Ten thousand short connections in a row: everything back to where it was.

use anyhow::{Context, Result, ensure};
use mux_common::MAP_SLOTS;
use mux_tests::{
    Daemon, Relay, Server,
    bpf::{self, Objects},
    eventually_true, on_each_relay,
};

on_each_relay!(ten_thousand_short_connections);

const WARM_UP: usize = 2000;
const CONNECTIONS: usize = 10_000;
/// What memory may grow by after the warm-up, KiB: an allocator has what it keeps by then, and a leak
/// of 200 bytes a connection would show.
const GROWTH_KIB: u64 = 2 * 1024;

fn connections(daemon: &Daemon, count: usize) -> Result<()> {
    for number in 0..count {
        let client = daemon.connect()?;
        let text = format!("connection {number}");
        client.send(&text)?;
        client.expect(&text)?;
        client.finish()?;
        client.expect_end().with_context(|| text)?;
    }
    Ok(())
}

fn ten_thousand_short_connections(relay: Relay) -> Result<()> {
    let server = Server::echo()?;
    let daemon = Daemon::start(&relay.rule(server.name()), &[])?;
    let proc = daemon.proc();
    let map = match relay {
        Relay::Sockmap => Some(Objects::of(&daemon)?.map(MAP_SLOTS)?),
        Relay::Copy | Relay::Splice | Relay::Packet => None,
    };
    let logged = |count: usize| {
        eventually_true("every connection is in the access log", || daemon.access_count() == count)
    };
    connections(&daemon, WARM_UP)?;
    logged(WARM_UP)?;
    let (descriptors, memory) = (proc.descriptors()?, proc.resident_kib()?);

    connections(&daemon, CONNECTIONS)?;
    logged(WARM_UP + CONNECTIONS)?;
    eventually_true("descriptors are back", || {
        proc.descriptors().is_ok_and(|now| now <= descriptors)
    })
    .with_context(|| format!("{descriptors} before, {:?} after", proc.descriptors()))?;
    if let Some(map) = map {
        eventually_true("map entries are gone", || bpf::entries(map).is_ok_and(|now| now == 0))?;
    }
    let now = proc.resident_kib()?;
    // What is left of flows whose packets were translated is kept for two seconds, and there are more
    // of them in the second half.
    let growth = if relay == Relay::Packet { 8 * GROWTH_KIB } else { GROWTH_KIB };
    ensure!(now <= memory + growth, "{memory} KiB before, {now} after");

    let access = daemon.stop()?.access;
    for line in &access {
        ensure!(relay.may_be(line.relay()) && line.close() == "finished", "{line:?}");
        let (up, down) = line.bytes();
        ensure!(up == down && up > 0, "{line:?}");
    }
    server.stop()
}
