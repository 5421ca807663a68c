//! The admin thread: accepts, bounds, and ends connections.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    pin::pin,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::Socket;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    runtime::Builder,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    body::Budget,
    routes::{self, Door},
    sockets::Sockets,
    state::State,
};
use crate::{
    listener::{SocketFile, Spares, describe},
    presence::until_paused,
    rules::config::{AdminConfig, ListenAddress},
    server::{Offered, ServeError},
};

/// Connections at once, to each of the two sockets. Others wait in the backlog.
pub(crate) const CONNECTIONS: usize = 32;
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// A connection gets no further request after that; a slow reader is cut off as much later.
const LIFETIME: Duration = Duration::from_secs(60);
/// Head of a request, bytes.
const HEAD_SIZE: usize = 16 * 1024;
/// Its fields.
const FIELDS: usize = 64;
/// After accept(2) has failed, which is for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(200);
/// For the last answers, when the daemon ends.
const LAST: Duration = Duration::from_secs(1);

/// The running thread.
#[derive(Debug)]
pub(crate) struct Admin {
    thread: JoinHandle<()>,
    stop: CancellationToken,
    unix: Option<(SocketFile, Arc<Spares>)>,
    tcp: Option<Arc<Spares>>,
}

/// Starts it; `None`: the file asks for no admin socket.
///
/// # Errors
/// The runtime's, or the thread's.
pub(crate) fn spawn(sockets: Sockets, state: State) -> Result<Option<Admin>, ServeError> {
    let Sockets { unix, tcp } = sockets;
    if unix.is_none() && tcp.is_none() {
        return Ok(None);
    }
    let failed = |source| ServeError::Io { action: "starting the admin thread", source };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let guard = runtime.enter();
    let mut listeners = Vec::new();
    let spares =
        |socket: &Socket| Spares::of(std::slice::from_ref(socket)).map(Arc::new).map_err(failed);
    let mut admin = (None, None);
    if let Some((socket, file)) = unix {
        info!(socket = %file.path().display(), "admin");
        let spares = spares(&socket)?;
        let listener = UnixListener::from_std(OwnedFd::from(socket).into()).map_err(failed)?;
        listeners.push((Listener::Unix(listener), Arc::clone(&spares)));
        admin.0 = Some((file, spares));
    }
    if let Some(socket) = tcp {
        let spares = spares(&socket)?;
        let listener = TcpListener::from_std(socket.into()).map_err(failed)?;
        info!(address = %listener.local_addr().map_err(failed)?, "metrics");
        listeners.push((Listener::Tcp(listener), Arc::clone(&spares)));
        admin.1 = Some(spares);
    }
    drop(guard);
    let stop = CancellationToken::new();
    let until = stop.clone();
    let thread = thread::Builder::new()
        .name("mux-admin".into())
        .spawn(move || runtime.block_on(serve(listeners, Arc::new(state), until)))
        .map_err(failed)?;
    let (unix, tcp) = admin;
    Ok(Some(Admin { thread, stop, unix, tcp }))
}

impl Admin {
    /// What a successor can have of the sockets, which are those of this configuration.
    pub(crate) fn offered(&self, config: &AdminConfig) -> Vec<Offered> {
        let unix = config.socket.as_ref().zip(self.unix.as_ref());
        let unix = unix.map(|(socket, (file, spares))| Offered {
            address: socket_name(&socket.path),
            file: Some(file.clone()),
            spares: Arc::clone(spares),
        });
        let tcp = config.metrics.zip(self.tcp.as_ref()).map(|(address, spares)| Offered {
            address: metrics_name(address),
            file: None,
            spares: Arc::clone(spares),
        });
        unix.into_iter().chain(tcp).collect()
    }

    /// Ends the thread, and removes the socket's file, unless it is a successor's.
    pub(crate) fn stop(self, succeeded: bool) {
        let Self { thread, stop, unix, tcp: _ } = self;
        if let (Some((file, _)), false) = (&unix, succeeded) {
            // Without the right to, it is the keeper's to do.
            let _ = file.remove();
        }
        stop.cancel();
        if thread.join().is_err() {
            warn!("the admin thread panicked");
        }
        if let (Some((file, spares)), true) = (&unix, succeeded) {
            // One that the successor has not taken, which shows once our own handles are closed.
            spares.close();
            let _ = file.remove_unused();
        }
    }
}

/// What the admin socket is called where sockets are handed over: no listener is called so.
pub(crate) fn socket_name(path: &Path) -> String {
    format!("admin {}", describe(&ListenAddress::Unix(path.to_owned())))
}

/// The same of the address of `[admin] metrics`.
pub(crate) fn metrics_name(address: SocketAddr) -> String {
    format!("metrics {address}")
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Either<UnixStream, TcpStream>, Door)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let who = stream.peer_cred().ok();
                let door = Door::Unix {
                    uid: who.as_ref().map(tokio::net::unix::UCred::uid),
                    pid: who.as_ref().and_then(tokio::net::unix::UCred::pid),
                };
                Ok((Either::Left(stream), door))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Either::Right(stream), Door::Tcp))
            }
        }
    }
}

/// What all connections have in common.
#[derive(Clone)]
struct Common {
    state: Arc<State>,
    budget: Budget,
    stop: CancellationToken,
}

async fn serve(
    listeners: Vec<(Listener, Arc<Spares>)>,
    state: Arc<State>,
    stop: CancellationToken,
) {
    let common = Common { state, budget: Budget::default(), stop: stop.clone() };
    let connections = TaskTracker::new();
    for (listener, spares) in listeners {
        let accepting = accept(listener, common.clone(), connections.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = accepting => {}
                () = spares.closed() => {}
            }
        });
    }
    stop.cancelled().await;
    connections.close();
    // What is left is dropped with the runtime.
    let _ = timeout(LAST, connections.wait()).await;
}

/// Accepts, for ever, as long as there are places; not while a successor serves.
async fn accept(listener: Listener, common: Common, connections: TaskTracker) {
    // A place each: many readers of the one socket cannot shut the operator out of the other.
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut orders = common.state.shared.presence.orders();
    let mut paused = false;
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            biased;
            () = until_paused(&mut orders, !paused) => {
                paused = !paused;
                continue;
            }
            accepted = listener.accept(), if !paused => accepted,
        };
        match accepted {
            Ok((stream, door)) => {
                let connection = connection(stream, door, common.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Serves one connection. What its peer does wrong concerns nobody else.
async fn connection(stream: Either<UnixStream, TcpStream>, door: Door, common: Common) {
    let Common { state, budget, stop } = common;
    let service = service_fn(|request| {
        let (state, budget) = (Arc::clone(&state), budget.clone());
        async move {
            let answer = routes::respond(&state, door, request).await;
            Ok::<_, Infallible>(budget.charge(answer))
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_SIZE)
        .max_headers(FIELDS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LIFETIME, connection).await;
}
