//! One attempt to connect to one endpoint: all addresses of a name, within one timeout.
//!
//! A TCP connection that is there when connect(2) returns, as on one machine, is given the flow's first bytes at
//! once. That is the only place where an attempt touches them, and it has succeeded then: of several attempts
//! only the one that is chosen gives any.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use rustix::net::{SendFlags, send};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::UnixStream,
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
    net::{self, Stream, Tcp},
    rules::config::{Address, Builtin},
};

/// Between attempts on a Unix socket whose backlog is full.
const UNIX_RETRY: Duration = Duration::from_millis(5);

/// A connection to an endpoint.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: Stream,
    /// So many of the first bytes it was given already.
    pub(super) sent: usize,
    /// Where to, as the access log prints it.
    pub(super) endpoint: Arc<str>,
    /// The other end, if the endpoint is in this process: to be served.
    pub(super) builtin: Option<(Builtin, UnixStream)>,
}

/// What went wrong, and at which address.
pub(super) type Failures = Vec<(String, io::Error)>;

/// Connects, within `time`. A connection that is there at once is given of the `first` bytes what it takes.
///
/// # Errors
/// What each address said; at least one does.
pub(super) async fn dial(
    endpoint: &Endpoint,
    time: Duration,
    manner: &Manner<'_>,
    first: &[u8],
) -> Result<Dialled, Failures> {
    let deadline = Instant::now() + time;
    let address = endpoint.address();
    let (result, builtin) = match (address, endpoint.name()) {
        (Address::Ip(ip), _) => {
            (within(deadline, pin!(connect_tcp(*ip, manner, first))).await, None)
        }
        (Address::Unix(path), _) => {
            let connected = within(deadline, pin!(connect_unix(path))).await;
            (connected.map(|stream| (stream, 0)), None)
        }
        (Address::Name { .. }, Some(name)) => {
            // On the heap: a task is as large as its largest part, and most upstreams have addresses.
            return Box::pin(dial_name(address, name, deadline, time, manner, first)).await;
        }
        // A named endpoint has its name.
        (Address::Name { .. }, None) => (Err(io::ErrorKind::NotFound.into()), None),
        (Address::Builtin(builtin), _) => match UnixStream::pair() {
            Ok((ours, theirs)) => (Ok((Stream::Unix(ours), 0)), Some((*builtin, theirs))),
            Err(error) => (Err(error), None),
        },
    };
    match result {
        Ok((stream, sent)) => {
            Ok(Dialled { stream, sent, endpoint: Arc::clone(endpoint.label()), builtin })
        }
        Err(error) => Err(vec![(address.to_string(), error)]),
    }
}

async fn dial_name(
    address: &Address,
    name: &Name,
    deadline: Instant,
    time: Duration,
    manner: &Manner<'_>,
    first: &[u8],
) -> Result<Dialled, Failures> {
    let addresses = match within(deadline, pin!(name.addresses(manner.sticky))).await {
        Ok(addresses) => addresses,
        Err(error) => return Err(vec![(address.to_string(), Unresolved(error).into())]),
    };
    let delay = delay(addresses.len(), time);
    let attempt = |address| connect_tcp(address, manner, first);
    match race(&addresses, delay, deadline, attempt).await {
        Ok(((stream, sent), at)) => {
            let before = addresses.iter().position(|address| *address == at).unwrap_or(0);
            name.won(at.ip(), &addresses[..before]);
            let endpoint = format!("{address} ({at})").into();
            Ok(Dialled { stream, sent, endpoint, builtin: None })
        }
        Err(failures) => {
            // They may be old.
            name.doubt();
            Err(failures.into_iter().map(|(at, error)| (at.to_string(), error)).collect())
        }
    }
}

/// Runs an attempt until `deadline`. It is the caller's, so that there is room for it only once.
async fn within<T>(
    deadline: Instant,
    attempt: Pin<&mut impl Future<Output = io::Result<T>>>,
) -> io::Result<T> {
    timeout_at(deadline, attempt).await.unwrap_or_else(|_| Err(timed_out()))
}

/// Connects. Gives the `first` bytes if the connection is there at once, and says how many it took.
///
/// It ends in the poll in which it has given some, so that whoever waits for several attempts takes this
/// one. Nagle's algorithm is on: the first write never waits (there is no small segment before it), and whoever
/// writes a second time switches it off.
///
/// # Errors
/// socket(2)'s, connect(2)'s, send(2)'s, and those of [`Manner::prepare`].
pub(super) async fn connect_tcp(
    address: SocketAddr,
    manner: &Manner<'_>,
    first: &[u8],
) -> io::Result<(Stream, usize)> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    net::set_up_reads(&SockRef::from(&socket))?;
    manner.prepare(&socket, address)?;
    if !first.is_empty() {
        // The handshake's last ACK goes with the data that follows at once (`tcp_rcv_synsent_state_process`: not in
        // "pingpong" mode, which is what this sets). Advice: without it there is one segment more.
        let _ = socket.set_tcp_quickack(false);
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let sent = if first.is_empty() { None } else { give(&socket, first)? };
    let stream = Tcp::new(socket.into())?;
    if let Some(sent) = sent {
        return Ok((Stream::Tcp(stream), sent));
    }
    stream.connected().await?;
    Ok((Stream::Tcp(stream), 0))
}

/// Gives a socket that is connecting the first bytes; `None`: it still is connecting.
fn give(socket: &Socket, first: &[u8]) -> io::Result<Option<usize>> {
    loop {
        match send(socket, first, SendFlags::NOSIGNAL) {
            Ok(sent) => return Ok(Some(sent)),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::TcpListener};

    use super::*;
    use crate::{account::Counters, net::TcpTimers};

    fn manner(counters: &Counters) -> Manner<'_> {
        Manner {
            segment: None,
            source: None,
            client: None,
            sticky: None,
            timers: TcpTimers::default(),
            counters,
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_there_at_once_has_the_first_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Counters::default();
        let (stream, sent) = connect_tcp(address, &manner(&counters), b"GET ").await.unwrap();
        assert_eq!(sent, 4);
        let (mut server, _) = listener.accept().unwrap();
        drop(stream);
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"GET ");
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_as_such() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let counters = Counters::default();
        for first in [&b""[..], b"GET "] {
            let error = connect_tcp(address, &manner(&counters), first).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    #[tokio::test]
    async fn more_than_a_socket_takes_is_given_in_part() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Counters::default();
        let much = vec![7; 64 << 20];
        let (_stream, sent) = connect_tcp(address, &manner(&counters), &much).await.unwrap();
        assert!(sent > 0 && sent < much.len(), "{sent}");
    }
}
