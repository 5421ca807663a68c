//! Everything that knows bpf(2): the only importer of aya.
//!
//! [`Kernel::load`] loads and attaches the verdict once; each core then gets a [`Handle`] to
//! put flows in. What a flow may do there, and when, is the relay's business
//! (`relay/sockmap`), not this module's.

pub mod allow;
pub mod books;
pub mod btf;
pub mod object;
pub mod packet;

use std::{
    borrow::Borrow,
    cell::RefCell,
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
    sync::Arc,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{
        HashMap as BpfHashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf, SockMap,
    },
    programs::{ProgramError, SkSkb},
};
use mux_common::{
    Event, GLOBAL_OFF_BYTES_ACKED, GLOBAL_OFF_COPIED_SEQ, GLOBAL_OFF_MSS_CACHE, GLOBAL_OFF_SND_UNA,
    GLOBAL_OFF_SNDBUF, GLOBAL_OFF_WMEM_QUEUED, GLOBAL_OFF_WRITE_SEQ, MAP_BOOKS, MAP_EVENTS,
    MAP_KEEP, MAP_SLOTS, MAP_SOCKS, MAP_STATS, PROG_VERDICT, Stats, packet as packet_abi,
};
use thiserror::Error;

use self::{
    books::{Books, Pair, Way},
    btf::BtfError,
};
use crate::sys;

/// Why the kernel relay is not to be had.
#[derive(Debug, Error)]
pub enum KernelError {
    /// No BTF, or a field is missing.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The object was refused: privileges, an old kernel, the verifier.
    #[error("loading the eBPF object: {}", chain(.0))]
    Load(#[source] Box<EbpfError>),
    /// The program was refused.
    #[error("loading the program `{PROG_VERDICT}`: {}", chain(.0))]
    Program(#[source] Box<ProgramError>),
    /// A map is missing or of another type: the object is not of this version.
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
    /// The ring of the program's log lines.
    #[error("opening the program's log: {0}")]
    ProgramLog(String),
    /// Another system call.
    #[error("{action}: {source}")]
    Io {
        /// What was done.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An error and its causes on one line; aya's messages leave the cause to `source()`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    // A refused program brings the verifier's log: the first line says what, the rest is for a
    // bug report (RUST_LOG=aya=debug prints it).
    text.lines().next().unwrap_or_default().to_owned()
}

fn map_error(action: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |source| KernelError::Map { action, source: Box::new(source) }
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::Io { action, source }
}

/// What to load the program with.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Flows that the maps hold.
    pub flows: u32,
    /// Whether the program's own log lines are compiled in (`trace` shows each redirect).
    pub log: ProgramLog,
}

/// The program's own log lines, aya-log's levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgramLog {
    /// None: the verifier removes the code, at no cost.
    #[default]
    Off,
    /// Trims.
    Debug,
    /// Each message.
    Trace,
}

/// The loaded, attached verdict and its maps. Dropping it detaches; sockets that are still in
/// the map stop splicing.
pub struct Kernel {
    // The program, its link, and the maps; kept for its Drop.
    ebpf: Ebpf,
    books: Arc<Books>,
    flows: u32,
    log: ProgramLog,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("flows", &self.flows).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads the embedded object, attaches the verdict to its map, and maps the books.
    ///
    /// Needs `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON` (docs/internals/kernel.md says why), or
    /// root.
    ///
    /// # Errors
    /// [`KernelError`]; nothing stays loaded.
    pub fn load(options: LoadOptions) -> Result<Self, KernelError> {
        let offsets = btf::offsets(Path::new(btf::VMLINUX))?;
        let level: u8 = match options.log {
            ProgramLog::Off => 0,
            ProgramLog::Debug => aya_log::Level::Debug as u8,
            ProgramLog::Trace => aya_log::Level::Trace as u8,
        };
        let mut ebpf = EbpfLoader::new()
            .override_global(GLOBAL_OFF_BYTES_ACKED, &offsets.bytes_acked, true)
            .override_global(GLOBAL_OFF_WRITE_SEQ, &offsets.write_seq, true)
            .override_global(GLOBAL_OFF_SND_UNA, &offsets.snd_una, true)
            .override_global(GLOBAL_OFF_COPIED_SEQ, &offsets.copied_seq, true)
            .override_global(GLOBAL_OFF_MSS_CACHE, &offsets.mss_cache, true)
            .override_global(GLOBAL_OFF_WMEM_QUEUED, &offsets.wmem_queued, true)
            .override_global(GLOBAL_OFF_SNDBUF, &offsets.sndbuf, true)
            .override_global(aya_log::LEVEL, &level, true)
            .map_max_entries(MAP_SOCKS, 2 * options.flows)
            .map_max_entries(MAP_KEEP, 2 * options.flows)
            .map_max_entries(MAP_SLOTS, 2 * options.flows)
            .map_max_entries(MAP_BOOKS, 2 * options.flows)
            // The packet relay's are in the same object, and loaded by themselves.
            .map_max_entries(packet_abi::MAP_FLOWS4, 1)
            .map_max_entries(packet_abi::MAP_FLOWS6, 1)
            .map_max_entries(packet_abi::MAP_OFFERS, 1)
            .map_max_entries(packet_abi::MAP_PACKETS, 1)
            .map_max_entries(packet_abi::MAP_PACKET_EVENTS, 4096)
            .load(object::OBJECT)
            .map_err(|error| KernelError::Load(Box::new(error)))?;

        let books = match ebpf.map(MAP_BOOKS) {
            Some(Map::Array(data)) => Books::map(data.fd().as_fd(), options.flows)
                .map_err(io_error("mapping the books"))?,
            _ => return Err(KernelError::Missing(MAP_BOOKS)),
        };
        let socks = match ebpf.map(MAP_SOCKS) {
            Some(Map::SockMap(data)) => {
                data.fd().as_fd().try_clone_to_owned().map_err(io_error("duplicating a map"))?
            }
            _ => return Err(KernelError::Missing(MAP_SOCKS)),
        };
        let socks = SockMap::try_from(Map::SockMap(
            MapData::from_fd(socks).map_err(map_error("opening the socket map"))?,
        ))
        .map_err(map_error("opening the socket map"))?;
        let program: &mut SkSkb = ebpf
            .program_mut(PROG_VERDICT)
            .and_then(|program| program.try_into().ok())
            .ok_or(KernelError::Missing(PROG_VERDICT))?;
        let refused = |error| KernelError::Program(Box::new(error));
        program.load().map_err(refused)?;
        program.attach(socks.fd()).map_err(refused)?;
        Ok(Self { ebpf, books, flows: options.flows, log: options.log })
    }

    /// The books, for timers and counters.
    #[must_use]
    pub const fn books(&self) -> &Arc<Books> {
        &self.books
    }

    /// A core's own way to the maps. Take them all before privileges are dropped: duplicating
    /// asks the kernel about the map.
    ///
    /// # Errors
    /// [`KernelError::Map`], [`KernelError::Io`].
    pub fn handle(&self) -> Result<Handle, KernelError> {
        let socks = SockMap::try_from(Map::SockMap(self.duplicate(MAP_SOCKS)?))
            .map_err(map_error("opening the socket map"))?;
        let keep = SockMap::try_from(Map::SockMap(self.duplicate(MAP_KEEP)?))
            .map_err(map_error("opening the program-less socket map"))?;
        let slots = BpfHashMap::try_from(Map::HashMap(self.duplicate(MAP_SLOTS)?))
            .map_err(map_error("opening the slot map"))?;
        Ok(Handle {
            socks: RefCell::new(socks),
            keep: RefCell::new(keep),
            slots: RefCell::new(slots),
            books: Arc::clone(&self.books),
        })
    }

    fn duplicate(&self, name: &'static str) -> Result<MapData, KernelError> {
        let data = match self.ebpf.map(name) {
            Some(
                Map::SockMap(data)
                | Map::HashMap(data)
                | Map::PerCpuArray(data)
                | Map::RingBuf(data),
            ) => data,
            _ => return Err(KernelError::Missing(name)),
        };
        let fd: OwnedFd =
            data.fd().as_fd().try_clone_to_owned().map_err(io_error("duplicating a map"))?;
        MapData::from_fd(fd).map_err(map_error("opening a map"))
    }

    /// The reader of the verdict's events; there is one.
    ///
    /// # Errors
    /// [`KernelError::Missing`] if it was taken before.
    pub fn take_events(&mut self) -> Result<Events, KernelError> {
        let map = self.ebpf.take_map(MAP_EVENTS).ok_or(KernelError::Missing(MAP_EVENTS))?;
        let ring = RingBuf::try_from(map).map_err(map_error("opening the event ring"))?;
        Ok(Events { ring })
    }

    /// The reader of the program's own log lines; `None` if it was loaded without.
    ///
    /// # Errors
    /// [`KernelError::ProgramLog`].
    pub fn take_program_log(&mut self) -> Result<Option<ProgramLogReader>, KernelError> {
        match self.log {
            ProgramLog::Off => Ok(None),
            ProgramLog::Debug | ProgramLog::Trace => aya_log::EbpfLogger::init(&mut self.ebpf)
                .map(|logger| Some(ProgramLogReader(logger)))
                .map_err(|error| KernelError::ProgramLog(chain(&error))),
        }
    }

    /// The verdict's counters, summed over the CPUs.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn stats(&self) -> Result<Stats, KernelError> {
        let map = self.ebpf.map(MAP_STATS).ok_or(KernelError::Missing(MAP_STATS))?;
        let array: PerCpuArray<&MapData, Stats> =
            PerCpuArray::try_from(map).map_err(map_error("opening the counters"))?;
        sum(&array)
    }

    /// The same for another thread. Take it before privileges are dropped, as [`Self::handle`].
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn stats_reader(&self) -> Result<StatsReader, KernelError> {
        PerCpuArray::try_from(Map::PerCpuArray(self.duplicate(MAP_STATS)?))
            .map(StatsReader)
            .map_err(map_error("opening the counters"))
    }

    /// Sets the verdict's counters to zero.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn clear_stats(&self) -> Result<(), KernelError> {
        let mut array: PerCpuArray<MapData, Stats> =
            PerCpuArray::try_from(Map::PerCpuArray(self.duplicate(MAP_STATS)?))
                .map_err(map_error("opening the counters"))?;
        let cpus = array.get(&0, 0).map_err(map_error("reading the counters"))?.len();
        let zeros = PerCpuValues::try_from(vec![Stats::default(); cpus])
            .map_err(io_error("counting CPUs"))?;
        array.set(0, zeros, 0).map_err(map_error("clearing the counters"))
    }

    /// Flows that the maps hold.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.flows
    }
}

/// Reads the verdict's counters.
pub struct StatsReader(PerCpuArray<MapData, Stats>);

impl fmt::Debug for StatsReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatsReader")
    }
}

impl StatsReader {
    /// The counters, summed over the CPUs.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn read(&self) -> Result<Stats, KernelError> {
        sum(&self.0)
    }
}

fn sum<T: Borrow<MapData>>(array: &PerCpuArray<T, Stats>) -> Result<Stats, KernelError> {
    let values = array.get(&0, 0).map_err(map_error("reading the counters"))?;
    Ok(values.iter().fold(Stats::default(), |sum, one| sum.plus(one)))
}

/// The verdict's counters that are not zero, `name=value` each.
#[must_use]
pub fn summary(stats: &Stats) -> String {
    let Stats {
        redirected,
        redirected_bytes,
        passed_behind,
        passed_no_peer,
        passed_backlog,
        passed_full,
        passed_hold,
        trimmed,
        trimmed_bytes,
        duplicates,
        fins,
        no_slot,
        broken,
        events_lost,
        half_read,
    } = *stats;
    [
        ("redirected", redirected),
        ("redirected_bytes", redirected_bytes),
        ("passed_behind", passed_behind),
        ("passed_no_peer", passed_no_peer),
        ("passed_backlog", passed_backlog),
        ("passed_full", passed_full),
        ("passed_hold", passed_hold),
        ("trimmed", trimmed),
        ("trimmed_bytes", trimmed_bytes),
        ("duplicates", duplicates),
        ("fins", fins),
        ("no_slot", no_slot),
        ("broken", broken),
        ("events_lost", events_lost),
        ("half_read", half_read),
    ]
    .iter()
    .filter(|(_, value)| *value > 0)
    .map(|(name, value)| format!("{name}={value}"))
    .collect::<Vec<_>>()
    .join(" ")
}

/// A core's way to the maps.
pub struct Handle {
    socks: RefCell<SockMap<MapData>>,
    keep: RefCell<SockMap<MapData>>,
    slots: RefCell<BpfHashMap<MapData, u64, u32>>,
    books: Arc<Books>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// Why a flow was not put into the map.
#[derive(Debug, Error)]
pub enum InsertError {
    /// Every record is in use: `[kernel] flows`.
    #[error("the maps are full")]
    Full,
    /// The kernel refused: a FIN came in already (`EOPNOTSUPP`), a ULP is attached (`EINVAL`), …
    #[error("{action}: {source}")]
    Refused {
        /// Which step.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn refused(action: &'static str) -> impl FnOnce(MapError) -> InsertError {
    move |error| {
        let source = match error {
            MapError::SyscallError(error) => error.io_error,
            other => io::Error::other(other.to_string()),
        };
        InsertError::Refused { action, source }
    }
}

impl Handle {
    /// A pair of records for a flow.
    ///
    /// # Errors
    /// [`InsertError::Full`].
    pub fn take_pair(&self) -> Result<Pair, InsertError> {
        self.books.take().ok_or(InsertError::Full)
    }

    /// Puts the sockets of a flow into the map: both, or the upstream's alone if the client's is
    /// refused, see [`Membership::client_is_in`]. The records must have been
    /// [reset](books::SharedDirection::reset).
    ///
    /// # Errors
    /// [`InsertError`]: neither is in.
    pub fn insert(
        &self,
        pair: Pair,
        client: BorrowedFd<'_>,
        upstream: BorrowedFd<'_>,
    ) -> Result<Membership<'_>, InsertError> {
        let cookie = |fd| {
            sys::cookie(fd)
                .map_err(|source| InsertError::Refused { action: "reading a cookie", source })
        };
        let cookies = [cookie(client)?, cookie(upstream)?];
        let mut membership =
            Membership { handle: self, cookies, cookies_in: 0, client_is_in: false, pair };
        for (way, cookie) in Way::BOTH.into_iter().zip(cookies) {
            self.slots
                .borrow_mut()
                .insert(cookie, membership.pair.slot(way), 0)
                .map_err(refused("adding a cookie to the map"))?;
            membership.cookies_in += 1;
        }
        // SOCKS[slot] is the direction's destination.
        let set = |way, destination: BorrowedFd<'_>| {
            let slot = membership.pair.slot(way);
            self.socks.borrow_mut().set(slot, &destination.as_raw_fd(), 0)
        };
        set(Way::Up, upstream).map_err(refused("adding a socket to the map"))?;
        // The upstream's socket may have passed bytes by now, which it would lose by leaving the
        // map: what refuses the client's (a FIN came in between) is no reason to take it out.
        membership.client_is_in = set(Way::Down, client).is_ok();
        Ok(membership)
    }
}

/// A flow's place in the maps; given up by `Drop`.
///
/// Close both sockets first: closing takes a socket out of the map in the one way that loses
/// nothing, and ends the verdict's writing to the records (L7 in `relay/LIFECYCLE.md`).
#[derive(Debug)]
pub struct Membership<'a> {
    handle: &'a Handle,
    cookies: [u64; 2],
    cookies_in: u8,
    client_is_in: bool,
    pair: Pair,
}

impl Membership<'_> {
    /// The flow's records.
    #[must_use]
    pub const fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Whether the client's socket is in the map; the upstream's is. If not, the verdict passes
    /// everything that the upstream sends, and sees nothing that the client sends.
    #[must_use]
    pub const fn client_is_in(&self) -> bool {
        self.client_is_in
    }

    /// Takes the verdict off both sockets; the program-less map keeps their psocks, so that what
    /// was passed stays readable. `false`: a FIN came in already, with which no socket enters a
    /// map, and both stay under the verdict.
    ///
    /// # Errors
    /// [`InsertError::Refused`]: a socket is not in the map, because it was reset.
    pub fn detach(
        &self,
        client: BorrowedFd<'_>,
        upstream: BorrowedFd<'_>,
    ) -> Result<bool, InsertError> {
        let ends = [(Way::Up, upstream), (Way::Down, client)];
        for (way, destination) in ends {
            let slot = self.pair.slot(way);
            if self.handle.keep.borrow_mut().set(slot, &destination.as_raw_fd(), 0).is_err() {
                return Ok(false);
            }
        }
        for (way, _) in ends {
            let slot = self.pair.slot(way);
            self.handle
                .socks
                .borrow_mut()
                .clear_index(&slot)
                .map_err(refused("taking a socket out of the map"))?;
        }
        Ok(true)
    }

    /// Puts both sockets under the verdict again. Says for the client's and the upstream's whether
    /// that worked; one that was refused, since a FIN came in meanwhile or it was reset, stays in
    /// the program-less map.
    ///
    /// # Errors
    /// [`InsertError::Refused`]: a socket is not in the program-less map, because it was reset.
    pub fn attach(
        &self,
        client: BorrowedFd<'_>,
        upstream: BorrowedFd<'_>,
    ) -> Result<[bool; 2], InsertError> {
        let mut attached = [false; 2];
        for (index, way, destination) in [(1, Way::Up, upstream), (0, Way::Down, client)] {
            let slot = self.pair.slot(way);
            let fd = destination.as_raw_fd();
            attached[index] = self.handle.socks.borrow_mut().set(slot, &fd, 0).is_ok();
            if attached[index] {
                self.forget(way)?;
            }
        }
        Ok(attached)
    }

    /// Takes both sockets out of the program-less map as well: they are plain TCP again. Nothing
    /// passed may be unread.
    ///
    /// # Errors
    /// [`InsertError::Refused`]: a socket is not there, because it was reset.
    pub fn release(&self) -> Result<(), InsertError> {
        Way::BOTH.into_iter().try_for_each(|way| self.forget(way))
    }

    /// Takes a way's destination out of the program-less map.
    fn forget(&self, way: Way) -> Result<(), InsertError> {
        self.handle
            .keep
            .borrow_mut()
            .clear_index(&self.pair.slot(way))
            .map_err(refused("taking a socket out of the program-less map"))
    }
}

impl Drop for Membership<'_> {
    fn drop(&mut self) {
        // A missing entry is no error here: nothing else removes them, and nothing can be done.
        for cookie in self.cookies.iter().take(usize::from(self.cookies_in)) {
            let _ = self.handle.slots.borrow_mut().remove(cookie);
        }
    }
}

/// The program's own log lines on their way to `log`, and so to `tracing`.
pub struct ProgramLogReader(aya_log::EbpfLogger<&'static dyn log::Log>);

impl ProgramLogReader {
    /// Logs all lines that are there.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl AsFd for ProgramLogReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for ProgramLogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgramLogReader")
    }
}

/// The verdict's events.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Hands all events that are there to `each`.
    pub fn drain(&mut self, mut each: impl FnMut(Event)) {
        while let Some(item) = self.ring.next() {
            // A record of another size is not ours to read: the object is of this version, so this
            // cannot be, and skipping loses no more than a lost event, which the timers find.
            if let Some(event) = decode(&item) {
                each(event);
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

fn decode(bytes: &[u8]) -> Option<Event> {
    let cookie = bytes.get(0..8)?.try_into().ok().map(u64::from_ne_bytes)?;
    let slot = bytes.get(8..12)?.try_into().ok().map(u32::from_ne_bytes)?;
    let kind = bytes.get(12..16)?.try_into().ok().map(u32::from_ne_bytes)?;
    Some(Event { cookie, slot, kind })
}

const _: fn() = || {
    const fn pod<T: Pod>() {}
    pod::<Stats>();
};
