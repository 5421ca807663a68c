//! What a flow has done lately, from which its relay is chosen: sizes of reads, whose turn it was, and how many
//! other flows the core served meanwhile. Pure but for the core's own counter.

use std::cell::Cell;

use super::{Way, demotion::SMALL};
use crate::sys;

/// Turns after which older ones count half, so that a flow that changes its ways is judged by the new ones.
const MEMORY: u32 = 1024;
/// How many polls before a core's rest weigh as much as all before them.
const RESTS: u32 = 8;
/// A count of polls is kept as so many parts.
const PART: u32 = 16;
/// Polls without a rest after which the core is crowded, whatever was before.
const RESTLESS: u32 = 8;
/// No more polls at once are told apart.
const MOST_POLLS: u32 = 1 << 12;
/// Polls after which the kernel is asked how often the core has slept meanwhile.
const WINDOW: u32 = 64;

/// Of so many turns both ways of a conversation may have something to read at the same moment once.
const TURNS_AN_OVERLAP: u32 = 16;
/// Reads of a turn beyond which small ones are a stream. A message that is written in two parts is two.
const READS_A_TURN: u32 = 2;

/// What was read of one way lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Reads that brought something, and bytes.
    count: u32,
    bytes: u64,
    /// Bytes a read, of which each weighs half as much as the one after it.
    average: u32,
    /// Whether the way counts as bulk; see [`Self::is_bulk`].
    bulk: bool,
}

impl Reads {
    /// From this average on a way is bulk: reads fill the buffer, twice in a row at least.
    pub const BULK: u32 = 40 * 1024;
    /// Below it, it no longer is.
    pub const NOT_BULK: u32 = 12 * 1024;

    /// Something was read.
    pub fn note(&mut self, bytes: usize) {
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(1 << 20);
        self.average = self.average / 2 + bytes / 2;
        self.bulk = self.average >= if self.bulk { Self::NOT_BULK } else { Self::BULK };
    }

    /// Whether it carries as much as fits: for splice(2), which spares the copying, and not for the kernel relay,
    /// whose worker is another thread that does no less.
    #[must_use]
    pub const fn is_bulk(&self) -> bool {
        self.bulk
    }
}

/// What both ways did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What was read, by way.
    pub reads: [Reads; 2],
    /// Times that the other way had something to read.
    turns: u32,
    /// Turns among them that came in the same moment: both ways talk, and neither waits for the other.
    overlaps: u32,
    last: Option<Way>,
}

impl Evidence {
    /// A poll has moved bytes this way, or these ways.
    pub fn moved(&mut self, up: bool, down: bool) {
        let way = match (up, down) {
            (false, false) => return,
            (true, true) => {
                self.overlaps += 1;
                self.turns += 1;
                return self.forget();
            }
            (true, false) => Way::Up,
            (false, true) => Way::Down,
        };
        if self.last != Some(way) {
            self.last = Some(way);
            self.turns += 1;
            self.forget();
        }
    }

    fn forget(&mut self) {
        if self.turns >= MEMORY {
            self.turns /= 2;
            self.overlaps /= 2;
            for reads in &mut self.reads {
                reads.count /= 2;
                reads.bytes /= 2;
            }
        }
    }

    /// Whether it is a conversation of at least so many turns: requests and responses, each waiting for the
    /// other, in messages below bulk size. A stream of small writes, one way or both, is none: user space reads
    /// many of them at once, and the kernel relay carries each by itself. By how it is read, it is told by both ways
    /// having something at once, or by several small reads a turn: each for a while looks like a conversation's.
    #[must_use]
    pub fn is_conversation(&self, turns: u32) -> bool {
        self.turns >= turns.min(MEMORY - 1)
            && TURNS_AN_OVERLAP * self.overlaps <= self.turns
            && !self.streams()
            && !self.reads.iter().any(Reads::is_bulk)
    }

    /// Whether a turn takes more reads than a message does, and small ones: of larger messages one may well take several.
    fn streams(&self) -> bool {
        let [up, down] = &self.reads;
        let reads = up.count.saturating_add(down.count);
        reads > self.turns.saturating_mul(READS_A_TURN)
            && up.bytes.saturating_add(down.bytes) < SMALL * u64::from(reads)
    }

    /// Begins anew.
    pub fn restart(&mut self) {
        *self = Self::default();
    }
}

thread_local! {
    /// Polls that moved bytes since the core last had nothing to do.
    static POLLS: Cell<u32> = const { Cell::new(0) };
    static LOAD: Cell<Load> = const { Cell::new(Load::NONE) };
    static BUSY: Cell<usize> = const { Cell::new(0) };
}

/// A flow of this core goes to the kernel because of what it did. It counts as busy there until its
/// books say what it is.
pub fn enters() {
    BUSY.set(BUSY.get() + 1);
}

/// Of the flows of this core that went to the kernel so, as many are busy.
pub fn are_busy(flows: usize) {
    BUSY.set(flows);
}

/// Whether as many flows of this core are busy in the kernel. Each that goes there leaves fewer to user
/// space, which then looks less crowded than it would be: without a bound all would follow, a few at
/// a time.
#[must_use]
pub fn is_full(flows: usize) -> bool {
    BUSY.get() >= flows
}

/// A flow of this core has moved bytes.
pub fn served() {
    POLLS.set(POLLS.get().saturating_add(1));
}

/// This core has nothing to do, and goes to sleep if there is no news.
pub fn rests() {
    let mut load = LOAD.get();
    load.rests(POLLS.take(), sys::voluntary_switches);
    LOAD.set(load);
}

/// The company on this core lately, of which so many flows are a crowd.
#[must_use]
pub fn company(crowd: u32) -> Company {
    LOAD.get().company(POLLS.get(), crowd)
}

/// How many flows a core serves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// One, or now and then another.
    Alone,
    /// Several.
    Few,
    /// As many as user space serves better.
    Crowd,
}

/// How many flows a core has served at once lately, in parts.
///
/// That it has nothing to do, and asks epoll, is no sleep: with many flows at work there is news at once, of one flow
/// or two. What the kernel counts as voluntary switches are sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    /// Each time until it had nothing to do, averaged.
    at_once: u32,
    /// Between two sleeps, averaged.
    between_sleeps: u32,
    /// Polls since the switches were asked for, and what they were then.
    polls: u32,
    switches: u64,
}

impl Load {
    const NONE: Self = Self { at_once: 0, between_sleeps: 0, polls: 0, switches: 0 };

    /// The core has nothing more to do after so many polls that moved bytes.
    fn rests(&mut self, polls: u32, switches: impl FnOnce() -> u64) {
        // Timers wake a core as well.
        if polls == 0 {
            return;
        }
        let polls = polls.min(MOST_POLLS);
        self.at_once = self.at_once - self.at_once / RESTS + polls * PART / RESTS;
        self.polls += polls;
        if self.polls >= WINDOW {
            let now = switches();
            let sleeps = u32::try_from(now.saturating_sub(self.switches)).unwrap_or(u32::MAX);
            let flows = self.polls * PART / sleeps.max(1);
            self.between_sleeps = u32::midpoint(self.between_sleeps, flows);
            (self.polls, self.switches) = (0, now);
        }
    }

    /// The company, of which so many flows are a crowd; a core that has not come to rest for many polls has one, too.
    const fn company(&self, polls: u32, crowd: u32) -> Company {
        if self.between_sleeps >= crowd * PART || polls >= RESTLESS {
            Company::Crowd
        } else if self.between_sleeps >= 2 * PART || self.at_once >= PART + PART / 4 {
            Company::Few
        } else {
            Company::Alone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_full_reads_are_bulk_and_messages_of_a_quarter_are_not() {
        let mut reads = Reads::default();
        reads.note(65_536);
        assert!(!reads.is_bulk());
        reads.note(65_536);
        assert!(reads.is_bulk());
        let mut echo = Reads::default();
        (0..1000).for_each(|_| echo.note(16 * 1024));
        assert!(!echo.is_bulk());
    }

    #[test]
    fn bulk_ends_after_small_reads_and_not_after_one() {
        let mut reads = Reads::default();
        (0..8).for_each(|_| reads.note(65_536));
        reads.note(10);
        assert!(reads.is_bulk());
        (0..3).for_each(|_| reads.note(10));
        assert!(!reads.is_bulk());
    }

    #[test]
    fn a_conversation_takes_turns() {
        let mut evidence = Evidence::default();
        for _ in 0..15 {
            evidence.moved(true, false);
            // A long answer is one turn.
            evidence.moved(false, true);
            evidence.moved(false, true);
        }
        assert!(evidence.is_conversation(30) && !evidence.is_conversation(31));
        evidence.restart();
        assert!(!evidence.is_conversation(1));
    }

    #[test]
    fn streams_are_no_conversation() {
        let mut one_way = Evidence::default();
        (0..1000).for_each(|_| one_way.moved(true, false));
        assert!(!one_way.is_conversation(2));
        let mut both = Evidence::default();
        for _ in 0..1000 {
            both.moved(true, true);
            both.moved(true, false);
            both.moved(false, true);
        }
        assert!(!both.is_conversation(32));
    }

    /// Writes of 32 bytes that come back, 64 on their way at once: with 16 such flows two or three went to the
    /// kernel, at a moment when one turn in four was an overlap, and all others were slower for it.
    #[test]
    fn a_stream_that_looks_like_a_conversation_for_a_while_is_none() {
        let talk = |turns: u32, overlaps: u32, reads: [(u32, usize); 2]| {
            let mut evidence = Evidence::default();
            for turn in 0..turns {
                evidence.moved(turn < overlaps || turn % 2 == 0, turn < overlaps || turn % 2 == 1);
            }
            for (way, (count, bytes)) in evidence.reads.iter_mut().zip(reads) {
                (0..count).for_each(|_| way.note(bytes));
            }
            evidence.is_conversation(32)
        };
        // As they were seen.
        assert!(!talk(33, 8, [(34, 393), (24, 512)]));
        assert!(!talk(76, 19, [(72, 166), (47, 253)]));
        assert!(!talk(128, 0, [(211, 143), (103, 293)]));
        // One overlap, and answers in two parts; and larger ones in many.
        assert!(talk(36, 1, [(18, 100), (36, 300)]));
        assert!(talk(36, 0, [(18, 100), (90, 16_384)]));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut evidence = Evidence::default();
        (0..10_000).for_each(|_| evidence.moved(true, true));
        assert!(!evidence.is_conversation(32));
        for _ in 0..2000 {
            evidence.moved(true, false);
            evidence.moved(false, true);
        }
        assert!(evidence.is_conversation(32));
    }

    #[test]
    fn few_flows_are_busy_in_the_kernel_at_once() {
        are_busy(0);
        (0..3).for_each(|_| enters());
        assert!(is_full(3) && !is_full(4));
        are_busy(1);
        assert!(!is_full(3));
    }

    #[test]
    fn a_core_is_crowded_while_it_serves_several_flows_between_two_sleeps() {
        // A flow each time that it looks, and a sleep each so many.
        let load = |flows: u32, sleeps: u64| {
            let (mut load, mut switches) = (Load::NONE, 0);
            for poll in 0..10 * WINDOW {
                load.rests(1, || switches);
                switches += if poll % flows == 0 { sleeps } else { 0 };
            }
            load
        };
        assert_eq!(load(1, 1).company(0, 4), Company::Alone);
        assert_eq!(load(3, 1).company(0, 4), Company::Few);
        assert_eq!(load(5, 1).company(0, 4), Company::Crowd);
        assert_eq!(load(5, 1).company(0, 7), Company::Few);
        assert_eq!(load(1, 0).company(0, 4), Company::Crowd, "it never sleeps");
        let mut timer = load(5, 1);
        timer.rests(0, || 1 << 20);
        assert_eq!(timer, load(5, 1), "a timer");
    }

    #[test]
    fn several_flows_at_once_are_company_and_many_a_crowd() {
        // It sleeps each time that it has nothing to do.
        let load = |flows: [u32; 2]| {
            let (mut load, mut switches) = (Load::NONE, 0);
            for flows in flows.into_iter().cycle().take(1000) {
                load.rests(flows, || switches);
                switches += 1;
            }
            load
        };
        assert_eq!(load([1, 1]).company(0, 2), Company::Alone);
        assert_eq!(load([1, 2]).company(0, 2), Company::Few);
        assert_eq!(load([6, 6]).company(0, 5), Company::Crowd);
        assert_eq!(load([6, 6]).company(0, 7), Company::Few);
        assert_eq!(load([6, 6]).company(RESTLESS, 7), Company::Crowd);
        // However many there are.
        assert_eq!(load([u32::MAX, u32::MAX]).company(0, 4), Company::Crowd);
    }

    #[test]
    fn a_thread_that_waits_has_switched() {
        let before = sys::voluntary_switches();
        std::thread::park_timeout(std::time::Duration::from_millis(1));
        assert!(sys::voluntary_switches() > before);
    }
}
