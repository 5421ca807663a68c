//! The RST of our own sockets, on its way out.
//!
//! When user space stops a flow and closes its sockets, their RSTs have the sequence numbers of the
//! moment when it was turned on, which no peer believes any more. They get those of its last
//! packets, so that `close` ends a flow for both peers, whatever relay it is in (P9). Of a flow that
//! has ended they are not needed, and dropped.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::{bpf_l4_csum_replace, bpf_map_lookup_elem},
};
use mux_common::packet::{PacketStats, Tuple4, Tuple6, state};

use super::{
    MUX_FLOWS4, MUX_FLOWS6, MUX_PKT_STATS, NEXT, SHOT, Way,
    parse::{self, Packet, RST, ends_at, load, tcp_at},
    shortcut,
    translate::Sum,
};

#[inline(always)]
pub(super) fn egress<const L2: usize, const LOOPBACK: bool>(skb: *mut __sk_buff) -> i32 {
    // SAFETY: context fields; the verifier rewrites the accesses.
    let (protocol, sk) = unsafe { ((*skb).protocol, (*skb).__bindgen_anon_2.sk) };
    if sk.is_null() {
        // Of no socket of this machine: forwarded, or a translated packet.
        return NEXT;
    }
    match protocol {
        parse::IPV4 => packet::<L2, false, LOOPBACK>(skb, sk),
        parse::IPV6 => packet::<L2, true, LOOPBACK>(skb, sk),
        _ => NEXT,
    }
}

/// Whether a packet goes to the peer of the socket that it is of. A translated one does not: it came
/// from another network namespace of this machine, and is of a socket there (veth keeps that, commit
/// 9c4c325252c5). What the socket's own address is cannot be asked: it has given its port up when it
/// sends a RST.
#[inline(always)]
fn is_of_its_socket<const L2: usize, const V6: bool>(packet: &Packet, sk: *mut bpf_sock) -> bool {
    // SAFETY: fields of a socket that the verifier knows, and bytes of the headers that `parse`
    // checked.
    unsafe {
        let destination = packet.data.add(L2 + if V6 { 36 } else { 16 });
        let port: u16 = load(packet.data.add(tcp_at(L2, V6) + 2));
        let address = if V6 { (*sk).dst_ip6[3] } else { (*sk).dst_ip4 };
        address == load::<u32>(destination) && (*sk).dst_port == port
    }
}

#[inline(always)]
fn packet<const L2: usize, const V6: bool, const LOOPBACK: bool>(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
) -> i32 {
    let Some(packet) = Packet::parse::<L2, V6>(skb) else {
        // Not TCP.
        return NEXT;
    };
    if LOOPBACK
        && !packet.has(RST)
        && let Some(verdict) = shortcut::<L2, V6>(&packet)
    {
        return verdict;
    }
    if !packet.has(RST) || !is_of_its_socket::<L2, V6>(&packet, sk) {
        return NEXT;
    }
    // SAFETY: as for `Packet::record`; a key on the stack.
    let record = unsafe {
        let ends = packet.data.add(ends_at(L2, V6));
        if V6 {
            let key = turned(&load_tuple6(ends));
            bpf_map_lookup_elem((&raw const MUX_FLOWS6).cast_mut().cast(), (&raw const key).cast())
        } else {
            let [a, b, c]: [u32; 3] = [load(ends), load(ends.add(4)), load(ends.add(8))];
            let key: [u32; 3] = [b, a, c.rotate_left(16)];
            const { assert!(size_of::<Tuple4>() == size_of::<[u32; 3]>()) };
            bpf_map_lookup_elem((&raw const MUX_FLOWS4).cast_mut().cast(), (&raw const key).cast())
        }
    };
    // SAFETY: null, or the map's value.
    let Some(&record) = (unsafe { record.cast::<u32>().as_ref() }) else {
        // Of another connection.
        return NEXT;
    };
    let (Some(way), Some(stats)) = (Way::of(record), MUX_PKT_STATS.get_ptr_mut(0)) else {
        // Cannot be, as at ingress.
        return NEXT;
    };
    // SAFETY: a per-CPU value; process context with bottom halves off, or softirq.
    let stats = unsafe { &mut *stats };
    match way.state() {
        // On: of a daemon that was killed, say, which stopped nothing.
        state::STOPPED | state::ON => put_right::<L2, V6>(&packet, &way, stats),
        state::ENDED => {
            // Both peers are through with it. A RST could only hit a new connection.
            stats.resets_dropped += 1;
            SHOT
        }
        // It has never been on, and our sockets' numbers are right; or it is of the past.
        _ => NEXT,
    }
}

/// The peer's record is the one its packets find; what goes to the peer is the other way's.
#[inline(always)]
fn put_right<const L2: usize, const V6: bool>(
    packet: &Packet,
    way: &Way,
    stats: &mut PacketStats,
) -> i32 {
    let header = tcp_at(L2, V6);
    let mut sum = Sum::NONE;
    // SAFETY: in the map's value, and in the headers that `parse` checked.
    unsafe {
        let seq = ((*way.back).traffic.end as u32).wrapping_add((*way.back).terms.add_seq);
        let ack = (*way.record).traffic.end as u32;
        for (at, old, new) in [(header + 4, packet.seq, seq), (header + 8, packet.ack, ack)] {
            sum.change(old.to_be(), new.to_be());
            packet.data.add(at).cast::<u32>().write_volatile(new.to_be());
        }
        let at = (header + 16) as u32;
        if bpf_l4_csum_replace(packet.skb, at, 0, sum.fold() as u64, 0) != 0 {
            // As if it were lost; the peer finds out by itself.
            stats.dropped += 1;
            return SHOT;
        }
    }
    stats.resets_put_right += 1;
    NEXT
}

/// # Safety
/// The ends of an IPv6 packet are at `at`.
#[inline(always)]
unsafe fn load_tuple6(at: *const u8) -> [u32; 9] {
    let mut words = [0; 9];
    let mut word = 0;
    while word < 9 {
        // SAFETY: by the contract.
        words[word] = unsafe { load(at.add(4 * word)) };
        word += 1;
    }
    words
}

/// The ends of packets that come the other way.
#[inline(always)]
const fn turned(ends: &[u32; 9]) -> [u32; 9] {
    const { assert!(size_of::<Tuple6>() == size_of::<[u32; 9]>()) };
    let [a, b, c, d, e, f, g, h, ports] = *ends;
    [e, f, g, h, a, b, c, d, ports.rotate_left(16)]
}
