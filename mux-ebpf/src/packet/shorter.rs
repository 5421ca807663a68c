//! A router says that a packet was too long for it (P11).
//!
//! It says so to the address that the packet came from, which is ours, and quotes the packet's first
//! bytes. Our socket does not know of any such packet and passes the message over; what is left of it
//! for the flow is that no packet so long is sent on any more.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_map_lookup_elem, bpf_skb_pull_data},
};
use mux_common::packet::{Tuple4, Tuple6, state};

use super::{
    MUX_FLOWS4, MUX_FLOWS6, Way, after,
    parse::{TCP, bounds, load},
};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// "Fragmentation needed and DF set", RFC 792: type 3, code 4.
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
/// "Packet too big", RFC 4443 3.2: type 2, code 0.
const PACKET_TOO_BIG: [u8; 2] = [2, 0];
/// Before what is quoted.
const ICMP_HEADER: usize = 8;
/// `net.ipv4.route.min_pmtu`, and IPv6's shortest (RFC 8200 5): who says less has not to be believed.
const SHORTEST4: u32 = 552;
const SHORTEST6: u32 = 1280;

/// Lowers what the way out of the quoted packet takes, if it is of a flow of ours.
#[inline(always)]
pub(super) fn path<const L2: usize, const V6: bool>(skb: *mut __sk_buff) {
    let header = if V6 { 40 } else { 20 };
    // The quoted packet's ports and sequence number are all that must be there of TCP.
    let need = L2 + header + ICMP_HEADER + header + 8;
    let (mut data, mut data_end) = bounds(skb);
    let protocol_at = L2 + if V6 { 6 } else { 9 };
    if data as usize + protocol_at + 1 > data_end as usize {
        return;
    }
    // SAFETY: readable, as just checked.
    let protocol = unsafe { *data.add(protocol_at) };
    if protocol != if V6 { ICMPV6 } else { ICMP } {
        return;
    }
    if data as usize + need > data_end as usize {
        // SAFETY: a context field and a context pointer.
        if unsafe { (*skb).len < need as u32 || bpf_skb_pull_data(skb, need as u32) != 0 } {
            return;
        }
        (data, data_end) = bounds(skb);
        if data as usize + need > data_end as usize {
            return;
        }
    }
    // SAFETY: `need` bytes are readable, as just checked.
    let (seq, mtu, record) = unsafe {
        let icmp = data.add(L2 + header);
        let quoted = icmp.add(ICMP_HEADER);
        let tcp = quoted.add(header);
        let (source_port, destination_port): (u16, u16) = (load(tcp), load(tcp.add(2)));
        let seq = u32::from_be(load(tcp.add(4)));
        let kind: [u8; 2] = load(icmp);
        // As packets come from where the quoted one was to go.
        let (mtu, value) = if V6 {
            if kind != PACKET_TOO_BIG || *quoted >> 4 != 6 || *quoted.add(6) != TCP {
                return;
            }
            let mut key = Tuple6 {
                source: load(quoted.add(24)),
                destination: load(quoted.add(8)),
                source_port: destination_port,
                destination_port: source_port,
            };
            let map = (&raw const MUX_FLOWS6).cast_mut().cast();
            let mtu = u32::from_be(load(icmp.add(4)));
            (at_least(mtu, SHORTEST6), bpf_map_lookup_elem(map, (&raw mut key).cast()))
        } else {
            // One without IP options, as we are; ICMP itself in one piece.
            let is_piece = load::<u16>(data.add(L2 + 6)) & 0x3fff_u16.to_be() != 0;
            if kind != FRAGMENTATION_NEEDED
                || *data.add(L2) != 0x45
                || is_piece
                || *quoted != 0x45
                || *quoted.add(9) != TCP
            {
                return;
            }
            let mut key = Tuple4 {
                source: load(quoted.add(16)),
                destination: load(quoted.add(12)),
                source_port: destination_port,
                destination_port: source_port,
            };
            let map = (&raw const MUX_FLOWS4).cast_mut().cast();
            // 0 from routers of before 1990 (RFC 1191 5).
            let mtu = u32::from(u16::from_be(load(icmp.add(6))));
            (at_least(mtu, SHORTEST4), bpf_map_lookup_elem(map, (&raw mut key).cast()))
        };
        let Some(record) = value.cast::<u32>().as_ref().copied() else { return };
        (seq, mtu, record)
    };
    // The way that the quoted packet went.
    let Some(way) = Way::of(record ^ 1) else { return };
    if way.state() != state::ON {
        // Our socket has sent it, and does what is to be done.
        return;
    }
    // SAFETY: in the map's value.
    unsafe {
        let terms = &raw mut (*way.record).terms;
        let seq = seq.wrapping_sub((*terms).add_seq);
        // Of a packet that is not acknowledged yet: anybody can write to us that one was too long, but
        // has to guess the number (RFC 5927 7).
        let acked = (*way.back).traffic.ack.wrapping_add((*way.back).terms.add_ack);
        if after(seq, acked) < 0 || after(seq, (*way.record).traffic.end as u32) > 0 {
            return;
        }
        let known = (&raw const (*terms).mtu).read_volatile();
        if known == 0 || mtu < known {
            (&raw mut (*terms).mtu).write_volatile(mtu);
        }
    }
}

#[inline(always)]
const fn at_least(mtu: u32, shortest: u32) -> u32 {
    if mtu < shortest { shortest } else { mtu }
}
