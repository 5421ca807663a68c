//! The look at two sockets' sequence numbers, run by user space with `BPF_PROG_TEST_RUN`.
//!
//! `TCP_REPAIR`, the other way to read them, wants `CAP_NET_ADMIN`, which the daemon does not keep.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skc_lookup_tcp};
use mux_common::packet::{Look, Numbers, Tuple4, Tuple6};

use super::{ETHERNET, arm::Socket, parse::bounds};

/// The calling thread's namespace: that of the test run's device.
const CURRENT_NETNS: u64 = u64::MAX;

/// The value for user space; nobody looks at it.
const DONE: i32 = 0;

#[inline(always)]
pub(super) fn look(skb: *mut __sk_buff) -> i32 {
    let (data, data_end) = bounds(skb);
    if data as usize + ETHERNET + size_of::<Look>() > data_end as usize {
        // Not what user space sends: there is no place for an answer.
        return DONE;
    }
    // SAFETY: the bytes of a `Look` are there, as just checked. The header's 14 bytes make its words
    // unaligned, which `parse` says more about.
    unsafe {
        let look = data.add(ETHERNET).cast::<Look>();
        let v6 = (&raw const (*look).family).read_volatile() == 6;
        let mut side = 0;
        while side < 2 {
            let numbers = numbers(skb, (&raw const (*look).tuples).cast::<Tuple6>().add(side), v6);
            (&raw mut (*look).numbers).cast::<Numbers>().add(side).write_volatile(numbers);
            side += 1;
        }
    }
    DONE
}

/// # Safety
/// `ends` is in the packet.
#[inline(always)]
unsafe fn numbers(skb: *mut __sk_buff, ends: *const Tuple6, v6: bool) -> Numbers {
    // SAFETY: a context, and tuples on the stack of the sizes given.
    let sk = unsafe {
        let Tuple6 { source, destination, source_port, destination_port } = ends.read_volatile();
        if v6 {
            let mut ends = Tuple6 { source, destination, source_port, destination_port };
            let ends = (&raw mut ends).cast();
            bpf_skc_lookup_tcp(skb.cast(), ends, size_of::<Tuple6>() as u32, CURRENT_NETNS, 0)
        } else {
            let [s0, s1, s2, s3, ..] = source;
            let [d0, d1, d2, d3, ..] = destination;
            let mut ends = Tuple4 {
                source: [s0, s1, s2, s3],
                destination: [d0, d1, d2, d3],
                source_port,
                destination_port,
            };
            let ends = (&raw mut ends).cast();
            bpf_skc_lookup_tcp(skb.cast(), ends, size_of::<Tuple4>() as u32, CURRENT_NETNS, 0)
        }
    };
    let Some(socket) = Socket::read(sk) else {
        return Numbers::default();
    };
    let Socket { write_seq, snd_una, rcv_nxt, copied_seq, tsoffset, busy: _, gap: _ } = socket;
    Numbers { found: 1, write_seq, snd_una, rcv_nxt, copied_seq, tsoffset }
}
