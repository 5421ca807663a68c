//! The books: one record a direction, shared with the verdict through memory.
//!
//! The kernel writes one half of a record, user space the other, and neither needs a
//! system call to see the other's. This module knows the layout and the order of the
//! loads and stores; what the numbers mean is `relay/LIFECYCLE.md`'s.

use std::{
    collections::VecDeque,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering, fence},
    },
};

use mux_common::{Direction, KernelBook, UserBook};

use crate::sys::SharedArray;

/// [`mux_common::Direction`] as user space shares it: the same bytes, made of atomics.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct SharedDirection {
    passed: AtomicU64,
    redirected: AtomicU64,
    trimmed: AtomicU64,
    messages: AtomicU64,
    next_seq: AtomicU32,
    started: AtomicU32,
    broken: AtomicU32,
    passes: AtomicU32,
    first_seq_matched: AtomicU32,
    average: AtomicU32,
    _pad: [AtomicU64; 1],
    read: AtomicU64,
    written: AtomicU64,
    backlog_limit: AtomicU64,
    hold: AtomicU32,
    user_reserved: [AtomicU32; 9],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<SharedDirection>() == size_of::<Direction>());
    assert!(offset_of!(SharedDirection, passed) == offset_of!(KernelBook, passed));
    assert!(offset_of!(SharedDirection, redirected) == offset_of!(KernelBook, redirected));
    assert!(offset_of!(SharedDirection, trimmed) == offset_of!(KernelBook, trimmed));
    assert!(offset_of!(SharedDirection, messages) == offset_of!(KernelBook, messages));
    assert!(offset_of!(SharedDirection, next_seq) == offset_of!(KernelBook, next_seq));
    assert!(offset_of!(SharedDirection, started) == offset_of!(KernelBook, started));
    assert!(offset_of!(SharedDirection, broken) == offset_of!(KernelBook, broken));
    assert!(offset_of!(SharedDirection, passes) == offset_of!(KernelBook, passes));
    assert!(
        offset_of!(SharedDirection, first_seq_matched) == offset_of!(KernelBook, first_seq_matched)
    );
    assert!(offset_of!(SharedDirection, average) == offset_of!(KernelBook, average));
    let user = offset_of!(Direction, user);
    assert!(offset_of!(SharedDirection, read) == user + offset_of!(UserBook, read));
    assert!(offset_of!(SharedDirection, written) == user + offset_of!(UserBook, written));
    assert!(
        offset_of!(SharedDirection, backlog_limit) == user + offset_of!(UserBook, backlog_limit)
    );
    assert!(offset_of!(SharedDirection, hold) == user + offset_of!(UserBook, hold));
};

impl SharedDirection {
    /// What the kernel has written. The fields are read one by one: each is exact, together
    /// they can be a message apart.
    #[must_use]
    pub fn kernel(&self) -> KernelBook {
        KernelBook {
            passed: self.passed.load(Ordering::Acquire),
            redirected: self.redirected.load(Ordering::Acquire),
            trimmed: self.trimmed.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            next_seq: self.next_seq.load(Ordering::Relaxed),
            started: self.started.load(Ordering::Relaxed),
            broken: self.broken.load(Ordering::Acquire),
            passes: self.passes.load(Ordering::Relaxed),
            first_seq_matched: self.first_seq_matched.load(Ordering::Relaxed),
            ..KernelBook::default()
        }
    }

    /// Bytes passed since insertion.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Acquire)
    }

    /// Bytes of the source that the destination was given since insertion: redirected, or passed
    /// and carried by user space.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.redirected.load(Ordering::Acquire).wrapping_add(self.read.load(Ordering::Relaxed))
    }

    /// Messages seen: tells whether the direction is idle.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Whether bytes were passed that user space has not published yet.
    #[must_use]
    pub fn is_uneven(&self) -> bool {
        self.read.load(Ordering::Relaxed) != self.passed.load(Ordering::Acquire)
            || self.broken.load(Ordering::Relaxed) != 0
    }

    /// Publishes that `read` bytes of the source are in the destination's hands, of whose count
    /// `written` were not redirected. Once `read == passed` the kernel may go on by itself.
    pub fn publish(&self, read: u64, written: u64) {
        // `written` first: a verdict that sees the new `read` must see what backs it.
        self.written.store(written, Ordering::Release);
        self.read.store(read, Ordering::Release);
        // The caller looks at `passed` next. The verdict adds to `passed` (a full barrier)
        // before it looks at `read`: with this fence one of the two sees the other, so that
        // no edge into passing is lost.
        fence(Ordering::SeqCst);
    }

    /// Makes the verdict pass everything from the next message on (`true`), or lets it redirect.
    pub fn hold(&self, hold: bool) {
        self.hold.store(u32::from(hold), Ordering::Release);
    }

    /// Starts the record anew. Only while neither of the flow's sockets is in the map.
    pub fn reset(&self, written: u64, backlog_limit: u64) {
        for field in [&self.passed, &self.redirected, &self.trimmed, &self.messages, &self.read] {
            field.store(0, Ordering::Relaxed);
        }
        for field in [
            &self.next_seq,
            &self.started,
            &self.broken,
            &self.passes,
            &self.first_seq_matched,
            &self.average,
        ] {
            field.store(0, Ordering::Relaxed);
        }
        self.hold.store(0, Ordering::Relaxed);
        self.backlog_limit.store(backlog_limit, Ordering::Relaxed);
        self.written.store(written, Ordering::Release);
    }
}

/// All records, and which of them are free.
#[derive(Debug)]
pub struct Books {
    records: SharedArray<SharedDirection>,
    free: Mutex<VecDeque<u32>>,
}

impl Books {
    /// Maps the records of `flows` flows of the array behind `fd`.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn map(fd: BorrowedFd<'_>, flows: u32) -> std::io::Result<Arc<Self>> {
        let records = SharedArray::map(fd, 2 * flows as usize)?;
        Ok(Arc::new(Self { records, free: Mutex::new((0..flows).collect()) }))
    }

    /// Takes a pair of records; `None`: all are in use. The pair returns by `Drop`.
    pub fn take(self: &Arc<Self>) -> Option<Pair> {
        let index = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        Some(Pair { books: Arc::clone(self), index })
    }

    /// The record of one way of a pair.
    #[must_use]
    pub fn record(&self, pair: u32, way: Way) -> &SharedDirection {
        &self.records[pair as usize * 2 + way.index()]
    }

    /// Pairs, in use or not.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.records.len() / 2
    }

    /// Pairs in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.records.len() / 2 - free
    }
}

/// The two records of a flow.
///
/// It must outlive the flow's sockets (L7): the verdict of a socket that is still open may write.
/// Closing takes the socket's lock, under which the verdict runs, so after close it cannot.
#[derive(Debug)]
pub struct Pair {
    books: Arc<Books>,
    index: u32,
}

/// One way of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Client to upstream.
    Up,
    /// Upstream to client.
    Down,
}

impl Way {
    /// Both, up first.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// The other one.
    #[must_use]
    pub const fn back(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }

    /// 0 or 1, for arrays of two.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Up => 0,
            Self::Down => 1,
        }
    }

    /// As logs print it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl Pair {
    /// The pair's number.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// The slot of one way.
    #[must_use]
    pub const fn slot(&self, way: Way) -> u32 {
        self.index * 2 + way.index() as u32
    }

    /// The record of one way.
    #[must_use]
    pub fn record(&self, way: Way) -> &SharedDirection {
        self.books.record(self.index, way)
    }
}

/// The way that a slot stands for, and its pair's index.
#[must_use]
pub const fn way_of(slot: u32) -> (u32, Way) {
    (slot / 2, if slot.is_multiple_of(2) { Way::Up } else { Way::Down })
}

impl Drop for Pair {
    fn drop(&mut self) {
        // To the far end: the longer a record rests, the more certainly is a late event for it
        // told apart.
        self.books.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.index);
    }
}
