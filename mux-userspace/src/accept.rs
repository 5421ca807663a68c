//! The accept loops: one for each listener on each core.
//!
//! Never parses a byte. Accepting waits for a place under the limits, so that connections beyond
//! them wait in the backlog. A listener is the same through all configurations that name its
//! address; each connection is served by the one that is in force.

use std::{
    cell::RefCell,
    io,
    net::TcpListener,
    num::NonZeroU32,
    os::fd::OwnedFd,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{SockRef, Socket};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixListener,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    account::Counter,
    core::Core,
    flow,
    limit::{
        gate::Gate,
        reached::Kind,
        room::Place,
        sniffing::{Crowd, Sniffing},
    },
    listener::{Bound, SocketFile, Spares},
    net::{self, Peer, Stream, Tcp, TcpTimers},
    presence::{Present, until_paused},
    rules::config::{ListenAddress, ListenerConfig},
    snapshot::{Service, Snapshot},
    sys, throttle,
};

/// First and longest pause when accepting fails for lack of descriptors or memory.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Most connections that are taken from the queue of a listener that is closed: what fits in one.
const LAST: usize = 4096;

/// A listener whose sockets are bound.
#[derive(Debug)]
pub struct Listening {
    /// Where it really listens (port 0 is resolved).
    pub address: ListenAddress,
    /// Whether its IPv6 sockets take no IPv4.
    pub v6_only: bool,
    /// The Unix socket file that was made.
    pub file: Option<SocketFile>,
    /// Its connections at once; accepting waits for a place.
    pub gate: Gate,
    /// Those of them that are being sniffed, if they are limited.
    pub sniffing: Arc<Crowd>,
    /// What a successor gets.
    pub spares: Arc<Spares>,
    /// Its sockets were listening before they were set up, and there may be connections that did not
    /// inherit that.
    adopted: bool,
}

impl Listening {
    /// Of these sockets, on so many cores, with the configuration's limit.
    #[must_use]
    pub fn new(bound: &Bound, v6_only: bool, config: &ListenerConfig, cores: usize) -> Arc<Self> {
        Arc::new(Self {
            address: bound.address.clone(),
            v6_only,
            file: bound.file.clone(),
            gate: Gate::new(config.max_connections),
            sniffing: Crowd::new(None, cores),
            spares: Arc::clone(&bound.spares),
            adopted: bound.adopted,
        })
    }
}

/// A core's end of a listener.
#[derive(Debug)]
pub struct Acceptor {
    listening: Arc<Listening>,
    socket: AnyListener,
    /// Its connections that are being sniffed on this core.
    sniffing: Rc<Sniffing>,
    /// What serves the next connection.
    service: RefCell<Service>,
    /// The configuration in force does not have the listener, or mux drains.
    closing: CancellationToken,
}

#[derive(Debug)]
enum AnyListener {
    Tcp(AsyncFd<TcpListener>),
    Unix(UnixListener),
}

impl AnyListener {
    fn new(socket: Socket) -> io::Result<Self> {
        if socket.local_addr()?.is_unix() {
            Ok(Self::Unix(UnixListener::from_std(OwnedFd::from(socket).into())?))
        } else {
            Ok(Self::Tcp(sys::register(socket.into(), Interest::READABLE)?))
        }
    }

    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => listener.async_io(Interest::READABLE, accept_tcp).await,
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Peer::Unix))
            }
        }
    }

    /// Accepts what is in the queue already.
    fn accept_now(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => accept_tcp(listener.get_ref()),
            Self::Unix(listener) => {
                let (accepted, _) = SockRef::from(listener).accept()?;
                accepted.set_nonblocking(true)?;
                let stream = tokio::net::UnixStream::from_std(OwnedFd::from(accepted).into())?;
                Ok((Stream::Unix(stream), Peer::Unix))
            }
        }
    }
}

fn accept_tcp(listener: &TcpListener) -> io::Result<(Stream, Peer)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, address) = acceptfrom_with(listener, flags)?;
    let address = address.ok_or(io::ErrorKind::ConnectionAborted)?.try_into()?;
    Ok((Stream::Tcp(Tcp::unregistered(socket.into())), Peer::from_ip(address)))
}

impl Acceptor {
    /// The core's socket of a listener of this configuration; `None`: it is none of it.
    ///
    /// # Errors
    /// The socket cannot be registered with the runtime.
    pub fn new(
        core: &Core,
        snapshot: &Arc<Snapshot>,
        listening: Arc<Listening>,
        socket: Socket,
    ) -> io::Result<Option<Self>> {
        let Some(service) = Service::find(snapshot, &listening) else { return Ok(None) };
        Ok(Some(Self {
            sniffing: Rc::new(Sniffing::new(Arc::clone(&listening.sniffing), core.index)),
            listening,
            socket: AnyListener::new(socket)?,
            service: RefCell::new(service),
            closing: core.shared.drain.child_token(),
        }))
    }

    /// Goes on as another configuration says. One that does not know this listener closes it.
    pub fn follow(&self, snapshot: &Arc<Snapshot>) {
        if Arc::ptr_eq(&self.service.borrow().snapshot, snapshot) {
            return;
        }
        let Some(service) = Service::find(snapshot, &self.listening) else {
            self.closing.cancel();
            return;
        };
        let before = self.service.replace(service);
        let timers = timers(&self.service.borrow()).instead_of(timers(&before));
        if let AnyListener::Tcp(socket) = &self.socket
            && let Err(error) = timers.apply(socket.get_ref())
        {
            let listener = Arc::clone(&self.service.borrow().listener().name);
            warn!(%listener, %error, "its connections have the timers that they had before");
        }
    }

    /// Whether it is being closed.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled() || self.listening.spares.is_closed()
    }

    fn service(&self, core: &Core) -> Service {
        self.follow(&core.shared.current.load());
        self.service.borrow().clone()
    }

    /// Accepts until the listener is closed or the daemon drains; not while a successor serves.
    pub async fn run(self: Rc<Self>, core: Rc<Core>) {
        tokio::select! {
            () = self.accept_all(&core) => {}
            () = self.sniffing.run() => {}
        }
    }

    async fn accept_all(&self, core: &Rc<Core>) {
        let presence = Arc::clone(&core.shared.presence);
        let mut orders = presence.orders();
        // `None`: paused; what is in the queue is the successor's.
        let mut accepting = Some(presence.acceptor());
        let mut pause = BACK_OFF.0;
        // One for all connections: it would enter its name in two lists for each.
        let mut closed = pin!(self.closed());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closed => break,
                () = until_paused(&mut orders, accepting.is_some()) => {
                    accepting = if accepting.is_some() { None } else { Some(presence.acceptor()) };
                    continue;
                }
                accepted = self.socket.accept(), if accepting.is_some() => accepted,
            };
            match accepted {
                Ok((client, peer)) => {
                    pause = BACK_OFF.0;
                    let present = presence.connection();
                    // The place after the connection: an idle accept loop must not hold one. A
                    // connection beyond the limit waits here, those after it in the backlog.
                    let places = tokio::select! {
                        biased;
                        places = self.places(core) => places,
                        () = &mut closed => {
                            client.reset();
                            core.shared.counters.count(Counter::ListenerClosed);
                            break;
                        }
                    };
                    self.serve(core, client, peer, (places, present));
                }
                Err(error) if is_one_connections(&error) => {
                    core.shared.counters.count(Counter::AcceptAborted);
                }
                // The next attempt may fail at once, too, and an accept loop must never spin.
                Err(error) => {
                    let is_shortage = is_shortage(&error);
                    core.shared.counters.count(if is_shortage {
                        Counter::AcceptExhausted
                    } else {
                        Counter::AcceptFailed
                    });
                    // Once per shortage, not once per attempt.
                    if pause == BACK_OFF.0 {
                        self.tell(core, &error, is_shortage);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
            }
        }
        if accepting.is_some() && !core.shared.drain.is_cancelled() {
            self.serve_the_last(core);
        }
    }

    /// Logs that accepting fails, unless that has been said often enough.
    fn tell(&self, core: &Core, error: &io::Error, is_shortage: bool) {
        let admitted = if is_shortage {
            core.shared.counters.limits.count(Kind::Descriptors)
        } else {
            core.shared.throttles.accepting.admit(Instant::now())
        };
        if let Some(held) = admitted {
            let listener = Arc::clone(&self.service.borrow().listener().name);
            let suppressed = throttle::some(held);
            warn!(%listener, %error, suppressed, "cannot accept; trying again, slower");
        }
    }

    /// Serves those who are in the queue, and whom closing the socket would reset, by the last
    /// configuration that knew the listener. Those for whom there is no place are reset.
    fn serve_the_last(&self, core: &Rc<Core>) {
        for _ in 0..LAST {
            match self.socket.accept_now() {
                Ok((client, peer)) => match self.try_places(core) {
                    Some(places) => {
                        let present = core.shared.presence.connection();
                        self.serve(core, client, peer, (places, present));
                    }
                    None => {
                        client.reset();
                        core.shared.counters.count(Counter::ListenerClosed);
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return,
            }
        }
    }

    fn serve(&self, core: &Rc<Core>, client: Stream, peer: Peer, held: ([Place; 2], Present)) {
        if self.listening.adopted
            && client.is_tcp()
            && let Err(error) = net::set_up(&SockRef::from(&client))
        {
            debug!(%error, "a connection is as it was made");
        }
        let service = self.service(core);
        let sniffing =
            service.listener().max_connections.is_some().then(|| Rc::clone(&self.sniffing));
        let core = Rc::clone(core);
        let tasks = core.tasks.clone();
        // In a box of its own: the runtime moves a task by value, and this one is large.
        tasks.spawn_local(Box::pin(async move {
            flow::serve(core, service, client, peer, sniffing).await;
            drop(held);
        }));
    }

    /// Waits until the listener is not to be any more, or mux drains.
    async fn closed(&self) {
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = self.listening.spares.closed() => {}
        }
    }

    /// Waits for a place under the listener's and the global limit. The listener's first: who waits
    /// for that must not hold one that other listeners' connections could have.
    async fn places(&self, core: &Core) -> [Place; 2] {
        let Self { listening, sniffing, .. } = self;
        let met = &core.shared.counters.limits;
        let own = listening.gate.enter_or(|| {
            met.met(Kind::Listener, Some(&self.service.borrow().listener().name));
            make_room(&listening.gate, sniffing);
        });
        let own = own.await;
        let all = core.shared.connections.enter_or(|| {
            met.met(Kind::Connections, None);
            make_room(&core.shared.connections, &core.sniffing);
        });
        [own, all.await]
    }

    fn try_places(&self, core: &Core) -> Option<[Place; 2]> {
        Some([self.listening.gate.try_enter()?, core.shared.connections.try_enter()?])
    }
}

/// Where all places are taken, and half of them or more by connections that are being sniffed, has
/// the oldest of these end: slow clients must not keep others out, however the limits are set.
fn make_room(gate: &Gate, sniffing: &Sniffing) {
    let most = gate.most().map_or(u32::MAX, NonZeroU32::get);
    if sniffing.crowd().in_use() >= most.div_ceil(2) {
        sniffing.evict();
    }
}

/// Those of a listener's connections.
fn timers(service: &Service) -> TcpTimers {
    service.listener().timers.or(service.snapshot.config.timeouts.tcp)
}

/// Whether accept(2) failed by what became of one connection: aborted, or refused by a firewall, or
/// with an error of the network pending, which accept(2) passes on ("Error handling" in its page).
fn is_one_connections(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EINTR
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPERM
                | libc::EPROTO
                | libc::ETIMEDOUT
        )
    )
}

/// Whether accept(2) failed for lack of descriptors or memory.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_connection_causes_does_not_slow_others_down() {
        let of_one = |number| is_one_connections(&io::Error::from_raw_os_error(number));
        assert!([libc::ECONNABORTED, libc::EPROTO, libc::EHOSTUNREACH].into_iter().all(of_one));
        // Shortages, and what would come again at once.
        let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        let others = [libc::EINVAL, libc::EBADF];
        assert!(!shortages.into_iter().chain(others).any(of_one));
        let is_short = |number| is_shortage(&io::Error::from_raw_os_error(number));
        assert!(shortages.into_iter().all(is_short) && !others.into_iter().any(is_short));
    }
}
