//! The ABI of the packet relay: what the tc programs and user space share.
//!
//! Words: C is the client, M1 our socket towards it, M2 our socket towards the upstream, B the
//! upstream's socket. A *record* ([`Translation`]) says what becomes of the packets of one way of
//! a flow: record `2 * pair` of those from C (to M1, translated into packets from M2 to B), record
//! `2 * pair + 1` of those from B. A record's *own* socket is the one that its packets are
//! addressed to, the *other* is the flow's second one.
//!
//! Sequence numbers, addresses and ports of a record are those of packets as they arrive, unless
//! a field says "new". Addresses and ports are in network byte order, numbers in the machine's.

use core::mem::{align_of, offset_of, size_of};

/// `sched_cls` at ingress of Ethernet devices and of loopback: arms, translates, delivers.
pub const PROG_PACKET: &str = "mux_packet";
/// The same for devices without a link-layer header (tun, WireGuard).
pub const PROG_PACKET_L3: &str = "mux_packet_l3";
/// `sched_cls` at egress of Ethernet devices: puts our own sockets' RST right, or drops it.
pub const PROG_RESET: &str = "mux_reset";
/// The same at egress of loopback, where other devices have programs as well: translates what is to
/// leave this machine before it goes through loopback.
pub const PROG_LOOP: &str = "mux_loop";
/// The same for devices without a link-layer header.
pub const PROG_RESET_L3: &str = "mux_reset_l3";
/// `sched_cls`, attached nowhere: run with `BPF_PROG_TEST_RUN`, it reads two sockets' sequence
/// numbers. Its packet is a [`Look`] behind 14 bytes of Ethernet header.
pub const PROG_LOOK: &str = "mux_look";

/// `BPF_MAP_TYPE_HASH`: [`Tuple4`] of a packet as it arrives → index of its [`Translation`].
pub const MAP_FLOWS4: &str = "MUX_FLOWS4";
/// `BPF_MAP_TYPE_HASH`: [`Tuple6`] of a packet as it arrives → index of its [`Translation`].
pub const MAP_FLOWS6: &str = "MUX_FLOWS6";
/// `BPF_MAP_TYPE_HASH`: pair → 1 while it is offered. Whoever deletes the entry decides: the
/// program arms the flow, user space withdraws it. (Compare-and-swap needs Linux 5.12.)
pub const MAP_OFFERS: &str = "MUX_OFFERS";
/// `BPF_MAP_TYPE_ARRAY`, `BPF_F_MMAPABLE`, of [`Translation`]s.
pub const MAP_PACKETS: &str = "MUX_PACKETS";
/// `BPF_MAP_TYPE_RINGBUF` of [`PacketEvent`]s.
pub const MAP_PACKET_EVENTS: &str = "MUX_PKT_EVENTS";
/// `BPF_MAP_TYPE_PERCPU_ARRAY` of one [`PacketStats`].
pub const MAP_PACKET_STATS: &str = "MUX_PKT_STATS";
/// `BPF_MAP_TYPE_PERCPU_ARRAY` of one [`Scratch`].
pub const MAP_SCRATCH: &str = "MUX_SCRATCH";

/// Load-time constant (`u32`, bytes): offset of `rcv_nxt` in `struct tcp_sock`.
pub const GLOBAL_OFF_RCV_NXT: &str = "OFF_RCV_NXT";
/// Load-time constant (`u32`, bytes): offset of `tsoffset` in `struct tcp_sock`.
pub const GLOBAL_OFF_TSOFFSET: &str = "OFF_TSOFFSET";
/// Load-time constant (`u32`, bytes): offset of `out_of_order_queue.rb_node` in `struct tcp_sock`.
pub const GLOBAL_OFF_OUT_OF_ORDER: &str = "OFF_OUT_OF_ORDER";
/// Load-time constant (`u32`, bytes): offset of `sk_lock.owned` in `struct sock`.
pub const GLOBAL_OFF_LOCK_OWNED: &str = "OFF_LOCK_OWNED";
/// Load-time constant (`u32`, bytes): offset of `sk_backlog.len` in `struct sock`.
pub const GLOBAL_OFF_BACKLOG_LEN: &str = "OFF_BACKLOG_LEN";
/// Load-time constant (`u64`, nanoseconds): how long ago the last packet of the other way must
/// have gone to its socket before a flow is turned on.
pub const GLOBAL_QUIET: &str = "QUIET_NS";

/// Default of [`GLOBAL_QUIET`]: 30 µs.
pub const DEFAULT_QUIET: u64 = 30_000;
/// Size in bytes of [`MAP_PACKET_EVENTS`].
pub const PACKET_EVENTS_SIZE: u32 = 256 * 1024;
/// Loopback's number in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
pub const LOOPBACK: u32 = 1;
/// What forwarded packets start anew with: they are this machine's as far as their receiver is
/// concerned, and how far they had come before says nothing of how far they have to go.
pub const HOPS: u8 = 64;

/// An IPv4 packet's ends, as it arrives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple4 {
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Source port, network byte order.
    pub source_port: u16,
    /// Destination port, network byte order.
    pub destination_port: u16,
}

/// An IPv6 packet's ends, as it arrives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple6 {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port, network byte order.
    pub source_port: u16,
    /// Destination port, network byte order.
    pub destination_port: u16,
}

/// [`Terms::state`].
pub mod state {
    /// Nobody's.
    pub const EMPTY: u32 = 0;
    /// Offered: packets go to our sockets until one arms the flow.
    pub const PENDING: u32 = 1;
    /// Translated.
    pub const ON: u32 = 2;
    /// Both FINs are acknowledged, or a RST went through. Still translated, so that what is
    /// retransmitted finds its way.
    pub const ENDED: u32 = 3;
    /// The ports are in use again (a SYN came by): the record is of the past.
    pub const DEAD: u32 = 4;
    /// User space ends it, which alone writes this, over [`ON`]. Nothing is translated any more:
    /// packets go to our sockets or, once these are closed, are answered with a RST by the kernel.
    /// The RSTs of our own sockets get the numbers that the peers believe.
    pub const STOPPED: u32 = 5;
}

/// [`Terms::action`]: how a translated packet reaches the other end. One that came in on loopback,
/// for an end on this machine, is always rewritten in place.
pub mod action {
    /// The other end is on this machine: the packet keeps its addresses and is given to that
    /// end's socket (`bpf_sk_assign`).
    pub const ASSIGN: u32 = 1;
    /// The other end is on this machine at a loopback address: the packet is rewritten and goes
    /// through the loopback device (`bpf_redirect_neigh`).
    pub const LOOPBACK: u32 = 2;
    /// The other end is elsewhere: the packet is rewritten and leaves by [`super::Terms::device`].
    pub const FORWARD: u32 = 3;
}

/// What becomes of a way's packets. User space fills it before the flow is offered; afterwards it
/// lowers `mtu` only, as the program does. The program writes the fields that say so, seldom: this cache line is read
/// for every packet, on any CPU.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// A [`state`]; the program's once the flow is offered, but for the one that user space writes.
    pub state: u32,
    /// An [`action`].
    pub action: u32,
    /// Device that packets leave by, for [`action::FORWARD`].
    pub device: u32,
    /// Longest IP packet that device takes; 0: any. A longer one ends the flow.
    pub mtu: u32,
    /// Δseq: what is added to a sequence number.
    pub add_seq: u32,
    /// Δack: what is added to an acknowledgement number and to the edges of SACK blocks.
    pub add_ack: u32,
    /// What is added to a TSval. The program's, when it arms.
    pub add_tsval: u32,
    /// What is added to a TSecr. The program's, when it arms.
    pub add_tsecr: u32,
    /// New source port, network byte order.
    pub new_source_port: u16,
    /// New destination port, network byte order.
    pub new_destination_port: u16,
    /// The window is shifted left by this: the sender's scale (0 to 14),
    pub scale_up: u8,
    /// and then right by this: the scale that our other socket has promised (0 to 14).
    pub scale_down: u8,
    /// 1: both connections have timestamps; 0: none has.
    pub timestamps: u8,
    /// 4 or 6.
    pub family: u8,
    /// The program's: 1 once a FIN has come the other way.
    pub fin_expected: u32,
    /// The program's: the acknowledgement number of this way that covers that FIN.
    pub fin_ack: u32,
    /// 1: the own socket waits for an acknowledgement that the peer gives to us no more. The next
    /// one without news for the other end goes to it. The program's, when it arms; user space's,
    /// when it has sent a late byte.
    pub ack_wanted: u32,
    /// The acknowledgement number that satisfies it.
    pub ack_wanted_seq: u32,
    /// The sequence number that the own socket waits for, which that acknowledgement gets. The
    /// program's, when it arms; user space's, when a late byte has come.
    pub own_next: u32,
}

/// A record's new addresses, and whom it belongs to. Written before the flow is offered.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    /// New source address; IPv4 in the first four bytes.
    pub new_source: [u8; 16],
    /// New destination address.
    pub new_destination: [u8; 16],
    /// User space's name of the flow, which its events carry: pairs are used again.
    pub cookie: u64,
    /// Padding to a cache line.
    pub reserved: [u32; 6],
}

/// What the program writes of a way. A packet of one flow and way comes on one CPU at a time
/// as a rule, not always: see docs/internals/packet.md.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Translated packets; also how user space sees that a flow is not idle.
    pub packets: u64,
    /// Sequence number after the last byte or FIN that was translated, counted on beyond 32 bits:
    /// it begins as [`Traffic::start`].
    pub end: u64,
    /// When a packet last went to the own socket (`CLOCK_MONOTONIC`, ns), before the flow was on.
    pub to_socket: u64,
    /// Sequence number of the first byte that was translated.
    pub start: u32,
    /// Highest acknowledgement number that was translated.
    pub ack: u32,
    /// TSval of the packet that came at `to_socket`.
    pub tsval: u32,
    /// 1 once a packet went to the own socket since the offer.
    pub seen: u32,
    /// 1 once a FIN was translated.
    pub fin: u32,
    /// 1 once that was acknowledged by a packet of the other way.
    pub fin_acked: u32,
    /// Packets that found the flow not ready to be turned on.
    pub refusals: u32,
    /// Why the last one did: a [`refusal`].
    pub refusal: u32,
    /// First acknowledgement number that the last packet's window did not cover: no byte of the
    /// other way can be behind it.
    pub edge: u32,
    /// Padding to a cache line.
    pub reserved: u32,
}

/// One way of a flow: three cache lines.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Translation {
    /// What becomes of packets.
    pub terms: Terms,
    /// New addresses.
    pub addresses: Addresses,
    /// What came by.
    pub traffic: Traffic,
}

/// Why a packet did not turn its flow on ([`Traffic::refusal`]).
pub mod refusal {
    /// None did so far.
    pub const NONE: u32 = 0;
    /// It is a SYN, FIN or RST, or has urgent data.
    pub const FLAGS: u32 = 1;
    /// The connections have timestamps, and this packet has none.
    pub const OPTIONS: u32 = 2;
    /// No packet of the other way has come by since the offer.
    pub const UNSEEN: u32 = 3;
    /// The last packet of the other way may still be on its way to its socket.
    pub const RECENT: u32 = 4;
    /// The own socket is not there, or not established.
    pub const OWN_GONE: u32 = 5;
    /// The other socket is not there, or not established.
    pub const OTHER_GONE: u32 = 6;
    /// User space is in a system call on one of the sockets, or packets wait for its end.
    pub const BUSY: u32 = 7;
    /// It is not the next one that the own socket waits for, or bytes wait behind a gap.
    pub const SEQUENCE: u32 = 8;
    /// Bytes wait at the own socket.
    pub const OWN_UNREAD: u32 = 9;
    /// It does not acknowledge all that the own socket was given.
    pub const OWN_UNACKED: u32 = 10;
    /// Bytes wait at the other socket.
    pub const OTHER_UNREAD: u32 = 11;
    /// The other socket waits for acknowledgements.
    pub const OTHER_UNACKED: u32 = 12;
    /// Bytes are in user space's hands.
    pub const IN_HAND: u32 = 13;
    /// User space has just withdrawn the offer.
    pub const WITHDRAWN: u32 = 14;
    /// How many there are, [`NONE`] included.
    pub const COUNT: usize = 15;
}

/// What a record of [`MAP_PACKET_EVENTS`] says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketEvent {
    /// [`Addresses::cookie`].
    pub cookie: u64,
    /// Index of the record whose packet it was.
    pub record: u32,
    /// A [`packet_event`] kind.
    pub kind: u32,
}

/// Kinds of [`PacketEvent`].
pub mod packet_event {
    /// The flow is on.
    pub const ON: u32 = 1;
    /// Both FINs are acknowledged.
    pub const ENDED: u32 = 2;
    /// A RST went through.
    pub const RESET: u32 = 3;
    /// A packet was too long for its way out and was dropped: the flow cannot go on.
    pub const TOO_BIG: u32 = 4;
}

/// Counters of the tc programs, one copy per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketStats {
    /// Flows turned on.
    pub armed: u64,
    /// Translated packets.
    pub translated: u64,
    /// Of these, such that left this machine instead of going through loopback.
    pub shortcuts: u64,
    /// Of all, such that needed the loop over the options.
    pub slow_options: u64,
    /// Acknowledgements that went to our own socket because it wanted one.
    pub acks_diverted: u64,
    /// Packets dropped because of their TCP options: lengths that make no sense, or too many.
    pub untranslatable: u64,
    /// Packets dropped because a helper refused: the sender repeats them.
    pub dropped: u64,
    /// Packets dropped because they were too long for the way out.
    pub too_big: u64,
    /// Packets for a socket on this machine that was not there.
    pub no_socket: u64,
    /// RSTs of our own sockets that got the sequence number that their peer believes.
    pub resets_put_right: u64,
    /// RSTs of our own sockets that were dropped.
    pub resets_dropped: u64,
    /// Events that found the ring full.
    pub events_lost: u64,
    /// Packets that did not turn their flow on, by [`refusal`].
    pub refused: [u64; refusal::COUNT],
}

impl PacketStats {
    /// The sum, field by field.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        let mut refused = self.refused;
        let mut reason = 0;
        while reason < refusal::COUNT {
            refused[reason] += other.refused[reason];
            reason += 1;
        }
        Self {
            armed: self.armed + other.armed,
            translated: self.translated + other.translated,
            shortcuts: self.shortcuts + other.shortcuts,
            slow_options: self.slow_options + other.slow_options,
            acks_diverted: self.acks_diverted + other.acks_diverted,
            untranslatable: self.untranslatable + other.untranslatable,
            dropped: self.dropped + other.dropped,
            too_big: self.too_big + other.too_big,
            no_socket: self.no_socket + other.no_socket,
            resets_put_right: self.resets_put_right + other.resets_put_right,
            resets_dropped: self.resets_dropped + other.resets_dropped,
            events_lost: self.events_lost + other.events_lost,
            refused,
        }
    }
}

/// What the program indexes, which the verifier allows on the stack from 5.12 on only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// A packet's TCP options as they came: at most 40 bytes. The verifier knows of an index that it
    /// is below 64, and of what is read there that it is at most 8 bytes.
    pub old: [u8; 72],
    /// What they become.
    pub new: [u8; 72],
    /// Where in them the program is. In memory, so that the verifier knows nothing of it: it would
    /// follow every way to every value.
    pub at: u32,
    /// Where the SACK blocks end that it is in.
    pub blocks_end: u32,
}

/// What [`PROG_LOOK`] is asked, and, in the same place, what it answers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// 4 or 6.
    pub family: u32,
    /// Padding.
    pub reserved: u32,
    /// Packets from C to M1, and from B to M2; IPv4 addresses in the first four bytes.
    pub tuples: [Tuple6; 2],
    /// The answer: M1, and M2.
    pub numbers: [Numbers; 2],
}

/// A socket's sequence numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// 1: an established socket was there, and the rest is of it.
    pub found: u32,
    /// Sequence number of the next byte that user space gives it.
    pub write_seq: u32,
    /// Sequence number of the first byte that the peer has not acknowledged.
    pub snd_una: u32,
    /// Sequence number of the next byte that comes.
    pub rcv_nxt: u32,
    /// Sequence number of the next byte that user space reads.
    pub copied_seq: u32,
    /// What its timestamps are ahead of the clock, milliseconds.
    pub tsoffset: u32,
}

const _: () = {
    assert!(size_of::<Tuple4>() == 12 && align_of::<Tuple4>() == 2);
    assert!(size_of::<Tuple6>() == 36 && align_of::<Tuple6>() == 2);
    assert!(size_of::<Terms>() == 64 && align_of::<Terms>() == 64);
    assert!(size_of::<Addresses>() == 64 && size_of::<Traffic>() == 64);
    assert!(size_of::<Translation>() == 192 && align_of::<Translation>() == 64);
    assert!(offset_of!(Translation, addresses) == 64 && offset_of!(Translation, traffic) == 128);
    assert!(offset_of!(Terms, new_source_port) == 32 && offset_of!(Terms, scale_up) == 36);
    assert!(offset_of!(Terms, ack_wanted_seq) == 52 && offset_of!(Terms, own_next) == 56);
    assert!(offset_of!(Addresses, cookie) == 32);
    assert!(offset_of!(Traffic, start) == 24 && offset_of!(Traffic, refusal) == 52);
    assert!(size_of::<PacketEvent>() == 16 && align_of::<PacketEvent>() == 8);
    assert!(size_of::<PacketStats>() == 8 * (12 + refusal::COUNT));
    assert!(size_of::<Look>() == 8 + 72 + 48);
    assert!(PACKET_EVENTS_SIZE.is_power_of_two());
};

#[cfg(feature = "user")]
#[allow(unsafe_code, reason = "aya's marker trait for plain data")]
mod pod {
    use super::{PacketEvent, PacketStats, Tuple4, Tuple6};

    // SAFETY: `repr(C)`, integers only, no implicit padding (sizes asserted above).
    unsafe impl aya::Pod for Tuple4 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Tuple6 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PacketEvent {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PacketStats {}
}
