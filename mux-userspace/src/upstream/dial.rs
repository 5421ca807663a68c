//! One attempt to connect to one endpoint: all addresses of a name, within one timeout.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use socket2::SockRef;
use tokio::{
    net::{TcpSocket, UnixStream},
    time::{Instant, timeout_at},
};

use super::{
    endpoint::Endpoint,
    eyeballs::{delay, race, timed_out},
    resolve::Name,
    source::Manner,
    tally::Unresolved,
};
use crate::{
    net::{self, Stream},
    rules::config::{Address, Builtin},
};

/// Between attempts on a Unix socket whose backlog is full.
const UNIX_RETRY: Duration = Duration::from_millis(5);

/// A connection to an endpoint.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: Stream,
    /// Where to, as the access log prints it.
    pub(super) endpoint: String,
    /// The other end, if the endpoint is in this process: to be served.
    pub(super) builtin: Option<(Builtin, UnixStream)>,
}

/// What went wrong, and at which address.
pub(super) type Failures = Vec<(String, io::Error)>;

/// Connects, within `time`.
///
/// # Errors
/// What each address said; at least one does.
pub(super) async fn dial(
    endpoint: &Endpoint,
    time: Duration,
    manner: &Manner<'_>,
) -> Result<Dialled, Failures> {
    let deadline = Instant::now() + time;
    let address = endpoint.address();
    let (result, builtin) = match (address, endpoint.name()) {
        (Address::Ip(ip), _) => (within(deadline, connect_tcp(*ip, manner)).await, None),
        (Address::Unix(path), _) => (within(deadline, connect_unix(path)).await, None),
        (Address::Name { .. }, Some(name)) => {
            return dial_name(address, name, deadline, time, manner).await;
        }
        // A named endpoint has its name.
        (Address::Name { .. }, None) => (Err(io::ErrorKind::NotFound.into()), None),
        (Address::Builtin(builtin), _) => match UnixStream::pair() {
            Ok((ours, theirs)) => (Ok(Stream::Unix(ours)), Some((*builtin, theirs))),
            Err(error) => (Err(error), None),
        },
    };
    match result {
        Ok(stream) => Ok(Dialled { stream, endpoint: address.to_string(), builtin }),
        Err(error) => Err(vec![(address.to_string(), error)]),
    }
}

async fn dial_name(
    address: &Address,
    name: &Name,
    deadline: Instant,
    time: Duration,
    manner: &Manner<'_>,
) -> Result<Dialled, Failures> {
    let addresses = match within(deadline, name.addresses(manner.sticky)).await {
        Ok(addresses) => addresses,
        Err(error) => return Err(vec![(address.to_string(), Unresolved(error).into())]),
    };
    let delay = delay(addresses.len(), time);
    match race(&addresses, delay, deadline, |address| connect_tcp(address, manner)).await {
        Ok((stream, at)) => {
            let before = addresses.iter().position(|address| *address == at).unwrap_or(0);
            name.won(at.ip(), &addresses[..before]);
            Ok(Dialled { stream, endpoint: format!("{address} ({at})"), builtin: None })
        }
        Err(failures) => {
            // They may be old.
            name.doubt();
            Err(failures.into_iter().map(|(at, error)| (at.to_string(), error)).collect())
        }
    }
}

/// Runs an attempt until `deadline`.
async fn within<T>(
    deadline: Instant,
    attempt: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout_at(deadline, attempt).await.unwrap_or_else(|_| Err(timed_out()))
}

/// Connects to an address.
///
/// # Errors
/// socket(2)'s, connect(2)'s, and those of [`Manner::prepare`].
pub(super) async fn connect_tcp(address: SocketAddr, manner: &Manner<'_>) -> io::Result<Stream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    net::set_up(&SockRef::from(&socket))?;
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

/// Whether an error is this machine's shortage, or that of an address to connect from, rather than
/// the endpoint's failure: then it says nothing about the endpoint.
pub(super) fn is_local(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || matches!(
            error.raw_os_error(),
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
        )
}
