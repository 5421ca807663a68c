//! Arming: whether this packet finds its flow so quiet that it can be the first to be translated.
//!
//! User space goes on copying meanwhile and is asked nothing. What is checked is that every byte
//! before this packet has been through user space and is acknowledged, in both directions, so that
//! from here on a byte's place in one connection says its place in the other (P1 to P4).

use core::arch::asm;

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{
        bpf_ktime_get_ns, bpf_map_delete_elem, bpf_sk_release, bpf_skc_lookup_tcp,
        bpf_skc_to_tcp_sock,
    },
};
use mux_common::packet::{PacketStats, Traffic, Tuple4, Tuple6, packet_event, refusal, state};

use super::{
    MUX_OFFERS, QUIET_NS, Way,
    parse::{ACK, FIN, Packet, RST, SYN, URG, ends_at},
};
use crate::socket::{
    OFF_BACKLOG_LEN, OFF_COPIED_SEQ, OFF_LOCK_OWNED, OFF_OUT_OF_ORDER, OFF_RCV_NXT, OFF_SND_UNA,
    OFF_TSOFFSET, OFF_WRITE_SEQ, field_u32, field_u64,
};

/// The namespace of the packet's device.
const CURRENT_NETNS: u64 = u64::MAX;
/// include/net/tcp_states.h.
const ESTABLISHED: u32 = 1;

/// What becomes of the packet.
pub(super) enum Armed {
    /// The flow is on, and the packet is to be translated.
    Translate,
    /// It is its own socket's.
    ToSocket,
}

#[inline(always)]
pub(super) fn arm<const L2: usize, const V6: bool>(
    packet: &Packet,
    way: &Way,
    stats: &mut PacketStats,
) -> Armed {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let tsval = packet.tsval::<L2, V6>();
    // SAFETY: in the map's value.
    let timestamps = unsafe { (*way.record).terms.timestamps } != 0;
    // SAFETY: as above.
    let traffic = unsafe { &raw mut (*way.record).traffic };
    // That it goes to its socket is said before the question is asked: a packet of the other way
    // that looks now sees it (P4).
    // SAFETY: as above.
    unsafe {
        (&raw mut (*traffic).to_socket).write_volatile(now);
        if !timestamps || tsval.is_some() {
            (&raw mut (*traffic).tsval).write_volatile(tsval.unwrap_or(0));
            (&raw mut (*traffic).seen).write_volatile(1);
        }
    }
    match try_arm::<L2, V6>(packet, way, stats, now, tsval, timestamps) {
        Ok(armed) => armed,
        Err(why) => {
            if way.state() == state::ON {
                // A packet of the other way was quicker, and all that was checked held.
                return Armed::Translate;
            }
            refuse(traffic, stats, why);
            Armed::ToSocket
        }
    }
}

#[inline(always)]
fn refuse(traffic: *mut Traffic, stats: &mut PacketStats, why: u32) {
    // SAFETY: in the map's value.
    unsafe {
        (*traffic).refusals += 1;
        (*traffic).refusal = why;
    }
    if let Some(counter) = stats.refused.get_mut(why as usize) {
        *counter += 1;
    }
}

#[inline(always)]
fn try_arm<const L2: usize, const V6: bool>(
    packet: &Packet,
    way: &Way,
    stats: &mut PacketStats,
    now: u64,
    tsval: Option<u32>,
    timestamps: bool,
) -> Result<Armed, u32> {
    if packet.has(SYN | FIN | RST | URG) || !packet.has(ACK) {
        // The ends of a stream are for sockets that have seen all of it.
        return Err(refusal::FLAGS);
    }
    let tsval = match (timestamps, tsval) {
        (true, Some(tsval)) => tsval,
        // An established connection's packets all have one, in this place, or none has.
        (true, None) => return Err(refusal::OPTIONS),
        (false, _) => 0,
    };
    // SAFETY: in the map's value; another CPU may write it meanwhile.
    let (seen, back_time, back_tsval) = unsafe {
        let back = &raw const (*way.back).traffic;
        (
            (&raw const (*back).seen).read_volatile(),
            (&raw const (*back).to_socket).read_volatile(),
            (&raw const (*back).tsval).read_volatile(),
        )
    };
    if seen == 0 {
        // What its timestamps are is not known yet.
        return Err(refusal::UNSEEN);
    }
    if (now.wrapping_sub(back_time) as i64) < QUIET_NS.load() as i64 {
        // It may still be on its way to its socket, which does not show it then (P4). Signed: it may
        // have come on another CPU since `now`.
        return Err(refusal::RECENT);
    }

    let own = own_socket::<L2, V6>(packet).ok_or(refusal::OWN_GONE)?;
    let other = other_socket::<V6>(packet, way).ok_or(refusal::OTHER_GONE)?;
    if own.busy || other.busy {
        // Somebody is changing the fields, or is about to.
        return Err(refusal::BUSY);
    }
    if packet.seq != own.rcv_nxt || own.gap || other.gap {
        // Bytes before it are missing, or it is a repetition; or bytes behind a gap were
        // acknowledged selectively to a peer that will not send them again.
        return Err(refusal::SEQUENCE);
    }
    if own.copied_seq != own.rcv_nxt {
        return Err(refusal::OWN_UNREAD);
    }
    if packet.ack != own.write_seq {
        // Our socket would have to repeat the rest, and could not.
        return Err(refusal::OWN_UNACKED);
    }
    if other.copied_seq != other.rcv_nxt {
        return Err(refusal::OTHER_UNREAD);
    }
    if other.snd_una != other.write_seq {
        return Err(refusal::OTHER_UNACKED);
    }
    // SAFETY: in the map's value; constants since the offer.
    let (add_seq, add_ack) = unsafe { ((*way.record).terms.add_seq, (*way.record).terms.add_ack) };
    if own.copied_seq.wrapping_add(add_seq) != other.write_seq
        || own.write_seq.wrapping_add(add_ack) != other.copied_seq
    {
        // User space has read bytes that it has not written yet.
        return Err(refusal::IN_HAND);
    }

    let pair = way.index >> 1;
    // SAFETY: a map and a key on the stack.
    let won = unsafe {
        bpf_map_delete_elem((&raw const MUX_OFFERS).cast_mut().cast(), (&raw const pair).cast())
    };
    if won != 0 {
        // User space has withdrawn the offer; or a packet of the other way turns the flow on at
        // this moment, on another CPU (P2).
        return Err(refusal::WITHDRAWN);
    }

    let acked = own.snd_una == own.write_seq;
    let bare = packet.payload == 0;
    begin(packet, way, &other);
    if timestamps {
        set_timestamps(way, &own, &other, [now, back_time], [tsval, back_tsval]);
    }
    if !acked && !bare {
        // The acknowledgement in this packet goes by our socket, which would repeat what it covers.
        want_ack(way, own.write_seq);
    }
    way.set_states(state::ON);
    stats.armed += 1;
    way.tell(stats, packet_event::ON);
    if !acked && bare {
        // It has nothing but that acknowledgement: let our socket have it.
        return Ok(Armed::ToSocket);
    }
    Ok(Armed::Translate)
}

/// Fills what the program keeps of both ways.
#[inline(always)]
fn begin(packet: &Packet, way: &Way, other: &Socket) {
    for (record, next, acked) in
        [(way.record, packet.seq, packet.ack), (way.back, other.rcv_nxt, other.write_seq)]
    {
        // SAFETY: in the map's value; nobody else writes these: the flow is ours since the offer
        // was won, and it is not on.
        unsafe {
            (*record).traffic.start = next;
            (*record).traffic.end = next as u64;
            (*record).traffic.ack = acked;
            // Until a packet says it: the largest window there is (RFC 7323 2.3).
            (*record).traffic.edge = acked.wrapping_add(1 << 30);
            (*record).terms.own_next = next;
        }
    }
}

/// Each way's timestamps go on from those that our socket on the way out would give now, so that
/// neither peer sees them go back (RFC 7323 5).
#[inline(always)]
fn set_timestamps(way: &Way, own: &Socket, other: &Socket, times: [u64; 2], tsvals: [u32; 2]) {
    let add = other.clock(times[0]).wrapping_sub(tsvals[0]);
    let add_back = own.clock(times[1]).wrapping_sub(tsvals[1]);
    for (record, add, add_back) in [(way.record, add, add_back), (way.back, add_back, add)] {
        // SAFETY: as in `begin`.
        unsafe {
            (*record).terms.add_tsval = add;
            // What it echoes are the other way's, as translated.
            (*record).terms.add_tsecr = add_back.wrapping_neg();
        }
    }
}

#[inline(always)]
fn want_ack(way: &Way, write_seq: u32) {
    // SAFETY: as in `begin`.
    unsafe {
        (*way.record).terms.ack_wanted_seq = write_seq;
        (*way.record).terms.ack_wanted = 1;
    }
}

/// What arming looks at of a socket. Nobody holds its lock: `busy` says whether the rest is to be
/// believed.
pub(super) struct Socket {
    pub(super) write_seq: u32,
    pub(super) snd_una: u32,
    pub(super) rcv_nxt: u32,
    pub(super) copied_seq: u32,
    pub(super) tsoffset: u32,
    /// In use by user space, or packets wait until it is not.
    pub(super) busy: bool,
    /// Bytes wait behind a gap.
    pub(super) gap: bool,
}

impl Socket {
    /// What it would give for a timestamp at this time (`tcp_time_stamp_ts`, include/net/tcp.h;
    /// milliseconds unless the route says otherwise, which user space does not offer).
    #[inline(always)]
    const fn clock(&self, time: u64) -> u32 {
        ((time / 1_000_000) as u32).wrapping_add(self.tsoffset)
    }

    /// Reads it, and gives it back. `None`: it is not an established TCP connection.
    #[inline(always)]
    pub(super) fn read(sk: *mut bpf_sock) -> Option<Self> {
        if sk.is_null() {
            return None;
        }
        // SAFETY: a socket that the look-up has taken a reference of.
        let established = unsafe { (*sk).state } == ESTABLISHED;
        // SAFETY: as above; the helper checks protocol and kind.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast()) };
        let socket = if tcp.is_null() || !established {
            None
        } else {
            let tcp = tcp.cast_const().cast::<u8>();
            // SAFETY: the offsets are the running kernel's.
            unsafe {
                let owned = field_u32(tcp, OFF_LOCK_OWNED.load());
                let backlog = field_u32(tcp, OFF_BACKLOG_LEN.load());
                Some(Self {
                    write_seq: field_u32(tcp, OFF_WRITE_SEQ.load()),
                    snd_una: field_u32(tcp, OFF_SND_UNA.load()),
                    rcv_nxt: field_u32(tcp, OFF_RCV_NXT.load()),
                    copied_seq: field_u32(tcp, OFF_COPIED_SEQ.load()),
                    tsoffset: field_u32(tcp, OFF_TSOFFSET.load()),
                    busy: owned | backlog != 0,
                    gap: is_set(field_u64(tcp, OFF_OUT_OF_ORDER.load())),
                })
            }
        };
        // SAFETY: the reference that the look-up took.
        unsafe { bpf_sk_release(sk.cast()) };
        socket
    }
}

/// Whether a pointer is not null. Behind an instruction that the compiler does not see through: it
/// would combine two such questions with an "or" of the pointers, which the verifier forbids.
#[inline(always)]
fn is_set(pointer: u64) -> bool {
    let mut set = (pointer != 0) as u64;
    // SAFETY: it assigns the register to itself.
    unsafe { asm!("{set} = {set}", set = inout(reg) set) };
    set != 0
}

/// The socket that the packet would go to.
#[inline(always)]
fn own_socket<const L2: usize, const V6: bool>(packet: &Packet) -> Option<Socket> {
    let size = if V6 { size_of::<Tuple6>() } else { size_of::<Tuple4>() };
    // SAFETY: the ends are within the headers, and laid out as the helper wants them.
    let sk = unsafe {
        let ends = packet.data.add(ends_at(L2, V6));
        bpf_skc_lookup_tcp(packet.skb.cast(), ends.cast(), size as u32, CURRENT_NETNS, 0)
    };
    Socket::read(sk)
}

/// The flow's other socket of ours: packets come to it from where translated ones go.
#[inline(always)]
fn other_socket<const V6: bool>(packet: &Packet, way: &Way) -> Option<Socket> {
    // SAFETY: in the map's value; constants since the offer.
    let (terms, addresses) = unsafe { (&(*way.record).terms, &(*way.record).addresses) };
    let (source_port, destination_port) = (terms.new_destination_port, terms.new_source_port);
    let sk = if V6 {
        let mut ends = Tuple6 {
            source: addresses.new_destination,
            destination: addresses.new_source,
            source_port,
            destination_port,
        };
        lookup(packet, (&raw mut ends).cast(), size_of::<Tuple6>() as u32)
    } else {
        let [s0, s1, s2, s3, ..] = addresses.new_destination;
        let [d0, d1, d2, d3, ..] = addresses.new_source;
        let mut ends = Tuple4 {
            source: [s0, s1, s2, s3],
            destination: [d0, d1, d2, d3],
            source_port,
            destination_port,
        };
        lookup(packet, (&raw mut ends).cast(), size_of::<Tuple4>() as u32)
    };
    Socket::read(sk)
}

#[inline(always)]
fn lookup(packet: &Packet, ends: *mut u8, size: u32) -> *mut bpf_sock {
    // SAFETY: a context, and a tuple on the stack of that size.
    unsafe { bpf_skc_lookup_tcp(packet.skb.cast(), ends.cast(), size, CURRENT_NETNS, 0) }
}
