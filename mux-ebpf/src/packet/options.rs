//! TCP options in any layout: timestamps and the edges of SACK blocks.
//!
//! They are copied, changed there, and written back, so that one difference over the whole serves
//! the checksum, whatever is at odd offsets. Others stay as they are: in an established connection
//! none of them holds a sequence number.

use core::arch::asm;

use aya_ebpf::helpers::{bpf_csum_diff, bpf_skb_load_bytes, bpf_skb_store_bytes};
use mux_common::packet::{Scratch, Terms};

use super::{
    MUX_SCRATCH,
    parse::{Packet, TCP_HEADER, tcp_at},
    translate::Sum,
};

// RFC 9293 3.1, RFC 2018, RFC 7323.
const END: u8 = 0;
const NOP: u8 = 1;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
/// Options and SACK blocks that are looked at. Timestamps, three blocks and NOPs are ten.
const MOST: u32 = 24;
/// `false`: a helper refused, or these are no options.
#[inline(always)]
pub(super) fn translate<const L2: usize, const V6: bool>(
    packet: &Packet,
    terms: &Terms,
    sum: &mut Sum,
) -> bool {
    let Some(scratch) = MUX_SCRATCH.get_ptr_mut(0) else {
        // Cannot be: the array has one entry.
        return false;
    };
    let at = (tcp_at(L2, V6) + TCP_HEADER) as u32;
    // 4 to 40, as there are some. Written so that the verifier of 5.10 sees that it is not 0 and not
    // more than there is room for, whatever the compiler makes of comparisons.
    let length = (packet.header.wrapping_sub(TCP_HEADER as u32 + 4) & 0x3c) + 4;
    // SAFETY: context and map pointers; the lengths are within the scratch area, whose contents are
    // this CPU's until the program ends.
    unsafe {
        let old = (&raw mut (*scratch).old).cast::<u8>();
        let new = (&raw mut (*scratch).new).cast::<u8>();
        if bpf_skb_load_bytes(packet.skb.cast(), at, old.cast(), length) != 0
            || bpf_skb_load_bytes(packet.skb.cast(), at, new.cast(), length) != 0
        {
            return false;
        }
        if change(scratch, length, terms.add_ack, terms.add_tsval, terms.add_tsecr) != 0 {
            return false;
        }
        let change = bpf_csum_diff(old.cast(), length, new.cast(), length, 0);
        sum.add(change as u32);
        bpf_skb_store_bytes(packet.skb, at, new.cast(), length, 0) == 0
    }
}

/// Changes the options in place. Not 0: their lengths make no sense, or there are too many.
///
/// A function of its own for the kernel, too: a loop is verified once, not wherever it is used.
#[inline(never)]
fn change(scratch: *mut Scratch, length: u32, add_ack: u32, add_tsval: u32, add_tsecr: u32) -> u64 {
    // SAFETY: the caller's, of this CPU; volatile so that the compiler keeps the cursor there.
    let (options, at, blocks_end) = unsafe {
        (
            (&raw mut (*scratch).new).cast::<u8>(),
            &raw mut (*scratch).at,
            &raw mut (*scratch).blocks_end,
        )
    };
    // SAFETY: as above.
    unsafe {
        at.write_volatile(0);
        blocks_end.write_volatile(0);
    }
    let mut step = 0;
    while step < MOST {
        step += 1;
        // SAFETY: as above; masked indices, and 8 bytes behind them, are within the array.
        unsafe {
            let now = at.read_volatile();
            if now >= length {
                return 0;
            }
            if now < blocks_end.read_volatile() {
                // Both edges of a block.
                add(options, now, add_ack);
                add(options, now + 4, add_ack);
                at.write_volatile(now + 8);
                continue;
            }
            let kind = options.add(index(now)).read_volatile();
            if kind == END {
                return 0;
            }
            if kind == NOP {
                at.write_volatile(now + 1);
                continue;
            }
            let size = u32::from(options.add(index(now + 1)).read_volatile());
            if size < 2 || now + size > length {
                return 1;
            }
            if kind == SACK && size & 7 == 2 {
                blocks_end.write_volatile(now + size);
                at.write_volatile(now + 2);
                continue;
            }
            if kind == TIMESTAMPS && size == 10 {
                add(options, now + 2, add_tsval);
                add(options, now + 6, add_tsecr);
            }
            at.write_volatile(now + size);
        }
    }
    1
}

/// An index into a scratch array, below 64 for the verifier's eyes. In assembler: the compiler knows
/// that it is, by a comparison that 5.10's verifier draws no conclusion from, and would leave it out.
#[inline(always)]
fn index(at: u32) -> usize {
    let mut index = u64::from(at);
    // SAFETY: it changes the register.
    unsafe { asm!("{index} &= 63", index = inout(reg) index) };
    index as usize
}

/// Adds to the number at an index, unless it is 0: no timestamp to echo. (An edge of 0 stays too,
/// once in four billion bytes; the next acknowledgement has another.)
///
/// # Safety
/// `options` points to a scratch array.
#[inline(always)]
unsafe fn add(options: *mut u8, at: u32, what: u32) {
    // SAFETY: the masked index and four bytes are within the array. Loads and stores that are not
    // aligned: as in `parse`.
    unsafe {
        let number = options.add(index(at)).cast::<u32>();
        let old = u32::from_be(number.read_volatile());
        if old != 0 {
            number.write_volatile(old.wrapping_add(what).to_be());
        }
    }
}
