//! Where a translated packet goes.

use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_redirect_neigh, bpf_sk_assign, bpf_sk_release, bpf_skb_change_head,
    bpf_skc_lookup_tcp,
};
use mux_common::packet::{Addresses, LOOPBACK, PacketStats, Terms, Tuple4, Tuple6, action};

use super::{
    ETHERNET, NEXT, SHOT, Way,
    parse::{Packet, tcp_at},
    translate::Sum,
};

/// The namespace of the packet's device.
const CURRENT_NETNS: u64 = u64::MAX;

#[inline(always)]
pub(super) fn deliver<const L2: usize, const V6: bool>(
    packet: &Packet,
    terms: &Terms,
    addresses: &Addresses,
    on_loopback: bool,
    stats: &mut PacketStats,
) -> i32 {
    match terms.action {
        action::FORWARD => send_by::<L2>(packet, terms.device, stats),
        // It is on loopback, routed there by its sender, and rewritten to be of another connection
        // of this machine: all that the route says of it stays true.
        _ if on_loopback => NEXT,
        // Through the device, which gives it a route that a packet from outside to 127.0.0.1 could
        // not have.
        action::LOOPBACK => send_by::<L2>(packet, LOOPBACK, stats),
        _ => assign::<V6>(packet, terms, addresses, stats),
    }
}

/// Sends the packet on by a device, with the route's neighbour.
#[inline(always)]
fn send_by<const L2: usize>(packet: &Packet, device: u32, stats: &mut PacketStats) -> i32 {
    // Without a link-layer header the packet would be dropped (`__bpf_redirect_neigh`,
    // net/core/filter.c), so it gets room for one. What is in it does not matter: it is cut off
    // before that of the way out is put there. (From 5.8 on, commit 6f3f65d80dac.)
    // SAFETY: a context pointer.
    if L2 == 0 && unsafe { bpf_skb_change_head(packet.skb, ETHERNET as u32, 0) } != 0 {
        stats.dropped += 1;
        return SHOT;
    }
    // SAFETY: no pointers.
    unsafe { bpf_redirect_neigh(device, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Gives the packet to the other end's socket.
#[inline(always)]
fn assign<const V6: bool>(
    packet: &Packet,
    terms: &Terms,
    addresses: &Addresses,
    stats: &mut PacketStats,
) -> i32 {
    let (source_port, destination_port) = (terms.new_source_port, terms.new_destination_port);
    // SAFETY: a context, and tuples on the stack of the sizes given.
    let sk = unsafe {
        if V6 {
            let mut ends = Tuple6 {
                source: addresses.new_source,
                destination: addresses.new_destination,
                source_port,
                destination_port,
            };
            let ends = (&raw mut ends).cast();
            bpf_skc_lookup_tcp(
                packet.skb.cast(),
                ends,
                size_of::<Tuple6>() as u32,
                CURRENT_NETNS,
                0,
            )
        } else {
            let [s0, s1, s2, s3, ..] = addresses.new_source;
            let [d0, d1, d2, d3, ..] = addresses.new_destination;
            let mut ends = Tuple4 {
                source: [s0, s1, s2, s3],
                destination: [d0, d1, d2, d3],
                source_port,
                destination_port,
            };
            let ends = (&raw mut ends).cast();
            bpf_skc_lookup_tcp(
                packet.skb.cast(),
                ends,
                size_of::<Tuple4>() as u32,
                CURRENT_NETNS,
                0,
            )
        }
    };
    if sk.is_null() {
        // It is closed, past TIME_WAIT even. A RST would have to be made; the flow's end has been
        // seen, or its idle time will come.
        stats.no_socket += 1;
        return SHOT;
    }
    // SAFETY: the reference that the look-up took.
    let refused = unsafe {
        let refused = bpf_sk_assign(packet.skb.cast(), sk.cast(), 0);
        bpf_sk_release(sk.cast());
        refused
    };
    if refused != 0 {
        // Before 6.6 (commit 9c02bec95954) sockets with SO_REUSEPORT are refused: user space does
        // not offer such flows there.
        stats.no_socket += 1;
        return SHOT;
    }
    NEXT
}

/// Makes a bare acknowledgement one for our own socket: at the sequence number that it waits for,
/// of all that it has sent. (The numbers as they are would be ahead of anything that it knows of.)
#[inline(always)]
pub(super) fn to_own_socket<const L2: usize, const V6: bool>(packet: &Packet, way: &Way) -> i32 {
    let header = tcp_at(L2, V6);
    let mut sum = Sum::NONE;
    // SAFETY: in the map's value, and in the headers that `parse` checked.
    unsafe {
        let terms = &raw mut (*way.record).terms;
        (*terms).ack_wanted = 0;
        for (at, new, old) in [
            (header + 4, (*terms).own_next, packet.seq),
            (header + 8, (*terms).ack_wanted_seq, packet.ack),
        ] {
            sum.change(old.to_be(), new.to_be());
            packet.data.add(at).cast::<u32>().write_volatile(new.to_be());
        }
        let at = (header + 16) as u32;
        if bpf_l4_csum_replace(packet.skb, at, 0, sum.fold() as u64, 0) != 0 {
            // It will be repeated, as what it acknowledges will be.
            (*terms).ack_wanted = 1;
            return SHOT;
        }
    }
    NEXT
}
