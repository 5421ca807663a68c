//! A scripted end of a connection, TCP or Unix; every wait has the deadline.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{Pattern, deadline, diag};

/// Bytes a call, in the streaming parts.
const CHUNK: usize = 64 * 1024;

/// One end of a connection.
#[derive(Debug)]
pub struct Conn(Socket);

impl Conn {
    /// Connects over TCP.
    ///
    /// # Errors
    /// connect(2)'s.
    pub fn tcp(address: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket
            .connect_timeout(&address.into(), deadline())
            .with_context(|| format!("connecting to {address}"))?;
        Self::from_socket(socket)
    }

    /// Connects over TCP from an address of this machine's, such as another one of loopback's.
    ///
    /// # Errors
    /// bind(2)'s and connect(2)'s.
    pub fn tcp_from(source: IpAddr, address: SocketAddr) -> Result<Self> {
        Self::tcp_between(SocketAddr::new(source, 0), address)
    }

    /// Connects over TCP from an address and port.
    ///
    /// # Errors
    /// bind(2)'s and connect(2)'s.
    pub fn tcp_between(source: SocketAddr, address: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&source.into()).with_context(|| format!("binding to {source}"))?;
        socket
            .connect_timeout(&address.into(), deadline())
            .with_context(|| format!("connecting from {source} to {address}"))?;
        Self::from_socket(socket)
    }

    /// Connects over TCP from an address of this machine's to a listener that resets it, which it
    /// may do before we know that we are connected. Returns our address.
    ///
    /// # Errors
    /// It is not reset.
    pub fn reset_from(source: IpAddr, address: SocketAddr) -> Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        let local = socket.local_addr()?.as_socket().context("an IP address")?;
        match socket.connect_timeout(&address.into(), deadline()) {
            Ok(()) => Self::from_socket(socket)?.expect_reset().map(|_| local),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(local),
            Err(error) => Err(error).with_context(|| format!("connecting from {source}")),
        }
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// connect(2)'s.
    pub fn unix(path: &Path) -> Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket
            .connect(&SockAddr::unix(path)?)
            .with_context(|| format!("connecting to {}", path.display()))?;
        Self::from_socket(socket)
    }

    pub(crate) fn from_socket(socket: Socket) -> Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(deadline()))?;
        socket.set_write_timeout(Some(deadline()))?;
        if socket.domain()? != Domain::UNIX {
            // What a test sends is to be a segment of its own, at once.
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Self(socket))
    }

    /// Our address, as the other side's logs print it.
    ///
    /// # Errors
    /// getsockname(2)'s; it is a Unix socket.
    pub fn local(&self) -> Result<SocketAddr> {
        self.0.local_addr()?.as_socket().context("not an IP socket")
    }

    /// The other end's address.
    ///
    /// # Errors
    /// getpeername(2)'s; it is a Unix socket.
    pub fn peer(&self) -> Result<SocketAddr> {
        self.0.peer_addr()?.as_socket().context("not an IP socket")
    }

    /// Sends all.
    ///
    /// # Errors
    /// send(2)'s, or the deadline.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> Result<()> {
        (&self.0).write_all(bytes.as_ref()).context("sending")
    }

    /// Sends all, the last byte as TCP's urgent one (`MSG_OOB`).
    ///
    /// # Errors
    /// send(2)'s, or not all was taken.
    pub fn send_urgent(&self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        let sent = self.0.send_out_of_band(bytes).context("sending an urgent byte")?;
        ensure!(sent == bytes.len(), "{sent} of {} bytes were taken", bytes.len());
        Ok(())
    }

    /// Sends each byte by itself: the next one only when the other end has read the one before.
    ///
    /// # Errors
    /// send(2)'s, or the deadline.
    pub fn send_one_by_one(&self, bytes: impl AsRef<[u8]>) -> Result<()> {
        bytes.as_ref().iter().try_for_each(|byte| {
            self.send([*byte])?;
            self.wait_read()
        })
    }

    /// Sends zeros until none has been taken for `patience`; returns how many were.
    ///
    /// # Errors
    /// send(2)'s.
    pub fn send_until_stuck(&self, patience: Duration) -> Result<u64> {
        let zeros = vec![0; 64 * 1024];
        let before = self.0.write_timeout()?;
        self.0.set_write_timeout(Some(patience))?;
        let mut sent = 0;
        loop {
            match (&self.0).write(&zeros) {
                Ok(taken) => sent += taken as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("sending"),
            }
        }
        self.0.set_write_timeout(before)?;
        Ok(sent)
    }

    /// Sends bytes of a stream, each by itself, for so long or until none has been taken for a second;
    /// returns how many were.
    ///
    /// # Errors
    /// send(2)'s.
    pub fn send_single_bytes(&self, pattern: Pattern, time: Duration) -> Result<u64> {
        let before = self.0.write_timeout()?;
        self.0.set_write_timeout(Some(Duration::from_secs(1)))?;
        let end = std::time::Instant::now() + time;
        let mut chunk = vec![0; CHUNK];
        let mut sent = 0;
        'sending: loop {
            pattern.fill(sent, &mut chunk);
            for byte in &chunk {
                match (&self.0).write(std::slice::from_ref(byte)) {
                    Ok(_) => sent += 1,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 'sending,
                    Err(error) => return Err(error).context("sending"),
                }
                if sent.is_multiple_of(256) && std::time::Instant::now() >= end {
                    break 'sending;
                }
            }
        }
        self.0.set_write_timeout(before)?;
        Ok(sent)
    }

    /// Waits until the other end, on this machine, has read all that was sent.
    ///
    /// # Errors
    /// The deadline.
    pub fn wait_read(&self) -> Result<()> {
        let ours = self.local()?;
        let theirs = self.peer()?;
        let read = || -> Result<bool> {
            let sent = diag::tcp_queues(ours, theirs)?.is_some_and(|(send, _)| send == 0);
            let received = diag::tcp_queues(theirs, ours)?.is_some_and(|(_, unread)| unread == 0);
            Ok(sent && received)
        };
        crate::eventually("the other end has read all", || match read() {
            Ok(all) => all.then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })?
    }

    /// Ends our stream; the other direction stays.
    ///
    /// # Errors
    /// shutdown(2)'s.
    pub fn finish(&self) -> Result<()> {
        self.0.shutdown(Shutdown::Write).context("ending the stream")
    }

    /// Closes with RST.
    ///
    /// # Errors
    /// setsockopt(2)'s.
    pub fn reset(self) -> Result<()> {
        Ok(self.0.set_linger(Some(Duration::ZERO))?)
    }

    /// Reads once; 0 is the end.
    ///
    /// # Errors
    /// recv(2)'s; `WouldBlock` is the deadline.
    pub fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.0).read(bytes) {
                // With a timeout set, a stopped machine or a debugger interrupts (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Receives exactly `expected`.
    ///
    /// # Errors
    /// Something else came, or nothing.
    pub fn expect(&self, expected: impl AsRef<[u8]>) -> Result<()> {
        let expected = expected.as_ref();
        let mut bytes = vec![0; expected.len()];
        let mut received = 0;
        while received < bytes.len() {
            match self.read(&mut bytes[received..]) {
                Ok(0) => bail!("the end, after {:?}", show(&bytes[..received])),
                Ok(read) => received += read,
                Err(error) => {
                    return Err(anyhow!(error).context(format!(
                        "received {:?}, waiting for {:?}",
                        show(&bytes[..received]),
                        show(expected)
                    )));
                }
            }
        }
        ensure!(bytes == expected, "received {:?}, not {:?}", show(&bytes), show(expected));
        Ok(())
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    /// The stream ends before, or the deadline.
    pub fn bytes(&self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut at = 0;
        while at < length {
            match self.read(&mut bytes[at..])? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                read => at += read,
            }
        }
        Ok(bytes)
    }

    /// Reads `N` bytes.
    ///
    /// # Errors
    /// Those of [`Self::bytes`].
    pub fn exact<const N: usize>(&self) -> Result<[u8; N]> {
        Ok(self.bytes(N)?.as_slice().try_into()?)
    }

    /// Receives everything up to the end.
    ///
    /// # Errors
    /// recv(2)'s, a reset for example, or the deadline.
    pub fn to_end(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&self.0).read_to_end(&mut bytes).context("receiving up to the end")?;
        Ok(bytes)
    }

    /// Waits for the end, before which nothing may come.
    ///
    /// # Errors
    /// Something came, or no end, or a reset.
    pub fn expect_end(&self) -> Result<()> {
        let rest = self.to_end()?;
        ensure!(rest.is_empty(), "not the end but {:?}", show(&rest));
        Ok(())
    }

    /// Waits for a reset, reading over whatever comes before; returns how much that was.
    ///
    /// # Errors
    /// A clean end came instead, or nothing.
    pub fn expect_reset(&self) -> Result<u64> {
        let mut bytes = vec![0; CHUNK];
        let mut received = 0;
        loop {
            match self.read(&mut bytes) {
                Ok(0) => bail!("a clean end after {received} bytes, where a reset was due"),
                Ok(read) => received += read as u64,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(received);
                }
                Err(error) => return Err(anyhow!(error).context("waiting for a reset")),
            }
        }
    }

    /// Sends `length` bytes of a stream, from `offset` on.
    ///
    /// # Errors
    /// send(2)'s, or the deadline.
    pub fn send_pattern(&self, pattern: Pattern, offset: u64, length: u64) -> Result<()> {
        let mut chunk = vec![0; CHUNK.min(length as usize)];
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let part = &mut chunk[..CHUNK.min((end - at) as usize)];
            pattern.fill(at, part);
            (&self.0).write_all(part).with_context(|| format!("sending byte {at} of {end}"))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Receives `length` bytes of a stream, which begin at `offset`.
    ///
    /// # Errors
    /// A byte is wrong, or they do not come.
    pub fn expect_pattern(&self, pattern: Pattern, offset: u64, length: u64) -> Result<()> {
        let mut chunk = vec![0; CHUNK.min(length as usize)];
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let most = CHUNK.min((end - at) as usize);
            match self.read(&mut chunk[..most]) {
                Ok(0) => bail!("the end at byte {at} of {end}"),
                Ok(read) => {
                    pattern.check(at, &chunk[..read]).map_err(anyhow::Error::msg)?;
                    at += read as u64;
                }
                Err(error) => {
                    return Err(anyhow!(error).context(format!("receiving byte {at} of {end}")));
                }
            }
        }
        Ok(())
    }

    /// Receives a stream, which begins at `offset`, until it ends or fails.
    /// Returns how many bytes came, all right ones, and the failure, if there was one.
    ///
    /// # Errors
    /// A byte is wrong.
    pub fn receive_pattern(
        &self,
        pattern: Pattern,
        offset: u64,
    ) -> Result<(u64, Option<io::Error>)> {
        let mut chunk = vec![0; CHUNK];
        let mut at = offset;
        loop {
            match self.read(&mut chunk) {
                Ok(0) => return Ok((at - offset, None)),
                Ok(read) => {
                    pattern.check(at, &chunk[..read]).map_err(anyhow::Error::msg)?;
                    at += read as u64;
                }
                Err(error) => return Ok((at - offset, Some(error))),
            }
        }
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Conn> for OwnedFd {
    fn from(conn: Conn) -> Self {
        conn.0.into()
    }
}

fn show(bytes: &[u8]) -> String {
    let text: String = bytes[..bytes.len().min(200)].escape_ascii().to_string();
    if bytes.len() > 200 { format!("{text}… ({} bytes)", bytes.len()) } else { text }
}

/// An end, and what it sends.
pub type Sends<'a> = (&'a Conn, Pattern, u64);

/// Has both ends send at once, each ending its stream when it has sent all, and checks what arrives.
///
/// # Errors
/// Another byte than was sent, too few or too many of them, or the deadline.
pub fn exchange(one: Sends<'_>, other: Sends<'_>) -> Result<()> {
    let send = |(conn, pattern, length): Sends<'_>| {
        conn.send_pattern(pattern, 0, length)?;
        conn.finish()
    };
    let receive = |conn: &Conn, (_, pattern, length): Sends<'_>| {
        conn.expect_pattern(pattern, 0, length)?;
        conn.expect_end()
    };
    thread::scope(|scope| {
        let threads = [
            (scope.spawn(move || send(one)), "one end sending"),
            (scope.spawn(move || receive(other.0, one)), "the other end receiving"),
            (scope.spawn(move || send(other)), "the other end sending"),
            (scope.spawn(move || receive(one.0, other)), "one end receiving"),
        ];
        let results: Vec<Result<()>> =
            threads.into_iter().map(|(handle, who)| join(handle, who)).collect();
        results.into_iter().collect()
    })
}

/// The result of a scoped thread of a test.
///
/// # Errors
/// Its own, or that it panicked.
pub fn join<T>(handle: ScopedJoinHandle<'_, Result<T>>, who: &str) -> Result<T> {
    match handle.join() {
        Ok(result) => result.with_context(|| who.to_owned()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map_or("", String::as_str);
            bail!("{who} panicked: {text}")
        }
    }
}
