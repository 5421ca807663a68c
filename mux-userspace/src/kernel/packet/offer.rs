//! Offering a flow to the packet relay: the look at its sockets, the two records, the entries by
//! which packets find them.

use std::{
    cell::RefCell,
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, Map, MapData, MapError},
    programs::SchedClassifier,
};
use mux_common::packet::{
    Addresses, Look, MAP_FLOWS4, MAP_FLOWS6, MAP_OFFERS, Numbers, PROG_LOOK, Terms, Tuple4, Tuple6,
    action, state,
};
use thiserror::Error;

use super::{
    Ends, Offer, Out, PacketError, PacketPair, Records, Sequences, SharedTranslation, Side,
    duplicate, io_error, look, map_error,
};
use crate::kernel::books::Way;

/// Bytes of a [`Look`] with its Ethernet header.
pub(super) const LOOK_FRAME: usize = ETHERNET + size_of::<Look>();
const ETHERNET: usize = 14;
/// IEEE 802 "local experimental": of no protocol that the kernel would parse.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];

/// Why a flow was not offered.
#[derive(Debug, Error)]
pub enum OfferError {
    /// Its two connections are of different families.
    #[error("one connection is IPv4, the other IPv6")]
    Families,
    /// One of the sockets was not established when it was looked at.
    #[error("a socket was not established")]
    Gone,
    /// The kernel refused an entry.
    #[error("{action}: {source}")]
    Refused {
        /// Which step.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A core's way to the maps of the packet relay.
pub struct PacketHandle {
    flows4: RefCell<BpfHashMap<MapData, Tuple4, u32>>,
    flows6: RefCell<BpfHashMap<MapData, Tuple6, u32>>,
    offers: RefCell<BpfHashMap<MapData, u32, u32>>,
    look: OwnedFd,
    records: Arc<Records>,
}

impl fmt::Debug for PacketHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketHandle").finish_non_exhaustive()
    }
}

impl PacketHandle {
    pub(super) fn new(ebpf: &Ebpf, records: Arc<Records>) -> Result<Self, PacketError> {
        let program: &SchedClassifier = ebpf
            .program(PROG_LOOK)
            .and_then(|program| program.try_into().ok())
            .ok_or(PacketError::Missing(PROG_LOOK))?;
        let fd = program
            .fd()
            .map_err(|source| PacketError::Program { name: PROG_LOOK, source: Box::new(source) })?;
        Ok(Self {
            flows4: RefCell::new(hash(ebpf, MAP_FLOWS4)?),
            flows6: RefCell::new(hash(ebpf, MAP_FLOWS6)?),
            offers: RefCell::new(hash(ebpf, MAP_OFFERS)?),
            look: duplicate(fd.as_fd())?,
            records,
        })
    }

    /// Reads the sequence numbers of a flow's sockets, which must be of the calling thread's network
    /// namespace.
    ///
    /// From Linux 5.19 on this needs no capability, before `CAP_BPF`.
    ///
    /// # Errors
    /// `ENOTCONN`: one of them is not established (any more); `EPERM`; others of bpf(2).
    pub fn look(&self, client: &Ends, upstream: &Ends) -> io::Result<Sequences> {
        look(self.look.as_fd(), client, upstream)
    }

    /// A pair of records for a flow; `None`: all are in use (`[kernel] flows`).
    #[must_use]
    pub fn take_pair(&self) -> Option<PacketPair> {
        self.records.take()
    }

    /// Puts a flow before the program, which turns it on at the first packet that finds it quiet.
    /// Until then, go on copying as if nothing had happened.
    ///
    /// # Errors
    /// [`OfferError`]; no packet finds the flow.
    pub fn offer(&self, pair: PacketPair, offer: &Offer) -> Result<Offered<'_>, OfferError> {
        let Offer { client, upstream, sequences, timestamps, cookie } = offer;
        let (m1, m2) = (&sequences.client, &sequences.upstream);
        if m1.found == 0 || m2.found == 0 {
            return Err(OfferError::Gone);
        }
        if client.ends.own.is_ipv4() != upstream.ends.own.is_ipv4() {
            return Err(OfferError::Families);
        }
        for (way, from, to, ours, theirs) in
            [(Way::Up, client, upstream, m1, m2), (Way::Down, upstream, client, m2, m1)]
        {
            let terms = terms(from, to, ours, theirs, *timestamps);
            pair.record(way).fill(&terms, &addresses(to, *cookie));
        }
        let mut offered = Offered {
            handle: self,
            keys: [Key::of(&client.ends), Key::of(&upstream.ends)],
            entered: 0,
            offered: false,
            pair,
        };
        // The right to turn it on first: without it a packet that finds the flow changes nothing.
        let pair = offered.pair.index();
        let (mut offers, any) = (self.offers.borrow_mut(), 0);
        offers.insert(pair, 1, any).map_err(refused("offering a flow"))?;
        offered.offered = true;
        drop(offers);
        for way in Way::BOTH {
            let record = 2 * pair + way.index() as u32;
            self.insert(&offered.keys[way.index()], record)
                .map_err(refused("adding a flow to the map"))?;
            offered.entered += 1;
        }
        Ok(offered)
    }

    fn insert(&self, key: &Key, record: u32) -> Result<(), MapError> {
        // Entries of a former flow with the same ends are replaced: it is over, or its sockets
        // could not have them.
        match key {
            Key::V4(tuple) => self.flows4.borrow_mut().insert(tuple, record, 0),
            Key::V6(tuple) => self.flows6.borrow_mut().insert(tuple, record, 0),
        }
    }

    /// Removes an entry if it is still this record's.
    fn remove(&self, key: &Key, record: u32) {
        // A missing entry is no error, and nothing can be done about another one. Between the two
        // calls only this thread could replace the entry: another core has no socket with these
        // ends while ours is open, and afterwards a SYN has made the record a dead one.
        match key {
            Key::V4(tuple) => {
                let mut map = self.flows4.borrow_mut();
                if map.get(tuple, 0).is_ok_and(|entry| entry == record) {
                    let _ = map.remove(tuple);
                }
            }
            Key::V6(tuple) => {
                let mut map = self.flows6.borrow_mut();
                if map.get(tuple, 0).is_ok_and(|entry| entry == record) {
                    let _ = map.remove(tuple);
                }
            }
        }
    }
}

/// A flow that packets find; given up by `Drop`, after which they go to our sockets again.
///
/// A flow that is on must not be dropped before its sockets are closed and what is on its way has
/// had time to arrive, a second or two.
#[derive(Debug)]
pub struct Offered<'a> {
    handle: &'a PacketHandle,
    keys: [Key; 2],
    entered: u8,
    offered: bool,
    pair: PacketPair,
}

impl<'a> Offered<'a> {
    /// The flow's records.
    #[must_use]
    pub const fn pair(&self) -> &PacketPair {
        &self.pair
    }

    /// The record of one way.
    #[must_use]
    pub fn record(&self, way: Way) -> &SharedTranslation {
        self.pair.record(way)
    }

    /// Takes the offer back. `Ok`: the flow was not on and will not be; go on copying, and offer it
    /// again or not.
    ///
    /// # Errors
    /// The flow itself: it is on.
    pub fn withdraw(mut self) -> Result<(), Self> {
        // Whoever deletes the entry decides; the program does it when it arms.
        let deleted = self.handle.offers.borrow_mut().remove(&self.pair.index()).is_ok();
        self.offered = false;
        if deleted { Ok(()) } else { Err(self) }
    }

    /// Ends a flow that is on: from now on its packets go to our sockets, which are to be closed
    /// (`SO_LINGER` 0) without a wait in between. A peer that missed their RST gets another one for
    /// whatever it sends, from the kernel, which knows no such connection. Without this the peers
    /// might go on: a RST has the number of the last packet, and when another one overtakes it, no
    /// peer believes it any more. Without effect on a flow that has ended by itself.
    pub fn stop(&self) {
        for way in Way::BOTH {
            self.record(way).stop();
        }
    }
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        if self.offered {
            // It is there only if the flow is not on.
            let _ = self.handle.offers.borrow_mut().remove(&self.pair.index());
        }
        for (way, key) in Way::BOTH.into_iter().zip(&self.keys).take(usize::from(self.entered)) {
            self.handle.remove(key, 2 * self.pair.index() + way.index() as u32);
        }
        for way in Way::BOTH {
            self.pair.record(way).clear();
        }
    }
}

/// By what a packet finds its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    V4(Tuple4),
    V6(Tuple6),
}

impl Key {
    /// Of packets from the peer to our socket.
    fn of(ends: &Ends) -> Self {
        match (ends.peer, ends.own) {
            (SocketAddr::V4(peer), SocketAddr::V4(own)) => Self::V4(Tuple4 {
                source: peer.ip().octets(),
                destination: own.ip().octets(),
                source_port: peer.port().to_be(),
                destination_port: own.port().to_be(),
            }),
            _ => Self::V6(tuple6(ends)),
        }
    }
}

/// What becomes of packets that come to `from`'s socket and leave from `to`'s.
fn terms(from: &Side, to: &Side, ours: &Numbers, theirs: &Numbers, timestamps: bool) -> Terms {
    let (action, device, mtu) = match to.out {
        Out::Device { device, mtu } => (action::FORWARD, device, mtu),
        Out::Local if to.ends.peer.ip().is_loopback() => (action::LOOPBACK, 0, 0),
        Out::Local => (action::ASSIGN, 0, 0),
    };
    Terms {
        state: state::PENDING,
        action,
        device,
        mtu,
        // Byte `copied_seq` of one connection is byte `write_seq` of the other.
        add_seq: theirs.write_seq.wrapping_sub(ours.copied_seq),
        add_ack: theirs.copied_seq.wrapping_sub(ours.write_seq),
        new_source_port: to.ends.own.port().to_be(),
        new_destination_port: to.ends.peer.port().to_be(),
        // RFC 7323 2.3: more than 14 is taken for 14.
        scale_up: from.scales.peer.min(14),
        scale_down: to.scales.own.min(14),
        timestamps: u8::from(timestamps),
        family: if to.ends.own.is_ipv4() { 4 } else { 6 },
        ..Terms::default()
    }
}

fn addresses(to: &Side, cookie: u64) -> Addresses {
    Addresses {
        new_source: octets(to.ends.own.ip()),
        new_destination: octets(to.ends.peer.ip()),
        cookie,
        ..Addresses::default()
    }
}

/// An address in 16 bytes, IPv4 in the first four.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&ip.octets());
            octets
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn tuple6(ends: &Ends) -> Tuple6 {
    Tuple6 {
        source: octets(ends.peer.ip()),
        destination: octets(ends.own.ip()),
        source_port: ends.peer.port().to_be(),
        destination_port: ends.own.port().to_be(),
    }
}

/// The packet that asks for two sockets' numbers.
pub(super) fn look_frame(client: &Ends, upstream: &Ends) -> [u8; LOOK_FRAME] {
    let mut frame = [0; LOOK_FRAME];
    frame[12..ETHERNET].copy_from_slice(&EXPERIMENTAL);
    let family: u32 = if client.own.is_ipv4() { 4 } else { 6 };
    let look = &mut frame[ETHERNET..];
    look[..4].copy_from_slice(&family.to_ne_bytes());
    for (slot, ends) in [client, upstream].into_iter().enumerate() {
        let Tuple6 { source, destination, source_port, destination_port } = tuple6(ends);
        let tuple = &mut look[8 + slot * size_of::<Tuple6>()..];
        tuple[..16].copy_from_slice(&source);
        tuple[16..32].copy_from_slice(&destination);
        tuple[32..34].copy_from_slice(&source_port.to_ne_bytes());
        tuple[34..36].copy_from_slice(&destination_port.to_ne_bytes());
    }
    frame
}

/// What came back; `None`: a socket was not found.
pub(super) fn look_answer(frame: &[u8; LOOK_FRAME]) -> Option<Sequences> {
    let answer = &frame[ETHERNET + 8 + 2 * size_of::<Tuple6>()..];
    let word = |at: usize| answer.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let numbers = |at: usize| {
        let found = word(at)?;
        (found == 1).then_some(Numbers {
            found,
            write_seq: word(at + 4)?,
            snd_una: word(at + 8)?,
            rcv_nxt: word(at + 12)?,
            copied_seq: word(at + 16)?,
            tsoffset: word(at + 20)?,
        })
    };
    Some(Sequences { client: numbers(0)?, upstream: numbers(size_of::<Numbers>())? })
}

fn hash<K: aya::Pod>(
    ebpf: &Ebpf,
    name: &'static str,
) -> Result<BpfHashMap<MapData, K, u32>, PacketError> {
    let Some(Map::HashMap(data)) = ebpf.map(name) else {
        return Err(PacketError::Missing(name));
    };
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(io_error("duplicating a map"))?;
    let data = MapData::from_fd(fd).map_err(map_error("opening a map"))?;
    BpfHashMap::try_from(Map::HashMap(data)).map_err(map_error("opening a map"))
}

fn refused(action: &'static str) -> impl FnOnce(MapError) -> OfferError {
    move |error| {
        let source = match error {
            MapError::SyscallError(error) => error.io_error,
            other => io::Error::other(other.to_string()),
        };
        OfferError::Refused { action, source }
    }
}
