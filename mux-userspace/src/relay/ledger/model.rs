//! The ledger against a model of everything around it, every interleaving of it.
//!
//! The world is one way of a flow: a source whose segments run through the verdict (its decisions
//! are the eBPF program's own code, [`mux_common::verdict`]), a psock backlog that a kworker empties
//! into the destination's TCP, and the driver of `relay/sockmap.rs`, cut into single loads, stores
//! and system calls. A breadth-first search visits every state that any order of these can reach
//! and looks for: a byte out of order, an end passed on before the last byte, and a flow that
//! sleeps for ever.

use std::collections::{HashSet, VecDeque};

use mux_common::{
    KernelBook,
    verdict::{Destination, must_pass, must_wait},
};

use super::{Ledger, Step};

/// Bytes `from..to` of the stream.
type Range = (u64, u64);

/// What the search varies.
#[derive(Clone, Debug)]
struct Case {
    /// Segments, bytes each.
    segments: &'static [u64],
    fin: Fin,
    /// `backlog_limit`.
    limit: u64,
    /// The destination's send buffer, bytes.
    buffer: u64,
    /// A deliberate mistake, to show that the search finds it.
    flaw: Option<Flaw>,
}

/// How the source ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    /// With the last segment.
    WithData,
    /// After it.
    Bare,
    /// Not at all: nothing but the verdict's event wakes the driver.
    Never,
}

/// Mistakes of a relay that is not exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// Passed bytes are written without waiting for the backlog (L2).
    NoDrain,
    /// RDHUP is taken for the end of the data (L4).
    TrustFin,
    /// `read` is published before the bytes are completely written (L3).
    PublishEarly,
    /// The verdict decides about the event by the `read` that it saw first (L8).
    NoSecondLook,
}

/// Where the verdict is; it holds the source's lock unless idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Verdict {
    Idle,
    LoadRead { bytes: Range },
    LookAtDestination { bytes: Range },
    Decide { bytes: Range, sent: u64, room: u64 },
    AddPassed { bytes: Range, seen: u64 },
    SecondLook { bytes: Range, before: u64, seen: u64 },
    QueuePassed { bytes: Range },
    QueueRedirected { bytes: Range },
}

/// Where the driver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Driver {
    LoadPassed,
    LoadRedirected { passed: u64 },
    Act { passed: u64, redirected: u64 },
    StoreRead { read: u64 },
    Received { received: u64 },
    ReceivedPassed { received: u64, passed: u64 },
    Sleep,
    AwaitReadable,
    AwaitWritable,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    next_segment: usize,
    position: u64,
    /// `tcpi_bytes_received`, the FIN included.
    received: u64,
    fin_received: bool,
    verdict: Verdict,
    passed: u64,
    redirected: u64,
    read: u64,
    written: u64,
    /// Passed bytes that recv(2) finds.
    queue: Vec<Range>,
    backlog: VecDeque<Range>,
    /// Bytes that the destination's TCP has taken: `bytes_acked + SIOCOUTQ`.
    delivered: u64,
    /// Of those, not acknowledged.
    queued: u64,
    driver: Driver,
    ledger: Ledger,
    hand: Option<Range>,
    /// The event, or epoll's, that the driver has not seen.
    nudged: bool,
    rdhup: bool,
}

impl World {
    fn new() -> Self {
        Self {
            next_segment: 0,
            position: 0,
            received: 0,
            fin_received: false,
            verdict: Verdict::Idle,
            passed: 0,
            redirected: 0,
            read: 0,
            written: 0,
            queue: Vec::new(),
            backlog: VecDeque::new(),
            delivered: 0,
            queued: 0,
            driver: Driver::LoadPassed,
            ledger: Ledger::new(0, 0),
            hand: None,
            nudged: false,
            rdhup: false,
        }
    }

    fn room(&self, case: &Case) -> u64 {
        case.buffer - self.queued
    }

    fn deliver(&mut self, bytes: Range) -> Result<(), String> {
        if bytes.0 != self.delivered {
            return Err(format!("bytes {bytes:?} delivered after {}", self.delivered));
        }
        self.queued += bytes.1 - bytes.0;
        self.delivered = bytes.1;
        Ok(())
    }

    /// Every state that one step of one party leads to.
    fn successors(&self, case: &Case) -> Result<Vec<Self>, String> {
        let mut next = Vec::new();
        self.network(case, &mut next);
        self.step_verdict(case, &mut next);
        self.kworker(case, &mut next)?;
        self.step_driver(case, &mut next)?;
        next.retain(|world| world != self);
        Ok(next)
    }

    /// A segment, or the FIN, or an ACK arrives.
    fn network(&self, case: &Case, next: &mut Vec<Self>) {
        if self.verdict == Verdict::Idle && !self.fin_received {
            let mut world = self.clone();
            if let Some(&length) = case.segments.get(self.next_segment) {
                let bytes = (self.position, self.position + length);
                world.next_segment += 1;
                world.position = bytes.1;
                world.received += length;
                world.verdict = Verdict::LoadRead { bytes };
                if case.fin == Fin::WithData && world.next_segment == case.segments.len() {
                    // tcp_fin wakes before tcp_data_ready runs the verdict.
                    world.fin();
                }
                next.push(world);
            } else if case.fin != Fin::Never {
                world.fin();
                next.push(world);
            }
        }
        if self.queued > 0 {
            let mut world = self.clone();
            world.queued -= 1;
            next.push(world);
        }
    }

    fn fin(&mut self) {
        self.fin_received = true;
        self.received += 1;
        self.rdhup = true;
    }

    fn step_verdict(&self, case: &Case, next: &mut Vec<Self>) {
        let mut world = self.clone();
        world.verdict = match self.verdict {
            Verdict::Idle => return,
            Verdict::LoadRead { bytes } => match must_pass(self.read, self.passed, 0) {
                Some(_) => Verdict::AddPassed { bytes, seen: self.read },
                None => Verdict::LookAtDestination { bytes },
            },
            Verdict::LookAtDestination { bytes } => {
                Verdict::Decide { bytes, sent: self.delivered, room: self.room(case) }
            }
            Verdict::Decide { bytes, sent, room } => {
                // Segments so long that cutting them counts for nothing.
                let destination = Destination { sent, queued: 0, buffer: room, mss: u32::MAX };
                let fresh = bytes.1 - bytes.0;
                // Messages so large that what they take besides their bytes counts for nothing.
                let average = u32::MAX;
                let written = self.written;
                match must_wait(&destination, self.redirected, written, case.limit, fresh, average)
                {
                    Some(_) => Verdict::AddPassed { bytes, seen: self.read },
                    None => {
                        world.redirected += fresh;
                        Verdict::QueueRedirected { bytes }
                    }
                }
            }
            Verdict::AddPassed { bytes, seen } => {
                world.passed += bytes.1 - bytes.0;
                Verdict::SecondLook { bytes, before: self.passed, seen }
            }
            Verdict::SecondLook { bytes, before, seen } => {
                let read = if case.flaw == Some(Flaw::NoSecondLook) { seen } else { self.read };
                world.nudged |= read == before;
                Verdict::QueuePassed { bytes }
            }
            Verdict::QueuePassed { bytes } => {
                world.queue.push(bytes);
                Verdict::Idle
            }
            Verdict::QueueRedirected { bytes } => {
                world.backlog.push_back(bytes);
                Verdict::Idle
            }
        };
        next.push(world);
    }

    /// The kworker gives the destination what it has room for.
    fn kworker(&self, case: &Case, next: &mut Vec<Self>) -> Result<(), String> {
        let Some(&(from, to)) = self.backlog.front() else { return Ok(()) };
        let taken = (to - from).min(self.room(case));
        if taken == 0 {
            return Ok(());
        }
        let mut world = self.clone();
        world.deliver((from, from + taken))?;
        world.backlog.pop_front();
        if from + taken < to {
            world.backlog.push_front((from + taken, to));
        }
        next.push(world);
        Ok(())
    }

    fn step_driver(&self, case: &Case, next: &mut Vec<Self>) -> Result<(), String> {
        let mut world = self.clone();
        world.driver = match self.driver {
            Driver::LoadPassed => Driver::LoadRedirected { passed: self.passed },
            Driver::LoadRedirected { passed } => {
                Driver::Act { passed, redirected: self.redirected }
            }
            Driver::Act { passed, redirected } => {
                let book = KernelBook { passed, redirected, ..KernelBook::default() };
                match world.act(case, &book)? {
                    Some(driver) => driver,
                    None => return Ok(()),
                }
            }
            Driver::StoreRead { read } => {
                world.read = read;
                Driver::LoadPassed
            }
            Driver::Received { received } => {
                Driver::ReceivedPassed { received, passed: self.passed }
            }
            Driver::ReceivedPassed { received, passed } => {
                let redirected = self.redirected;
                let book = KernelBook { passed, redirected, ..KernelBook::default() };
                world
                    .ledger
                    .received(received, &book)
                    .map_err(|imbalance| format!("{imbalance:?}"))?;
                Driver::LoadPassed
            }
            Driver::Sleep | Driver::AwaitReadable | Driver::AwaitWritable => {
                let ready = match self.driver {
                    Driver::AwaitReadable => !self.queue.is_empty(),
                    Driver::AwaitWritable => self.room(case) > 0,
                    _ => false,
                };
                if !(ready || self.nudged || self.rdhup) {
                    return Ok(());
                }
                world.nudged = false;
                if world.rdhup {
                    world.rdhup = false;
                    world.ledger.saw_fin();
                }
                Driver::LoadPassed
            }
            Driver::Done => return Ok(()),
        };
        next.push(world);
        Ok(())
    }

    /// One step of `Spliced::advance`. `None`: it waits for the source's lock.
    fn act(&mut self, case: &Case, book: &KernelBook) -> Result<Option<Driver>, String> {
        Ok(Some(match self.ledger.step(book) {
            Step::Rest => Driver::Sleep,
            Step::Broken(reason) => return Err(format!("broken: {reason}")),
            Step::Read(most) => {
                if self.verdict != Verdict::Idle {
                    return Ok(None);
                }
                let Some((from, to)) = self.queue.first().copied() else {
                    return Ok(Some(Driver::AwaitReadable));
                };
                let taken = (to - from).min(most);
                if taken == to - from {
                    self.queue.remove(0);
                } else {
                    self.queue[0] = (from + taken, to);
                }
                self.hand = Some((from, from + taken));
                self.ledger.was_read(taken);
                if case.flaw == Some(Flaw::PublishEarly) {
                    self.read += taken;
                }
                Driver::LoadPassed
            }
            Step::AskSent => {
                let sent = match case.flaw {
                    Some(Flaw::NoDrain) => u64::MAX,
                    _ => self.delivered,
                };
                // Not clear: the clock asks again.
                self.ledger.sent(sent, book);
                Driver::LoadPassed
            }
            Step::Write(_) => {
                let Some((from, to)) = self.hand else { return Err("nothing in hand".into()) };
                let taken = (to - from).min(self.room(case));
                if taken == 0 {
                    Driver::AwaitWritable
                } else {
                    self.deliver((from, from + taken))?;
                    self.ledger.was_written(taken);
                    self.hand = (from + taken < to).then_some((from + taken, to));
                    Driver::LoadPassed
                }
            }
            Step::Publish => {
                let (read, written) = self.ledger.publish();
                self.written = written;
                Driver::StoreRead { read }
            }
            Step::AskReceived => {
                if self.verdict != Verdict::Idle {
                    return Ok(None);
                }
                if case.flaw == Some(Flaw::TrustFin) {
                    return self.shut(case).map(Some);
                }
                Driver::Received { received: self.received }
            }
            Step::Shutdown => return self.shut(case).map(Some),
        }))
    }

    fn shut(&mut self, case: &Case) -> Result<Driver, String> {
        let total: u64 = case.segments.iter().sum();
        if self.delivered != total || !self.backlog.is_empty() {
            return Err(format!("end passed on after {} of {total} bytes", self.delivered));
        }
        self.ledger.was_shut();
        Ok(Driver::Done)
    }
}

/// Visits every reachable state; the number of them, or what is wrong.
fn search(case: &Case) -> Result<usize, String> {
    let mut seen = HashSet::from([World::new()]);
    let mut frontier = VecDeque::from([World::new()]);
    while let Some(world) = frontier.pop_front() {
        let next = world.successors(case)?;
        let at_rest = match case.fin {
            Fin::WithData | Fin::Bare => world.driver == Driver::Done,
            Fin::Never => world.delivered == case.segments.iter().sum::<u64>(),
        };
        if next.is_empty() && !at_rest {
            return Err(format!("asleep for ever: {world:?}"));
        }
        for world in next {
            if seen.insert(world.clone()) {
                frontier.push_back(world);
            }
        }
    }
    Ok(seen.len())
}

const SEGMENTS: &[&[u64]] = &[&[], &[2], &[1, 2], &[2, 2, 1], &[1, 1, 1, 1]];

fn cases() -> impl Iterator<Item = Case> {
    SEGMENTS.iter().flat_map(|segments| {
        [Fin::WithData, Fin::Bare, Fin::Never].into_iter().flat_map(move |fin| {
            [(0, 2), (0, 4), (1, 3), (2, 4), (8, 8)].into_iter().map(move |(limit, buffer)| Case {
                segments,
                fin: if segments.is_empty() { Fin::Bare } else { fin },
                limit,
                buffer,
                flaw: None,
            })
        })
    })
}

#[test]
fn every_interleaving_delivers_every_byte_in_order_and_then_the_end() {
    let mut states = 0;
    for case in cases() {
        states += search(&case).unwrap_or_else(|wrong| panic!("{case:?}: {wrong}"));
    }
    // The search is no search if it visits next to nothing.
    assert!(states > 10_000, "{states}");
}

#[test]
fn the_search_finds_each_mistake() {
    for flaw in [Flaw::NoDrain, Flaw::TrustFin, Flaw::PublishEarly, Flaw::NoSecondLook] {
        let found = cases().any(|case| search(&Case { flaw: Some(flaw), ..case }).is_err());
        assert!(found, "{flaw:?} goes unnoticed");
    }
}
