//! Translating a packet of a flow that is on.
//!
//! What is behind TCP's header is not looked at. Each change of a word goes into one of three sums,
//! so that the checksums are put right by what changed, whether they were computed already or are
//! yet to be (P6).

use core::arch::asm;

use aya_ebpf::helpers::{bpf_csum_update, bpf_l4_csum_replace};
use mux_common::packet::{
    Addresses, HOPS, LOOPBACK, PacketStats, Terms, action, packet_event, state,
};

use super::{
    SHOT, Way, after,
    deliver::{deliver, to_own_socket},
    options,
    parse::{ACK, FIN, Packet, RST, SYN, TCP_HEADER, TIMESTAMPS_FIRST, ends_at, load, tcp_at},
};

/// `BPF_F_PSEUDO_HDR`: the change is of an address, which the pseudo-header has.
const PSEUDO_HEADER: u64 = 1 << 4;
/// A packet that is this much ahead of the one before is asked whether it can be.
const LEAP: i32 = 1 << 20;

#[inline(always)]
pub(super) fn translate<const L2: usize, const V6: bool>(
    packet: &Packet,
    way: &Way,
    stats: &mut PacketStats,
) -> i32 {
    // SAFETY: in the map's value. Addresses do not change any more. The terms are read once: another
    // CPU may write those that are the program's.
    let (terms, addresses) = unsafe { ((*way.record).terms, &(*way.record).addresses) };
    let terms = &terms;
    if terms.ack_wanted != 0 && has_no_news(packet, way, terms.ack_wanted_seq) {
        // Our socket's peer repeats what it has said already: this time to our socket, which has
        // been waiting for it (P5).
        stats.acks_diverted += 1;
        return to_own_socket::<L2, V6>(packet, way);
    }
    if terms.action == action::FORWARD && terms.mtu != 0 && longest(packet, V6) > terms.mtu {
        // Sent on, it would vanish on its way, again and again.
        stats.too_big += 1;
        way.tell(stats, packet_event::TOO_BIG);
        return SHOT;
    }
    account(packet, way, terms, stats);
    stats.translated += 1;

    // SAFETY: a context field.
    let on_loopback = unsafe { (*packet.skb).ifindex } == LOOPBACK;
    // One that is given to a socket of this machine keeps its addresses, which routing has to agree
    // with; the socket is found without them.
    let keep_ends = terms.action == action::ASSIGN && !on_loopback;

    let mut tcp = Sum::NONE;
    let mut ends = Sum::NONE;
    let scaled =
        (u32::from(window::<L2, V6>(packet)) << (terms.scale_up & 15)) >> (terms.scale_down & 15);
    let window = if scaled > 0xffff { 0xffff } else { scaled as u16 };
    // SAFETY: the headers' bytes are readable and writable up to TCP's options, as `parse` checked,
    // and no helper has been called since that moves them.
    unsafe {
        let header = packet.data.add(tcp_at(L2, V6));
        replace(header.add(4), packet.seq.wrapping_add(terms.add_seq).to_be(), &mut tcp);
        if packet.has(ACK) {
            replace(header.add(8), packet.ack.wrapping_add(terms.add_ack).to_be(), &mut tcp);
        }
        replace16(header.add(14), window.to_be(), &mut tcp);
        if !keep_ends {
            let ports =
                [terms.new_source_port.to_ne_bytes(), terms.new_destination_port.to_ne_bytes()];
            let [[a, b], [c, d]] = ports;
            replace(header, u32::from_ne_bytes([a, b, c, d]), &mut tcp);
            readdress::<L2, V6>(packet, addresses, &mut ends);
            fresh_hops::<L2, V6>(packet, terms, &ends);
        }
    }
    let ready = if packet.header == TCP_HEADER as u32 {
        true
    } else if packet.header == 32 && timestamps_in_place::<L2, V6>(packet, terms, &mut tcp) {
        true
    } else {
        stats.slow_options += 1;
        options::translate::<L2, V6>(packet, terms, &mut tcp)
    };
    if !ready {
        // These are no TCP options, or more than are looked at. Half of the packet is translated.
        stats.untranslatable += 1;
        return SHOT;
    }
    // From here on the packet's bytes may have moved.
    if !put_sums_right::<L2, V6>(packet, &tcp, &ends, keep_ends) {
        // A helper refused (no memory). The sender repeats it.
        stats.dropped += 1;
        return SHOT;
    }
    deliver::<L2, V6>(packet, terms, addresses, on_loopback, stats)
}

/// Whether it is an acknowledgement that covers `wanted` and tells the other end nothing that it
/// has not been told.
#[inline(always)]
fn has_no_news(packet: &Packet, way: &Way, wanted: u32) -> bool {
    // SAFETY: in the map's value.
    let told = unsafe { (*way.record).traffic.ack };
    packet.payload == 0
        && packet.flags & (SYN | FIN | RST | ACK) == ACK
        && after(packet.ack, wanted) >= 0
        && after(packet.ack, told) <= 0
}

/// Bytes of the longest IP packet that it is or will be cut into.
#[inline(always)]
fn longest(packet: &Packet, v6: bool) -> u32 {
    // SAFETY: a context field (≥ 5.7).
    let segment = unsafe { (*packet.skb).gso_size };
    if segment == 0 { packet.length } else { segment + packet.header + if v6 { 40 } else { 20 } }
}

#[inline(always)]
fn window<const L2: usize, const V6: bool>(packet: &Packet) -> u16 {
    // SAFETY: within the headers that `parse` checked.
    u16::from_be(unsafe { load(packet.data.add(tcp_at(L2, V6) + 14)) })
}

/// Books the packet, and finds out whether it is the flow's end.
#[inline(always)]
fn account(packet: &Packet, way: &Way, terms: &Terms, stats: &mut PacketStats) {
    // SAFETY: in the map's value.
    let (traffic, back) = unsafe { (&raw mut (*way.record).traffic, &raw mut (*way.back).traffic) };
    let end = packet.end();
    // SAFETY: as above; both ways' records are of this flow, and the fields are as the ABI says.
    unsafe {
        count(&raw mut (*traffic).packets, 1);
        let before = (*traffic).end;
        let ahead = after(end, before as u32);
        if ahead > 0 && (ahead < LEAP || is_allowed(way, end)) {
            (*traffic).end = before + ahead as u64;
        }
        if packet.has(RST) {
            // A peer believes a RST only at the number that it waits for (RFC 5961 3.2), which is
            // between what it has acknowledged and all that was sent to it. One that is not is
            // translated as well, for the peer to judge, but it does not end the flow (P7).
            let acked = (*back).ack.wrapping_add((*way.back).terms.add_ack);
            let sent = (*traffic).end as u32;
            if after(packet.seq, acked) >= 0 && after(packet.seq, sent) <= 0 {
                end_flow(way, stats, packet_event::RESET);
            }
            return;
        }
        if packet.has(ACK) {
            if after(packet.ack, (*traffic).ack) > 0 {
                (*traffic).ack = packet.ack;
            }
            let window = u32::from((*way.record).terms.scale_up & 15);
            (*traffic).edge = packet.ack.wrapping_add(0xffff << window);
        }
        if packet.has(FIN) && (*traffic).fin == 0 {
            // What the other way will acknowledge it with.
            (*way.back).terms.fin_ack = end.wrapping_add(terms.add_seq);
            (&raw mut (*way.back).terms.fin_expected).write_volatile(1);
            (*traffic).fin = 1;
        }
        if terms.fin_expected != 0 && packet.has(ACK) && after(packet.ack, terms.fin_ack) >= 0 {
            (*way.record).terms.fin_expected = 0;
            (&raw mut (*back).fin_acked).write_volatile(1);
            // For its barrier: the same on another CPU for the other way either sees what was just
            // written, or is seen here.
            count(&raw mut (*traffic).packets, 0);
            if (&raw const (*traffic).fin_acked).read_volatile() != 0 {
                end_flow(way, stats, packet_event::ENDED);
            }
        }
    }
}

/// Whether the receiver has ever allowed a byte before `end`.
#[inline(always)]
fn is_allowed(way: &Way, end: u32) -> bool {
    // SAFETY: in the map's value.
    let edge = unsafe { (*way.back).traffic.edge.wrapping_add((*way.back).terms.add_ack) };
    after(end, edge) <= 0
}

#[inline(always)]
fn end_flow(way: &Way, stats: &mut PacketStats, kind: u32) {
    if way.state() == state::ON {
        way.set_states(state::ENDED);
        way.tell(stats, kind);
    }
}

/// Adds to a counter that another CPU may add to as well.
///
/// # Safety
/// An aligned number in a map's value.
#[inline(always)]
unsafe fn count(counter: *mut u64, by: u64) {
    // BPF_ATOMIC | BPF_ADD without fetch, which 5.10 knows too. On x86 it is a full barrier.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {by}",
            counter = in(reg) counter,
            by = in(reg) by,
        );
    }
}

/// What has changed in a checksum's words: their sum in ones' complement, old ones inverted.
pub(super) struct Sum(u64);

impl Sum {
    pub(super) const NONE: Self = Self(0);

    #[inline(always)]
    pub(super) const fn change(&mut self, old: u32, new: u32) {
        self.0 += !old as u64 + new as u64;
    }

    #[inline(always)]
    pub(super) const fn add(&mut self, sum: u32) {
        self.0 += sum as u64;
    }

    /// In 32 bits, as the helpers want it.
    #[inline(always)]
    pub(super) const fn fold(&self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((once & 0xffff_ffff) + (once >> 32)) as u32
    }

    /// A header checksum that was right before the changes, after them (RFC 1624 eqn. 3).
    #[inline(always)]
    const fn apply(&self, checksum: u16) -> u16 {
        let sum = self.fold();
        let sum = (sum & 0xffff) + (sum >> 16) + !checksum as u32;
        let sum = (sum & 0xffff) + (sum >> 16);
        !(((sum & 0xffff) + (sum >> 16)) as u16)
    }
}

/// Replaces four bytes.
///
/// # Safety
/// They are in the packet, readable and writable.
#[inline(always)]
unsafe fn replace(at: *mut u8, new: u32, sum: &mut Sum) {
    unsafe {
        let at = at.cast::<u32>();
        sum.change(at.read_volatile(), new);
        at.write_volatile(new);
    }
}

/// Replaces two bytes at an even offset.
///
/// # Safety
/// As [`replace`].
#[inline(always)]
unsafe fn replace16(at: *mut u8, new: u16, sum: &mut Sum) {
    unsafe {
        let at = at.cast::<u16>();
        // Inverted in 32 bits the old one brings 0xffff in the upper half, which is nothing in ones'
        // complement.
        sum.change(u32::from(at.read_volatile()), u32::from(new));
        at.write_volatile(new);
    }
}

/// New addresses.
///
/// # Safety
/// The packet's bytes have not moved since it was parsed.
#[inline(always)]
unsafe fn readdress<const L2: usize, const V6: bool>(
    packet: &Packet,
    addresses: &Addresses,
    ends: &mut Sum,
) {
    let at = ends_at(L2, V6);
    let (source, destination) = (addresses.new_source.as_ptr(), addresses.new_destination.as_ptr());
    let words = if V6 { 4 } else { 1 };
    let mut word = 0;
    while word < words {
        // SAFETY: within the headers, and within the addresses.
        unsafe {
            replace(packet.data.add(at + 4 * word), load(source.add(4 * word)), ends);
            replace(
                packet.data.add(at + 4 * (words + word)),
                load(destination.add(4 * word)),
                ends,
            );
        }
        word += 1;
    }
}

/// A forwarded packet has as far to go as one of this machine's; and the IPv4 header's checksum.
///
/// # Safety
/// As [`readdress`], after which it is to be called.
#[inline(always)]
unsafe fn fresh_hops<const L2: usize, const V6: bool>(packet: &Packet, terms: &Terms, ends: &Sum) {
    // SAFETY: within the headers.
    unsafe {
        let ip = packet.data.add(L2);
        let forward = terms.action == action::FORWARD;
        if V6 {
            if forward {
                ip.add(7).write_volatile(HOPS);
            }
            return;
        }
        let mut sum = Sum(ends.0);
        if forward {
            // Time to live, and the protocol, which stays.
            let old: u16 = load(ip.add(8));
            let [_, protocol] = old.to_ne_bytes();
            replace16(ip.add(8), u16::from_ne_bytes([HOPS, protocol]), &mut sum);
        }
        let checksum = ip.add(10).cast::<u16>();
        checksum.write_volatile(sum.apply(checksum.read_volatile()));
    }
}

/// Translates the timestamps of a packet whose options are those alone, in their usual place.
/// `false`: they are others.
#[inline(always)]
fn timestamps_in_place<const L2: usize, const V6: bool>(
    packet: &Packet,
    terms: &Terms,
    sum: &mut Sum,
) -> bool {
    let at = tcp_at(L2, V6) + TCP_HEADER;
    if packet.data as usize + at + 12 > packet.data_end as usize {
        return false;
    }
    // SAFETY: 12 bytes of options, as just checked; nothing was moved since the packet was parsed.
    unsafe {
        let options = packet.data.add(at);
        if load::<u32>(options) != TIMESTAMPS_FIRST {
            return false;
        }
        let tsval = u32::from_be(load(options.add(4))).wrapping_add(terms.add_tsval);
        replace(options.add(4), tsval.to_be(), sum);
        let tsecr = u32::from_be(load(options.add(8)));
        // Without ACK, or before there was one to echo, it is 0 and says nothing.
        if tsecr != 0 {
            replace(options.add(8), tsecr.wrapping_add(terms.add_tsecr).to_be(), sum);
        }
    }
    true
}

/// TCP's checksum. Where it is yet to be computed (`CHECKSUM_PARTIAL`) only the addresses matter,
/// where the device has summed the packet up (`CHECKSUM_COMPLETE`) that sum is kept right. `false`:
/// a helper refused.
#[inline(always)]
fn put_sums_right<const L2: usize, const V6: bool>(
    packet: &Packet,
    tcp: &Sum,
    ends: &Sum,
    keep_ends: bool,
) -> bool {
    let at = (tcp_at(L2, V6) + 16) as u32;
    // SAFETY: a context pointer; the offset is of TCP's checksum.
    unsafe {
        if bpf_l4_csum_replace(packet.skb, at, 0, tcp.fold() as u64, 0) != 0 {
            return false;
        }
        if keep_ends {
            return true;
        }
        if bpf_l4_csum_replace(packet.skb, at, 0, ends.fold() as u64, PSEUDO_HEADER) != 0 {
            return false;
        }
        if V6 {
            // The helper takes for granted that an IP header's own checksum makes up for the
            // addresses in the device's sum; IPv6 has none. (From 6.16 on a flag says so, commit
            // ead7f9b8de65.) Without such a sum this fails, and that is no matter.
            bpf_csum_update(packet.skb, ends.fold());
        }
    }
    true
}
