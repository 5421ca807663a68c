//! Connections that send a byte now and then, so as to be sniffed for ever.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use mux_tests::Daemon;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    task::{JoinSet, LocalSet},
    time::{sleep, timeout},
};

use crate::echo;

/// How long a client waits for its answer: after that its request has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the attackers send, a byte at a time: the beginning of what a rule waits for.
const BAIT: &[u8] = echo::HEAD;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Attacking connections
    #[arg(long, default_value_t = 5000)]
    attackers: usize,
    /// Seconds from one byte of an attacker's to the next
    #[arg(long, default_value_t = 5)]
    pause: u64,
    /// `[limits] max_sniffing`
    #[arg(long, default_value_t = 500)]
    max_sniffing: u32,
    /// Honest clients of each kind
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Length of each phase, seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Pairs of a phase without and one with the attack
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// What honest clients found in one phase.
struct Seen {
    micros: Histogram<u64>,
    failed: u64,
}

impl Seen {
    fn new() -> Result<Self> {
        Ok(Self { micros: Histogram::new(3)?, failed: 0 })
    }

    fn note(&mut self, began: Instant, done: Result<()>) {
        match done {
            Ok(()) => {
                self.micros.saturating_record(began.elapsed().as_micros() as u64);
            }
            Err(_) => self.failed += 1,
        }
    }

    fn line(&self) -> String {
        let at = |quantile| self.micros.value_at_quantile(quantile);
        format!(
            "{:>7} done, {} failed, p50 {:>6} µs, p99 {:>7} µs, most {:>8} µs",
            self.micros.len(),
            self.failed,
            at(0.5),
            at(0.99),
            self.micros.max()
        )
    }
}

/// The attack, for as long as it is not dropped.
struct Attack {
    _tasks: JoinSet<()>,
    /// Connections made so far.
    made: Rc<Cell<u64>>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    LocalSet::new().run_until(all(arguments)).await
}

async fn all(arguments: &Arguments) -> Result<()> {
    let upstream = echo::serve()?;
    let daemon = Daemon::start(
        &format!(
            "sniff_timeout = \"60s\"\n[[rule]]\nmatch = {{ prefix = \"PING\" }}\n\
             upstream = \"{upstream}\"\nrelay = \"auto\"\n\
             [limits]\nmax_sniffing = {}\n[log]\naccess = \"off\"\n",
            arguments.max_sniffing
        ),
        &[],
    )?;
    println!(
        "{} attackers, a byte every {} s; max_sniffing {}, sniff_timeout 60 s\n\
         new: connect, one message of {} bytes and back; open: the same on a connection that stays\n\
         {} clients of each kind, each 50 times a second",
        arguments.attackers,
        arguments.pause,
        arguments.max_sniffing,
        echo::MESSAGE,
        arguments.clients
    );
    let address = daemon.address();
    for round in 0..arguments.rounds {
        report(round, "quiet ", phase(arguments, address).await?);
        let attack = attack(arguments, address).await?;
        let before = attack.made.get();
        report(round, "attack", phase(arguments, address).await?);
        println!("        the attackers connected {} times in it", attack.made.get() - before);
        drop(attack);
    }
    let stopped = daemon.stop()?;
    println!("sniffing_limit: {}", stopped.counter("sniffing_limit"));
    Ok(())
}

fn report(round: usize, name: &str, [new, open]: [Seen; 2]) {
    println!("{round} {name} new  {}", new.line());
    println!("{round} {name} open {}", open.line());
}

/// One phase of honest clients; those who connect anew, and those who stay.
async fn phase(arguments: &Arguments, address: SocketAddr) -> Result<[Seen; 2]> {
    /// 50 a second.
    const PACE: Duration = Duration::from_millis(20);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let seen = [Rc::new(RefCell::new(Seen::new()?)), Rc::new(RefCell::new(Seen::new()?))];
    let mut clients = JoinSet::new();
    for _ in 0..arguments.clients {
        let new = Rc::clone(&seen[0]);
        clients.spawn_local(async move {
            while Instant::now() < end {
                let began = Instant::now();
                let done = timeout(PATIENCE, once(address)).await;
                new.borrow_mut().note(began, done.unwrap_or_else(|late| Err(late.into())));
                sleep(PACE).await;
            }
        });
        let open = Rc::clone(&seen[1]);
        clients.spawn_local(async move {
            let mut stream = TcpStream::connect(address).await.ok();
            let mut number = 0;
            while Instant::now() < end {
                let Some(connected) = &mut stream else { break };
                let began = Instant::now();
                let done = timeout(PATIENCE, echo::exchange(connected, number)).await;
                let done = done.unwrap_or_else(|late| Err(late.into()));
                if done.is_err() {
                    stream = None;
                }
                // The first one is a connection's start, which the other kind measures.
                if number > 0 || stream.is_none() {
                    open.borrow_mut().note(began, done);
                }
                number += 1;
                sleep(PACE).await;
            }
        });
    }
    clients.join_all().await;
    let [new, open] = seen.map(|seen| seen.replace(Seen { micros: empty(), failed: 0 }));
    ensure!(!new.micros.is_empty() && !open.micros.is_empty(), "no client was served");
    Ok([new, open])
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 2, 1).unwrap_or_else(|_| unreachable!("constant bounds"))
}

async fn once(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    echo::exchange(&mut stream, 1).await
}

/// Starts the attack; returns when each attacker has connected.
async fn attack(arguments: &Arguments, address: SocketAddr) -> Result<Attack> {
    let made = Rc::new(Cell::new(0));
    let mut tasks = JoinSet::new();
    let pause = Duration::from_secs(arguments.pause);
    for number in 0..arguments.attackers {
        let made = Rc::clone(&made);
        // Spread over the pause, as those of a patient attacker are.
        let first = pause.mul_f64(number as f64 / arguments.attackers as f64);
        tasks.spawn_local(async move {
            sleep(first).await;
            loop {
                if let Ok(mut stream) = TcpStream::connect(address).await {
                    made.set(made.get() + 1);
                    trickle(&mut stream, pause).await;
                } else {
                    sleep(pause).await;
                }
            }
        });
    }
    sleep(pause).await;
    ensure!(made.get() >= arguments.attackers as u64 / 2, "the attackers cannot connect");
    Ok(Attack { _tasks: tasks, made })
}

/// Sends a byte after each pause until somebody has closed the connection.
async fn trickle(stream: &mut TcpStream, pause: Duration) {
    for byte in BAIT.iter().take(BAIT.len() - 1) {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        sleep(pause).await;
        if !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        {
            return;
        }
    }
}
