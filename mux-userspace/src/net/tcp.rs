//! A connected TCP socket in the runtime: tokio's `TcpStream`, but that it is told of urgent data.
//!
//! Where there is none, a read that does not fill the buffer has emptied the socket, and is not followed by another
//! that finds nothing. Where there is, such a read may have stopped at the urgent byte (`tcp_recvmsg_locked`), and the
//! kernel is asked what is left, which makes each read dearer.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    ops::DerefMut,
    os::fd::{AsFd, BorrowedFd},
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, Waker, ready},
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{Interest, Ready, unix::AsyncFd};

use super::stream::{Taken, retry};
use crate::sys;

/// A connected TCP socket in the runtime.
#[derive(Debug)]
pub struct Tcp {
    socket: AsyncFd<TcpStream>,
    /// There was urgent data: the kernel tells with each read what is left.
    counts_unread: AtomicBool,
}

impl Tcp {
    /// Puts a socket, which must be non-blocking, into the runtime.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        Ok(Self { socket: sys::register(socket, interest)?, counts_unread: AtomicBool::new(false) })
    }

    /// Takes it out.
    #[must_use]
    pub fn into_std(self) -> TcpStream {
        self.socket.into_inner()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// getpeername(2)'s.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().peer_addr()
    }

    /// Our address.
    ///
    /// # Errors
    /// getsockname(2)'s.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    /// Switches Nagle's algorithm off or on.
    ///
    /// # Errors
    /// setsockopt(2)'s.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.socket.get_ref().set_nodelay(on)
    }

    /// Waits until it may be written to: a socket that connects is connected then, or has failed.
    ///
    /// # Errors
    /// The connection's failure.
    pub async fn connected(&self) -> io::Result<()> {
        self.socket.writable().await?.retain_ready();
        self.socket.get_ref().take_error()?.map_or(Ok(()), Err)
    }

    /// What the runtime has been told, of what a reader asks for; empty: nothing.
    fn told(&self) -> Ready {
        // Ready at once if there is readiness to return.
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(self.socket.ready(Interest::READABLE | Interest::PRIORITY)).poll(&mut cx) {
            Poll::Ready(Ok(guard)) => guard.ready(),
            Poll::Ready(Err(_)) | Poll::Pending => Ready::EMPTY,
        }
    }

    /// Whether a read may succeed.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_read_ready(cx).map_ok(|mut guard| guard.retain_ready())
    }

    /// Whether a write may succeed.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_write_ready(cx).map_ok(|mut guard| guard.retain_ready())
    }

    /// Runs a call that does not block; `WouldBlock` clears the readiness.
    pub(super) fn try_io<R>(
        &self,
        interest: Interest,
        call: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        self.socket.try_io(interest, |_| call())
    }

    /// Reads at most so many bytes into a buffer, which is taken when there may be something to read; 0 is the end of
    /// the stream.
    pub(super) fn poll_read<B: DerefMut<Target = [u8]>>(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        take: impl FnOnce() -> B,
    ) -> Poll<io::Result<Taken<B>>> {
        let mut guard = ready!(self.socket.poll_read_ready(cx))?;
        let mut buffer = take();
        let most = most.min(buffer.len());
        loop {
            let told = self.told();
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
            guard = ready!(self.socket.poll_read_ready(cx))?;
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
            let mut guard = ready!(self.socket.poll_write_ready(cx))?;
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

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
