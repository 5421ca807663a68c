//! Connecting to an upstream: endpoints in their order, all addresses of a name, a timeout each.
//!
//! Never touches a byte of the flow: a failed endpoint costs the client nothing but time.

pub mod builtin;
mod resolve;
pub mod source;

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::{TcpSocket, UnixStream},
    time::{Instant, timeout_at},
};

pub use self::{resolve::Resolver, source::Manner};
use crate::{
    account::Counter,
    core::Core,
    net::{Peer, Stream},
    rules::config::{Address, Balance, Builtin, UpstreamId},
};

/// Between attempts on a Unix socket whose backlog is full.
const UNIX_RETRY: Duration = Duration::from_millis(5);

/// A connection to an upstream.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: Stream,
    /// Which endpoint, as the access log prints it.
    pub endpoint: String,
    /// The other end, if the endpoint is in this process: to be served.
    pub builtin: Option<(Builtin, UnixStream)>,
}

/// No endpoint could be connected to.
#[derive(Debug, Error)]
#[error("{}", .0.iter().map(|(endpoint, error)| format!("{endpoint}: {error}")).collect::<Vec<_>>().join("; "))]
pub struct Unreachable(pub Vec<(String, io::Error)>);

/// Connects a client's flow to the first endpoint that answers: at most 1 + `retries` are tried.
///
/// # Errors
/// [`Unreachable`], with what each endpoint said.
pub async fn connect(core: &Core, id: UpstreamId, client: Peer) -> Result<Connected, Unreachable> {
    let upstream = &core.shared.config.upstreams[id.0];
    let count = upstream.endpoints.len();
    let first = match upstream.balance {
        Balance::First => 0,
        Balance::RoundRobin => core.shared.limits.turns[id.0].fetch_add(1, Ordering::Relaxed),
    };
    let attempts = count.min(upstream.retries as usize + 1);
    let manner = Manner {
        source: upstream.source.as_ref(),
        client: Some(client),
        timers: upstream.timers.or(core.shared.config.timeouts.tcp),
        counters: &core.shared.counters,
    };
    let mut failures = Vec::new();
    for turn in 0..attempts {
        let address = &upstream.endpoints[(first.wrapping_add(turn)) % count];
        let timeout = upstream.connect_timeout;
        match connect_endpoint(core, address, &manner, timeout, &mut failures).await {
            Some(connected) => return Ok(connected),
            None => core.shared.counters.count(Counter::ConnectFailed),
        }
    }
    Err(Unreachable(failures))
}

/// Tries all addresses of one endpoint; adds to `failures` what went wrong.
async fn connect_endpoint(
    core: &Core,
    address: &Address,
    manner: &Manner<'_>,
    timeout: Duration,
    failures: &mut Vec<(String, io::Error)>,
) -> Option<Connected> {
    let deadline = Instant::now() + timeout;
    let (result, builtin) = match address {
        Address::Ip(ip) => (within(deadline, connect_tcp(*ip, manner)).await, None),
        Address::Unix(path) => (within(deadline, connect_unix(path)).await, None),
        Address::Name { host, port } => {
            return connect_name(core, host, *port, manner, deadline, failures).await;
        }
        Address::Builtin(builtin) => match UnixStream::pair() {
            Ok((ours, theirs)) => (Ok(Stream::Unix(ours)), Some((*builtin, theirs))),
            Err(error) => (Err(error), None),
        },
    };
    let endpoint = address.to_string();
    match result {
        Ok(stream) => Some(Connected { stream, endpoint, builtin }),
        Err(error) => {
            failures.push((endpoint, error));
            None
        }
    }
}

/// Tries a name's addresses, each with an equal part of the time that is left, so that a dead one
/// leaves some for the next.
async fn connect_name(
    core: &Core,
    host: &Arc<str>,
    port: u16,
    manner: &Manner<'_>,
    deadline: Instant,
    failures: &mut Vec<(String, io::Error)>,
) -> Option<Connected> {
    let addresses = match within(deadline, core.resolver.resolve(host)).await {
        Ok(addresses) => addresses,
        Err(error) => {
            failures.push((format!("{host}:{port}"), error));
            return None;
        }
    };
    let mut left = addresses.len() as u32;
    for ip in addresses {
        let address = SocketAddr::new(ip, port);
        let part = deadline.saturating_duration_since(Instant::now()) / left.max(1);
        left -= 1;
        match within(Instant::now() + part, connect_tcp(address, manner)).await {
            Ok(stream) => {
                let endpoint = format!("{host}:{port} ({address})");
                return Some(Connected { stream, endpoint, builtin: None });
            }
            Err(error) => failures.push((address.to_string(), error)),
        }
    }
    None
}

/// Runs an attempt until `deadline`.
async fn within<T>(
    deadline: Instant,
    attempt: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout_at(deadline, attempt)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")))
}

async fn connect_tcp(address: SocketAddr, manner: &Manner<'_>) -> io::Result<Stream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // What was a segment of the client's must not wait for the ACK of the one before.
    socket.set_nodelay(true)?;
    manner.prepare(&socket, address)?;
    Ok(Stream::Tcp(socket.connect(address).await?))
}

async fn connect_unix(path: &Path) -> io::Result<Stream> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(Stream::Unix(stream)),
            // A full backlog: unlike TCP, nothing tells when it has room (unix(7)).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(UNIX_RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}
