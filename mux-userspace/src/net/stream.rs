//! A connected stream socket, TCP or Unix, in the runtime or out of it.

use std::{
    io,
    net::Shutdown,
    ops::DerefMut,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use rustix::net::{SendFlags, send};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
};

use super::Tcp;

/// A connected stream socket that the core's runtime polls.
#[derive(Debug)]
pub enum Stream {
    /// TCP over IPv4 or IPv6.
    Tcp(Tcp),
    /// A Unix stream socket.
    Unix(UnixStream),
}

/// What follows what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing that is known of.
    Nothing,
    /// More bytes or the end, at once.
    More,
}

/// What a read brought.
#[derive(Debug)]
pub struct Taken<B> {
    /// The buffer that was read into.
    pub buffer: B,
    /// Bytes in it; 0 is the end of the stream.
    pub read: usize,
    /// The runtime had been told that the peer has ended its stream: nothing comes after what was in the
    /// socket then. That it says no does not mean that it has not.
    pub is_closing: bool,
}

impl Stream {
    /// Whether the kernel relay can take it.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Reads into `buffer`; 0 is the end of the stream.
    ///
    /// # Errors
    /// read(2)'s.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_take(cx, usize::MAX, || buffer).map_ok(|taken| taken.read)
    }

    /// Reads at most so many bytes, of a buffer's length at the most, into a buffer that is taken from somewhere when
    /// there may be something to read: who says nothing holds none.
    ///
    /// # Errors
    /// read(2)'s.
    pub fn poll_take<B: DerefMut<Target = [u8]>>(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        take: impl FnOnce() -> B,
    ) -> Poll<io::Result<Taken<B>>> {
        match self {
            Self::Tcp(stream) => stream.poll_read(cx, most, take),
            Self::Unix(stream) => {
                ready!(stream.poll_read_ready(cx))?;
                let is_closing = is_closing(stream);
                let mut buffer = take();
                let most = most.min(buffer.len());
                let mut space = ReadBuf::new(&mut buffer[..most]);
                ready!(Pin::new(stream).poll_read(cx, &mut space))?;
                let read = space.filled().len();
                Poll::Ready(Ok(Taken { buffer, read, is_closing }))
            }
        }
    }

    /// Writes from `bytes`.
    ///
    /// # Errors
    /// write(2)'s.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => stream.poll_send(cx, bytes, SendFlags::empty()),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Writes from `bytes`, and says whether more, or the stream's end, follows at once. Of a TCP stream nothing may
    /// leave before that does (`MSG_MORE`); a Unix stream does not wait.
    ///
    /// # Errors
    /// send(2)'s.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        then: Then,
    ) -> Poll<io::Result<usize>> {
        match (self, then) {
            (Self::Tcp(stream), Then::More) => stream.poll_send(cx, bytes, SendFlags::MORE),
            (stream, Then::Nothing | Then::More) => stream.poll_write(cx, bytes),
        }
    }

    /// Sends every segment at once from now on, and what waits for more (`TCP_NODELAY`, tcp(7)).
    pub fn without_delay(&self) {
        if let Self::Tcp(stream) = self {
            // It fails on a dead descriptor only.
            let _ = stream.set_nodelay(true);
        }
    }

    /// Whether a read may succeed.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Reads into `buffer` at once, without a look at the socket's readiness.
    ///
    /// # Errors
    /// read(2)'s; `WouldBlock` when nothing is there.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| rustix::io::read(self, &mut *buffer))
    }

    /// Whether a write may succeed.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Runs a non-blocking system call on the socket; `WouldBlock` clears its readiness.
    ///
    /// # Errors
    /// The call's.
    pub fn try_io<R>(
        &self,
        interest: Interest,
        call: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, call),
            Self::Unix(stream) => stream.try_io(interest, call),
        }
    }

    /// Ends our side of the stream (FIN).
    ///
    /// # Errors
    /// shutdown(2)'s, but for `ENOTCONN`: a peer that is gone has nobody to tell.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match SockRef::from(self).shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Closes with RST. A Unix stream has none: it is closed, and unread bytes make the peer's
    /// next read fail (`ECONNRESET`, unix(7)).
    pub fn reset(self) {
        reset_on_close(self.as_fd());
    }

    /// Takes the socket out of the runtime.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn park(self) -> io::Result<Parked> {
        Ok(Parked(match self {
            Self::Tcp(stream) => stream.into_std().into(),
            Self::Unix(stream) => stream.into_std()?.into(),
        }))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A connected stream socket that no runtime polls; non-blocking.
#[derive(Debug)]
pub struct Parked(OwnedFd);

impl Parked {
    /// Reads into `buffer`; 0 is the end of the stream, as far as the socket knows.
    ///
    /// # Errors
    /// recv(2)'s; `WouldBlock` when nothing is there.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| rustix::io::read(&self.0, &mut *buffer))
    }

    /// Writes from `bytes`.
    ///
    /// # Errors
    /// send(2)'s; `WouldBlock` when the send buffer is full. Never SIGPIPE.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        retry(|| send(&self.0, bytes, SendFlags::NOSIGNAL))
    }

    /// Ends our side of the stream (FIN).
    ///
    /// # Errors
    /// shutdown(2)'s; `ENOTCONN`: the connection is over, by a reset or a time-out if neither side
    /// of it was ended before.
    pub fn shutdown_write(&self) -> io::Result<()> {
        SockRef::from(&self.0).shutdown(Shutdown::Write)
    }

    /// Gives the socket, which is TCP, back to the runtime.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn unpark(self) -> io::Result<Stream> {
        Ok(Stream::Tcp(Tcp::new(self.0.into())?))
    }

    /// Makes the coming close an RST.
    pub fn reset_on_close(&self) {
        reset_on_close(self.as_fd());
    }

    /// Makes the coming close what it is by default: a FIN, after what was written.
    pub fn end_on_close(&self) {
        // It fails on a dead descriptor only.
        let _ = SockRef::from(&self.0).set_linger(None);
    }

    /// The pending error, which this clears (`SO_ERROR`).
    #[must_use]
    pub fn take_error(&self) -> Option<io::Error> {
        SockRef::from(&self.0).take_error().unwrap_or_else(Some)
    }
}

impl AsFd for Parked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is asked when there is readiness to return, so that the answer is there at once.
fn is_closing(stream: &UnixStream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let poll = pin!(stream.ready(Interest::READABLE)).poll(&mut cx);
    matches!(poll, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map_err(Into::into),
        }
    }
}

fn reset_on_close(fd: BorrowedFd<'_>) {
    // It fails on a dead descriptor only, which has nothing to reset.
    let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io::{Read as _, Write as _},
    };

    use super::*;

    async fn pair() -> (Stream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_nonblocking(true).unwrap();
        let theirs = listener.accept().unwrap().0;
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (Stream::Tcp(Tcp::new(ours).unwrap()), theirs)
    }

    async fn take(stream: &mut Stream) -> Taken<Vec<u8>> {
        poll_fn(|cx| stream.poll_take(cx, usize::MAX, || vec![0; 5])).await.unwrap()
    }

    #[tokio::test]
    async fn the_end_is_known_before_what_comes_before_it_is_read() {
        let (mut ours, mut theirs) = pair().await;
        theirs.write_all(b"first").unwrap();
        let first = take(&mut ours).await;
        assert_eq!((&*first.buffer, first.is_closing), (&b"first"[..], false));
        theirs.write_all(b"words").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        // What another socket has to be waited for brings news of this one, too.
        let (mut other, mut their_other) = pair().await;
        their_other.write_all(b"news!").unwrap();
        take(&mut other).await;
        let last = take(&mut ours).await;
        assert_eq!((&*last.buffer, last.is_closing), (&b"words"[..], true));
        assert_eq!(take(&mut ours).await.read, 0);
    }

    #[tokio::test]
    async fn what_is_sent_with_more_to_come_leaves_with_the_end_or_when_told_to() {
        for hurry in [false, true] {
            let (mut ours, mut theirs) = pair().await;
            let sent = poll_fn(|cx| ours.poll_send(cx, b"answer", Then::More)).await.unwrap();
            assert_eq!(sent, 6);
            if hurry {
                ours.without_delay();
            } else {
                ours.shutdown_write().unwrap();
            }
            let mut bytes = [0; 6];
            theirs.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"answer");
        }
    }
}
