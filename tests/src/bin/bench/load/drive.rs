//! Opens connections, waits for readiness, lets each say what it has to say.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Barrier, atomic::AtomicU64},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use rustix::event::epoll::EventFlags;
use slab::Slab;

use super::{
    LoadArgs,
    clock::{Clock, Phase},
    report::{Report, Tally, event},
    talk::{Context, Step, Talk},
};
use crate::poll::{Nagle, Poller, Target, connect};

/// How long the first answers on all connections may take, and the last ones; and how long
/// nothing at all may come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// Runs a work on `args.connections` connections; `talk` makes what is said on one, given its
/// number.
///
/// # Errors
/// No thread, no descriptor; connections that do not become warm.
pub(crate) fn drive<T: Talk>(
    args: &LoadArgs,
    nagle: Nagle,
    talk: impl Fn(u64) -> T + Sync,
) -> Result<Report> {
    let clock = Clock::new(args.count);
    let threads = args.threads.min(args.connections);
    let numbers = AtomicU64::new(0);
    // Nobody connects before everybody can.
    let barrier = Arc::new(Barrier::new(threads as usize + 1));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|index| {
                let share =
                    args.connections / threads + u32::from(index < args.connections % threads);
                let barrier = Arc::clone(&barrier);
                let (clock, talk, numbers) = (&clock, &talk, &numbers);
                scope.spawn(move || {
                    let mut worker = Worker::new(&args.target, nagle, clock, talk, numbers)?;
                    barrier.wait();
                    let result = worker.run(share);
                    if result.is_err() {
                        clock.fail();
                    }
                    result.map(|()| worker.tally)
                })
            })
            .collect();
        barrier.wait();
        let begun = Instant::now();
        let timed = match args.count {
            None => follow(&clock, args),
            Some(_) => Ok(Duration::ZERO),
        };
        if timed.is_err() {
            clock.set(Phase::Over);
        }
        let mut tally = Tally::new()?;
        for worker in workers {
            tally.add(&worker.join().map_err(|_| anyhow!("a thread panicked"))??)?;
        }
        let elapsed = if args.count.is_some() { begun.elapsed() } else { timed? };
        Ok(Report { tally, elapsed })
    })
}

/// Turns the clock: warm-up, window, drain. Returns the window's real length.
fn follow(clock: &Clock, args: &LoadArgs) -> Result<Duration> {
    let begun = Instant::now();
    while clock.warm() < u64::from(args.connections) && !clock.has_failed() {
        if begun.elapsed() > PATIENCE {
            bail!("{} of {} connections got an answer", clock.warm(), args.connections);
        }
        thread::sleep(Duration::from_millis(1));
    }
    event("warm")?;
    sleep(clock, args.warm_up());
    event("counting")?;
    let start = Instant::now();
    clock.set(Phase::Counting);
    sleep(clock, args.window());
    clock.set(Phase::Draining);
    let elapsed = start.elapsed();
    event("counted")?;
    Ok(elapsed)
}

/// Sleeps, unless the round is void.
fn sleep(clock: &Clock, time: Duration) {
    let end = Instant::now() + time;
    while !clock.has_failed() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// A connection.
struct Conn<T> {
    socket: OwnedFd,
    interest: EventFlags,
    talk: T,
    /// It has done a unit.
    warm: bool,
}

/// A thread's connections.
struct Worker<'a, T, F> {
    target: &'a Target,
    nagle: Nagle,
    clock: &'a Clock,
    talk: &'a F,
    /// How many connections there have been, of all threads.
    numbers: &'a AtomicU64,
    poller: Poller,
    conns: Slab<Conn<T>>,
    buffer: Box<[u8]>,
    tally: Tally,
}

impl<'a, T: Talk, F: Fn(u64) -> T> Worker<'a, T, F> {
    fn new(
        target: &'a Target,
        nagle: Nagle,
        clock: &'a Clock,
        talk: &'a F,
        numbers: &'a AtomicU64,
    ) -> Result<Self> {
        let (poller, conns) = (Poller::new()?, Slab::new());
        let (buffer, tally) = (vec![0; BUFFER].into(), Tally::new()?);
        Ok(Self { target, nagle, clock, talk, numbers, poller, conns, buffer, tally })
    }

    fn run(&mut self, connections: u32) -> Result<()> {
        for _ in 0..connections {
            self.open(false)?;
        }
        let mut ready = Vec::new();
        let mut patience: Option<Instant> = None;
        let mut silent: Option<Instant> = None;
        while !self.conns.is_empty() {
            self.poller.wait(&mut ready, Some(LOOK))?;
            if !ready.is_empty() {
                silent = None;
            } else if silent.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                self.fault(&format!("{} connections got no answer", self.conns.len()));
                return Ok(());
            }
            for &(token, _) in &ready {
                self.advance(token as usize)?;
            }
            if self.clock.has_failed() || self.clock.phase() == Phase::Over {
                return Ok(());
            }
            if self.clock.phase() == Phase::Draining {
                let end = *patience.get_or_insert_with(|| Instant::now() + PATIENCE);
                self.drain();
                if Instant::now() > end {
                    self.fault(&format!("{} connections got no last answer", self.conns.len()));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Opens a connection; `warm`: in place of one that has done a unit.
    fn open(&mut self, warm: bool) -> Result<()> {
        if !self.clock.begins() {
            return Ok(());
        }
        let number = self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let talk = (self.talk)(number);
        // The time that it takes to connect is part of an answer's time.
        let begun = Instant::now();
        let socket = match connect(self.target, self.nagle) {
            Ok(socket) => socket,
            Err(error) => {
                self.fault(&format!("connecting: {error}"));
                return Ok(());
            }
        };
        let key = self.conns.insert(Conn { socket, interest: EventFlags::empty(), talk, warm });
        if let Some(conn) = self.conns.get_mut(key) {
            conn.talk.begin(begun);
        }
        self.advance(key)
    }

    /// Lets a connection do what it can.
    fn advance(&mut self, key: usize) -> Result<()> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        let mut context = Context {
            clock: self.clock,
            tally: &mut self.tally,
            buffer: &mut self.buffer,
            done: 0,
        };
        let step = conn.talk.advance(&conn.socket, &mut context);
        if context.done > 0 && !conn.warm {
            conn.warm = true;
            self.clock.is_warm();
        }
        match step {
            Ok(Step::Wait(interest)) => self.wait_for(key, interest)?,
            Ok(Step::Again) => {
                let warm = conn.warm;
                self.conns.try_remove(key);
                self.open(warm)?;
            }
            Ok(Step::Over) => {
                self.conns.try_remove(key);
            }
            Err(error) => {
                self.fault(&error.to_string());
                self.conns.try_remove(key);
            }
        }
        Ok(())
    }

    fn wait_for(&mut self, key: usize, interest: EventFlags) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        if conn.interest == interest {
            return Ok(());
        }
        if conn.interest.is_empty() {
            self.poller.add(&conn.socket, key as u64, interest)?;
        } else {
            self.poller.modify(&conn.socket, key as u64, interest)?;
        }
        conn.interest = interest;
        Ok(())
    }

    /// Ends connections that wait for nothing; the others get their answers.
    fn drain(&mut self) {
        let clock = self.clock;
        self.conns.retain(|_, conn| !conn.talk.may_end(clock));
    }

    /// One fault voids the round; it need not go on.
    fn fault(&mut self, what: &str) {
        self.tally.fault(what);
        self.clock.fail();
    }
}
