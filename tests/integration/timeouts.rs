//! Timeouts of established flows, on each relay.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mux_tests::{Conn, Daemon, Relay, Upstream, on_each_relay};

on_each_relay!(
    an_idle_flow_is_reset,
    a_busy_flow_is_not_idle,
    a_half_closed_flow_is_reset,
    a_lifetime_ends_even_a_busy_flow,
);

fn flow(relay: Relay, timeouts: &str) -> Result<(Daemon, Conn, Conn)> {
    let upstream = Upstream::tcp()?;
    let rules = format!("{}[timeouts]\n{timeouts}\n", relay.rule(&upstream.name()));
    let daemon = Daemon::start(&rules, &[])?;
    let (client, server) = daemon.flow(&upstream)?;
    Ok((daemon, client, server))
}

fn round_trip(client: &Conn, server: &Conn) -> Result<()> {
    client.send("hello")?;
    server.expect("hello")?;
    server.send("olleh")?;
    client.expect("olleh")
}

fn closed(daemon: Daemon, client: &Conn, relay: Relay, close: &str, least_ms: f64) -> Result<()> {
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == close && access.relay() == relay.name(), "{access:?}");
    ensure!(access.duration_ms() >= least_ms, "too early: {access:?}");
    daemon.stop()?;
    Ok(())
}

fn an_idle_flow_is_reset(relay: Relay) -> Result<()> {
    let (daemon, client, server) = flow(relay, "idle = \"200ms\"")?;
    ensure!(client.expect_reset()? == 0 && server.expect_reset()? == 0);
    closed(daemon, &client, relay, "idle-timeout", 200.0)
}

/// What the kernel carries counts, though user space sees nothing of it.
fn a_busy_flow_is_not_idle(relay: Relay) -> Result<()> {
    let (daemon, client, server) = flow(relay, "idle = \"500ms\"")?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1600) {
        round_trip(&client, &server)?;
    }
    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()?;
    closed(daemon, &client, relay, "finished", 1500.0)
}

fn a_half_closed_flow_is_reset(relay: Relay) -> Result<()> {
    let (daemon, client, server) = flow(relay, "half_closed = \"200ms\"")?;
    client.finish()?;
    server.expect_end()?;
    ensure!(client.expect_reset()? == 0);
    closed(daemon, &client, relay, "half-closed-timeout", 200.0)
}

fn a_lifetime_ends_even_a_busy_flow(relay: Relay) -> Result<()> {
    let (daemon, client, server) = flow(relay, "lifetime = \"400ms\"")?;
    let start = Instant::now();
    while round_trip(&client, &server).is_ok() {
        ensure!(start.elapsed() < mux_tests::deadline(), "it lives on");
    }
    closed(daemon, &client, relay, "lifetime", 400.0)
}
