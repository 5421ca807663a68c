//! Leaving the kernel relay, every interleaving of it: `relay/sockmap/leave.rs` against a model of
//! what the kernel does when a verdict is taken off, put back, and let go of.
//!
//! The world is one way of a flow, a byte a segment: bytes arrive, with the FIN behind them or not;
//! verdicts run, the psock's worker and the destination's do; the driver holds, carries, detaches,
//! looks again, and releases or attaches. The search looks for a byte that is delivered out of order
//! or twice, for a way that ends before its last byte, and for one that sleeps for ever. A way that
//! gives up (`Torn`) is reset: no wrong byte, and no case that may come without cause.

use std::collections::{HashSet, VecDeque};

use mux_common::{KernelBook, verdict::must_pass};

use super::{Ledger, Step};

/// Mistakes that the search has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// The books are read while a verdict may still run.
    NoBarrier,
    /// Let go of without looking again at what was passed meanwhile.
    NoSecondLook,
    /// Passed bytes are read while the verdict is off.
    ReadWhileOff,
    /// Nothing runs the verdict for what came while it was off.
    NoKick,
    /// Bytes that were dropped as the verdict was taken off are not looked for.
    NoCount,
    /// A stream that has ended without the verdict is carried to its end, whatever the books know.
    FinishBlindly,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    bytes: u8,
    fin: bool,
    flaw: Option<Flaw>,
}

/// A verdict that runs for a byte; it holds the source's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Verdict {
    /// The byte is off the receive queue; the program is not read yet.
    Called(u8),
    /// The program runs.
    Running(u8),
    /// Booked as passed.
    Passed(u8),
    /// Booked as redirected.
    Redirected(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Driver {
    Hold,
    Carry,
    Detach,
    Barrier,
    Look,
    Attach,
    Kick,
    Kicked,
    Release,
    /// Plain TCP, whose bytes are counted before they are read.
    Count,
    /// In the program-less map to the end.
    Kept,
    /// Plain TCP.
    Plain,
    Done,
    Torn,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    arrived: u8,
    fin: bool,
    /// The first byte that is in the receive queue; the others up to `arrived` are, too.
    raw: u8,
    verdict: Option<Verdict>,
    attached: bool,
    hold: bool,
    passed: u64,
    redirected: u64,
    read: u64,
    /// Passed bytes that recv(2) finds first, and those that the psock's worker has yet to queue.
    queue: Vec<u8>,
    pending: Vec<u8>,
    /// Redirected bytes in the destination's psock.
    backlog: VecDeque<u8>,
    delivered: u8,
    ledger: Ledger,
    hand: Option<u8>,
    driver: Driver,
    /// The kernel has dropped a byte.
    dropped: bool,
}

impl World {
    fn new() -> Self {
        Self {
            arrived: 0,
            fin: false,
            raw: 0,
            verdict: None,
            attached: true,
            hold: false,
            passed: 0,
            redirected: 0,
            read: 0,
            queue: Vec::new(),
            pending: Vec::new(),
            backlog: VecDeque::new(),
            delivered: 0,
            ledger: Ledger::new(0, 0),
            hand: None,
            driver: Driver::Hold,
            dropped: false,
        }
    }

    fn book(&self) -> KernelBook {
        KernelBook { passed: self.passed, redirected: self.redirected, ..KernelBook::default() }
    }

    /// What TCP has received, the FIN included.
    fn received(&self) -> u64 {
        u64::from(self.arrived) + u64::from(self.fin)
    }

    fn deliver(&mut self, byte: u8) -> Result<(), String> {
        if byte != self.delivered {
            return Err(format!("byte {byte} delivered after {} bytes", self.delivered));
        }
        self.delivered += 1;
        Ok(())
    }

    fn successors(&self, case: Case) -> Result<Vec<Self>, String> {
        let mut next = Vec::new();
        self.network(case, &mut next);
        self.verdict(&mut next);
        self.workers(&mut next)?;
        self.drive(case, &mut next)?;
        next.retain(|world| world != self);
        Ok(next)
    }

    fn network(&self, case: Case, next: &mut Vec<Self>) {
        if self.verdict.is_some() || self.fin {
            return;
        }
        let mut world = self.clone();
        if self.arrived < case.bytes {
            world.arrived += 1;
            if self.attached {
                world.data_ready();
            }
        } else if case.fin {
            world.fin = true;
        }
        next.push(world);
    }

    /// Calls the verdict for the next byte in the receive queue, if there is one, in the same hold of
    /// the lock in which it arrived, or in which the one before was done with.
    fn data_ready(&mut self) {
        self.verdict = (self.raw < self.arrived).then_some(Verdict::Called(self.raw));
        self.raw += u8::from(self.verdict.is_some());
    }

    fn verdict(&self, next: &mut Vec<Self>) {
        let mut world = self.clone();
        match self.verdict {
            None => return,
            Some(Verdict::Called(_)) if !self.attached => {
                // No program any more: dropped, in no book, with all that is behind it.
                world.data_ready();
                world.dropped = true;
            }
            Some(Verdict::Called(byte)) => world.verdict = Some(Verdict::Running(byte)),
            Some(Verdict::Running(byte)) => {
                let hold = u32::from(self.hold);
                world.verdict = Some(if must_pass(self.read, self.passed, hold).is_some() {
                    world.passed += 1;
                    Verdict::Passed(byte)
                } else {
                    world.redirected += 1;
                    Verdict::Redirected(byte)
                });
            }
            Some(Verdict::Passed(byte)) => {
                world.data_ready();
                // Into the queue, or left to the worker: the kernel's choice.
                if self.pending.is_empty() {
                    let mut direct = world.clone();
                    direct.queue.push(byte);
                    next.push(direct);
                }
                world.pending.push(byte);
            }
            Some(Verdict::Redirected(byte)) => {
                world.data_ready();
                world.backlog.push_back(byte);
            }
        }
        next.push(world);
    }

    fn workers(&self, next: &mut Vec<Self>) -> Result<(), String> {
        if !self.pending.is_empty() {
            let mut world = self.clone();
            let byte = world.pending.remove(0);
            world.queue.push(byte);
            next.push(world);
        }
        if let Some(&byte) = self.backlog.front() {
            let mut world = self.clone();
            world.backlog.pop_front();
            world.deliver(byte)?;
            next.push(world);
        }
        Ok(())
    }

    /// recv(2) of one byte: passed ones first, then what is in the receive queue; it wants the lock.
    fn receive(&mut self) -> Option<u8> {
        if self.verdict.is_some() {
            return None;
        }
        if !self.queue.is_empty() {
            return Some(self.queue.remove(0));
        }
        // While the verdict is on, what it has not seen is not read (L1): the driver asks for no more
        // than was passed, and finds nothing yet.
        (!self.attached && self.raw < self.arrived).then(|| {
            self.raw += 1;
            self.raw - 1
        })
    }

    fn drive(&self, case: Case, next: &mut Vec<Self>) -> Result<(), String> {
        let mut world = self.clone();
        let flawed = |flaw| case.flaw == Some(flaw);
        world.driver = match self.driver {
            Driver::Hold => {
                world.hold = true;
                Driver::Carry
            }
            Driver::Carry | Driver::Kept => match world.carry()? {
                Some(driver) => driver,
                None => return Ok(()),
            },
            Driver::Detach => {
                // It takes no lock of the verdict's.
                world.attached = false;
                Driver::Barrier
            }
            Driver::Barrier if self.verdict.is_some() && !flawed(Flaw::NoBarrier) => return Ok(()),
            Driver::Barrier => Driver::Look,
            Driver::Look if flawed(Flaw::ReadWhileOff) && self.passed > self.read => {
                let Some(byte) = world.receive() else { return Ok(()) };
                world.deliver(byte)?;
                world.ledger.was_read(1);
                world.ledger.was_written(1);
                (world.read, _) = world.ledger.publish();
                Driver::Look
            }
            Driver::Look => {
                let quiet = self.ledger.step(&self.book()) == Step::Rest
                    && self.ledger.outstanding(u64::from(self.delivered), &self.book()) == 0;
                if !quiet && !flawed(Flaw::NoSecondLook) { Driver::Attach } else { Driver::Release }
            }
            Driver::Attach if self.fin => {
                let knows_all = self.ledger.knows_all(self.received(), &self.book());
                if knows_all || flawed(Flaw::FinishBlindly) {
                    world.ledger.saw_fin();
                    Driver::Kept
                } else {
                    Driver::Torn
                }
            }
            Driver::Attach => {
                world.attached = true;
                if flawed(Flaw::NoKick) { Driver::Carry } else { Driver::Kick }
            }
            Driver::Kick if self.verdict.is_some() => return Ok(()),
            Driver::Kick => {
                world.data_ready();
                Driver::Kicked
            }
            Driver::Kicked if self.verdict.is_some() => return Ok(()),
            Driver::Kicked => self.unless_missing(0, Driver::Carry, case)?,
            Driver::Release => {
                // With the psocks goes what is in them.
                world.queue.clear();
                world.pending.clear();
                world.backlog.clear();
                Driver::Count
            }
            Driver::Count => {
                self.unless_missing(u64::from(self.arrived - self.raw), Driver::Plain, case)?
            }
            Driver::Plain => match world.receive() {
                Some(byte) => {
                    world.deliver(byte)?;
                    Driver::Plain
                }
                None if self.fin && self.verdict.is_none() => return self.end(case, next),
                None => return Ok(()),
            },
            Driver::Done | Driver::Torn => return Ok(()),
        };
        next.push(world);
        Ok(())
    }

    /// Goes on if the books know of all bytes but `unread` ones.
    fn unless_missing(&self, unread: u64, on: Driver, case: Case) -> Result<Driver, String> {
        let missing = self.ledger.unseen(u64::from(self.arrived), &self.book()) != unread;
        if missing && !self.dropped {
            return Err("gives up where nothing is missing".into());
        }
        Ok(if missing && case.flaw != Some(Flaw::NoCount) { Driver::Torn } else { on })
    }

    fn end(&self, case: Case, next: &mut Vec<Self>) -> Result<(), String> {
        if self.delivered < case.bytes {
            return Err(format!("an end after {} of {} bytes", self.delivered, case.bytes));
        }
        next.push(Self { driver: Driver::Done, ..self.clone() });
        Ok(())
    }

    /// One step of what `Spliced::advance` does; at rest, and with nothing on its way, detach. `None`:
    /// it waits.
    fn carry(&mut self) -> Result<Option<Driver>, String> {
        let book = self.book();
        let leaving = self.driver == Driver::Carry;
        match self.ledger.step(&book) {
            Step::Rest if !leaving => return Ok(None),
            Step::Rest => {
                let sent = u64::from(self.delivered);
                let is_quiet = self.verdict.is_none() && self.ledger.outstanding(sent, &book) == 0;
                // A FIN that is seen keeps the way in the map; here it comes in later.
                return Ok((is_quiet && !self.fin).then_some(Driver::Detach));
            }
            Step::Read(_) => {
                let Some(byte) = self.receive() else { return Ok(None) };
                self.ledger.was_read(1);
                self.hand = Some(byte);
            }
            Step::AskSent => {
                if !self.ledger.sent(u64::from(self.delivered), &book) {
                    return Ok(None);
                }
            }
            Step::Write(_) => {
                let Some(byte) = self.hand.take() else { return Err("nothing in hand".into()) };
                self.deliver(byte)?;
                self.ledger.was_written(1);
            }
            Step::Publish => (self.read, _) = self.ledger.publish(),
            Step::AskReceived => {
                let received = self.ledger.received(self.received(), &book);
                if !received.map_err(|imbalance| imbalance.to_string())? {
                    return Ok(None);
                }
            }
            Step::Shutdown => {
                self.ledger.was_shut();
                if self.delivered < self.arrived {
                    return Err(format!("an end after {} bytes", self.delivered));
                }
                return Ok(Some(Driver::Done));
            }
            Step::Broken(reason) => return Err(format!("broken: {reason}")),
        }
        Ok(Some(self.driver))
    }

    /// Whether it may stay so for ever.
    fn is_over(&self, case: Case) -> bool {
        match self.driver {
            Driver::Done | Driver::Torn => true,
            // Nothing ends a stream without FIN, and a way whose FIN came before it could leave is
            // carried by the other model's driver.
            Driver::Plain => !case.fin && self.delivered == case.bytes,
            Driver::Carry => self.fin && self.delivered == case.bytes,
            _ => false,
        }
    }
}

/// Visits every reachable state: how many there are, and how many of them gave up; or what is wrong.
fn search(case: Case) -> Result<(usize, usize), String> {
    let mut seen = HashSet::from([World::new()]);
    let mut frontier = VecDeque::from([World::new()]);
    let mut torn = 0;
    while let Some(world) = frontier.pop_front() {
        let next = world.successors(case)?;
        torn += usize::from(world.driver == Driver::Torn);
        if next.is_empty() && !world.is_over(case) {
            return Err(format!("asleep for ever: {world:?}"));
        }
        for world in next {
            if seen.insert(world.clone()) {
                frontier.push_back(world);
            }
        }
    }
    Ok((seen.len(), torn))
}

fn cases() -> impl Iterator<Item = Case> {
    (0..=4).flat_map(|bytes| [false, true].map(|fin| Case { bytes, fin, flaw: None }))
}

#[test]
fn every_interleaving_of_leaving_keeps_every_byte_in_order_or_resets() {
    let mut states = 0;
    for case in cases() {
        let (seen, torn) = search(case).unwrap_or_else(|wrong| panic!("{case:?}: {wrong}"));
        states += seen;
        assert!(torn == 0 || case.bytes > 0, "{case:?} gives up without a byte");
    }
    assert!(states > 1000, "{states}");
}

#[test]
fn the_search_finds_each_mistake_of_leaving() {
    for flaw in [
        Flaw::NoBarrier,
        Flaw::NoSecondLook,
        Flaw::ReadWhileOff,
        Flaw::NoKick,
        Flaw::NoCount,
        Flaw::FinishBlindly,
    ] {
        let found = cases().any(|case| search(Case { flaw: Some(flaw), ..case }).is_err());
        assert!(found, "{flaw:?} goes unnoticed");
    }
}
