//! The packet relay: programs at tc that translate the packets of a flow between its two
//! connections, so that client and upstream talk to each other (docs/internals/packet.md, whose
//! invariants P1, P2, … are cited here).
//!
//! A packet that is not of a flow of ours must leave as it came, and cost as little as can be. One
//! that is must never reach both ends' sockets, nor leave with a number that is not its own: what
//! cannot be translated goes to our own socket, as if we were not here, where user space takes it.
#![allow(unsafe_code, reason = "packet and map pointers; the verifier checks every access")]

mod arm;
mod deliver;
mod look;
mod options;
mod parse;
mod reset;
mod shorter;
mod translate;

use aya_ebpf::{
    Global,
    bindings::__sk_buff,
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::TcContext,
};
use mux_common::{
    DEFAULT_FLOWS,
    packet::{
        DEFAULT_QUIET, PACKET_EVENTS_SIZE, PacketEvent, PacketStats, Scratch, Translation, Tuple4,
        Tuple6, action, state,
    },
};

use self::parse::Packet;

/// `BPF_F_MMAPABLE` and `BPF_F_NO_PREALLOC`, as for the verdict's maps.
const MMAPABLE: u32 = 1 << 10;
const NO_PREALLOC: u32 = 1;

// The loader sets the capacities from `[kernel] flows`, two records a flow.
#[map]
static MUX_FLOWS4: HashMap<Tuple4, u32> = HashMap::with_max_entries(2 * DEFAULT_FLOWS, NO_PREALLOC);
#[map]
static MUX_FLOWS6: HashMap<Tuple6, u32> = HashMap::with_max_entries(2 * DEFAULT_FLOWS, NO_PREALLOC);
#[map]
static MUX_OFFERS: HashMap<u32, u32> = HashMap::with_max_entries(DEFAULT_FLOWS, NO_PREALLOC);
#[map]
static MUX_PACKETS: Array<Translation> = Array::with_max_entries(2 * DEFAULT_FLOWS, MMAPABLE);
#[map]
static MUX_PKT_EVENTS: RingBuf = RingBuf::with_byte_size(PACKET_EVENTS_SIZE, 0);
#[map]
static MUX_PKT_STATS: PerCpuArray<PacketStats> = PerCpuArray::with_max_entries(1, 0);
#[map]
static MUX_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
static QUIET_NS: Global<u64> = Global::new(DEFAULT_QUIET);

/// "Not ours": the next program, then the stack. `TC_ACT_UNSPEC` and `TCX_NEXT` are one number;
/// `TC_ACT_OK` would end a tcx chain before other people's programs.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const SHOT: i32 = 2;

/// include/uapi/linux/if_packet.h.
const PACKET_HOST: u32 = 0;

/// Bytes of an Ethernet header, which loopback has too.
const ETHERNET: usize = 14;

/// `sched_cls` at ingress (Linux ≥ 5.10 with BTF).
#[classifier]
fn mux_packet(ctx: TcContext) -> i32 {
    ingress::<ETHERNET>(ctx.skb.skb)
}

/// The same where packets begin with the IP header.
#[classifier]
fn mux_packet_l3(ctx: TcContext) -> i32 {
    ingress::<0>(ctx.skb.skb)
}

/// `sched_cls` at egress.
#[classifier]
fn mux_reset(ctx: TcContext) -> i32 {
    reset::egress::<ETHERNET, false>(ctx.skb.skb)
}

/// The same at egress of loopback, where there are other devices: what is to leave this machine is
/// translated before it goes through loopback.
#[classifier]
fn mux_loop(ctx: TcContext) -> i32 {
    reset::egress::<ETHERNET, true>(ctx.skb.skb)
}

/// The same where packets begin with the IP header.
#[classifier]
fn mux_reset_l3(ctx: TcContext) -> i32 {
    reset::egress::<0, false>(ctx.skb.skb)
}

/// Attached nowhere: run by user space.
#[classifier]
fn mux_look(ctx: TcContext) -> i32 {
    look::look(ctx.skb.skb)
}

#[inline(always)]
fn ingress<const L2: usize>(skb: *mut __sk_buff) -> i32 {
    // SAFETY: context fields; the verifier rewrites the accesses.
    let (protocol, vlan, kind) = unsafe { ((*skb).protocol, (*skb).vlan_present, (*skb).pkt_type) };
    if vlan != 0 {
        // It is its VLAN device's, where it comes by again.
        return NEXT;
    }
    if kind != PACKET_HOST {
        // Broadcast, or another machine's that a promiscuous device shows.
        return NEXT;
    }
    match protocol {
        parse::IPV4 => packet::<L2, false>(skb),
        parse::IPV6 => packet::<L2, true>(skb),
        // ARP and the like.
        _ => NEXT,
    }
}

/// A packet of either family.
#[inline(always)]
fn packet<const L2: usize, const V6: bool>(skb: *mut __sk_buff) -> i32 {
    let Some(packet) = Packet::parse::<L2, V6>(skb) else {
        // Not TCP, or in a shape that we do not translate. A packet of a flow of ours in such a
        // shape goes to our socket, and user space carries it.
        shorter::path::<L2, V6>(skb);
        return NEXT;
    };
    let Some(record) = packet.record::<L2, V6>() else {
        // Not of a flow of ours.
        return NEXT;
    };
    let Some(way) = Way::of(record) else {
        // Cannot be: records are entered by user space, below the array's size.
        return NEXT;
    };
    let Some(stats) = MUX_PKT_STATS.get_ptr_mut(0) else {
        // Cannot be: the array has one entry.
        return NEXT;
    };
    // SAFETY: a per-CPU value; a program of ours never interrupts another on one CPU.
    let stats = unsafe { &mut *stats };
    let to_be_translated = match way.state() {
        state::ON => true,
        state::PENDING => match arm::arm::<L2, V6>(&packet, &way, stats) {
            arm::Armed::Translate => true,
            arm::Armed::ToSocket => false,
        },
        state::ENDED | state::STOPPED if packet.has(parse::SYN) => {
            // The ports are in use again, and the flow is of the past: both records are dead, so
            // that the new connection's packets reach its sockets, and its RSTs leave as they are
            // (P8).
            way.set_states(state::DEAD);
            false
        }
        state::ENDED => true,
        // Being filled, stopped, or dead.
        _ => false,
    };
    if !to_be_translated {
        return NEXT;
    }
    translate::translate::<L2, V6>(&packet, &way, stats)
}

/// A packet of a process of this machine that goes into loopback; `None`: it is to do so. It would come
/// out of there as a packet of a flow that is on, for a peer on another machine: so it goes to that at
/// once. Whatever is less clear is left to ingress.
#[inline(always)]
fn shortcut<const L2: usize, const V6: bool>(packet: &Packet) -> Option<i32> {
    let way = Way::of(packet.record::<L2, V6>()?)?;
    // SAFETY: in the map's value; volatile because others write it meanwhile.
    let (action, ack_wanted) = unsafe {
        let terms = &raw const (*way.record).terms;
        (
            (&raw const (*terms).action).read_volatile(),
            (&raw const (*terms).ack_wanted).read_volatile(),
        )
    };
    if way.state() != state::ON || action != action::FORWARD || ack_wanted != 0 {
        return None;
    }
    let stats = MUX_PKT_STATS.get_ptr_mut(0)?;
    // SAFETY: as in `packet`.
    let stats = unsafe { &mut *stats };
    stats.shortcuts += 1;
    Some(translate::translate::<L2, V6>(packet, &way, stats))
}

/// The two records of a packet's flow.
struct Way {
    /// Index of the packet's own record.
    index: u32,
    /// The packet's.
    record: *mut Translation,
    /// The other way's.
    back: *mut Translation,
}

impl Way {
    #[inline(always)]
    fn of(index: u32) -> Option<Self> {
        let record = MUX_PACKETS.get_ptr_mut(index)?;
        let back = MUX_PACKETS.get_ptr_mut(index ^ 1)?;
        Some(Self { index, record, back })
    }

    #[inline(always)]
    fn state(&self) -> u32 {
        // SAFETY: in the map's value; volatile because others write it meanwhile.
        unsafe { (&raw const (*self.record).terms.state).read_volatile() }
    }

    /// The other way's first: a packet of this way that sees the new state finds both.
    #[inline(always)]
    fn set_states(&self, state: u32) {
        // SAFETY: as above.
        unsafe {
            (&raw mut (*self.back).terms.state).write_volatile(state);
            (&raw mut (*self.record).terms.state).write_volatile(state);
        }
    }

    /// One event for user space. A full ring loses it; the records say the same.
    #[inline(always)]
    fn tell(&self, stats: &mut PacketStats, kind: u32) {
        // SAFETY: in the map's value; written before the flow was offered.
        let cookie = unsafe { (*self.record).addresses.cookie };
        match MUX_PKT_EVENTS.reserve::<PacketEvent>(0) {
            Some(mut entry) => {
                entry.write(PacketEvent { cookie, record: self.index, kind });
                entry.submit(0);
            }
            None => stats.events_lost += 1,
        }
    }
}

/// How far `a` is after `b`, below zero if it is before: sequence numbers wrap (RFC 9293 3.4).
#[inline(always)]
const fn after(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}
