//! One way of a flow in user space: copy through a buffer, or splice(2) through a pipe.

use std::{
    io,
    os::fd::AsFd,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    pipe::{SpliceFlags, splice},
};
use tokio::io::Interest;

use super::{
    Control, Side, Traffic, Way,
    pool::{Buffer, PIPE_SIZE, Pipe, Pool},
};
use crate::{net::Stream, proxy::Guard};

/// Rounds of one way before the other way, and other flows, get their turn.
const ROUNDS: u32 = 16;

/// Bytes between the two sockets.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// `bytes[start..end]`.
    Copied { buffer: Buffer, start: usize, end: usize },
    /// The prefix, larger than a buffer perhaps, after `header` bytes that are not the stream's.
    Prefix { bytes: Box<[u8]>, start: usize, header: usize },
    /// In a pipe.
    Spliced(Pipe),
}

/// One way of a flow.
#[derive(Debug)]
pub(super) struct Pump {
    way: Way,
    held: Held,
    /// The source's stream has ended.
    ended: bool,
    /// The end was passed on.
    done: bool,
    /// Writing failed; the other way goes on until it ends by itself, since the peer may have
    /// answered before it closed.
    failed: Option<io::Error>,
    /// Carry it by splice(2) from the next read on.
    pub(super) splice: bool,
    /// Looks at the first bytes, until they are known to be no PROXY header.
    pub(super) guard: Option<Guard>,
    /// They were one: nothing is carried any more.
    pub(super) forged: bool,
}

/// A failure and whose it is.
pub(super) type Failure = (Side, io::Error);

impl Pump {
    /// A way that starts with `prefix` in hand.
    pub(super) fn new(way: Way, prefix: Vec<u8>) -> Self {
        let held = if prefix.is_empty() {
            Held::Nothing
        } else {
            Held::Prefix { bytes: prefix.into_boxed_slice(), start: 0, header: 0 }
        };
        Self {
            way,
            held,
            ended: false,
            done: false,
            failed: None,
            splice: false,
            guard: None,
            forged: false,
        }
    }

    /// Puts a header before the prefix; to be called before anything is moved.
    pub(super) fn precede(&mut self, header: Vec<u8>) {
        let length = header.len();
        let mut bytes = header;
        if let Held::Prefix { bytes: prefix, .. } = &self.held {
            bytes.extend_from_slice(prefix);
        }
        self.held = Held::Prefix { bytes: bytes.into_boxed_slice(), start: 0, header: length };
    }

    /// Whether no byte is in our hands, the stream has not ended, and nothing in it has to be
    /// looked at.
    pub(super) const fn is_quiet(&self) -> bool {
        matches!(self.held, Held::Nothing)
            && !self.ended
            && self.failed.is_none()
            && self.guard.is_none()
    }

    /// Whether its stream has ended, or nobody takes it any more.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended || self.failed.is_some()
    }

    /// Whether the end of its stream was passed on.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// Whether there is nothing more to do.
    pub(super) const fn is_over(&self) -> bool {
        self.done || self.failed.is_some()
    }

    /// The error of a failed write that means that the connection written to is gone, so that
    /// reading it no longer tells the end of its stream.
    ///
    /// Not `EPIPE`: that is what a reset makes of a connection whose stream had ended before
    /// (`tcp_reset` in `CLOSE_WAIT`).
    pub(super) fn lost(&self) -> Option<i32> {
        let code = self.failed.as_ref()?.raw_os_error()?;
        (code != Errno::PIPE.raw_os_error()).then_some(code)
    }

    /// The failed write, if one failed.
    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        self.failed.take().map(|error| (Side::destination(self.way), error))
    }

    /// Moves what can be moved. `Ready(Ok)`: the way is over. An error is the source's.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        destination: &mut Stream,
        flow: &mut PumpContext<'_>,
    ) -> Poll<Result<(), Failure>> {
        for _ in 0..ROUNDS {
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = ready!(self.poll_flush(cx, destination, flow)) {
                self.held = Held::Nothing;
                self.failed = Some(error);
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                if let Err(error) = destination.shutdown_write() {
                    self.failed = Some(error);
                } else {
                    self.done = true;
                }
                flow.control.set_half_closed();
                return Poll::Ready(Ok(()));
            }
            match ready!(self.poll_fill(cx, source, flow)) {
                // A socket's error is told once. After a write has got it, a read returns 0, as
                // if the peer had ended its stream.
                Ok(0) if let Some(code) = flow.source_lost => {
                    let error = io::Error::from_raw_os_error(code);
                    return Poll::Ready(Err((Side::source(self.way), error)));
                }
                Ok(0) => self.ended = true,
                Ok(taken) => {
                    flow.traffic.taken += taken as u64;
                    flow.traffic.reads += 1;
                    flow.control.touch();
                }
                Err(error) => {
                    return Poll::Ready(Err((Side::source(self.way), error)));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes all that is held.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut Stream,
        flow: &mut PumpContext<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let (written, ours) = match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Copied { buffer, start, end } => {
                    let written = ready!(destination.poll_write(cx, &buffer[*start..*end]))?;
                    *start += written;
                    if start == end {
                        self.held = Held::Nothing;
                    }
                    (written, 0)
                }
                Held::Prefix { bytes, start, header } => {
                    let written = ready!(destination.poll_write(cx, &bytes[*start..]))?;
                    let ours = header.saturating_sub(*start).min(written);
                    *start += written;
                    if *start == bytes.len() {
                        self.held = Held::Nothing;
                    }
                    (written, ours)
                }
                Held::Spliced(pipe) => {
                    let written = ready!(poll_splice_out(cx, pipe, destination))?;
                    pipe.held -= written;
                    if pipe.held == 0 {
                        self.held = Held::Nothing;
                    }
                    (written, 0)
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            flow.traffic.given += (written - ours) as u64;
            flow.control.touch();
        }
    }

    /// Reads once; nothing is held.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        flow: &PumpContext<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.splice && self.guard.is_none() {
            // Readiness first: an idle flow must hold no pipe.
            ready!(source.poll_read_ready(cx))?;
            match flow.pool.pipe() {
                Ok(mut pipe) => {
                    let taken = ready!(poll_splice_in(cx, source, &pipe))?;
                    pipe.held = taken;
                    if taken > 0 {
                        self.held = Held::Spliced(pipe);
                    }
                    return Poll::Ready(Ok(taken));
                }
                // Out of descriptors: copying needs none.
                Err(_) => self.splice = false,
            }
        }
        ready!(source.poll_read_ready(cx))?;
        let mut buffer = flow.pool.buffer();
        let end = ready!(source.poll_read(cx, &mut buffer))?;
        if self.is_forged(&buffer[..end]) {
            self.forged = true;
            return Poll::Pending;
        }
        if end > 0 {
            self.held = Held::Copied { buffer, start: 0, end };
        }
        Poll::Ready(Ok(end))
    }

    /// Whether these next bytes of the stream complete a PROXY header that is not to be.
    fn is_forged(&mut self, bytes: &[u8]) -> bool {
        let verdict = self.guard.as_mut().and_then(|guard| guard.look(bytes));
        if verdict == Some(false) {
            self.guard = None;
        }
        verdict == Some(true)
    }
}

/// What a pump needs of its flow.
pub(super) struct PumpContext<'a> {
    pub(super) traffic: &'a mut Traffic,
    pub(super) control: &'a Control,
    pub(super) pool: &'a Pool,
    /// Why the source's connection is gone ([`Pump::lost`] of the other way).
    pub(super) source_lost: Option<i32>,
}

fn poll_splice_in(cx: &mut Context<'_>, source: &Stream, pipe: &Pipe) -> Poll<io::Result<usize>> {
    loop {
        ready!(source.poll_read_ready(cx))?;
        // The pipe is empty, so EAGAIN can only be the socket's.
        let result = source.try_io(Interest::READABLE, || {
            move_bytes(source.as_fd(), pipe.write_end().as_fd(), PIPE_SIZE)
        });
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other),
        }
    }
}

fn poll_splice_out(
    cx: &mut Context<'_>,
    pipe: &Pipe,
    destination: &Stream,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(destination.poll_write_ready(cx))?;
        // The pipe is not empty, so EAGAIN can only be the socket's.
        let result = destination.try_io(Interest::WRITABLE, || {
            move_bytes(pipe.read_end().as_fd(), destination.as_fd(), pipe.held)
        });
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other),
        }
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    loop {
        match splice(&from, None, &to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Err(Errno::INTR) => {}
            result => return result.map_err(Into::into),
        }
    }
}
