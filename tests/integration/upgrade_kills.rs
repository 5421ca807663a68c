//! `kill -9` at any moment of an upgrade, of the old process, the new one, or the keeper that started
//! it: one serves afterwards, and the old one's flows live if it does. The moments are random;
//! `MUX_TEST_SEED` repeats them.

use std::{
    env,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mux_tests::{
    Conn, Daemon, Relay, deadline, eventually, eventually_true, peers::free_port, procfs::Proc,
};
use rustix::process::{Pid, Signal, kill_process};

const ROUNDS: usize = 90;
const SEED: u64 = 0x6d75_785f_7570;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Old,
    New,
    Keeper,
}

/// What is tried in a round.
#[derive(Clone, Copy, Debug)]
struct Round {
    victim: Victim,
    /// Whether the old process has a flow.
    flow: bool,
    /// From the start of the new process on.
    after: Duration,
}

/// Knuth's, of whose upper bits enough are random for this.
struct Random(u64);

impl Random {
    fn new() -> Result<Self> {
        let seed = match env::var("MUX_TEST_SEED") {
            Ok(text) => text.parse().with_context(|| format!("MUX_TEST_SEED={text}"))?,
            Err(_) => SEED,
        };
        println!("MUX_TEST_SEED={seed}");
        Ok(Self(seed))
    }

    /// Up to so long.
    fn up_to(&mut self, most: Duration) -> Duration {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        most.mul_f64((self.0 >> 40) as f64 / (1u64 << 24) as f64)
    }
}

/// A daemon on a port of its own, which a process that binds anew finds again.
fn start() -> Result<Daemon> {
    let mut last = None;
    for _ in 0..5 {
        let listen = format!("listen = \"127.0.0.1:{}\"\n", free_port()?);
        match Daemon::user_space(&format!("{listen}{}", Relay::Copy.rule("builtin:echo"))) {
            Ok(daemon) => return Ok(daemon),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no attempt")?)
}

fn says(client: &Conn, text: &str) -> Result<()> {
    client.send(text)?;
    client.expect(text)
}

fn kill(pid: u32) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("a process id")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

/// The keeper of a daemon whose upgrade has begun, and the new process.
fn upgrading(daemon: &Daemon) -> Result<(u32, u32)> {
    let [keeper] = daemon.proc().children()?[..] else { bail!("the daemon has not one child") };
    daemon.signal(Signal::USR2)?;
    let new = eventually("a new process", || Proc(keeper).children().ok()?.first().copied())?;
    Ok((keeper, new))
}

/// Whether somebody serves there; who was about to be killed may reset a connection.
fn is_served(address: SocketAddr) -> bool {
    Conn::tcp(address).and_then(|client| says(&client, "served?")).is_ok()
}

/// How long an upgrade takes here and now.
fn length() -> Result<Duration> {
    let daemon = start()?;
    let start = Instant::now();
    daemon.signal(Signal::USR2)?;
    let new = daemon.successor(0)?;
    let length = start.elapsed();
    kill(new)?;
    daemon.wait_log("this process accepts again")?;
    daemon.stop()?;
    Ok(length)
}

/// Killed when the test is over, if it is there: nobody waits for it.
struct Orphan(u32);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = kill(self.0);
    }
}

fn survives(round: Round) -> Result<()> {
    let daemon = start()?;
    let address = daemon.address();
    let flow = round.flow.then(|| daemon.connect()).transpose()?;
    flow.iter().try_for_each(|flow| says(flow, "before"))?;
    let (keeper, new) = upgrading(&daemon)?;
    let orphan = Orphan(new);
    // The moment is what the round is about: nothing is waited for here.
    thread::sleep(round.after);
    match round.victim {
        Victim::Old => kill(daemon.proc().0)?,
        Victim::New => kill(new)?,
        Victim::Keeper => kill(keeper)?,
    }
    eventually_true("somebody serves", || is_served(address))?;
    if round.victim == Victim::Old {
        drop(daemon.kill());
        drop(orphan);
        return Ok(());
    }
    if let Some(flow) = flow {
        says(&flow, "after").context("the old process's flow")?;
        flow.finish()?;
        flow.expect_end()?;
    }
    if round.victim == Victim::New {
        // It ends as it should, and there is no error in its log.
        daemon.stop()?;
    } else {
        drop(daemon.kill());
    }
    drop(orphan);
    Ok(())
}

#[test]
fn a_kill_at_any_moment_of_an_upgrade_leaves_one_that_serves() -> Result<()> {
    let mut random = Random::new()?;
    let most = 2 * length()?;
    ensure!(most < deadline(), "an upgrade takes {most:?}");
    for number in 0..ROUNDS {
        let victim = [Victim::Old, Victim::New, Victim::Keeper][number % 3];
        let round = Round { victim, flow: number / 3 % 2 == 0, after: random.up_to(most) };
        println!("{number}: {round:?}");
        survives(round).with_context(|| format!("round {number} of {most:?}: {round:?}"))?;
    }
    Ok(())
}

/// The old process has no flow that would keep it there, and says itself when it has gone back to
/// serving: the new one has served, and dies of it.
#[test]
fn a_new_process_that_dies_of_its_first_connections_is_stood_in_for() -> Result<()> {
    let daemon = start()?;
    daemon.signal(Signal::USR2)?;
    let new = daemon.successor(0)?;
    ensure!(is_served(daemon.address()));
    kill(new)?;
    daemon.wait_log("this process accepts again")?;
    eventually_true("somebody serves", || is_served(daemon.address()))?;
    daemon.stop()?;
    Ok(())
}

/// In a row of three the middle one is the third's to fall back on: the first stays out of it.
#[test]
fn only_the_last_predecessor_steps_in() -> Result<()> {
    let daemon = start()?;
    let flow = daemon.connect()?;
    says(&flow, "keeps the first process there")?;
    daemon.signal(Signal::USR2)?;
    let second = daemon.successor(0)?;
    let other = Conn::tcp(daemon.address())?;
    says(&other, "keeps the second process there")?;
    let pid = Pid::from_raw(second.cast_signed()).context("a process id")?;
    kill_process(pid, Signal::USR2)?;
    let third = Orphan(daemon.successor(1)?);
    kill(second)?;
    // Its flow ends with it; whoever serves now is the third.
    ensure!(other.expect("more").is_err());
    eventually_true("somebody serves", || is_served(daemon.address()))?;
    says(&flow, "still here")?;
    flow.finish()?;
    flow.expect_end()?;
    // The first one ends with its flow, as one that has nothing else to do.
    eventually_true("the first process ends", || {
        daemon.proc().status("State").is_ok_and(|state| state.starts_with('Z'))
    })?;
    ensure!(daemon.log_count("accepts again") == 0);
    drop(third);
    daemon.wait()?;
    Ok(())
}
