//! Whether a flow in the kernel is still one that the kernel relay serves well, from what its books say between two
//! looks. Pure.

use std::time::Duration;

use mux_common::KernelBook;

use super::Way;

/// Messages between two looks before anything is concluded from them.
const LEAST: u64 = 256;
/// So many times as many messages one way as the other are a stream.
const ONE_SIDED: u64 = 8;
/// Messages below this average, bytes, are small.
pub(super) const SMALL: u64 = 1024;
/// From this average on they are bulk.
const BULK: u64 = 32 * 1024;
/// One edge into passing for so many messages, or more, is back-pressure.
const PRESSURE: u64 = 8;
/// A flow with so many messages between two looks is busy.
pub const BUSY: u64 = 64;
/// Busy flows of a core in the kernel beyond which user space, which serves them in one go, is faster.
/// No more go there by evidence, and more than these leave.
pub const MOST_BUSY: usize = 3;
/// Between two looks.
pub const EVERY: Duration = Duration::from_secs(1);

/// Why a flow leaves the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Small writes one way: user space reads many at once, the kernel's worker carries each by itself.
    Stream,
    /// Small writes that user space reads many of at once.
    Batches,
    /// Bulk: splice(2) serves it better.
    Bulk,
    /// Many flows of its core are busy.
    Crowd,
    /// Its reader is slower than its writer: user space carries much of it anyway.
    Pressure,
}

impl Reason {
    /// As the access log prints it.
    #[must_use]
    pub const fn note(self) -> &'static str {
        match self {
            Self::Stream => "left the kernel: small writes one way",
            Self::Batches => "user space reads many of its small writes at once",
            Self::Bulk => "left the kernel: bulk",
            Self::Crowd => "left the kernel: many flows at once",
            Self::Pressure => "left the kernel: its reader is slow",
        }
    }
}

/// Small writes come in batches when a read gets so many of them.
const BATCH: u64 = 4;
/// Below this average, bytes, they are small enough for that to count.
const SMALL_WRITES: u64 = 256;

/// Whether a way's writes are small, and user space reads many of them at once, each of which the
/// kernel relay would carry by itself: its source has received so many segments with these bytes,
/// and they were read so often.
#[must_use]
pub const fn comes_in_batches(segments: u64, bytes: u64, reads: u64) -> bool {
    reads > 0 && segments >= BATCH * reads && bytes < SMALL_WRITES * segments
}

/// What a look brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Messages since the last one, both ways.
    pub messages: u64,
    /// Why the flow is better served in user space.
    pub reason: Option<Reason>,
}

/// What the books of a flow said when they were last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    messages: [u64; 2],
    bytes: [u64; 2],
    passes: u64,
}

impl Before {
    /// Looks at the books again.
    pub fn look(&mut self, books: [KernelBook; 2]) -> Look {
        let now = Self {
            messages: books.map(|book| book.messages),
            bytes: books.map(|book| book.redirected.wrapping_add(book.passed)),
            passes: books.iter().map(|book| u64::from(book.passes)).sum(),
        };
        let was = std::mem::replace(self, now);
        // They begin anew when a flow comes back to the kernel.
        let since = |now: u64, was: u64| now.checked_sub(was).unwrap_or(now);
        let [up, down] = Way::BOTH.map(Way::index).map(|way| Found {
            messages: since(now.messages[way], was.messages[way]),
            bytes: since(now.bytes[way], was.bytes[way]),
        });
        let passes = since(now.passes, was.passes);
        Look { messages: up.messages + down.messages, reason: judge(up, down, passes) }
    }
}

fn judge(up: Found, down: Found, passes: u64) -> Option<Reason> {
    let (more, less) = if up.messages > down.messages { (up, down) } else { (down, up) };
    if more.messages < LEAST {
        return None;
    }
    if passes * PRESSURE >= up.messages + down.messages {
        return Some(Reason::Pressure);
    }
    let average = more.bytes / more.messages;
    if average >= BULK {
        return Some(Reason::Bulk);
    }
    let is_stream = more.messages >= ONE_SIDED * less.messages.max(1) && average < SMALL;
    is_stream.then_some(Reason::Stream)
}

#[derive(Clone, Copy, Debug)]
struct Found {
    messages: u64,
    bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(messages: u64, size: u64, passes: u32) -> KernelBook {
        KernelBook { messages, redirected: messages * size, passes, ..KernelBook::default() }
    }

    #[test]
    fn a_conversation_stays() {
        let mut before = Before::default();
        for round in 1..5 {
            let look = before.look([book(round * 1000, 64, 0), book(round * 1000, 9000, 2)]);
            assert_eq!(look, Look { messages: 2000, reason: None });
        }
    }

    #[test]
    fn streams_bulk_and_back_pressure_leave() {
        let look = |up, down| Before::default().look([up, down]).reason;
        assert_eq!(look(book(9000, 32, 0), book(10, 32, 0)), Some(Reason::Stream));
        assert_eq!(look(book(9000, 8000, 0), book(10, 32, 0)), None, "large ones gain");
        assert_eq!(look(book(10, 100, 0), book(9000, 60_000, 0)), Some(Reason::Bulk));
        assert_eq!(look(book(1000, 100, 0), book(1000, 9000, 300)), Some(Reason::Pressure));
    }

    #[test]
    fn small_writes_that_are_read_many_at_once_come_in_batches() {
        assert!(comes_in_batches(640, 640 * 32, 100));
        assert!(!comes_in_batches(100, 100 * 32, 100), "a message a read");
        assert!(!comes_in_batches(1200, 1200 * 1448, 100), "answers of some length");
        assert!(!comes_in_batches(5, 100, 0), "the sniff had it all");
    }

    #[test]
    fn only_what_happened_since_counts() {
        let mut before = Before::default();
        let mut look = |up, down| before.look([up, down]).reason;
        look(book(90_000, 32, 0), book(10, 32, 0));
        assert_eq!(look(book(90_100, 32, 0), book(100, 32, 0)), None, "too little");
        assert_eq!(look(book(91_000, 32, 0), book(1000, 32, 0)), None);
        // It left and came back.
        assert_eq!(look(book(5000, 32, 0), book(0, 0, 0)), Some(Reason::Stream));
    }
}
