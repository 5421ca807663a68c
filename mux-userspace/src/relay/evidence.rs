//! What a flow has done lately, from which its relay is chosen: sizes of reads, whose turn it was, and how many
//! other flows the core served meanwhile. Pure but for the core's own counter.

use std::cell::Cell;

use super::Way;

/// Turns after which older ones count half, so that a flow that changes its ways is judged by the new ones.
const MEMORY: u32 = 1024;
/// How many polls before a core's sleep weigh as much as all before them.
const SLEEPS: u32 = 8;
/// A count of polls is kept as so many parts.
const PART: u32 = 16;
/// Polls without a sleep after which the core is crowded, whatever was before.
const SLEEPLESS: u32 = 8;

/// What was read of one way lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
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
        }
    }

    /// Whether it is a conversation of at least so many turns: requests and responses, each waiting for the
    /// other, in messages below bulk size. A stream of small writes, one way or both, is none: user space reads
    /// many of them at once, and the kernel relay carries each by itself.
    #[must_use]
    pub fn is_conversation(&self, turns: u32) -> bool {
        self.turns >= turns.min(MEMORY - 1)
            && 4 * self.overlaps <= self.turns
            && !self.reads.iter().any(Reads::is_bulk)
    }

    /// Begins anew.
    pub fn restart(&mut self) {
        *self = Self::default();
    }
}

thread_local! {
    static POLLS: Cell<u32> = const { Cell::new(0) };
    static CROWD: Cell<u32> = const { Cell::new(0) };
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
    POLLS.set(POLLS.get().saturating_add(PART));
}

/// This core has nothing to do, and goes to sleep.
pub fn sleeps() {
    let polls = POLLS.take();
    // Timers wake a core as well.
    if polls > 0 {
        let crowd = CROWD.get();
        CROWD.set(crowd - crowd / SLEEPS + polls.min(1 << 16) / SLEEPS);
    }
}

/// Whether this core has lately served so many flows between two sleeps, or does not come to sleep.
#[must_use]
pub fn is_crowded(flows: u32) -> bool {
    CROWD.get() >= flows * PART || POLLS.get() >= SLEEPLESS * PART
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

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut evidence = Evidence::default();
        (0..10_000).for_each(|_| evidence.moved(true, true));
        assert!(!evidence.is_conversation(32));
        for _ in 0..800 {
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
    fn a_core_is_crowded_while_it_serves_several_flows_a_wake_up() {
        for _ in 0..100 {
            served();
            sleeps();
        }
        assert!(is_crowded(1) && !is_crowded(2));
        for _ in 0..100 {
            (0..6).for_each(|_| served());
            sleeps();
        }
        assert!(is_crowded(5) && !is_crowded(7));
        sleeps();
        assert!(is_crowded(5) && !is_crowded(7), "a timer");
        (0..SLEEPLESS).for_each(|_| served());
        assert!(is_crowded(7));
    }
}
