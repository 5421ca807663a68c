//! A reader that never reads: it costs the buffers, not the machine's memory, and not the others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Need, Relay, Upstream, need};

/// Round trips of the other flow that are looked at.
const ROUNDS: u32 = 2000;
/// Bytes that a stalled flow may hold, in whatever queue: what was sent and not read is somewhere.
const MOST: u64 = 64 << 20;

fn available_kib() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)).context("MemAvailable")?;
    Ok(number.parse()?)
}

/// The median time of a round trip.
fn latency(client: &Conn, server: &Conn) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        client.send("question")?;
        server.expect("question")?;
        server.send("answer")?;
        client.expect("answer")?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

#[test]
fn a_reader_that_never_reads_costs_a_bounded_amount_and_nobody_else() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&Relay::Sockmap.rule(&upstream.name()), &[])?;
    let other = (daemon.connect()?, upstream.accept()?);
    let before = latency(&other.0, &other.1)?;
    let memory = available_kib()?;

    let client = daemon.connect()?;
    let server = upstream.accept()?;
    let sent = client.send_until_stuck(Duration::from_secs(1))?;
    let used = memory.saturating_sub(available_kib()?);
    let after = latency(&other.0, &other.1)?;
    println!(
        "stuck after {} KiB, system memory {used} KiB; another flow's round trip: {before:?} before, {after:?} after",
        sent >> 10
    );
    // Of system memory the test can only tell: whatever else runs uses it too.
    ensure!(sent < MOST, "{sent} bytes went to a reader that does not read");

    // It reads after all: every byte is there, and the flow goes on in the kernel.
    client.finish()?;
    ensure!(server.to_end()?.len() as u64 == sent, "bytes are missing");
    drop(server);
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!((access.relay(), access.bytes().0) == ("sockmap", sent), "{access:?}");
    drop(other);
    daemon.stop()?;
    Ok(())
}
