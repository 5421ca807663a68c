//! The verdict: for every skb that a spliced socket receives, redirect it to the other
//! socket of its flow, pass it to user space, or drop it, and keep the books.
//!
//! It runs under the source's socket lock, so that it is the only writer of the
//! direction's `KernelBook`. It must never let a byte by twice, or out of order:
//! when it cannot be sure, it marks the direction broken and user space resets the flow.
//!
//! The order of the early returns is the protocol; each says why.
#![allow(unsafe_code, reason = "kernel pointers; the verifier checks every access")]

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, sk_action},
    helpers::{
        bpf_get_socket_cookie, bpf_map_lookup_elem, bpf_sk_redirect_map, bpf_sk_release,
        bpf_skb_adjust_room, bpf_skc_to_tcp_sock,
    },
    macros::{map, stream_verdict},
    maps::{Array, HashMap, PerCpuArray, RingBuf, SockMap},
    programs::SkBuffContext,
};
use aya_log_ebpf::{debug, trace};
use mux_common::{
    DEFAULT_FLOWS, Direction, EVENTS_SIZE, Event, KernelBook, Stats, TRIM_STEP, TRIM_STEPS, broken,
    event,
    verdict::{Destination, Reason, average, must_pass, must_wait},
};

use crate::socket::{
    OFF_BYTES_ACKED, OFF_COPIED_SEQ, OFF_MSS_CACHE, OFF_SND_UNA, OFF_SNDBUF, OFF_WMEM_QUEUED,
    OFF_WRITE_SEQ, field_u32, field_u64,
};

/// `BPF_F_MMAPABLE`: user space reads and writes the books without a system call (≥ 5.5).
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`: no memory for flows that are not there.
const NO_PREALLOC: u32 = 1;

// The loader sets the capacities from `[kernel] flows`, two slots a flow.
#[map]
static MUX_SOCKS: SockMap = SockMap::with_max_entries(2 * DEFAULT_FLOWS, 0);
#[map]
static MUX_KEEP: SockMap = SockMap::with_max_entries(2 * DEFAULT_FLOWS, 0);
#[map]
static MUX_SLOTS: HashMap<u64, u32> = HashMap::with_max_entries(2 * DEFAULT_FLOWS, NO_PREALLOC);
#[map]
static MUX_BOOKS: Array<Direction> = Array::with_max_entries(2 * DEFAULT_FLOWS, MMAPABLE);
#[map]
static MUX_EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_SIZE, 0);
#[map]
static MUX_STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(1, 0);

const PASS: u32 = sk_action::SK_PASS;
const DROP: u32 = sk_action::SK_DROP;

/// `sk_skb/stream_verdict` (Linux ≥ 5.10 with BTF; see docs/internals/kernel.md).
#[stream_verdict]
fn mux_verdict(ctx: SkBuffContext) -> u32 {
    let skb = ctx.skb.skb;
    let Some(stats) = MUX_STATS.get_ptr_mut(0) else {
        // Cannot be: the array has one entry. Passing keeps the byte for user space.
        return PASS;
    };
    // SAFETY: a per-CPU value, which outlives the program. Another verdict may interrupt this one and
    // write to it: release_sock() runs a socket's backlog with bottom halves on. That can cost the
    // counters, which are for people, an increment (an atomic add each would be dearer than the rest);
    // the books have one writer, under the socket's lock.
    let stats = unsafe { &mut *stats };

    // SAFETY: the verifier rewrites context accesses.
    let len = unsafe { (*skb).len };
    if len == 0 {
        // A bare FIN (since 6.0, commit 04919bed948d, it comes through here). Poll has been
        // told by tcp_fin already; redirected, its 0 would be taken for an error of the
        // target, and passed, for one of ours. Nothing is lost by dropping it.
        stats.fins += 1;
        return DROP;
    }

    // SAFETY: a context pointer.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    // SAFETY: the element is replaced only while neither of the flow's sockets is in the map.
    let Some(&slot) = (unsafe { MUX_SLOTS.get(&cookie) }) else {
        // Not ours (any more): the flow is being taken apart. User space still owns the
        // socket, so the byte is its.
        stats.no_slot += 1;
        return PASS;
    };
    let Some(direction) = MUX_BOOKS.get_ptr_mut(slot) else {
        stats.no_slot += 1;
        return PASS;
    };
    // SAFETY: we are the only writer of the kernel's half (socket lock); the user's half is
    // read with volatile loads, below.
    let book = unsafe { &mut (*direction).kernel };
    let user = unsafe { &raw const (*direction).user };

    if book.broken != 0 {
        // User space has been told and will reset both ends; until then not one byte more.
        return DROP;
    }

    // SAFETY: cb[0] of an sk_skb program is TCP_SKB_CB(skb)->seq (net/core/filter.c,
    // sk_skb_convert_ctx_access; include/net/tcp.h).
    let seq = unsafe { (*skb).cb[0] };
    let first = book.started == 0;
    if first {
        let Some(copied) = copied_seq(skb) else {
            return give_up(stats, book, slot, cookie, broken::NOT_TCP);
        };
        book.next_seq = copied;
        book.started = 1;
        book.first_seq_matched = (seq == copied) as u32;
    }

    // The verdict gets whole skbs, also those that were read in part before the handoff, and
    // retransmissions that overlap what was seen (no kernel looks at copied_seq): what comes a
    // second time is cut off at the head.
    let over = book.next_seq.wrapping_sub(seq) as i32;
    let mut fresh = len;
    if over != 0 {
        if over < 0 {
            // Bytes went by that we did not see. There is no honest way on.
            return give_up(stats, book, slot, cookie, broken::SEQUENCE_GAP);
        }
        let cut = if (over as u32) < len { over as u32 } else { len };
        if !trim(skb, cut) {
            return give_up(stats, book, slot, cookie, broken::TRIM_FAILED);
        }
        if first {
            stats.half_read += 1;
        } else {
            stats.trimmed += 1;
            stats.trimmed_bytes += cut as u64;
        }
        book.trimmed += cut as u64;
        debug!(&ctx, "slot {}: {} of {} bytes trimmed", slot, cut, len);
        fresh = len - cut;
        if fresh == 0 {
            // Nothing new. It had to be cut to nothing first: the kernel advances copied_seq
            // by the length of what is dropped (tcp_eat_skb).
            stats.duplicates += 1;
            return DROP;
        }
    }
    book.next_seq = book.next_seq.wrapping_add(fresh);
    book.messages += 1;
    let length = fresh;
    let fresh = fresh as u64;

    // SAFETY: in the map's value; volatile because user space writes it meanwhile.
    let read = unsafe { (&raw const (*user).read).read_volatile() };
    // SAFETY: as above.
    let hold = unsafe { (&raw const (*user).hold).read_volatile() };
    if let Some(reason) = must_pass(read, book.passed, hold) {
        return pass(stats, direction, slot, cookie, fresh, reason);
    }
    let Some(destination) = destination(slot) else {
        // dst is not in the map: not yet (we are between the two insertions), or not any
        // more (it was closed). User space knows which.
        return pass(stats, direction, slot, cookie, fresh, Reason::NoPeer);
    };
    // SAFETY: as above.
    let (written, limit) = unsafe {
        (
            (&raw const (*user).written).read_volatile(),
            (&raw const (*user).backlog_limit).read_volatile(),
        )
    };
    if let Some(reason) =
        must_wait(&destination, book.redirected, written, limit, fresh, book.average)
    {
        return pass(stats, direction, slot, cookie, fresh, reason);
    }

    // SAFETY: a context pointer and a map.
    let verdict =
        unsafe { bpf_sk_redirect_map(skb, (&raw const MUX_SOCKS).cast_mut().cast(), slot, 0) };
    if verdict as u32 != PASS {
        // dst left the map since the look-up above.
        return pass(stats, direction, slot, cookie, fresh, Reason::NoPeer);
    }
    book.redirected += fresh;
    book.average = average(book.average, length);
    stats.redirected += 1;
    stats.redirected_bytes += fresh;
    trace!(&ctx, "slot {}: {} bytes redirected", slot, fresh);
    verdict as u32
}

/// Leaves the bytes to user space, and tells it when it has no earlier ones to read.
#[inline(always)]
fn pass(
    stats: &mut Stats,
    direction: *mut Direction,
    slot: u32,
    cookie: u64,
    len: u64,
    reason: Reason,
) -> u32 {
    match reason {
        Reason::Behind => stats.passed_behind += 1,
        Reason::NoPeer => stats.passed_no_peer += 1,
        Reason::Backlog => stats.passed_backlog += 1,
        Reason::Full => stats.passed_full += 1,
        Reason::Hold => stats.passed_hold += 1,
    }
    // SAFETY: in the map's value; we are the only writer of `passed`.
    let before = unsafe { (*direction).kernel.passed };
    // A locked add, for its barrier (x86: full): `passed` must be out before `read` is looked
    // at, as user space publishes `read` before it looks at `passed`. One of the two then sees
    // the other, and no edge is lost. Where the add is no barrier (arm64), user space's timer
    // finds the books uneven.
    // SAFETY: as above, aligned; BPF_ATOMIC | BPF_ADD without fetch, which 5.10 knows too.
    unsafe {
        asm!(
            "lock *(u64 *)({passed} + 0) += {len}",
            passed = in(reg) &raw mut (*direction).kernel.passed,
            len = in(reg) len,
        );
    }
    // SAFETY: as above.
    let read = unsafe { (&raw const (*direction).user.read).read_volatile() };
    if read == before {
        // SAFETY: as above.
        unsafe { (*direction).kernel.passes += 1 };
        tell(stats, slot, cookie, event::PASSING);
    }
    PASS
}

/// Declares the direction broken: user space resets both ends, no wrong byte is delivered.
#[inline(always)]
fn give_up(stats: &mut Stats, book: &mut KernelBook, slot: u32, cookie: u64, why: u32) -> u32 {
    book.broken = why;
    stats.broken += 1;
    tell(stats, slot, cookie, event::BROKEN);
    DROP
}

/// One event for user space. A full ring loses it; user space's timer looks at the books.
#[inline(always)]
fn tell(stats: &mut Stats, slot: u32, cookie: u64, kind: u32) {
    match MUX_EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(Event { cookie, slot, kind });
            entry.submit(0);
        }
        None => stats.events_lost += 1,
    }
}

/// Takes `cut` bytes off the skb's head; false: the kernel refused.
#[inline(always)]
fn trim(skb: *mut __sk_buff, cut: u32) -> bool {
    let mut left = cut;
    let mut step = 0;
    while step < TRIM_STEPS {
        if left == 0 {
            return true;
        }
        let now = if left < TRIM_STEP { left } else { TRIM_STEP };
        // SAFETY: a context pointer.
        if unsafe { bpf_skb_adjust_room(skb, -(now as i32), 0, 0) } != 0 {
            return false;
        }
        left -= now;
        step += 1;
    }
    left == 0
}

/// `copied_seq` of the skb's own socket: the sequence number of the first byte that nobody has
/// taken. `None`: not a TCP socket.
#[inline(always)]
fn copied_seq(skb: *mut __sk_buff) -> Option<u32> {
    // SAFETY: a context field; null is checked as the verifier wants.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: a socket that the verifier knows; the helper checks protocol and type.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast()) };
    if tcp.is_null() {
        return None;
    }
    // SAFETY: the offset is the running kernel's.
    Some(unsafe { field_u32(tcp.cast(), OFF_COPIED_SEQ.load()) })
}

/// Looks at `slot`'s destination. `None`: no socket in the map, or not a TCP socket.
#[inline(always)]
fn destination(slot: u32) -> Option<Destination> {
    // SAFETY: a map and a key on the stack.
    let sk = unsafe {
        bpf_map_lookup_elem((&raw const MUX_SOCKS).cast_mut().cast(), (&raw const slot).cast())
    };
    if sk.is_null() {
        return None;
    }
    // SAFETY: a socket that the verifier knows.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk) };
    let destination = if tcp.is_null() {
        None
    } else {
        // SAFETY: offsets of the running kernel. Without its lock the fields can be an ACK apart, and
        // `bytes_acked` is the first that an ACK changes: read before the others it makes the sum
        // smaller, the backlog larger, which is the safe side. Where it has changed meanwhile, that
        // ACK is not left out for nothing.
        unsafe {
            let first = field_u64(tcp.cast(), OFF_BYTES_ACKED.load());
            let mut una = field_u32(tcp.cast(), OFF_SND_UNA.load());
            let mut write = field_u32(tcp.cast(), OFF_WRITE_SEQ.load());
            let acked = field_u64(tcp.cast(), OFF_BYTES_ACKED.load());
            if acked != first {
                una = field_u32(tcp.cast(), OFF_SND_UNA.load());
                write = field_u32(tcp.cast(), OFF_WRITE_SEQ.load());
            }
            let sent = acked.wrapping_add(write.wrapping_sub(una) as u64);
            Some(Destination {
                sent,
                queued: field_u32(tcp.cast(), OFF_WMEM_QUEUED.load()) as u64,
                buffer: field_u32(tcp.cast(), OFF_SNDBUF.load()) as u64,
                mss: field_u32(tcp.cast(), OFF_MSS_CACHE.load()),
            })
        }
    };
    // SAFETY: the reference that the look-up took.
    unsafe { bpf_sk_release(sk) };
    destination
}
