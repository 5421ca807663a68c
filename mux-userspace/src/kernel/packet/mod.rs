//! The packet relay's kernel side: loads the tc programs, attaches them to devices, and puts flows
//! before them.
//!
//! [`PacketKernel::load`] loads the programs, apart from the verdict: what refuses them must leave
//! the sockmap relay in force. [`PacketKernel::attach`] attaches them to devices. Each core gets a
//! [`PacketHandle`], with which it reads the sequence numbers of a flow's sockets
//! ([`PacketHandle::look`]) and offers the flow ([`PacketHandle::offer`]); the program then turns
//! it on at the first packet that finds it quiet. Which flows may be offered, and what becomes of
//! their sockets, is the relay's business, not this module's.
//!
//! How a flow ends: with both FINs acknowledged or a RST through it (events), or by the owner, who
//! [stops](Offered::stop) it and closes both sockets with `SO_LINGER` 0: the program gives their
//! RST the sequence numbers that the peers believe. In any case the [`Offered`] outlives the
//! sockets for a second or two, so that what is still on its way, or repeated, is translated if the
//! flow ended by itself, and then it is dropped.

pub mod attach;
mod clsact;
mod load;
mod offer;
mod records;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use aya::{
    Ebpf, EbpfError,
    maps::{MapData, MapError, PerCpuArray, RingBuf},
    programs::ProgramError,
};
use mux_common::packet::{DEFAULT_QUIET, LOOPBACK, Numbers, PacketStats};
use thiserror::Error;

pub use self::{
    attach::{Attachment, Mechanism},
    offer::{OfferError, Offered, PacketHandle},
    records::{PacketPair, Records, SharedTranslation, Snapshot, State},
};
use super::{btf::BtfError, chain};
use crate::{kernel::books::Way, sys};

/// Why the packet relay is not to be had.
#[derive(Debug, Error)]
pub enum PacketError {
    /// No BTF, or a field is missing.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The object was refused: privileges, an old kernel.
    #[error("loading the eBPF object: {}", chain(.0))]
    Load(#[source] Box<EbpfError>),
    /// A program was refused.
    #[error("loading the program `{name}`: {}", chain(.source))]
    Program {
        /// Which.
        name: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// A map or program is missing or of another type: the object is not of this version.
    #[error("the eBPF object has no usable `{0}`: it is not of this version of mux")]
    Missing(&'static str),
    /// A map operation.
    #[error("{action}: {}", chain(.source))]
    Map {
        /// What was done.
        action: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A device cannot have the programs.
    #[error("device {device}: {reason}")]
    Device {
        /// Its name, or its number if it has none.
        device: String,
        /// Why not.
        reason: String,
    },
    /// Another system call.
    #[error("{action}: {source}")]
    Io {
        /// What was done.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn map_error(action: &'static str) -> impl FnOnce(MapError) -> PacketError {
    move |source| PacketError::Map { action, source: Box::new(source) }
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> PacketError {
    move |source| PacketError::Io { action, source }
}

/// What to load the programs with.
#[derive(Clone, Copy, Debug)]
pub struct PacketOptions {
    /// Flows that the maps hold: 384 bytes each, and 150 more while it is there.
    pub flows: u32,
    /// How long a packet must have had to reach its socket before one of the other way may turn
    /// the flow on. Less makes late bytes likely, which tests want.
    pub quiet: Duration,
}

impl PacketOptions {
    /// For so many flows.
    #[must_use]
    pub const fn new(flows: u32) -> Self {
        Self { flows, quiet: Duration::from_nanos(DEFAULT_QUIET) }
    }
}

/// The loaded programs, their maps and their attachments. Dropping it detaches, and leaves devices
/// as they were; flows that are on come to nothing.
pub struct PacketKernel {
    // First, so that devices are left before the program goes.
    attachments: Vec<Attachment>,
    ebpf: Ebpf,
    records: Arc<Records>,
    flows: u32,
}

impl fmt::Debug for PacketKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketKernel")
            .field("flows", &self.flows)
            .field("attachments", &self.attachments)
            .finish_non_exhaustive()
    }
}

impl PacketKernel {
    /// Loads the embedded object's tc programs and maps the records. Nothing is attached yet.
    ///
    /// Needs what the verdict needs: `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON`, or root.
    ///
    /// # Errors
    /// [`PacketError`]; nothing stays loaded.
    pub fn load(options: PacketOptions) -> Result<Self, PacketError> {
        load::load(options)
    }

    /// Attaches the programs to devices of the calling thread's network namespace, by number: by
    /// tcx from Linux 6.6 on, by a clsact filter before. Those that have them already are left
    /// out. Loopback ([`LOOPBACK`]) must be among them for flows with an end on this machine, and is
    /// to come with the others, not before them.
    ///
    /// # Errors
    /// [`PacketError::Device`]; devices before it in the list stay attached.
    pub fn attach(&mut self, devices: &[u32]) -> Result<(), PacketError> {
        self.attach_by(Mechanism::of_this_kernel(), devices)
    }

    /// The same by a certain mechanism.
    ///
    /// # Errors
    /// As [`Self::attach`]; the kernel does not have it.
    pub fn attach_by(&mut self, mechanism: Mechanism, devices: &[u32]) -> Result<(), PacketError> {
        let attached = self.attachments.iter().map(Attachment::device);
        let is_alone = attached.chain(devices.iter().copied()).all(|device| device == LOOPBACK);
        for &device in devices {
            if !self.attachments.iter().any(|attachment| attachment.device() == device) {
                let attachment = attach::attach(&mut self.ebpf, device, mechanism, is_alone)?;
                self.attachments.push(attachment);
            }
        }
        Ok(())
    }

    /// Takes the programs off a device; without effect if they are not there.
    pub fn detach(&mut self, device: u32) {
        self.attachments.retain(|attachment| attachment.device() != device);
    }

    /// Where the programs are.
    #[must_use]
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// The records, for timers and counters.
    #[must_use]
    pub const fn records(&self) -> &Arc<Records> {
        &self.records
    }

    /// A core's own way to the maps and to `look`. Take them all before privileges are dropped.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn handle(&self) -> Result<PacketHandle, PacketError> {
        PacketHandle::new(&self.ebpf, Arc::clone(&self.records))
    }

    /// The reader of the programs' events; there is one.
    ///
    /// # Errors
    /// [`PacketError::Missing`] if it was taken before.
    pub fn take_events(&mut self) -> Result<PacketEvents, PacketError> {
        load::take_events(&mut self.ebpf)
    }

    /// A reader of the programs' counters. Take it before privileges are dropped.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn stats_reader(&self) -> Result<PacketStatsReader, PacketError> {
        load::stats_reader(&self.ebpf)
    }

    /// Flows that the maps hold.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.flows
    }
}

/// A socket of ours and its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The peer's address.
    pub peer: SocketAddr,
    /// Our socket's.
    pub own: SocketAddr,
}

impl Ends {
    /// Both addresses; an IPv4 address in IPv6's clothes counts as IPv4, as its packets are.
    #[must_use]
    pub fn new(peer: SocketAddr, own: SocketAddr) -> Self {
        let plain = |address: SocketAddr| match address.ip().to_canonical() {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
            IpAddr::V6(_) => address,
        };
        Self { peer: plain(peer), own: plain(own) }
    }
}

/// The sequence numbers of a flow's sockets at one moment.
///
/// They make an [`Offer`] if at that moment user space held no byte of the flow: then
/// `copied_seq` of one socket and `write_seq` of the other stand for the same byte, and they do so
/// for the flow's whole life, since both change by that thread's calls alone and by the same count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// M1's, our socket towards the client.
    pub client: Numbers,
    /// M2's, our socket towards the upstream.
    pub upstream: Numbers,
}

/// How translated packets reach an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// It is on this machine, in this network namespace.
    Local,
    /// It is elsewhere.
    Device {
        /// The device that the route to it uses; the programs are attached there.
        device: u32,
        /// The longest IP packet that the path takes; 0: any.
        mtu: u32,
    },
}

/// Window scales of one of our sockets (`tcpi_snd_wscale`, `tcpi_rcv_wscale`), 0 without the option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scales {
    /// What the peer has promised.
    pub peer: u8,
    /// What we have promised to it.
    pub own: u8,
}

/// One of our sockets, for an [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its addresses; [`Ends::new`].
    pub ends: Ends,
    /// How packets reach its peer.
    pub out: Out,
    /// Its window scales.
    pub scales: Scales,
}

/// A flow to be turned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// M1, our socket towards the client.
    pub client: Side,
    /// M2, our socket towards the upstream; of the same family.
    pub upstream: Side,
    /// From [`PacketHandle::look`], while user space held no byte of the flow.
    pub sequences: Sequences,
    /// Whether both connections have timestamps; otherwise neither may.
    pub timestamps: bool,
    /// User space's name of the flow, which its events carry.
    pub cookie: u64,
}

/// What the program tells of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// [`Offer::cookie`]: tells a late event of a pair's former flow apart.
    pub cookie: u64,
    /// The pair's number.
    pub pair: u32,
    /// The way of the packet that it is about.
    pub way: Way,
    /// What happened.
    pub what: What,
}

/// What happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is on: our sockets see no packet any more. Switch their keep-alive off.
    On,
    /// Both streams have ended and both peers know it. Close our sockets (`SO_LINGER` 0: the
    /// program drops their RST).
    Ended,
    /// A peer has reset it, and the other was told. Close our sockets likewise.
    Reset,
    /// A packet of this way was too long for the way out: the flow cannot go on. Stop it, and close
    /// our sockets with `SO_LINGER` 0: the program gives their RST the right numbers.
    TooBig,
}

/// The programs' events.
pub struct PacketEvents {
    ring: RingBuf<MapData>,
}

impl fmt::Debug for PacketEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacketEvents")
    }
}

impl PacketEvents {
    /// Hands all events that are there to `each`. One lost to a full ring is not lost work: the
    /// records say the same.
    pub fn drain(&mut self, mut each: impl FnMut(Report)) {
        while let Some(item) = self.ring.next() {
            if let Some(report) = load::decode(&item) {
                each(report);
            }
        }
    }
}

impl AsFd for PacketEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for PacketEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Reads the programs' counters.
pub struct PacketStatsReader(PerCpuArray<MapData, PacketStats>);

impl fmt::Debug for PacketStatsReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacketStatsReader")
    }
}

impl PacketStatsReader {
    /// The counters, summed over the CPUs.
    ///
    /// # Errors
    /// [`PacketError::Map`].
    pub fn read(&self) -> Result<PacketStats, PacketError> {
        let values = self.0.get(&0, 0).map_err(map_error("reading the counters"))?;
        Ok(values.iter().fold(PacketStats::default(), |sum, one| sum.plus(one)))
    }
}

/// A reason for not being on, as records and logs print it.
#[must_use]
pub const fn refusal_name(refusal: u32) -> &'static str {
    use mux_common::packet::refusal as r;
    match refusal {
        r::NONE => "no packet came",
        r::FLAGS => "a packet with SYN, FIN, RST or urgent data",
        r::OPTIONS => "a packet without timestamps",
        r::UNSEEN => "the other end was silent",
        r::RECENT => "both ends send at the same time",
        r::OWN_GONE | r::OTHER_GONE => "a socket is not established",
        r::BUSY => "a socket was in use at that moment",
        r::SEQUENCE => "a gap or a repeated packet",
        r::OWN_UNREAD | r::OTHER_UNREAD => "bytes waited to be read",
        r::OWN_UNACKED | r::OTHER_UNACKED => "bytes waited to be acknowledged",
        r::IN_HAND => "bytes were on their way through user space",
        r::WITHDRAWN => "the offer was withdrawn",
        _ => "unknown",
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, PacketError> {
    fd.try_clone_to_owned().map_err(io_error("duplicating a descriptor"))
}

/// Asks the kernel about two sockets through the program behind `program`.
fn look(program: BorrowedFd<'_>, client: &Ends, upstream: &Ends) -> io::Result<Sequences> {
    let mut frame = offer::look_frame(client, upstream);
    let mut answer = [0; offer::LOOK_FRAME];
    sys::test_run(program, &mut frame, &mut answer)?;
    offer::look_answer(&answer).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))
}
