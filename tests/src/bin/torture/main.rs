//! Torture: thousands of flows of every shape through the daemon, every byte checked.
//!
//! `script` decides what each flow does, `peer` plays one end of it, `ends` has all clients and
//! all servers; `daemon` runs the daemon, `place` the network; `judge` compares what both ends
//! and the access log say, `report` prints it. The exit code is 0 only if nothing is wrong.
//!
//! The same seed gives the same flows; their interleaving is the machine's.

mod autopsy;
mod board;
mod daemon;
mod ends;
mod expect;
mod flip;
mod hop;
mod judge;
mod memory;
mod peer;
mod place;
mod random;
mod report;
mod script;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use crate::{
    autopsy::Autopsy,
    board::Board,
    daemon::{Daemon, Settings},
    ends::Clients,
    expect::Expect,
    flip::Flips,
    memory::Sampler,
    place::{Place, Weather},
    report::{Report, Surroundings},
    script::Sizes,
};

/// Runs flows of all shapes through a mux of its own, and checks every byte.
#[derive(Parser, Debug)]
#[command(name = "torture")]
struct Args {
    /// The daemon
    #[arg(long, env = "MUX_BIN", value_name = "FILE")]
    mux: PathBuf,
    /// Flows
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    flows: u64,
    /// Flows at once
    #[arg(long, default_value_t = 200, value_name = "N")]
    concurrency: usize,
    /// Begin no flow after so many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// What the flows' scripts follow from; by default another one each time
    #[arg(long)]
    seed: Option<u64>,
    /// The rule's relay
    #[arg(long, default_value = "sockmap", value_parser = ["auto", "packet", "sockmap", "splice", "copy"])]
    relay: String,
    /// `[kernel]` sockmap
    #[arg(long, default_value = "auto", value_parser = ["auto", "force", "off"])]
    sockmap: String,
    /// `[kernel]` send_buffer in bytes; a small one makes the kernel pass more often
    #[arg(long, value_name = "BYTES")]
    send_buffer: Option<u32>,
    /// Most bytes each way of an ordinary flow
    #[arg(long, default_value_t = 4 << 20, value_name = "BYTES")]
    bytes: u64,
    /// Most bytes each way of a bulk flow
    #[arg(long, default_value_t = 16 << 20, value_name = "BYTES")]
    bulk: u64,
    /// Largest write
    #[arg(long, default_value_t = 256 << 10, value_name = "BYTES")]
    write: u64,
    /// Buffers that are small (2 to 64 KiB), out of a thousand
    #[arg(long, default_value_t = 250, value_name = "PER_MILLE")]
    small_buffers: u64,
    /// Threads that do nothing but use up the CPUs
    #[arg(long, default_value_t = 0, value_name = "N")]
    hogs: usize,
    /// A flow that moves no byte for so many seconds hangs
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    deadline: u64,
    /// Clients, mux and servers in network namespaces of their own, joined by veth pairs
    #[arg(long)]
    netns: bool,
    /// Drop packets, percent on each of the four hops
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT", requires = "netns")]
    loss: f64,
    /// Hold packets for up to so long on each of the two lines, so that some overtake others
    #[arg(long, default_value_t = 0, value_name = "MS", requires = "netns")]
    delay: u64,
    /// Switch the kernel relay off, and on again, each time that so long has passed
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    flip: Option<u64>,
    /// What must have happened for the run to count; by default what its options lead to, from 50
    /// flows on, overlaps from 400
    #[arg(long, value_enum, value_delimiter = ',', num_args = 0..)]
    expect: Option<Vec<Expect>>,
    /// Without selective acknowledgements, so that retransmissions overlap
    #[arg(long, requires = "netns")]
    no_sack: bool,
    /// Every segment a packet of its own
    #[arg(long, requires = "netns")]
    no_offload: bool,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(report) => {
            report.print_faults();
            if args.json {
                println!("{}", report.json());
            } else {
                report.print();
            }
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<Report> {
    let seed = args.seed.unwrap_or_else(clock_seed);
    eprintln!("torture: --seed {seed}");
    let place = if args.netns {
        Place::namespaces(Weather {
            loss_per_mille: (args.loss * 10.0).round() as u64,
            sack: !args.no_sack,
            offload: !args.no_offload,
            delay: Duration::from_millis(args.delay),
        })?
    } else {
        Place::Loopback
    };
    let sizes = Sizes {
        most: args.bytes,
        bulk: args.bulk,
        write: args.write,
        small_buffers: args.small_buffers,
    };
    let deadline = Duration::from_secs(args.deadline);
    let autopsy = Autopsy::new(place.names());
    let board = Arc::new(Board::new(seed, args.flows, sizes, args.loss > 0.0, deadline, autopsy));
    let stop = AtomicBool::new(false);
    let hogs_stop = AtomicBool::new(false);
    let (board, place, stop, hogs_stop) = (&board, &place, &stop, &hogs_stop);
    thread::scope(|scope| {
        let (listening, server) = mpsc::channel();
        let servers = scope.spawn(move || {
            place.enter_server()?;
            ends::run_servers(board, place.server_address(), &listening, stop)
        });
        // Whatever goes wrong from here on, the other threads must end.
        let _stop = SetOnDrop(stop);
        let _stop_hogs = SetOnDrop(hogs_stop);
        let Ok(server) = server.recv_timeout(Duration::from_secs(10)) else {
            bail!("the servers do not listen");
        };
        let settings = Settings {
            relay: args.relay.clone(),
            sockmap: args.sockmap.clone(),
            send_buffer: args.send_buffer,
        };
        let daemon = Daemon::start(&args.mux, place, server, &settings)?;
        // Nobody has set it before.
        let _ = board.autopsy.daemon.set(daemon.admin());
        for _ in 0..args.hogs {
            scope.spawn(|| while !hogs_stop.load(Ordering::Relaxed) {});
        }
        let sampler = Sampler::start(daemon.pid());
        let flips =
            args.flip.map(|period| Flips::start(daemon.admin(), Duration::from_millis(period)));
        let start = Instant::now();
        let clients = Clients {
            listeners: daemon.listeners,
            network: place.client_network(),
            concurrency: args.concurrency.max(1),
            until: args.seconds.map(|seconds| start + Duration::from_secs(seconds)),
        };
        let begun = scope.spawn(move || {
            place.enter_client()?;
            ends::run_clients(board, &clients)
        });
        let begun = begun.join().ok().context("the clients panicked")??;
        stop.store(true, Ordering::Relaxed);
        servers.join().ok().context("the servers panicked")??;
        let took = start.elapsed();
        let peaks = sampler.stop();
        hogs_stop.store(true, Ordering::Relaxed);
        let flips = flips.map_or(0, Flips::stop);
        let remains = daemon.stop()?;
        let expected = args.expect.clone().unwrap_or_else(|| {
            expect::expected(expect::Run {
                sockmap: args.relay == "sockmap" && args.sockmap != "off",
                // Loss alone makes few: none in 500 flows at 2 %.
                overlaps: args.delay > 0 && args.no_sack,
                small: args.send_buffer.is_some_and(|size| size <= 256 << 10),
                flips: flips > 0,
                delay: args.delay > 0,
                flows: begun,
            })
        });
        let surroundings = Surroundings { peaks, took, flips, overtaken: place.overtaken() };
        Ok(Report::new(board, begun, &remains, surroundings, expected))
    })
}

fn clock_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64 % 1_000_000_007)
}

/// Sets a flag however its scope is left.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
