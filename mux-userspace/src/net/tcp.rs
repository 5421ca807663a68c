//! A connected TCP socket in the runtime: tokio's `TcpStream`, but that it is told of urgent data.
//!
//! Where there is none, a read that does not fill the buffer has emptied the socket, and is not followed by another
//! that finds nothing. Where there is, such a read may have stopped at the urgent byte (`tcp_recvmsg_locked`), and the
//! kernel is asked what is left, which makes each read dearer.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    ops::DerefMut,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    pin::pin,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{Interest, Ready, unix::AsyncFd};

use super::stream::{Taken, retry};
use crate::sys;

/// A connected TCP socket in the runtime.
#[derive(Debug)]
pub struct Tcp {
    /// Before the socket, which is closed after it.
    registration: OnceLock<AsyncFd<Registered>>,
    socket: TcpStream,
    /// It was read from before it was registered.
    was_read: AtomicBool,
    /// There was urgent data: the kernel tells with each read what is left.
    counts_unread: AtomicBool,
}

impl Tcp {
    /// Puts a socket, which must be non-blocking, into the runtime.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        let socket = Self::unregistered(socket);
        socket.registered()?;
        Ok(socket)
    }

    /// A socket, which must be non-blocking, that goes into the runtime when it has to be waited for. What has come by
    /// then is read without: of a connection that was just accepted mostly its first bytes.
    #[must_use]
    pub const fn unregistered(socket: TcpStream) -> Self {
        Self {
            registration: OnceLock::new(),
            socket,
            was_read: AtomicBool::new(false),
            counts_unread: AtomicBool::new(false),
        }
    }

    fn registered(&self) -> io::Result<&AsyncFd<Registered>> {
        if let Some(registration) = self.registration.get() {
            return Ok(registration);
        }
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let registration = sys::register(Registered(self.socket.as_raw_fd()), interest)?;
        Ok(self.registration.get_or_init(|| registration))
    }

    /// Takes it out.
    #[must_use]
    pub fn into_std(self) -> TcpStream {
        drop(self.registration);
        self.socket
    }

    /// The peer's address.
    ///
    /// # Errors
    /// getpeername(2)'s.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// Our address.
    ///
    /// # Errors
    /// getsockname(2)'s.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Switches Nagle's algorithm off or on.
    ///
    /// # Errors
    /// setsockopt(2)'s.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.socket.set_nodelay(on)
    }

    /// Waits until it may be written to: a socket that connects is connected then, or has failed.
    ///
    /// # Errors
    /// The connection's failure.
    pub async fn connected(&self) -> io::Result<()> {
        self.registered()?.writable().await?.retain_ready();
        self.socket.take_error()?.map_or(Ok(()), Err)
    }

    /// What the runtime has been told, of what a reader asks for; empty: nothing.
    fn told(registration: &AsyncFd<Registered>) -> Ready {
        // Without urgent data, and while the stream has not ended, there is nothing to tell; this asks for less, and
        // is cheaper.
        if registration.try_io(Interest::PRIORITY, |_| Ok(())).is_err() {
            return Ready::EMPTY;
        }
        // Ready at once if there is readiness to return.
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(registration.ready(Interest::READABLE | Interest::PRIORITY)).poll(&mut cx) {
            Poll::Ready(Ok(guard)) => guard.ready(),
            Poll::Ready(Err(_)) | Poll::Pending => Ready::EMPTY,
        }
    }

    /// Whether a read may succeed.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.registered()?.poll_read_ready(cx).map_ok(|mut guard| guard.retain_ready())
    }

    /// Whether a write may succeed.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.registered()?.poll_write_ready(cx).map_ok(|mut guard| guard.retain_ready())
    }

    /// Runs a call that does not block; `WouldBlock` clears the readiness.
    pub(super) fn try_io<R>(
        &self,
        interest: Interest,
        call: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        self.registered()?.try_io(interest, |_| call())
    }

    /// Reads at most so many bytes into a buffer, which is taken when there may be something to read; 0 is the end of
    /// the stream.
    pub(super) fn poll_read<B: DerefMut<Target = [u8]>>(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        take: impl FnOnce() -> B,
    ) -> Poll<io::Result<Taken<B>>> {
        let (registration, mut guard, mut buffer);
        if self.registration.get().is_none() && !self.was_read.swap(true, Ordering::Relaxed) {
            buffer = take();
            let most = most.min(buffer.len());
            match retry(|| recv(self, &mut buffer[..most], RecvFlags::empty())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    let taken = |(read, _)| Taken { buffer, read, is_closing: false };
                    return Poll::Ready(result.map(taken));
                }
            }
            registration = self.registered()?;
            guard = ready!(registration.poll_read_ready(cx))?;
        } else {
            registration = self.registered()?;
            guard = ready!(registration.poll_read_ready(cx))?;
            buffer = take();
        }
        let most = most.min(buffer.len());
        loop {
            let told = Self::told(registration);
            let space = &mut buffer[..most];
            let (result, is_empty) = if told.is_priority() {
                if !self.counts_unread.swap(true, Ordering::Relaxed) {
                    sys::count_unread(self.as_fd());
                }
                match sys::receive(self.as_fd(), space) {
                    Ok((read, more)) => (Ok(read), read > 0 && more == Some(false)),
                    Err(error) => (Err(error), false),
                }
            } else {
                let result = retry(|| recv(self, &mut *space, RecvFlags::empty()));
                let result = result.map(|(read, _)| read);
                let is_short = result.as_ref().is_ok_and(|read| (1..most).contains(read));
                (result, is_short)
            };
            let would_block =
                result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if is_empty || would_block {
                guard.clear_ready();
            }
            if !would_block {
                let is_closing = told.is_read_closed();
                return Poll::Ready(result.map(|read| Taken { buffer, read, is_closing }));
            }
            guard = ready!(registration.poll_read_ready(cx))?;
        }
    }

    /// Writes from `bytes`. `MSG_NOSIGNAL` is among the flags.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        flags: SendFlags,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.registered()?.poll_write_ready(cx))?;
            let result = retry(|| send(self, bytes, flags | SendFlags::NOSIGNAL));
            match &result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    continue;
                }
                // Full: there is room when the runtime is told so again.
                Ok(sent) if *sent < bytes.len() => guard.clear_ready(),
                _ => {}
            }
            return Poll::Ready(result);
        }
    }
}

/// A socket's descriptor, as long as the runtime knows it: [`Tcp`] closes the socket after it.
#[derive(Debug)]
pub(crate) struct Registered(RawFd);

impl AsRawFd for Registered {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write as _, net::TcpListener};

    use super::*;

    /// Ours, accepted and not registered, and theirs.
    fn pair() -> (Tcp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = listener.accept().unwrap().0;
        ours.set_nonblocking(true).unwrap();
        (Tcp::unregistered(ours), theirs)
    }

    fn read_once(ours: &Tcp, bytes: usize) -> Poll<io::Result<Taken<Vec<u8>>>> {
        let mut cx = Context::from_waker(Waker::noop());
        ours.poll_read(&mut cx, usize::MAX, || vec![0; bytes])
    }

    async fn read(ours: &Tcp, bytes: usize) -> Vec<u8> {
        let taken = poll_fn(|cx| ours.poll_read(cx, usize::MAX, || vec![0; bytes])).await.unwrap();
        taken.buffer[..taken.read].to_vec()
    }

    #[tokio::test]
    async fn what_is_there_is_read_without_the_runtime_and_what_is_not_is_waited_for() {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"first").unwrap();
        let Poll::Ready(Ok(taken)) = read_once(&ours, 64) else { panic!("it is there") };
        assert_eq!((&taken.buffer[..taken.read], taken.is_closing), (&b"first"[..], false));
        assert!(ours.registration.get().is_none());
        assert!(read_once(&ours, 64).is_pending() && ours.registration.get().is_some());
        theirs.write_all(b"second").unwrap();
        assert_eq!(read(&ours, 64).await, b"second");
        drop(theirs);
        assert_eq!(read(&ours, 64).await, b"");
    }

    #[tokio::test]
    async fn who_has_said_nothing_is_waited_for() {
        let (ours, mut theirs) = pair();
        assert!(read_once(&ours, 64).is_pending() && ours.registration.get().is_some());
        theirs.write_all(b"late").unwrap();
        assert_eq!(read(&ours, 64).await, b"late");
    }

    #[tokio::test]
    async fn what_did_not_fit_the_first_read_is_read_by_the_next() {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"twelve bytes").unwrap();
        assert_eq!(read(&ours, 7).await, b"twelve ");
        assert_eq!(read(&ours, 7).await, b"bytes");
    }

    #[tokio::test]
    async fn an_end_that_was_there_at_once_is_read_as_often_as_asked() {
        let (ours, theirs) = pair();
        drop(theirs);
        assert_eq!(read(&ours, 7).await, b"");
        assert_eq!(read(&ours, 7).await, b"");
    }

    #[tokio::test]
    async fn urgent_data_behind_the_first_read_is_in_its_place() {
        let (ours, mut theirs) = pair();
        crate::net::set_up_reads(&socket2::SockRef::from(&ours)).unwrap();
        theirs.write_all(b"before").unwrap();
        socket2::SockRef::from(&theirs).send_out_of_band(b"!").unwrap();
        theirs.write_all(b"after").unwrap();
        let mut all = Vec::new();
        while all.len() < 12 {
            all.extend(read(&ours, 64).await);
        }
        assert_eq!(all, b"before!after");
    }

    #[tokio::test]
    async fn it_may_be_written_to_before_it_was_read_from() {
        let (ours, theirs) = pair();
        let sent = poll_fn(|cx| ours.poll_send(cx, b"hello", SendFlags::empty())).await.unwrap();
        assert_eq!(sent, 5);
        let mut bytes = [0; 5];
        io::Read::read_exact(&mut &theirs, &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[tokio::test]
    async fn taken_out_it_can_be_put_in_again() {
        let (ours, mut theirs) = pair();
        assert!(read_once(&ours, 7).is_pending());
        let ours = Tcp::new(ours.into_std()).unwrap();
        theirs.write_all(b"again").unwrap();
        assert_eq!(read(&ours, 7).await, b"again");
    }
}
