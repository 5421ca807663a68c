//! The ABI that mux's two halves share: names, record layouts, constants.
//!
//! `no_std`, no logic, no allocation. Both halves are built from this file, and
//! the sizes and offsets below are asserted at compile time, so that a change of
//! one half that the other does not know of cannot be built.
//!
//! Words: a *direction* is one way of a flow, from its source socket (`src`) to
//! its destination socket (`dst`). Every direction has a *slot*, the index of its
//! [`Direction`] record in [`MAP_BOOKS`]; the slot's number is also the key of
//! `dst` in [`MAP_SOCKS`].
#![no_std]

pub mod packet;

use core::mem::{align_of, offset_of, size_of};

/// The program attached to [`MAP_SOCKS`] as `sk_skb/stream_verdict`.
pub const PROG_VERDICT: &str = "mux_verdict";

/// `BPF_MAP_TYPE_SOCKMAP`: slot of a direction → its destination socket.
pub const MAP_SOCKS: &str = "MUX_SOCKS";
/// `BPF_MAP_TYPE_SOCKMAP` without a program, same keys: holds a flow's sockets while they leave
/// [`MAP_SOCKS`], so that passed bytes stay readable.
pub const MAP_KEEP: &str = "MUX_KEEP";
/// `BPF_MAP_TYPE_HASH`: socket cookie of a source (`u64`) → its slot (`u32`).
pub const MAP_SLOTS: &str = "MUX_SLOTS";
/// `BPF_MAP_TYPE_ARRAY`, `BPF_F_MMAPABLE`: slot → [`Direction`].
pub const MAP_BOOKS: &str = "MUX_BOOKS";
/// `BPF_MAP_TYPE_RINGBUF`: [`Event`]s, one for each edge into passing.
pub const MAP_EVENTS: &str = "MUX_EVENTS";
/// `BPF_MAP_TYPE_PERCPU_ARRAY` of one [`Stats`].
pub const MAP_STATS: &str = "MUX_STATS";

/// Load-time constant (`u32`, bytes): offset of `bytes_acked` in `struct tcp_sock`.
pub const GLOBAL_OFF_BYTES_ACKED: &str = "OFF_BYTES_ACKED";
/// Load-time constant (`u32`, bytes): offset of `write_seq` in `struct tcp_sock`.
pub const GLOBAL_OFF_WRITE_SEQ: &str = "OFF_WRITE_SEQ";
/// Load-time constant (`u32`, bytes): offset of `snd_una` in `struct tcp_sock`.
pub const GLOBAL_OFF_SND_UNA: &str = "OFF_SND_UNA";
/// Load-time constant (`u32`, bytes): offset of `copied_seq` in `struct tcp_sock`.
pub const GLOBAL_OFF_COPIED_SEQ: &str = "OFF_COPIED_SEQ";
/// Load-time constant (`u32`, bytes): offset of `sk_wmem_queued` in `struct sock`, with which
/// `struct tcp_sock` begins.
pub const GLOBAL_OFF_WMEM_QUEUED: &str = "OFF_WMEM_QUEUED";
/// Load-time constant (`u32`, bytes): offset of `sk_sndbuf` in `struct sock`.
pub const GLOBAL_OFF_SNDBUF: &str = "OFF_SNDBUF";
/// Load-time constant (`u32`, bytes): offset of `mss_cache` in `struct tcp_sock`.
pub const GLOBAL_OFF_MSS_CACHE: &str = "OFF_MSS_CACHE";

/// Default of `[kernel] flows`: flows that the maps hold; twice as many slots.
pub const DEFAULT_FLOWS: u32 = 65_536;
/// Size in bytes of [`MAP_EVENTS`]; a power of two and a multiple of the page size.
/// An event lost to a full ring is not lost work: user space also looks at the
/// books on a timer.
pub const EVENTS_SIZE: u32 = 256 * 1024;

/// Most bytes that `bpf_skb_adjust_room` takes from an skb in one call
/// (`len_diff_abs > 0xfff` is `-EFAULT`, net/core/filter.c).
pub const TRIM_STEP: u32 = 0xfff;
/// Most calls of it for one skb: 4095 × 129 bytes is more than the largest GRO skb
/// (512 KiB, `GRO_MAX_SIZE`).
pub const TRIM_STEPS: u32 = 129;

/// What the kernel writes of one direction. Only the verdict writes here, one CPU at
/// a time (it runs under the source's socket lock).
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelBook {
    /// Bytes answered `SK_PASS` since insertion: they are user space's to read.
    pub passed: u64,
    /// Bytes redirected to `dst` since insertion.
    pub redirected: u64,
    /// Bytes of overlapping retransmissions and half-read skbs taken off.
    pub trimmed: u64,
    /// Messages (skbs) seen; tells activity to the idle timer.
    pub messages: u64,
    /// TCP sequence number after the last byte seen; valid once `started` is 1.
    pub next_seq: u32,
    /// 1 once the verdict has run for this direction.
    pub started: u32,
    /// A [`broken`] reason; not 0: a wrong byte would have been delivered, the flow
    /// must be reset.
    pub broken: u32,
    /// Edges into passing; each sent one [`Event`].
    pub passes: u32,
    /// 1 if `cb[0]` of the first skb was `copied_seq`; the self-test looks at it.
    pub first_seq_matched: u32,
    /// Sixteen times the average number of bytes in a redirected message, of late
    /// ([`verdict::average`]); 0: none was redirected.
    pub average: u32,
}

/// What user space writes of one direction. The kernel only reads it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct UserBook {
    /// Bytes read from `src` since insertion *and* completely handed to `dst`.
    pub read: u64,
    /// All stream bytes that `dst` was given other than by redirect, in `dst`'s own
    /// count: starts at its `tcpi_bytes_acked + SIOCOUTQ`.
    pub written: u64,
    /// Most bytes that may wait in `dst`'s psock backlog before the verdict passes.
    pub backlog_limit: u64,
    /// Not 0: answer `SK_PASS` whatever the backlog (relay switched off, un-splicing).
    pub hold: u32,
    /// Padding to a cache line.
    pub reserved: [u32; 9],
}

/// The record of one direction: two halves, each with one writer, each a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Direction {
    /// Written by the verdict.
    pub kernel: KernelBook,
    /// Written by user space.
    pub user: UserBook,
}

/// Why the verdict declared a direction broken ([`KernelBook::broken`]).
pub mod broken {
    /// `bpf_skb_adjust_room` refused to take an overlap off.
    pub const TRIM_FAILED: u32 = 1;
    /// A gap: bytes between `next_seq` and this skb never came by.
    pub const SEQUENCE_GAP: u32 = 2;
    /// The source is not a TCP socket, or its fields cannot be read.
    pub const NOT_TCP: u32 = 3;
}

/// The decisions of the verdict about an skb's fresh bytes, as pure functions: the eBPF program
/// runs them, and the model checker of user space's relay runs the same.
pub mod verdict {
    /// Why bytes are passed to user space.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Reason {
        /// User space still holds or has to read earlier bytes: order first.
        Behind,
        /// The destination is not in the map.
        NoPeer,
        /// Too much waits in the destination's psock.
        Backlog,
        /// The destination's send buffer has no room.
        Full,
        /// User space asked for it.
        Hold,
    }

    /// What the verdict must know of a destination.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Destination {
        /// Stream bytes that its TCP has taken since it was connected: acknowledged plus queued.
        pub sent: u64,
        /// Memory that its send queue takes, bytes (`sk_wmem_queued`).
        pub queued: u64,
        /// Memory that its send queue may take before TCP takes no byte more (`sk_sndbuf`).
        pub buffer: u64,
        /// Longest segment that it sends, bytes.
        pub mss: u32,
    }

    /// Whether bytes must be passed before the destination is even looked at.
    #[inline(always)]
    #[must_use]
    pub const fn must_pass(read: u64, passed: u64, hold: u32) -> Option<Reason> {
        if read != passed {
            return Some(Reason::Behind);
        }
        if hold != 0 {
            return Some(Reason::Hold);
        }
        None
    }

    /// Memory that a message takes in a psock besides its bytes, roughly: `struct sk_buff`, the head
    /// with room for headers, `struct skb_shared_info`.
    pub const OVERHEAD: u64 = 1024;

    /// The next [`KernelBook::average`](super::KernelBook::average), after a message of so many bytes
    /// more: one eighth is the new one's.
    #[inline(always)]
    #[must_use]
    pub const fn average(before: u32, bytes: u32) -> u32 {
        if before == 0 {
            return bytes.wrapping_mul(16);
        }
        (before - before / 8).wrapping_add(bytes.wrapping_mul(2))
    }

    /// Memory that a segment takes besides its bytes when TCP cuts it out of a larger skb, to send it
    /// again: the same, and the second skb that a sender's has beside it.
    pub const CUT: u64 = 1280;

    /// Whether `fresh` bytes must be passed because of the destination: `redirected` and `written`
    /// is what it was given so far, in messages of this `average`; `limit` is what may wait in its
    /// psock, bytes of memory.
    #[inline(always)]
    #[must_use]
    pub const fn must_wait(
        destination: &Destination,
        redirected: u64,
        written: u64,
        limit: u64,
        fresh: u64,
        average: u32,
    ) -> Option<Reason> {
        // Bytes that it was given and that its TCP has not taken yet: they wait in its psock,
        // uncharged to anybody. The fields are read without its lock and can be an ACK apart, so
        // the difference can be off by that ACK, and below zero.
        let backlog = redirected.wrapping_add(written).wrapping_sub(destination.sent) as i64;
        let waiting = if backlog > 0 { backlog } else { 0 };
        // A message of one byte takes a thousand times its size.
        let average = if average == 0 { 1 } else { average as u64 };
        let memory = waiting as u64 + (waiting as u64).wrapping_mul(16 * OVERHEAD) / average;
        if memory > limit {
            // A redirect uncharges the skb from its receiver at once; only passing closes the
            // source's window, which is TCP's own back-pressure.
            return Some(Reason::Backlog);
        }
        // What the send buffer cannot take, the kworker would try again a jiffy later, so that the
        // flow would crawl at a buffer per jiffy, and what comes the other way would wait behind it in
        // the same queue, for as long as the reader likes (L13). User space is woken the moment there
        // is room. A quarter more than the bytes, for what the kernel adds to each skb; and room for
        // the day when all of it is cut into segments, to be sent again.
        let needed = waiting as u64 + fresh;
        let mss = if destination.mss == 0 { 1 } else { destination.mss as u64 };
        let cut = (destination.queued + needed) / mss * CUT;
        if destination.queued + needed + needed / 4 + cut > destination.buffer {
            return Some(Reason::Full);
        }
        None
    }
}

/// What a record of [`MAP_EVENTS`] says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Cookie of the direction's source, so that a late event for a slot that was
    /// given to another flow meanwhile is told apart.
    pub cookie: u64,
    /// The direction.
    pub slot: u32,
    /// An [`event`] kind.
    pub kind: u32,
}

/// Kinds of [`Event`].
pub mod event {
    /// The direction began to pass: user space must read `passed - read` bytes.
    pub const PASSING: u32 = 1;
    /// The direction is broken ([`super::KernelBook::broken`]).
    pub const BROKEN: u32 = 2;
}

/// Counters of the verdict, one copy per CPU, messages unless they say bytes. Approximate: a verdict
/// that interrupts another on the same CPU can lose it an increment. The books are exact.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Redirected messages.
    pub redirected: u64,
    /// Redirected bytes.
    pub redirected_bytes: u64,
    /// Passed because user space was behind (`read != passed`).
    pub passed_behind: u64,
    /// Passed because there was no `dst` (yet, or any more).
    pub passed_no_peer: u64,
    /// Passed because `dst`'s backlog was over the limit.
    pub passed_backlog: u64,
    /// Passed because `dst`'s send buffer had no room for it.
    pub passed_full: u64,
    /// Passed because user space holds the direction.
    pub passed_hold: u64,
    /// Messages from which an overlap with earlier ones was taken off.
    pub trimmed: u64,
    /// Bytes taken off.
    pub trimmed_bytes: u64,
    /// Whole duplicates dropped.
    pub duplicates: u64,
    /// Bare FINs dropped (`len == 0`).
    pub fins: u64,
    /// Messages of sockets without a slot.
    pub no_slot: u64,
    /// Directions declared broken.
    pub broken: u64,
    /// Events that found the ring full.
    pub events_lost: u64,
    /// First messages of a direction from which was taken off what had been read before the handoff.
    pub half_read: u64,
}

impl Stats {
    /// The sum, field by field.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            redirected: self.redirected + other.redirected,
            redirected_bytes: self.redirected_bytes + other.redirected_bytes,
            passed_behind: self.passed_behind + other.passed_behind,
            passed_no_peer: self.passed_no_peer + other.passed_no_peer,
            passed_backlog: self.passed_backlog + other.passed_backlog,
            passed_full: self.passed_full + other.passed_full,
            passed_hold: self.passed_hold + other.passed_hold,
            trimmed: self.trimmed + other.trimmed,
            trimmed_bytes: self.trimmed_bytes + other.trimmed_bytes,
            duplicates: self.duplicates + other.duplicates,
            fins: self.fins + other.fins,
            no_slot: self.no_slot + other.no_slot,
            broken: self.broken + other.broken,
            events_lost: self.events_lost + other.events_lost,
            half_read: self.half_read + other.half_read,
        }
    }
}

const _: () = {
    assert!(size_of::<KernelBook>() == 64 && align_of::<KernelBook>() == 64);
    assert!(size_of::<UserBook>() == 64 && align_of::<UserBook>() == 64);
    assert!(size_of::<Direction>() == 128);
    assert!(offset_of!(Direction, kernel) == 0 && offset_of!(Direction, user) == 64);
    assert!(offset_of!(KernelBook, passed) == 0 && offset_of!(KernelBook, redirected) == 8);
    assert!(offset_of!(KernelBook, next_seq) == 32 && offset_of!(KernelBook, broken) == 40);
    assert!(offset_of!(UserBook, read) == 0 && offset_of!(UserBook, written) == 8);
    assert!(offset_of!(UserBook, backlog_limit) == 16 && offset_of!(UserBook, hold) == 24);
    assert!(size_of::<Event>() == 16 && align_of::<Event>() == 8);
    assert!(size_of::<Stats>() == 15 * 8);
    assert!(EVENTS_SIZE.is_power_of_two());
};

#[cfg(feature = "user")]
#[allow(unsafe_code, reason = "aya's marker trait for plain data")]
mod pod {
    use super::{Direction, Event, KernelBook, Stats, UserBook};

    // SAFETY: `repr(C)`, integers only, no implicit padding (sizes asserted above).
    unsafe impl aya::Pod for Direction {}
    // SAFETY: as above.
    unsafe impl aya::Pod for KernelBook {}
    // SAFETY: as above.
    unsafe impl aya::Pod for UserBook {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Event {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Stats {}
}

#[cfg(test)]
mod tests {
    use super::verdict::{Destination, Reason, average, must_wait};

    /// A destination that has taken nothing of `waiting` bytes and has room for everything.
    fn waits(waiting: u64, average: u32) -> Option<Reason> {
        let destination = Destination { sent: 0, queued: 0, buffer: 1 << 40, mss: 65_483 };
        must_wait(&destination, waiting, 0, 512 * 1024, 1, average)
    }

    #[test]
    fn one_byte_messages_are_charged_for_the_memory_that_they_take() {
        let tiny = average(0, 1);
        assert_eq!(waits(500, tiny), None);
        assert_eq!(waits(520, tiny), Some(Reason::Backlog));
        let large = average(0, 65_536);
        assert_eq!(waits(500_000, large), None);
        assert_eq!(waits(524_288, large), Some(Reason::Backlog));
    }

    #[test]
    fn the_average_follows_in_both_directions_and_down_to_one() {
        let mut now = average(0, 1);
        for _ in 0..100 {
            now = average(now, 60_000);
        }
        assert!((59_000 * 16..=60_000 * 16).contains(&now), "{now}");
        for _ in 0..200 {
            now = average(now, 1);
        }
        assert!((16..32).contains(&now), "{now}");
    }

    #[test]
    fn a_destination_that_is_ahead_of_the_books_has_no_backlog() {
        let destination = Destination { sent: 10, queued: 0, buffer: 1 << 20, mss: 1448 };
        assert_eq!(must_wait(&destination, 5, 4, 0, 1, 16), None);
    }

    #[test]
    fn a_queue_that_is_cut_into_segments_still_fits_its_buffer() {
        let buffer = 4 << 20;
        for mss in [0, 536, 1448, 8948, 65_483] {
            // As long as the verdict lets it: what it lets in, the queue holds at the smallest price.
            let mut queued = 0;
            while must_wait(&Destination { sent: 0, queued, buffer, mss }, 0, 0, 0, 1448, 0)
                .is_none()
            {
                queued += 1448;
            }
            let segments = queued / u64::from(mss.max(1));
            assert!(queued + segments * super::verdict::CUT <= buffer, "{mss}: {queued}");
            assert!(mss < 8000 || queued > buffer * 3 / 4, "{mss}: {queued}");
        }
    }
}
