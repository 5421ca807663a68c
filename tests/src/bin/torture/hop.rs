//! A hop that delays packets, and lets some overtake others: nftables cannot, and netem is not
//! everywhere. Two TUN devices, one in each namespace, and a thread between them.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use mux_tests::{netns::Netns, tun};
use rustix::event::{PollFd, PollFlags, poll};

use crate::random::Random;

/// Packets that wait at most, each way: what a router's queue would drop is dropped.
const QUEUE: usize = 20_000;
/// Of a thousand packets, how many are held longer than the others, so that those overtake them.
const HELD: u64 = 50;

/// A running hop; ends by `Drop`.
#[derive(Debug)]
pub(crate) struct Hop {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Packets that were overtaken by a later one.
    overtaken: Arc<AtomicU64>,
}

/// A packet that waits, soonest first; those of one moment in the order in which they came.
type Waiting = Reverse<(Instant, u64, usize, Vec<u8>)>;

impl Hop {
    /// Joins two namespaces by a line of this delay: a fifth of it for most packets, up to all of it
    /// for some. The devices have these addresses; each namespace reaches the other's.
    pub(crate) fn new(
        [one, other]: [&Netns; 2],
        [one_address, other_address]: [&str; 2],
        device: &str,
        delay: Duration,
    ) -> Result<Self> {
        let mut files = Vec::new();
        for (namespace, address, peer) in
            [(one, one_address, other_address), (other, other_address, one_address)]
        {
            files.push(tun::device(namespace, device).context("a TUN device of the hop")?);
            namespace.ip(&format!("address add {address} peer {peer} dev {device}"))?;
            namespace.ip(&format!("link set {device} txqueuelen 10000 up"))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let overtaken = Arc::new(AtomicU64::new(0));
        let line = Line {
            files,
            delay,
            random: Random::new(7, 0, 9),
            waiting: BinaryHeap::new(),
            number: 0,
            latest: [0; 2],
            overtaken: Arc::clone(&overtaken),
        };
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || line.run(&until));
        Ok(Self { stop, thread: Some(thread), overtaken })
    }

    /// Packets that were overtaken so far.
    pub(crate) fn overtaken(&self) -> u64 {
        self.overtaken.load(Ordering::Relaxed)
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Line {
    files: Vec<File>,
    delay: Duration,
    random: Random,
    waiting: BinaryHeap<Waiting>,
    number: u64,
    /// The highest number that went out, by the device that it goes to.
    latest: [u64; 2],
    overtaken: Arc<AtomicU64>,
}

impl Line {
    fn run(mut self, stop: &AtomicBool) {
        let mut packet = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            for from in 0..2 {
                self.take(from, &mut packet);
            }
            self.give();
            let soon = Duration::from_millis(20);
            let due = self.waiting.peek().map(|Reverse((due, ..))| *due);
            let pause =
                due.map_or(soon, |due| due.saturating_duration_since(Instant::now())).min(soon);
            let Ok(timeout) = pause.try_into() else { return };
            let mut fds: Vec<PollFd<'_>> =
                self.files.iter().map(|file| PollFd::new(file, PollFlags::IN)).collect();
            // It fails for a signal only, and then the loop goes on.
            let _ = poll(&mut fds, Some(&timeout));
        }
    }

    /// Takes what a device has.
    fn take(&mut self, from: usize, packet: &mut [u8]) {
        for _ in 0..256 {
            let length = match self.files[from].read(packet) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The device is down, or the namespace gone: the run is over.
                Err(_) => return,
            };
            if self.waiting.len() >= QUEUE {
                continue;
            }
            let base = self.delay / 5;
            let held = if self.random.chance(HELD) {
                base + self.delay.mul_f64(self.random.below(800) as f64 / 1000.0)
            } else {
                base
            };
            self.number += 1;
            let entry = (Instant::now() + held, self.number, 1 - from, packet[..length].to_vec());
            self.waiting.push(Reverse(entry));
        }
    }

    /// Gives on what is due.
    fn give(&mut self) {
        let now = Instant::now();
        while self.waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, number, to, packet))) = self.waiting.pop() else { return };
            if number < self.latest[to] {
                self.overtaken.fetch_add(1, Ordering::Relaxed);
            }
            self.latest[to] = self.latest[to].max(number);
            // A full device loses the packet, as any hop would.
            let _ = self.files[to].write_all(&packet);
        }
    }
}
