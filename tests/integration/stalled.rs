//! A reader that never reads: it costs the buffers, not the machine's memory, and not the others.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Access, Conn, Daemon, Need, Pattern, Relay, Upstream, admin::AdminSocket, eventually_true, need,
};

/// Round trips of the other flow that are looked at.
const ROUNDS: u32 = 2000;
/// Bytes that a stalled flow may hold, in whatever queue: what was sent and not read is somewhere.
const MOST: u64 = 64 << 20;
/// Times that it is tried to find the machine's memory left alone by others.
const TRIES: u32 = 5;
const DOWN: Pattern = Pattern::new(61);

/// A line of /proc/meminfo, bytes.
fn memory(name: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()).context(name.to_owned())?;
    Ok(number.parse::<u64>()? << 10)
}

/// What shows how much memory goes.
#[derive(Clone, Copy, Debug)]
enum Gauge {
    /// All of the machine's.
    Available,
    /// The kernel's small objects, `struct sk_buff` and what small ones point to.
    Slab,
}

impl Gauge {
    /// How much is used, in its own count.
    fn used(self) -> Result<u64> {
        match self {
            Self::Available => Ok(memory("MemTotal")? - memory("MemAvailable")?),
            Self::Slab => memory("SUnreclaim"),
        }
    }
}

/// The median time of a round trip; of three such, the best: where threads run is chance.
fn latency(client: &Conn, server: &Conn) -> Result<Duration> {
    let medians = (0..3).map(|_| median(client, server)).collect::<Result<Vec<_>>>()?;
    medians.into_iter().min().context("three of them")
}

fn median(client: &Conn, server: &Conn) -> Result<Duration> {
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

/// How much memory goes while `work` runs, at worst; bytes.
fn memory_used(gauge: Gauge, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = gauge.used()?;
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(before));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                most.fetch_max(gauge.used().unwrap_or(before), Ordering::AcqRel);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let result = work();
        done.store(true, Ordering::Release);
        result
    })?;
    Ok(most.load(Ordering::Acquire) - before)
}

/// Tries until `work` leaves the machine's memory alone: whatever else runs uses it, too.
fn uses_little(gauge: Gauge, mut work: impl FnMut() -> Result<()>) -> Result<u64> {
    let mut used = 0;
    for _ in 0..TRIES {
        used = memory_used(gauge, &mut work)?;
        if used < MOST {
            return Ok(used);
        }
        println!("{} MiB of memory went while it ran; trying again", used >> 20);
    }
    anyhow::bail!("{} MiB of memory for a reader that does not read", used >> 20)
}

/// The upstream sends zeros for so long, the client reads none of them.
fn a_client_that_never_reads(time: Duration) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&Relay::Sockmap.rule(&upstream.name()), &[])?;
    let other = daemon.flow(&upstream)?;
    let before = latency(&other.0, &other.1)?;
    let (mut during, mut ran) = (Duration::ZERO, Duration::ZERO);
    let mut sent = 0;
    let used = uses_little(Gauge::Available, || {
        let (client, server) = daemon.flow(&upstream)?;
        let end = Instant::now() + time;
        sent = 0;
        loop {
            let more = server.send_until_stuck(Duration::from_secs(1))?;
            sent += more;
            ensure!(sent < MOST, "{sent} bytes went to a reader that does not read");
            if Instant::now() >= end && more == 0 {
                break;
            }
        }
        let at = daemon.proc().usage()?.nanos;
        during = latency(&other.0, &other.1)?;
        ran = Duration::from_nanos(daemon.proc().usage()?.nanos - at);
        // It reads after all: every byte is there, and the flow goes on in the kernel.
        server.finish()?;
        ensure!(client.to_end()?.len() as u64 == sent, "bytes are missing");
        client.finish()?;
        server.expect_end()?;
        let access = daemon.access_of(client.local()?)?;
        let found = (access.relay(), access.close(), access.bytes());
        ensure!(found == ("sockmap", "finished", (5, sent + 5)), "{access:?}");
        Ok(())
    })?;
    let after = latency(&other.0, &other.1)?;
    println!(
        "{time:?} of zeros: blocked after {} KiB, {} KiB of memory; another flow's round trip {before:?} before, {during:?} during it ({:.2} times; mux ran for {ran:?} of it), {after:?} after",
        sent >> 10,
        used >> 10,
        during.as_secs_f64() / before.as_secs_f64()
    );
    drop(other);
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_client_that_never_reads_costs_a_bounded_amount_and_nobody_else() -> Result<()> {
    need!(Need::Root);
    a_client_that_never_reads(Duration::from_secs(2))
}

#[test]
#[ignore = "half a minute; the figures in docs/internals/kernel.md are its"]
fn a_client_that_never_reads_for_half_a_minute() -> Result<()> {
    need!(Need::Root);
    a_client_that_never_reads(Duration::from_secs(30))
}

/// Each byte a segment of its own, each segment a thousand times its size in memory, and no CPU left
/// for the worker that takes them out of the psock.
#[test]
fn single_bytes_for_a_reader_that_stops_are_charged_for_their_memory() -> Result<()> {
    need!(Need::Root);
    const TIME: Duration = Duration::from_secs(3);
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&Relay::Sockmap.rule(&upstream.name()), &[])?;
    let stop = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        for _ in 0..2 * thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
        }
        let used = uses_little(Gauge::Slab, || {
            let (client, server) = daemon.flow(&upstream)?;
            let sent = client.send_single_bytes(DOWN, TIME)?;
            println!("{sent} single bytes in {TIME:?}");
            client.finish()?;
            server.expect_pattern(DOWN, 0, sent)?;
            server.expect_end()?;
            server.finish()?;
            client.expect_end()
        });
        stop.store(true, Ordering::Relaxed);
        used
    });
    println!("{} KiB of memory at worst", result? >> 10);
    daemon.stop()?;
    Ok(())
}

/// What passed while the reader stood still is carried, and then the kernel goes on alone.
#[test]
fn after_a_stall_the_flow_is_the_kernels_again() -> Result<()> {
    need!(Need::Root);
    const ROUNDS: u64 = 500;
    let upstream = Upstream::tcp()?;
    let socket = AdminSocket::new()?;
    let rules = format!("{}{}", Relay::Sockmap.rule(&upstream.name()), socket.rules());
    let daemon = Daemon::start(&rules, &[])?;
    let (client, server) = daemon.flow(&upstream)?;
    let number = |series: &str| -> Result<u64> {
        Ok(socket.metric(series)?.context(series.to_owned())? as u64)
    };
    let passed = || -> Result<u64> {
        ["behind", "backlog", "full", "hold", "no_peer"].iter().try_fold(0, |sum, reason| {
            Ok(sum + number(&format!("mux_verdict_passed_total{{reason=\"{reason}\"}}"))?)
        })
    };
    let before = passed()?;
    let sent = server.send_until_stuck(Duration::from_millis(200))?;
    ensure!(passed()? > before, "nothing was passed");
    client.bytes(sent as usize)?;

    // At rest, and then one message after the other.
    let quiet = eventually_true("nothing is passed any more", || {
        let before = passed().unwrap_or(0);
        let round_trips = (0..10).try_for_each(|_| exchange(&client, &server));
        round_trips.is_ok() && passed().is_ok_and(|now| now == before)
    });
    quiet?;
    let (passed_before, redirected) = (passed()?, number("mux_verdict_redirected_total")?);
    for _ in 0..ROUNDS {
        exchange(&client, &server)?;
    }
    let redirected = number("mux_verdict_redirected_total")? - redirected;
    ensure!(redirected >= 2 * ROUNDS, "{redirected} of {} messages were redirected", 2 * ROUNDS);
    ensure!(passed()? == passed_before, "{} more were passed", passed()? - passed_before);

    client.finish()?;
    server.expect_end()?;
    server.finish()?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    check_stalled(&access, sent)?;
    daemon.stop()?;
    Ok(())
}

fn exchange(client: &Conn, server: &Conn) -> Result<()> {
    client.send("question")?;
    server.expect("question")?;
    server.send("answer")?;
    client.expect("answer")
}

fn check_stalled(access: &Access, sent: u64) -> Result<()> {
    ensure!((access.relay(), access.close()) == ("sockmap", "finished"), "{access:?}");
    ensure!(access.bytes().1 > sent, "{access:?}");
    let [promotions, demotions, passes, carried] =
        ["promotions", "demotions", "passes", "carried"].map(|name| access.number(name));
    ensure!((promotions, demotions) == (1, 0), "{access:?}");
    ensure!(passes > 0 && carried > 0 && carried <= sent + 5, "{access:?}");
    println!("{sent} bytes for a reader that stood still, of which user space carried {carried}");
    Ok(())
}
