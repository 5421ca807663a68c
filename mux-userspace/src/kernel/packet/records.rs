//! The packet relay's records, shared with the tc programs through memory.
//!
//! User space fills a record before it offers the flow; afterwards the program writes it, and user
//! space only what [`SharedTranslation`] has a method for. This module knows the layout and the
//! order of loads and stores; what the numbers mean is docs/internals/packet.md's.

use std::{
    collections::VecDeque,
    mem::{offset_of, size_of},
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use mux_common::packet::{Addresses, Numbers, Terms, Traffic, Translation, refusal, state};

use crate::{kernel::books::Way, sys::SharedArray};

/// [`mux_common::packet::Translation`] as user space shares it: the same bytes, made of atomics.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct SharedTranslation {
    // `Terms`. Fields of less than four bytes share a word.
    state: AtomicU32,
    action: AtomicU32,
    device: AtomicU32,
    mtu: AtomicU32,
    add_seq: AtomicU32,
    add_ack: AtomicU32,
    add_tsval: AtomicU32,
    add_tsecr: AtomicU32,
    ports: AtomicU32,
    small: AtomicU32,
    fin_expected: AtomicU32,
    fin_ack: AtomicU32,
    ack_wanted: AtomicU32,
    ack_wanted_seq: AtomicU32,
    own_next: AtomicU32,
    _terms: AtomicU32,
    // `Addresses`.
    new_source: [AtomicU32; 4],
    new_destination: [AtomicU32; 4],
    cookie: AtomicU64,
    _addresses: [AtomicU32; 6],
    // `Traffic`.
    packets: AtomicU64,
    end: AtomicU64,
    to_socket: AtomicU64,
    start: AtomicU32,
    ack: AtomicU32,
    tsval: AtomicU32,
    seen: AtomicU32,
    fin: AtomicU32,
    fin_acked: AtomicU32,
    refusals: AtomicU32,
    refusal: AtomicU32,
    edge: AtomicU32,
    _traffic: AtomicU32,
}

const _: () = {
    assert!(size_of::<SharedTranslation>() == size_of::<Translation>());
    assert!(offset_of!(SharedTranslation, mtu) == offset_of!(Terms, mtu));
    assert!(offset_of!(SharedTranslation, add_tsecr) == offset_of!(Terms, add_tsecr));
    assert!(offset_of!(SharedTranslation, ports) == offset_of!(Terms, new_source_port));
    assert!(offset_of!(SharedTranslation, small) == offset_of!(Terms, scale_up));
    assert!(offset_of!(SharedTranslation, fin_expected) == offset_of!(Terms, fin_expected));
    assert!(offset_of!(SharedTranslation, ack_wanted_seq) == offset_of!(Terms, ack_wanted_seq));
    let addresses = offset_of!(Translation, addresses);
    assert!(offset_of!(SharedTranslation, new_source) == addresses);
    assert!(
        offset_of!(SharedTranslation, new_destination)
            == addresses + offset_of!(Addresses, new_destination)
    );
    assert!(offset_of!(SharedTranslation, cookie) == addresses + offset_of!(Addresses, cookie));
    let traffic = offset_of!(Translation, traffic);
    assert!(offset_of!(SharedTranslation, packets) == traffic);
    assert!(offset_of!(SharedTranslation, start) == traffic + offset_of!(Traffic, start));
    assert!(offset_of!(SharedTranslation, seen) == traffic + offset_of!(Traffic, seen));
    assert!(offset_of!(SharedTranslation, fin_acked) == traffic + offset_of!(Traffic, fin_acked));
    assert!(offset_of!(SharedTranslation, refusal) == traffic + offset_of!(Traffic, refusal));
};

/// Where a record stands ([`mux_common::packet::state`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not offered.
    Empty,
    /// Offered.
    Pending,
    /// Translated: our sockets see no packet any more.
    On,
    /// Over in both directions, or reset; still translated.
    Ended,
    /// Over, and its ports are in use again.
    Dead,
    /// Ended by user space ([`Offered::stop`](super::Offered::stop)): not translated any more.
    Stopped,
}

/// What a record said at one moment. The fields are read one by one: each is exact, together they
/// can be a packet apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it stands.
    pub state: State,
    /// Translated packets. It changes while the flow is not idle.
    pub packets: u64,
    /// Bytes of the stream that came after [`Snapshot::start`], each counted once, no FIN.
    pub bytes: u64,
    /// Sequence number, as the sender counts, of the first byte of `bytes`: when the flow was
    /// turned on, user space had carried all before it.
    pub start: u32,
    /// Whether the sender has ended its stream.
    pub fin: bool,
    /// Whether the receiver has acknowledged that.
    pub fin_acked: bool,
    /// Packets that found the flow not ready to be turned on.
    pub refusals: u32,
    /// Why the last of them did, a [`mux_common::packet::refusal`].
    pub refusal: u32,
}

impl SharedTranslation {
    /// What it says now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let fin = self.fin.load(Ordering::Acquire) != 0;
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Acquire);
        Snapshot {
            state: self.state(),
            packets: self.packets.load(Ordering::Relaxed),
            bytes: end.saturating_sub(u64::from(start)).saturating_sub(u64::from(fin)),
            start,
            fin,
            fin_acked: self.fin_acked.load(Ordering::Relaxed) != 0,
            refusals: self.refusals.load(Ordering::Relaxed),
            refusal: self.refusal.load(Ordering::Relaxed),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            state::PENDING => State::Pending,
            state::ON => State::On,
            state::ENDED => State::Ended,
            state::DEAD => State::Dead,
            state::STOPPED => State::Stopped,
            _ => State::Empty,
        }
    }

    /// Translated packets: tells whether the way is idle.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Whether there is a longest IP packet that the way out takes; there is none to an end on this
    /// machine.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.mtu.load(Ordering::Relaxed) != 0
    }

    /// Lowers the longest IP packet that the way out takes, for a path that has become shorter. The
    /// program may have heard of a shorter one.
    pub fn lower_mtu(&self, mtu: u32) {
        let lower = |known| (known == 0 || mtu < known).then_some(mtu);
        // An error is that there is nothing to lower.
        let _ = self.mtu.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
    }

    /// The own socket of this record was given bytes although the flow is on (they came late to the
    /// other one, and user space carried them): the next acknowledgement of its peer that covers
    /// them and has no news for the other end goes to it, so that it stops repeating them. `own` is
    /// what a look at the socket said since.
    pub fn want_ack(&self, own: &Numbers) {
        self.own_next.store(own.rcv_nxt, Ordering::Relaxed);
        self.ack_wanted_seq.store(own.write_seq, Ordering::Relaxed);
        self.ack_wanted.store(1, Ordering::Release);
    }

    /// Starts the record anew: `terms` and `addresses` are in force once it is offered.
    pub(super) fn fill(&self, terms: &Terms, addresses: &Addresses) {
        let Terms {
            state,
            action,
            device,
            mtu,
            add_seq,
            add_ack,
            add_tsval,
            add_tsecr,
            new_source_port,
            new_destination_port,
            scale_up,
            scale_down,
            timestamps,
            family,
            fin_expected,
            fin_ack,
            ack_wanted,
            ack_wanted_seq,
            own_next,
        } = *terms;
        let [a, b] = new_source_port.to_ne_bytes();
        let [c, d] = new_destination_port.to_ne_bytes();
        let ports = u32::from_ne_bytes([a, b, c, d]);
        let small = u32::from_ne_bytes([scale_up, scale_down, timestamps, family]);
        for (field, value) in [
            (&self.action, action),
            (&self.device, device),
            (&self.mtu, mtu),
            (&self.add_seq, add_seq),
            (&self.add_ack, add_ack),
            (&self.add_tsval, add_tsval),
            (&self.add_tsecr, add_tsecr),
            (&self.ports, ports),
            (&self.small, small),
            (&self.fin_expected, fin_expected),
            (&self.fin_ack, fin_ack),
            (&self.ack_wanted, ack_wanted),
            (&self.ack_wanted_seq, ack_wanted_seq),
            (&self.own_next, own_next),
        ] {
            field.store(value, Ordering::Relaxed);
        }
        let words = |bytes: [u8; 16]| {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            words
        };
        for (fields, values) in [
            (&self.new_source, words(addresses.new_source)),
            (&self.new_destination, words(addresses.new_destination)),
        ] {
            for (field, value) in fields.iter().zip(values) {
                field.store(value, Ordering::Relaxed);
            }
        }
        self.cookie.store(addresses.cookie, Ordering::Relaxed);
        for field in [&self.packets, &self.end, &self.to_socket] {
            field.store(0, Ordering::Relaxed);
        }
        for field in [
            &self.start,
            &self.ack,
            &self.tsval,
            &self.seen,
            &self.fin,
            &self.fin_acked,
            &self.refusals,
            &self.edge,
        ] {
            field.store(0, Ordering::Relaxed);
        }
        self.refusal.store(refusal::NONE, Ordering::Relaxed);
        // Last: a program that sees the state must see what it stands for.
        self.state.store(state, Ordering::Release);
    }

    /// Has no more packets translated if any are. What has ended, or does so at this moment, stays as
    /// the program says.
    pub(super) fn stop(&self) {
        let (on, stopped) = (state::ON, state::STOPPED);
        // An error is that it is not on.
        let _ = self.state.compare_exchange(on, stopped, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Makes the record nobody's. Only while no packet finds it.
    pub(super) fn clear(&self) {
        self.state.store(state::EMPTY, Ordering::Release);
    }
}

/// All records, and which pairs of them are free.
#[derive(Debug)]
pub struct Records {
    records: SharedArray<SharedTranslation>,
    free: Mutex<VecDeque<u32>>,
}

impl Records {
    /// Maps the records of `flows` flows of the array behind `fd`.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub(super) fn map(fd: BorrowedFd<'_>, flows: u32) -> std::io::Result<Arc<Self>> {
        let records = SharedArray::map(fd, 2 * flows as usize)?;
        Ok(Arc::new(Self { records, free: Mutex::new((0..flows).collect()) }))
    }

    /// Takes a pair of records; `None`: all are in use. The pair returns by `Drop`.
    pub fn take(self: &Arc<Self>) -> Option<PacketPair> {
        let index = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        Some(PacketPair { records: Arc::clone(self), index })
    }

    /// The record of one way of a pair.
    #[must_use]
    pub fn record(&self, pair: u32, way: Way) -> &SharedTranslation {
        &self.records[pair as usize * 2 + way.index()]
    }

    /// Pairs, in use or not.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.records.len() / 2
    }

    /// Pairs in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.records.len() / 2 - free
    }
}

/// The two records of a flow. [`Way::Up`]: packets from the client.
#[derive(Debug)]
pub struct PacketPair {
    records: Arc<Records>,
    index: u32,
}

impl PacketPair {
    /// The pair's number. A record's is twice that, and one more for [`Way::Down`].
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// The record of one way.
    #[must_use]
    pub fn record(&self, way: Way) -> &SharedTranslation {
        self.records.record(self.index, way)
    }
}

impl Drop for PacketPair {
    fn drop(&mut self) {
        // To the far end: a program that found the record in a map may look at it for some
        // microseconds after the map's entry is gone.
        self.records.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.index);
    }
}
