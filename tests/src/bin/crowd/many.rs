//! Thousands of spliced flows that are held and then used: what one costs.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{Daemon, procfs::Proc};
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

use crate::echo;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Flows
    #[arg(long, default_value_t = 8000)]
    flows: usize,
    /// How long they are held, seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// Memory of the machine, KiB.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// What is not available any more.
    used: u64,
    /// Pages in socket buffers, as /proc/net/sockstat counts them.
    tcp: u64,
}

impl Machine {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context("meminfo")?;
            Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
        };
        let sockets = fs::read_to_string("/proc/net/sockstat")?;
        let tcp =
            sockets.lines().find_map(|line| line.strip_prefix("TCP: ")).context("sockstat")?;
        let pages = tcp.split_whitespace().last().context("sockstat")?.parse::<u64>()?;
        Ok(Self { used: field("MemTotal")? - field("MemAvailable")?, tcp: pages * 4 })
    }
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let upstream = echo::serve()?;
    let count = arguments.flows;
    // The peers' own sockets and buffers are in the machine's figures: the same number of
    // connections without mux shows how much.
    let before = Machine::now()?;
    let direct = open(upstream, count).await?;
    let after = Machine::now()?;
    println!(
        "direct: {count} connections: {:.1} KiB each in all (both ends)",
        each(after.used, before.used, count)
    );
    drop(direct);
    sleep(Duration::from_secs(2)).await;

    let daemon = Daemon::start(
        &format!(
            "[[rule]]\nmatch = {{ prefix = \"PING\" }}\nupstream = \"{upstream}\"\n\
             relay = \"sockmap\"\n[limits]\nmax_connections = {}\n[log]\naccess = \"off\"\n",
            count + 10
        ),
        &[],
    )?;
    let process = daemon.proc();
    let (resident, descriptors) = (process.resident_kib()?, process.descriptors()?);
    let before = Machine::now()?;
    let mut flows = open(daemon.address(), count).await?;
    let held = Machine::now()?;
    let opened = process.resident_kib()?;
    println!(
        "through mux: {count} spliced flows: {:.1} KiB each in user space (resident {resident} → {opened} KiB), \
         {:.1} KiB each in all (both ends and mux; {} KiB in socket buffers)",
        each(opened, resident, count),
        each(held.used, before.used, count),
        held.tcp
    );
    let usage = process.usage()?;
    sleep(Duration::from_secs(arguments.seconds)).await;
    let idle = process.usage()?;
    println!(
        "held for {} s: {} ms of processor time, {} wake-ups",
        arguments.seconds,
        (idle.ticks - usage.ticks) * 10,
        idle.switches - usage.switches
    );
    let began = Instant::now();
    for round in 0..5 {
        flows = use_all(flows, round).await?;
    }
    let used = process.usage()?;
    println!(
        "used: {} exchanges, all right, in {:.2} s; {} ms of processor time in mux, {} wake-ups; resident {} KiB",
        5 * count,
        began.elapsed().as_secs_f64(),
        (used.ticks - idle.ticks) * 10,
        used.switches - idle.switches,
        process.resident_kib()?
    );
    drop(flows);
    closed(process, descriptors).await?;
    println!("closed: resident {} KiB", process.resident_kib()?);
    let stopped = daemon.stop()?;
    ensure!(stopped.counter("promoted") == count as u64, "not all were spliced");
    ensure!(stopped.counter("relay_imbalance") == 0, "books out of balance");
    Ok(())
}

fn each(after: u64, before: u64, count: usize) -> f64 {
    after.saturating_sub(before) as f64 / count as f64
}

/// Connects so many times, each with an exchange.
async fn open(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream =
            TcpStream::connect(address).await.with_context(|| format!("connection {number}"))?;
        stream.set_nodelay(true)?;
        echo::exchange(&mut stream, number as u32)
            .await
            .with_context(|| format!("connection {number}"))?;
        streams.push(stream);
    }
    Ok(streams)
}

/// An exchange on each, all of them at once.
async fn use_all(streams: Vec<TcpStream>, round: u32) -> Result<Vec<TcpStream>> {
    let mut exchanges = JoinSet::new();
    for mut stream in streams {
        exchanges.spawn(async move {
            echo::exchange(&mut stream, round).await?;
            anyhow::Ok(stream)
        });
    }
    exchanges.join_all().await.into_iter().collect()
}

/// Waits until the daemon has closed its flows' sockets, and has hardly more descriptors than before.
/// Meanwhile the server, which is in this process, has its ends of them to close.
async fn closed(process: Proc, before: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while process.descriptors()? > before + 8 {
        ensure!(Instant::now() < deadline, "flows do not end");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
