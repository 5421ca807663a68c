//! A flow through a relay of a few lines: it copies until the kernel has taken over, carries what
//! comes late, and closes its sockets as the daemon does.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use mux::kernel::{
    books::Way,
    packet::{
        Attachment, Ends, Offer, Offered, PacketEvents, PacketHandle, PacketKernel, PacketOptions,
        Records, Report, Scales, Sequences, Side, Snapshot, State, What, refusal_name,
    },
};
use mux_common::packet::PacketStats;
use mux_tests::{
    deadline, eventually, eventually_true,
    sys::{agreed, disconnect},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::place::Place;

/// Flows that the maps of a test hold.
const FLOWS: u32 = 4096;
/// The longest segment that a way with an MTU of 1500 takes in either family.
const SEGMENT: u32 = 1440;
/// How long the copying thread waits for bytes before it looks whether it is to end.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Loaded programs, attached nowhere.
struct Programs {
    options: PacketOptions,
    kernel: PacketKernel,
    events: Mutex<PacketEvents>,
}

/// Those that no test has at this moment: the verifier takes long over them, in a virtual machine
/// above all.
static IDLE: Mutex<Vec<Programs>> = Mutex::new(Vec::new());

impl Programs {
    fn take(options: PacketOptions) -> Result<Self> {
        let of_these =
            |it: &Self| (it.options.flows, it.options.quiet) == (options.flows, options.quiet);
        let mut idle = IDLE.lock().unwrap();
        if let Some(at) = idle.iter().position(of_these) {
            return Ok(idle.swap_remove(at));
        }
        drop(idle);
        let mut kernel = PacketKernel::load(options)?;
        let events = Mutex::new(kernel.take_events()?);
        Ok(Self { options, kernel, events })
    }

    fn stats(&self) -> PacketStats {
        self.kernel.stats_reader().and_then(|reader| reader.read()).expect("the counters")
    }
}

/// The programs, attached in a place's middle.
pub(crate) struct Middle<'a> {
    pub(crate) place: &'a Place,
    /// Until the end.
    programs: Option<Programs>,
    reports: Mutex<Vec<Report>>,
    /// Their counters at the beginning.
    before: PacketStats,
    listener: TcpListener,
    upstream: TcpListener,
}

impl<'a> Middle<'a> {
    pub(crate) fn new(place: &'a Place) -> Result<Self> {
        Self::with(place, PacketOptions::new(FLOWS))
    }

    pub(crate) fn with(place: &'a Place, options: PacketOptions) -> Result<Self> {
        let devices = place.devices()?;
        let (programs, listener) = place.relay().within(|| -> Result<_> {
            let mut programs = Programs::take(options)?;
            programs.kernel.attach(&devices)?;
            Ok((programs, listen(place.listener())?))
        })??;
        let before = programs.stats();
        let upstream = place.server().within(|| TcpListener::bind(place.upstream()))??;
        let reports = Mutex::default();
        Ok(Self { place, programs: Some(programs), reports, before, listener, upstream })
    }

    fn programs(&self) -> &Programs {
        self.programs.as_ref().expect("until the end")
    }

    pub(crate) fn kernel(&self) -> &PacketKernel {
        &self.programs().kernel
    }

    /// Attaches the programs to a device, or takes them off. Filters and qdiscs are found by the device's
    /// number, in the namespace of the thread that asks.
    fn within<T: Send>(&mut self, run: impl FnOnce(&mut PacketKernel) -> T + Send) -> Result<T> {
        let Self { place, programs, .. } = self;
        let kernel = &mut programs.as_mut().expect("until the end").kernel;
        place.relay().within(|| run(kernel))
    }

    pub(crate) fn detach(&mut self, device: u32) -> Result<()> {
        self.within(|kernel| kernel.detach(device))
    }

    pub(crate) fn attach(&mut self, device: u32) -> Result<()> {
        Ok(self.within(|kernel| kernel.attach(&[device]))??)
    }

    pub(crate) fn listener(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// A flow whose relay has just begun to copy, and was offered.
    pub(crate) fn open(&self) -> Result<Flow> {
        self.open_from(None)
    }

    /// The same, that the kernel has.
    pub(crate) fn open_on(&self) -> Result<Flow> {
        let mut flow = self.open()?;
        self.turn_on(&mut flow)?;
        Ok(flow)
    }

    /// As [`Self::open`], with the client's address.
    pub(crate) fn open_from(&self, client: Option<SocketAddr>) -> Result<Flow> {
        let client = self.connect_from(client)?;
        self.open_with(client, None)
    }

    /// A client's connection, from this address if one is given.
    pub(crate) fn connect_from(&self, client: Option<SocketAddr>) -> Result<TcpStream> {
        let target = self.listener()?;
        Ok(self.place.client().within(|| connect(client, target, None))??)
    }

    /// A flow of this client, and from this address of the relay's if one is given.
    pub(crate) fn open_with(&self, client: TcpStream, relay: Option<SocketAddr>) -> Result<Flow> {
        let (m1, _) = self.listener.accept()?;
        let target = self.upstream.local_addr()?;
        let m2 = self.place.relay().within(|| connect(relay, target, Some(SEGMENT)))??;
        let (server, _) = self.upstream.accept()?;
        for socket in [&client, &server, &m1, &m2] {
            socket.set_nodelay(true)?;
        }
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(deadline()))?;
            socket.set_write_timeout(Some(deadline()))?;
        }
        static COOKIES: AtomicU64 = AtomicU64::new(1);
        let cookie = COOKIES.fetch_add(1, Ordering::Relaxed);
        let relay = Relay::start(self, m1, m2, cookie)?;
        Ok(Flow { client, server, relay })
    }

    /// What the programs have told so far.
    pub(crate) fn reports(&self) -> Vec<Report> {
        let mut seen = self.reports.lock().unwrap();
        self.programs().events.lock().unwrap().drain(|report| seen.push(report));
        seen.clone()
    }

    /// Waits until they have told this of a flow.
    pub(crate) fn wait_for(&self, flow: &Flow, what: What) -> Result<()> {
        eventually_true(&format!("{what:?} of {:?}: {}", flow.states(), self.summary()), || {
            self.reports().iter().any(|it| it.cookie == flow.relay.cookie && it.what == what)
        })
    }

    /// What the programs have counted here.
    pub(crate) fn stats(&self) -> PacketStats {
        since(&self.programs().stats(), &self.before)
    }

    fn summary(&self) -> String {
        format!("{:?}", self.stats())
    }

    /// Lets client and server talk until the kernel has the flow.
    pub(crate) fn turn_on(&self, flow: &mut Flow) -> Result<()> {
        let end = std::time::Instant::now() + deadline();
        while !flow.is_on() {
            if std::time::Instant::now() > end {
                let record = flow.snapshot(Way::Up);
                let back = flow.snapshot(Way::Down);
                bail!(
                    "not on: {} / {}; {}",
                    refusal_name(record.refusal),
                    refusal_name(back.refusal),
                    self.summary()
                );
            }
            flow.ping_pong(1, 100)?;
        }
        self.wait_for(flow, What::On)
    }
}

impl Drop for Middle<'_> {
    fn drop(&mut self) {
        let attachments = self.kernel().attachments();
        let devices: Vec<u32> = attachments.iter().map(Attachment::device).collect();
        for device in devices {
            self.detach(device).expect("the relay's namespace");
        }
        // So that the next one sees none of these.
        self.reports();
        IDLE.lock().unwrap().extend(self.programs.take());
    }
}

fn since(now: &PacketStats, before: &PacketStats) -> PacketStats {
    let mut refused = now.refused;
    for (count, before) in refused.iter_mut().zip(before.refused) {
        *count -= before;
    }
    PacketStats {
        armed: now.armed - before.armed,
        translated: now.translated - before.translated,
        shortcuts: now.shortcuts - before.shortcuts,
        slow_options: now.slow_options - before.slow_options,
        acks_diverted: now.acks_diverted - before.acks_diverted,
        untranslatable: now.untranslatable - before.untranslatable,
        dropped: now.dropped - before.dropped,
        too_big: now.too_big - before.too_big,
        no_socket: now.no_socket - before.no_socket,
        resets_put_right: now.resets_put_right - before.resets_put_right,
        resets_dropped: now.resets_dropped - before.resets_dropped,
        events_lost: now.events_lost - before.events_lost,
        refused,
    }
}

/// A listener that lets no client send longer segments than the longest way takes.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_tcp_mss(SEGMENT)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn connect(
    from: Option<SocketAddr>,
    to: SocketAddr,
    segment: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = new_socket(to)?;
    if let Some(segment) = segment {
        socket.set_tcp_mss(segment)?;
    }
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    socket.connect_timeout(&to.into(), deadline())?;
    Ok(socket.into())
}

fn new_socket(address: SocketAddr) -> io::Result<socket2::Socket> {
    socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)
}

/// A client, a server, and the relay between them.
pub(crate) struct Flow {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    pub(crate) relay: Relay,
}

impl Flow {
    pub(crate) fn snapshot(&self, way: Way) -> Snapshot {
        self.relay.records.record(self.relay.pair, way).snapshot()
    }

    pub(crate) fn states(&self) -> [State; 2] {
        Way::BOTH.map(|way| self.snapshot(way).state)
    }

    pub(crate) fn is_on(&self) -> bool {
        self.states() == [State::On; 2]
    }

    /// Requests and answers of so many bytes.
    pub(crate) fn ping_pong(&mut self, times: usize, length: usize) -> Result<()> {
        let request = vec![b'q'; length];
        let answer = vec![b'a'; length];
        let mut buffer = vec![0; length];
        for _ in 0..times {
            self.client.write_all(&request)?;
            self.server.read_exact(&mut buffer).context("the server")?;
            ensure!(buffer == request, "another request");
            self.server.write_all(&answer)?;
            self.client.read_exact(&mut buffer).context("the client")?;
            ensure!(buffer == answer, "another answer");
        }
        Ok(())
    }

    /// All bytes of one way, whoever carried them.
    pub(crate) fn bytes(&self, way: Way) -> u64 {
        self.relay.copied(way) - self.relay.late(way) + self.snapshot(way).bytes
    }
}

/// The relay's thread, and what it shares.
pub(crate) struct Relay {
    pub(crate) cookie: u64,
    pub(crate) pair: u32,
    records: Arc<Records>,
    shared: Arc<Shared>,
    commands: Sender<Command>,
    answers: Receiver<Answer>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    /// Our sockets, to look at.
    sockets: Mutex<Vec<TcpStream>>,
    copied: [AtomicU64; 2],
    late: [AtomicU64; 2],
    broken: AtomicBool,
}

enum Command {
    /// Takes the offer back and goes on copying.
    Withdraw,
    /// Stops the flow if it is on, closes both sockets with a RST, and keeps the entries.
    Close,
    /// Drops the entries, and the sockets if they are open.
    End,
}

pub(crate) enum Answer {
    Withdrawn(bool),
    Closed,
}

impl Relay {
    fn start(middle: &Middle<'_>, m1: TcpStream, m2: TcpStream, cookie: u64) -> Result<Self> {
        let handle = middle.kernel().handle()?;
        let outs = [middle.place.client_out()?, middle.place.upstream_out()?];
        let shared = Arc::new(Shared::default());
        let (commands, inbox) = channel();
        let (outbox, answers) = channel();
        let (pair_out, pair_in) = channel();
        let namespace = middle.place.relay().name().to_owned();
        let theirs = Arc::clone(&shared);
        *shared.sockets.lock().unwrap() = vec![m1.try_clone()?, m2.try_clone()?];
        let thread = thread::spawn(move || {
            mux_tests::netns::enter(&namespace)?;
            let side = |socket: &TcpStream, out| -> Result<Side> {
                let agreed = agreed(socket)?;
                Ok(Side {
                    ends: Ends::new(socket.peer_addr()?, socket.local_addr()?),
                    out,
                    scales: Scales { peer: agreed.peer_scale, own: agreed.own_scale },
                })
            };
            let [client_out, upstream_out] = outs;
            let (client, upstream) = (side(&m1, client_out)?, side(&m2, upstream_out)?);
            // Nothing was read yet: user space holds no byte.
            let sequences = handle.look(&client.ends, &upstream.ends).context("look")?;
            let timestamps = agreed(&m1)?.timestamps;
            ensure!(agreed(&m2)?.timestamps == timestamps, "one side has timestamps");
            let offer = Offer { client, upstream, sequences, timestamps, cookie };
            let pair = handle.take_pair().context("no pair")?;
            pair_out.send(pair.index())?;
            let offered = handle.offer(pair, &offer)?;
            let copier = Copier { handle: &handle, offer, sockets: [m1, m2], shared: &theirs };
            copier.run(offered, &inbox, &outbox)
        });
        let pair = match pair_in.recv() {
            Ok(pair) => pair,
            Err(_) => match thread.join() {
                Ok(result) => bail!("the relay ended: {result:?}"),
                Err(_) => bail!("the relay panicked"),
            },
        };
        let records = Arc::clone(middle.kernel().records());
        Ok(Self { cookie, pair, records, shared, commands, answers, thread: Some(thread) })
    }

    /// Bytes that it has copied.
    pub(crate) fn copied(&self, way: Way) -> u64 {
        self.shared.copied[way.index()].load(Ordering::SeqCst)
    }

    /// Those of them that came when the kernel had the flow.
    pub(crate) fn late(&self, way: Way) -> u64 {
        self.shared.late[way.index()].load(Ordering::SeqCst)
    }

    /// Bytes that our sockets would repeat.
    pub(crate) fn unacknowledged(&self) -> Vec<Option<u64>> {
        let sockets = self.shared.sockets.lock().unwrap();
        sockets.iter().map(|socket| mux_tests::sys::unacknowledged(socket).ok()).collect()
    }

    /// Whether one of its sockets failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::SeqCst)
    }

    pub(crate) fn withdraw(&self) -> Result<bool> {
        self.commands.send(Command::Withdraw)?;
        match self.answers.recv_timeout(deadline())? {
            Answer::Withdrawn(done) => Ok(done),
            Answer::Closed => bail!("closed"),
        }
    }

    /// Closes our sockets with RSTs.
    pub(crate) fn close(&self) -> Result<()> {
        self.commands.send(Command::Close)?;
        match self.answers.recv_timeout(deadline())? {
            Answer::Withdrawn(_) => bail!("withdrawn"),
            Answer::Closed => Ok(()),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::End);
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("the relay: {error:#}"),
                Err(_) => eprintln!("the relay panicked"),
            }
        }
    }
}

struct Copier<'a> {
    handle: &'a PacketHandle,
    offer: Offer,
    /// M1 and M2; the source of a way is at its index.
    sockets: [TcpStream; 2],
    shared: &'a Shared,
}

impl Copier<'_> {
    fn run(
        self,
        offered: Offered<'_>,
        inbox: &Receiver<Command>,
        outbox: &Sender<Answer>,
    ) -> Result<()> {
        let mut offered = Some(offered);
        let mut open = [true; 2];
        loop {
            match inbox.try_recv() {
                Ok(Command::Withdraw) => {
                    let taken = offered.take().context("withdrawn already")?;
                    let done = match taken.withdraw() {
                        Ok(()) => true,
                        Err(on) => {
                            offered = Some(on);
                            false
                        }
                    };
                    outbox.send(Answer::Withdrawn(done))?;
                }
                Ok(Command::Close) => {
                    if let Some(offered) = &offered {
                        offered.stop();
                    }
                    // What close(2) with `SO_LINGER` 0 does, but at once: another test may be starting a
                    // program, and until that runs it has all descriptors of this process.
                    for socket in &self.sockets {
                        disconnect(socket)?;
                    }
                    self.shared.sockets.lock().unwrap().clear();
                    drop(self.sockets);
                    outbox.send(Answer::Closed)?;
                    // The entries stay until the end.
                    let _ = inbox.recv();
                    return Ok(());
                }
                Ok(Command::End) => return Ok(()),
                Err(_) => {}
            }
            let mut waits = Vec::new();
            for way in Way::BOTH {
                if open[way.index()] {
                    waits.push((way, PollFd::new(&self.sockets[way.index()], PollFlags::IN)));
                }
            }
            let (ways, mut fds): (Vec<_>, Vec<_>) = waits.into_iter().unzip();
            poll(&mut fds, Some(&TICK))?;
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            for (way, ready) in ways.into_iter().zip(ready) {
                if ready && !self.copy(way, offered.as_ref())? {
                    open[way.index()] = false;
                }
            }
        }
    }

    /// Copies once. `false`: the stream has ended.
    fn copy(&self, way: Way, offered: Option<&Offered<'_>>) -> Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        let (mut from, mut to) = (&self.sockets[way.index()], &self.sockets[way.back().index()]);
        let is_on = || offered.is_some_and(|it| it.record(way).state() != State::Pending);
        let length = match from.read(&mut buffer) {
            Ok(0) => {
                if !is_on() {
                    to.shutdown(Shutdown::Write)?;
                }
                return Ok(false);
            }
            Ok(length) => length,
            Err(error) => {
                eprintln!("the relay's socket {way:?}: {error}");
                self.shared.broken.store(true, Ordering::SeqCst);
                return Ok(false);
            }
        };
        // Before they are written: who reads them may look at the counters.
        self.shared.copied[way.index()].fetch_add(length as u64, Ordering::SeqCst);
        to.write_all(&buffer[..length])?;
        if let Some(offered) = offered.filter(|_| is_on()) {
            let Sequences { client, upstream } =
                self.handle.look(&self.offer.client.ends, &self.offer.upstream.ends)?;
            let (own, read) = match way {
                Way::Up => (upstream, client),
                Way::Down => (client, upstream),
            };
            // The socket that was written to is the other way's own.
            offered.record(way.back()).want_ack(&own);
            let start = offered.record(way).snapshot().start;
            let late = read.copied_seq.wrapping_sub(start);
            self.shared.late[way.index()].store(u64::from(late), Ordering::SeqCst);
        }
        Ok(true)
    }
}

/// Waits until a socket has been reset.
pub(crate) fn is_reset(socket: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    eventually("a RST", || match socket.read(&mut byte) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Some(Ok(())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        other => Some(Err(anyhow::anyhow!("{other:?}, not a RST"))),
    })?
}
