//! The kernel relay: a flow in the sockmap, and user space's part of the protocol.
//!
//! `LIFECYCLE.md` has the states, who owns which byte at each instant, and the invariants.
//! This module does what the [`Ledger`]s say; all decisions about bytes are theirs.

mod leave;

use std::{
    fmt::Write as _,
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use mux_common::KernelBook;
use rustix::event::epoll::EventFlags;
use socket2::SockRef;
use thiserror::Error;

use super::{
    Close, Control, Ends, Side, Tally, Traffic, Way, demotion,
    ledger::{Imbalance, Ledger, Step},
    pool::{Buffer, Pool},
    watch::{Interest, Watch},
};
use crate::{
    account::Counters,
    kernel::{Handle, InsertError, Membership},
    net::Parked,
    sys,
};

/// How long until the books are looked at again, where no event tells of their change: the
/// kworker empties a backlog without telling anybody.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// The same, after looks that found nothing new.
const LONGEST_PAUSE: Duration = Duration::from_millis(32);
/// The same of a flow that is to leave: a reader that has stopped may keep it for hours.
const LONGEST_LEAVE: Duration = Duration::from_secs(1);
/// Looks that only let others have their turn, before one that waits for the clock: mostly the worker needs some
/// microseconds, and a timer would make them milliseconds.
const PROMPT_LOOKS: u32 = 8;
/// Looks without change after which the source is kicked: nothing should ever need it, but a
/// verdict that was not run is a hung flow.
const KICK_AFTER: u32 = 8;
/// `TCP_CLOSE_WAIT`: a FIN came in, and none went out.
const CLOSE_WAIT: u8 = 8;
/// Tries to count what a socket has sent between two ACKs, or received between two segments.
const TRIES: u32 = 100;
/// Steps of one way before the other way, and other flows, get their turn.
const STEPS: u32 = 128;
/// `TCP_ESTABLISHED` (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
/// `TCP_CLOSE`: after both FINs, or without them.
const CLOSED: u8 = 7;

/// Sizes of the spliced sockets' buffers, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// `SO_SNDBUF` asked for.
    pub send_buffer: u32,
    /// Most bytes in a psock backlog.
    pub backlog_limit: u32,
}

/// Why a flow did not enter the map; it goes on in user space.
#[derive(Debug, Error)]
pub enum Refusal {
    /// One of the streams has ended or failed already.
    #[error("a stream was ending already")]
    Ending,
    /// What the destinations have sent could not be counted, so fast do ACKs come. Later it can.
    #[error("ACKs came faster than they could be counted")]
    Busy,
    /// The map refused.
    #[error(transparent)]
    Insert(#[from] InsertError),
    /// A system call failed.
    #[error("{action}: {source}")]
    Io {
        /// Which.
        action: &'static str,
        /// How.
        source: io::Error,
    },
}

fn io_refusal(action: &'static str) -> impl FnOnce(io::Error) -> Refusal {
    move |source| Refusal::Io { action, source }
}

/// A flow in the map.
///
/// The sockets come first, so that they are closed before the flow gives up its place (L7).
#[derive(Debug)]
pub struct Spliced<'a> {
    client: Parked,
    upstream: Parked,
    membership: Membership<'a>,
    watch: &'a Watch,
    token: u64,
    ways: [WayState; 2],
    interest: [Interest; 2],
    leaving: leave::Leaving,
    rest: leave::Rest,
    /// Times that user space took over by order or by evidence, and that the kernel went on after that.
    holds: u32,
    returns: u32,
}

#[derive(Debug)]
struct WayState {
    ledger: Ledger,
    chunk: Option<Buffer>,
    looks: u32,
}

/// Why a flow's time in the map ended.
#[derive(Debug)]
pub enum Exit {
    /// The flow is over.
    Over(Close),
    /// It was ordered to leave, and has left: [`Spliced::into_user_space`].
    Left,
}

/// What a way waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Events,
    Readable,
    Writable,
    Clock,
    Turn,
}

/// What became of a flow that was to enter the map.
#[derive(Debug)]
pub enum Entered<'a> {
    /// It is in.
    In(Spliced<'a>),
    /// It is not, and goes on in user space, unchanged.
    Out(Ends, Refusal),
    /// Its sockets could not be taken out of the runtime, and are closed.
    Lost(io::Error),
}

/// Puts a flow into the map. No byte may be in user space's hands, and both streams must be open.
pub fn enter<'a>(
    handle: &'a Handle,
    watch: &'a Watch,
    token: u64,
    ends: Ends,
    tally: &Tally,
    sizes: Sizes,
) -> Entered<'a> {
    match insert(handle, &ends, tally, sizes) {
        Ok((membership, ledgers)) => {
            match Spliced::begin(watch, token, ends, membership, ledgers) {
                Ok(spliced) => Entered::In(spliced),
                Err(error) => Entered::Lost(error),
            }
        }
        Err(refusal) => Entered::Out(ends, refusal),
    }
}

fn insert<'a>(
    handle: &'a Handle,
    ends: &Ends,
    tally: &Tally,
    sizes: Sizes,
) -> Result<(Membership<'a>, [Ledger; 2]), Refusal> {
    let pair = handle.take_pair()?;
    let mut ledgers = [const { Ledger::new(0, 0) }; 2];
    for way in Way::BOTH {
        let destination = match way {
            Way::Up => ends.upstream.as_fd(),
            Way::Down => ends.client.as_fd(),
        };
        let limit = prepare(&SockRef::from(&destination), sizes)
            .map_err(io_refusal("setting socket buffers"))?;
        let (sent, state) = count_sent(destination).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Refusal::Busy,
            // The kernel's, whatever it is.
            _ => Refusal::Io { action: "reading TCP_INFO", source: error },
        })?;
        if state != ESTABLISHED {
            return Err(Refusal::Ending);
        }
        pair.record(way).reset(sent, limit);
        // What came before the stream was received too; what went before it was sent.
        let Traffic { taken, before, .. } = *tally.way(way);
        ledgers[way.index()] = Ledger::new(before + taken, sent);
    }
    let membership = handle.insert(pair, ends.client.as_fd(), ends.upstream.as_fd())?;
    if !membership.client_is_in() {
        ledgers[Way::Up.index()].read_plainly();
    }
    Ok((membership, ledgers))
}

/// Whether user space reads many small writes of one of the ways at once
/// ([`demotion::comes_in_batches`]).
#[must_use]
pub fn comes_in_batches(ends: &Ends, tally: &Tally) -> bool {
    Way::BOTH.into_iter().any(|way| {
        let source = ends.end(Side::source(way));
        let Traffic { taken, reads, .. } = *tally.way(way);
        sys::data_segments(source.as_fd())
            .is_ok_and(|segments| demotion::comes_in_batches(segments.into(), taken, reads))
    })
}

/// Reads what was passed and nobody will have, before the socket is closed: a psock that is destroyed
/// with bytes in its queue has the kernel's accounting of the socket off (K19). At most `bytes`: a
/// sender that goes on is not followed.
fn discard(socket: &Parked, mut bytes: u64) {
    let mut waste = [0; 16 * 1024];
    while bytes > 0 {
        let most = waste.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        match socket.read(&mut waste[..most]) {
            Ok(0) | Err(_) => return,
            Ok(read) => bytes -= read as u64,
        }
    }
}

/// Sizes a spliced socket's send buffer; returns the backlog limit that fits it, bytes.
///
/// A redirect whose target cannot take it is tried again a jiffy later, so that a small buffer
/// means buffer-per-jiffy throughput. An explicit size ends the kernel's autotuning and is
/// capped by net.core.wmem_max: it is set only where it is an improvement.
///
/// net.ipv4.tcp_notsent_lowat must not keep the target from taking what the verdict has found room for (L13).
fn prepare(socket: &SockRef<'_>, sizes: Sizes) -> io::Result<u64> {
    let wanted = sizes.send_buffer as usize;
    if socket.send_buffer_size()? < wanted {
        socket.set_send_buffer_size(wanted)?;
    }
    socket.set_tcp_notsent_lowat(u32::MAX)?;
    let actual = socket.send_buffer_size()?;
    Ok(u64::from(sizes.backlog_limit).min(actual as u64 / 2))
}

/// Exactly the bytes that a socket's TCP has taken; nobody may be writing to it.
///
/// [`sent_by`] may say too little, which is the safe side for "is it drained?", and the wrong one
/// for the count that this question is answered by.
fn sent_exactly(socket: impl AsFd) -> io::Result<u64> {
    Ok(count_sent(socket)?.0)
}

/// The same, and the state that the socket is in.
fn count_sent(socket: impl AsFd) -> io::Result<(u64, u8)> {
    let mut before = sys::tcp_counters(socket.as_fd())?.bytes_acked;
    for _ in 0..TRIES {
        let queued = sys::unacknowledged(socket.as_fd())?;
        let after = sys::tcp_counters(socket.as_fd())?;
        if before == after.bytes_acked {
            return Ok((before + queued, after.state));
        }
        before = after.bytes_acked;
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "ACKs come faster than they can be counted"))
}

/// Bytes that a socket's TCP has taken since it was connected: acknowledged and queued.
///
/// The acknowledged first: an ACK between the two makes the sum smaller, never larger.
fn sent_by(socket: impl AsFd) -> io::Result<u64> {
    let acked = sys::tcp_counters(socket.as_fd())?.bytes_acked;
    Ok(acked + sys::unacknowledged(socket.as_fd())?)
}

impl<'a> Spliced<'a> {
    /// Takes both sockets out of the runtime.
    fn begin(
        watch: &'a Watch,
        token: u64,
        ends: Ends,
        membership: Membership<'a>,
        [up, down]: [Ledger; 2],
    ) -> io::Result<Self> {
        let Ends { client, upstream } = ends;
        let (client, upstream) = (client.park()?, upstream.park()?);
        for socket in [&client, &upstream] {
            // Whoever ends this process in the middle of the flow ends the flow with a reset, not with
            // what looks like the end of its streams (L11).
            socket.reset_on_close();
        }
        let state = |ledger| WayState { ledger, chunk: None, looks: 0 };
        Ok(Self {
            client,
            upstream,
            membership,
            watch,
            token,
            ways: [state(up), state(down)],
            interest: [Interest::default(); 2],
            leaving: leave::Leaving::default(),
            rest: None,
            holds: 0,
            returns: 0,
        })
    }

    /// The index of the flow's pair of records.
    #[must_use]
    pub const fn pair(&self) -> u32 {
        self.membership.pair().index()
    }

    /// Whether the first message of a way began at `copied_seq`; true as long as there was none.
    #[must_use]
    pub fn first_seq_matched(&self, way: Way) -> bool {
        let book = self.book(way);
        book.started == 0 || book.first_seq_matched == 1
    }

    /// Accompanies the flow until it is over: carries what is passed, passes on the ends.
    pub async fn run(&mut self, control: &Control, pool: &Pool, counters: &Counters) -> Exit {
        match self.accompany(control, pool, counters).await {
            Ok(exit) => exit,
            Err(close) => Exit::Over(close),
        }
    }

    async fn accompany(
        &mut self,
        control: &Control,
        pool: &Pool,
        counters: &Counters,
    ) -> Result<Exit, Close> {
        self.start()?;
        let mut pause = LOOK_AGAIN;
        let mut prompt = 0;
        loop {
            let before = control.activity();
            if let Some(stop) = control.stopped() {
                return Err(Close::Stopped(stop));
            }
            let (mut clock, mut turn, mut longest) = (false, false, LONGEST_PAUSE);
            let mut interest = [Interest::default(); 2];
            for way in Way::BOTH {
                match self.advance(way, control, pool)? {
                    Wait::Events => {}
                    Wait::Readable => interest[way.index()].read = true,
                    Wait::Writable => interest[way.back().index()].write = true,
                    Wait::Clock => clock = true,
                    Wait::Turn => turn = true,
                }
            }
            if self.ways.iter().all(|way| way.ledger.is_over()) {
                return Ok(Exit::Over(Close::Finished));
            }
            if control.is_to_leave_kernel() {
                match self.leave(control, counters)? {
                    leave::Progress::Left => return Ok(Exit::Left),
                    leave::Progress::LookAgain => (clock, longest) = (true, LONGEST_LEAVE),
                    leave::Progress::Stays => {}
                }
            } else if self.leaving != leave::Leaving::No {
                self.resume(control, counters);
            }
            self.watch_for(interest)?;
            if control.activity() != before {
                prompt = 0;
            }
            let mail = if turn {
                tokio::task::yield_now().await;
                control.take()
            } else if clock && prompt < PROMPT_LOOKS {
                prompt += 1;
                tokio::task::yield_now().await;
                control.take()
            } else if clock {
                pause = if control.activity() == before {
                    (2 * pause).min(longest)
                } else {
                    LOOK_AGAIN
                };
                tokio::time::timeout(pause, control.wait()).await.unwrap_or_default()
            } else {
                control.wait().await
            };
            for (side, events) in [(Side::Downstream, mail.client), (Side::Upstream, mail.upstream)]
            {
                self.notice(side, events, control)?;
            }
        }
    }

    fn start(&mut self) -> Result<(), Close> {
        for (index, side) in [Side::Downstream, Side::Upstream].into_iter().enumerate() {
            let failed = |error| Close::Failed { side, error };
            let socket = self.socket(side);
            self.watch
                .add(socket, self.token | index as u64, Interest::default())
                .map_err(failed)?;
            sys::kick(socket.as_fd()).map_err(failed)?;
        }
        Ok(())
    }

    fn socket(&self, side: Side) -> &Parked {
        match side {
            Side::Downstream => &self.client,
            Side::Upstream => &self.upstream,
        }
    }

    fn book(&self, way: Way) -> KernelBook {
        self.membership.pair().record(way).kernel()
    }

    /// Takes epoll events of one socket to heart.
    fn notice(&mut self, side: Side, events: u32, control: &Control) -> Result<(), Close> {
        let events = EventFlags::from_bits_retain(events);
        if events.contains(EventFlags::ERR)
            && let Some(error) = self.socket(side).take_error()
        {
            return Err(Close::Failed { side, error });
        }
        if events.intersects(EventFlags::RDHUP | EventFlags::HUP) {
            let way = match side {
                Side::Downstream => Way::Up,
                Side::Upstream => Way::Down,
            };
            let ledger = &mut self.ways[way.index()].ledger;
            if !ledger.is_plain() {
                ledger.saw_fin();
                control.set_half_closed();
            }
        }
        Ok(())
    }

    /// Does for one way what its ledger says, until that is to wait.
    fn advance(&mut self, way: Way, control: &Control, pool: &Pool) -> Result<Wait, Close> {
        let (source, destination) = (Side::source(way), Side::destination(way));
        for _ in 0..STEPS {
            let book = self.book(way);
            let step = self.ways[way.index()].ledger.step(&book);
            match step {
                Step::Rest => return Ok(Wait::Events),
                // Not a byte more goes either way (L9).
                Step::Broken(reason) => return Err(Close::Broken { reason }),
                Step::Read(most) => {
                    let mut chunk = pool.buffer();
                    let most = chunk.len().min(usize::try_from(most).unwrap_or(usize::MAX));
                    match self.socket(source).read(&mut chunk[..most]) {
                        Ok(0) if self.ways[way.index()].ledger.is_plain() => {
                            self.ways[way.index()].ledger.saw_plain_end();
                            control.set_half_closed();
                        }
                        // 0 says that the FIN is in and nothing is queued right now; the passed
                        // bytes are still on their way to the queue.
                        Ok(0) => return Ok(Wait::Clock),
                        Ok(read) => {
                            let state = &mut self.ways[way.index()];
                            state.ledger.was_read(read as u64);
                            state.chunk = Some(chunk);
                            control.touch();
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Ok(Wait::Readable);
                        }
                        Err(error) => return Err(Close::Failed { side: source, error }),
                    }
                }
                Step::AskSent => {
                    let sent = sent_by(self.socket(destination))
                        .map_err(|error| Close::Failed { side: destination, error })?;
                    if !self.ways[way.index()].ledger.sent(sent, &book) {
                        return Ok(Wait::Clock);
                    }
                }
                Step::Write(from) => {
                    if !self.write(way, from as usize, control)? {
                        return Ok(Wait::Writable);
                    }
                }
                Step::Publish => {
                    let state = &mut self.ways[way.index()];
                    state.chunk = None;
                    let carried = state.ledger.held();
                    let (read, written) = state.ledger.publish();
                    if state.ledger.is_plain() {
                        control.add_given(way, carried);
                        continue;
                    }
                    self.membership.pair().record(way).publish(read, written);
                }
                Step::AskReceived => {
                    if !self.ask_received(way)? {
                        return Ok(Wait::Clock);
                    }
                }
                Step::Shutdown => {
                    self.pass_end_on(destination)?;
                    self.ways[way.index()].ledger.was_shut();
                    control.touch();
                }
            }
        }
        Ok(Wait::Turn)
    }

    /// Writes what is in hand; false: the destination is full.
    fn write(&mut self, way: Way, from: usize, control: &Control) -> Result<bool, Close> {
        let side = Side::destination(way);
        let failed = |error| Close::Failed { side, error };
        let state = &self.ways[way.index()];
        let held = state.ledger.held();
        let Some(chunk) = &state.chunk else {
            return Err(failed(io::Error::other("bytes in the ledger that are in no buffer")));
        };
        match self.socket(side).write(&chunk[from..held as usize]) {
            Ok(written) => {
                self.ways[way.index()].ledger.was_written(written as u64);
                control.touch();
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Passes the end on to `side`, whose TCP has taken everything that came before it (L5).
    fn pass_end_on(&self, side: Side) -> Result<(), Close> {
        let socket = self.socket(side);
        socket.shutdown_write().map_err(|error| {
            // No FIN of ours was sent before, so that only a reset (or a time-out) can have closed
            // it. Nobody got the FIN, and the event that says why is still on its way.
            let error = if error.kind() == io::ErrorKind::NotConnected {
                socket.take_error().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
            } else {
                error
            };
            Close::Failed { side, error }
        })
    }

    /// Whether every byte before the source's FIN is in the books.
    fn ask_received(&mut self, way: Way) -> Result<bool, Close> {
        let source = Side::source(way);
        let failed = |error| Close::Failed { side: source, error };
        let counters = sys::tcp_counters(self.socket(source).as_fd()).map_err(failed)?;
        // A reset looks like an end to poll, and its error is told once: a redirect to this socket
        // may have got it. Without a FIN of ours, only a reset (or a time-out) closes.
        let reset = || failed(io::ErrorKind::ConnectionReset.into());
        let closed = counters.state == CLOSED;
        if closed && !self.ways[way.back().index()].ledger.is_over() {
            return Err(reset());
        }
        let book = self.book(way);
        let state = &mut self.ways[way.index()];
        match state.ledger.received(counters.bytes_received, &book) {
            Ok(true) => Ok(true),
            Ok(false) => {
                state.looks += 1;
                if state.looks.is_multiple_of(KICK_AFTER) {
                    sys::kick(self.socket(source).as_fd()).map_err(failed)?;
                }
                Ok(false)
            }
            // All bytes are there, and no FIN.
            Err(imbalance) if closed && imbalance.booked == imbalance.counted + 1 => Err(reset()),
            Err(imbalance) => Err(self.imbalance(way, imbalance)),
        }
    }

    fn watch_for(&mut self, interest: [Interest; 2]) -> Result<(), Close> {
        for (index, side) in [Side::Downstream, Side::Upstream].into_iter().enumerate() {
            // Only a change: it reports the present state, a standing RDHUP too, which must not
            // wake us each time that we go to sleep. After a change edges come by themselves.
            if interest[index] != self.interest[index] {
                self.watch
                    .modify(self.socket(side), self.token | index as u64, interest[index])
                    .map_err(|error| Close::Failed { side, error })?;
                self.interest[index] = interest[index];
            }
        }
        Ok(())
    }

    /// Ends a flow that has [`Close::Finished`], if its books balance: each destination's TCP has
    /// taken what they say, and the FIN. From then on closing its sockets is no reset.
    ///
    /// # Errors
    /// [`Close::Imbalance`]: mux has a bug, or the kernel.
    pub fn finish(&self) -> Result<(), Close> {
        self.audit(Ledger::audit)?;
        for socket in [&self.client, &self.upstream] {
            socket.end_on_close();
        }
        Ok(())
    }

    /// Whether the books of a flow that has [left](Exit::Left) balance.
    ///
    /// # Errors
    /// [`Close::Imbalance`].
    pub fn audit_left(&self) -> Result<(), Close> {
        self.audit(Ledger::audit_left)?;
        self.audit_cut_short()
    }

    fn audit(
        &self,
        balances: impl Fn(&Ledger, u64, &KernelBook) -> Result<(), Imbalance>,
    ) -> Result<(), Close> {
        for way in Way::BOTH {
            // ACKs that come all the time: there is nothing exact to compare with.
            let Ok(sent) = sent_exactly(self.socket(Side::destination(way))) else { continue };
            let ledger = &self.ways[way.index()].ledger;
            balances(ledger, sent, &self.book(way))
                .map_err(|imbalance| self.imbalance(way, imbalance))?;
        }
        Ok(())
    }

    /// Whether the books of a flow that was cut short have no byte too many. What is missing is on its
    /// way, or lost with a connection that failed.
    ///
    /// # Errors
    /// [`Close::Imbalance`].
    pub fn audit_cut_short(&self) -> Result<(), Close> {
        for way in Way::BOTH {
            let ledger = &self.ways[way.index()].ledger;
            let wrong = |imbalance| self.imbalance(way, imbalance);
            let book = self.book(way);
            if let Ok(counters) = sys::tcp_counters(self.socket(Side::source(way)).as_fd()) {
                ledger.audit_taken(counters.bytes_received, &book).map_err(wrong)?;
            }
            if let Ok(sent) = sent_by(self.socket(Side::destination(way))) {
                ledger.audit_given(sent, &self.book(way)).map_err(wrong)?;
            }
        }
        Ok(())
    }

    fn imbalance(&self, way: Way, imbalance: Imbalance) -> Close {
        Close::Imbalance { way, imbalance, known: self.describe().into() }
    }

    /// All that is known of the flow: ledgers, the kernel's halves of the books, what TCP counts.
    fn describe(&self) -> String {
        let mut text = String::new();
        for way in Way::BOTH {
            let ledger = &self.ways[way.index()].ledger;
            let _ = write!(text, "{}: {ledger:?} {:?}; ", way.name(), self.book(way));
        }
        for (name, socket) in [("client", &self.client), ("upstream", &self.upstream)] {
            let counters = sys::tcp_counters(socket.as_fd());
            let queued = sys::unacknowledged(socket.as_fd());
            let _ = write!(text, "{name}: {counters:?}, SIOCOUTQ {queued:?}; ");
        }
        let _ = write!(text, "{:?}; {:?}", self.leaving, self.interest);
        text
    }

    /// Brings the flow's tally up to date with the books.
    pub fn settle(&self, tally: &mut Tally) {
        tally.demotions += self.holds;
        tally.promotions += self.returns;
        for way in Way::BOTH {
            let book = self.book(way);
            let ledger = &self.ways[way.index()].ledger;
            let traffic = tally.way_mut(way);
            traffic.taken = ledger.taken(&book) - traffic.before;
            // A socket that was reset has forgotten what it had queued; what it acknowledged it
            // knows. Where it cannot be asked, nothing after the last look counts as given.
            let destination = self.socket(Side::destination(way));
            // Not [`sent_by`]: short by an ACK, it would make delivered bytes outstanding.
            let outstanding = match sent_exactly(destination).or_else(|_| sent_by(destination)) {
                Ok(sent) => ledger.outstanding(sent, &book),
                Err(_) => 0,
            };
            traffic.given = traffic.taken.saturating_sub(outstanding);
            tally.passes += book.passes;
            tally.carried += ledger.carried();
            tally.trimmed += book.trimmed;
        }
    }

    /// Has the coming close of both connections, which is an RST (L11), wait until the peer of the one
    /// that has not `failed` has what it was given before, or `patience` is over (L10).
    pub async fn abort(&self, failed: Option<Side>, patience: Duration) {
        let deadline = Instant::now() + patience;
        match failed {
            Some(side) => self.drain(side, deadline).await,
            None => self.halt(deadline).await,
        }
        for way in Way::BOTH {
            // Their close is an RST since the insertion.
            let unread = self.ways[way.index()].ledger.unread(&self.book(way));
            discard(self.socket(Side::source(way)), unread);
        }
    }

    /// Waits until the peer of the socket that has not failed has all that it was given.
    async fn drain(&self, failed: Side, deadline: Instant) {
        let survivor = self.socket(failed.other());
        let way = match failed {
            Side::Downstream => Way::Up,
            Side::Upstream => Way::Down,
        };
        let mut pause = LOOK_AGAIN;
        while Instant::now() < deadline {
            // What is in hand is not written any more, and not waited for.
            match (self.redirect_outstanding(way), sys::unacknowledged(survivor.as_fd())) {
                (Ok(0), Ok(0)) | (Err(_), _) | (_, Err(_)) => return,
                (Ok(_), Ok(_)) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Has the kernel redirect nothing more, and its worker give what it has: what peers get between the
    /// last look at the books and the close is in no count. A destination that takes nothing is not waited for.
    async fn halt(&self, deadline: Instant) {
        self.hold(true);
        // It fails on a dead descriptor only, to which nothing is redirected.
        let _ = self.await_verdicts();
        // A socket that cannot be asked is not waited for either.
        let outstanding = || Way::BOTH.map(|way| self.redirect_outstanding(way).unwrap_or(0));
        let mut before = outstanding();
        while before != [0; 2] && Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
            let now = outstanding();
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Bytes that were redirected, or written, and that the destination's TCP may not have taken yet.
    fn redirect_outstanding(&self, way: Way) -> io::Result<u64> {
        let sent = sent_by(self.socket(Side::destination(way)))?;
        Ok(self.ways[way.index()].ledger.redirect_outstanding(sent, &self.book(way)))
    }
}
