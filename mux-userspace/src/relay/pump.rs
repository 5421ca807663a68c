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
    evidence::Reads,
    pool::{Buffer, PIPE_SIZE, Pipe, Pool},
};
use crate::{
    net::{Stream, Taken, Then},
    proxy::Guard,
    upstream::opening::Opening,
};

/// Rounds of one way before the other way, and other flows, get their turn.
const ROUNDS: u32 = 16;

/// Bytes between the two sockets.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// `bytes[start..end]`, and what comes after them as far as that is known.
    Copied { buffer: Buffer, start: usize, end: usize, then: Then },
    /// The prefix, larger than a buffer perhaps, after `header` bytes that are not the stream's.
    Prefix { bytes: Vec<u8>, start: usize, header: usize },
    /// In a pipe.
    Spliced(Pipe),
}

/// Whether Nagle's algorithm (RFC 896) may hold a segment back at the destination.
///
/// It never holds the first one: there is no unacknowledged small segment before it. So a flow with one write
/// need not switch it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nagle {
    Off,
    /// On, and nothing was written yet.
    Unused,
    /// On, and something was written.
    Used,
}

/// One way of a flow.
#[derive(Debug)]
pub(super) struct Pump {
    way: Way,
    held: Held,
    nagle: Nagle,
    /// Something was written that is to leave with what follows.
    corked: bool,
    /// The source's stream has ended.
    ended: bool,
    /// The end was passed on.
    done: bool,
    /// Writing failed; the other way goes on until it ends by itself, since the peer may have
    /// answered before it closed.
    failed: Option<io::Error>,
    /// Carry it by splice(2) from the next read on.
    pub(super) splice: bool,
    /// It should be, and the last time there was no pipe for it.
    pub(super) pipeless: bool,
    /// Looks at the first bytes, until they are known to be no PROXY header.
    pub(super) guard: Option<Guard>,
    /// They were one: nothing is carried any more.
    pub(super) forged: bool,
}

/// A failure and whose it is.
pub(super) type Failure = (Side, io::Error);

impl Pump {
    /// The way up, with what is left of the opening in hand, and a destination that was connected just now.
    pub(super) fn opening(opening: Opening, sent: usize) -> Self {
        let (bytes, header) = opening.into_parts();
        let held = if sent < bytes.len() {
            Held::Prefix { bytes, start: sent, header }
        } else {
            Held::Nothing
        };
        let nagle = if sent > 0 { Nagle::Used } else { Nagle::Unused };
        Self { held, nagle, ..Self::new(Way::Up) }
    }

    /// A way with nothing in hand, and a destination without Nagle's algorithm.
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            held: Held::Nothing,
            nagle: Nagle::Off,
            corked: false,
            ended: false,
            done: false,
            failed: None,
            splice: false,
            pipeless: false,
            guard: None,
            forged: false,
        }
    }

    /// Whether its bytes go by splice(2).
    pub(super) const fn is_spliced(&self) -> bool {
        self.splice && !self.pipeless
    }

    /// Sends every segment at once from now on.
    pub(super) fn hurry(&mut self, destination: &Stream) {
        if self.nagle != Nagle::Off {
            destination.without_delay();
            self.nagle = Nagle::Off;
        }
    }

    /// Whether no byte is in our hands, the stream has not ended, and nothing in it has to be
    /// looked at.
    pub(super) const fn is_quiet(&self) -> bool {
        matches!(self.held, Held::Nothing)
            && !self.ended
            && !self.corked
            && self.failed.is_none()
            && self.guard.is_none()
    }

    /// Whether its stream has ended, or nobody takes it any more.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended || self.failed.is_some()
    }

    /// Whether there is nothing more to do.
    pub(super) const fn is_over(&self) -> bool {
        self.done || self.failed.is_some()
    }

    /// Whether its end was passed on.
    pub(super) const fn is_done(&self) -> bool {
        self.done
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
                if flow.other_done {
                    // Both connections are closed now, which sends the FIN; all that came is read, so that it sends no
                    // RST.
                    self.done = true;
                } else if let Err(error) = destination.shutdown_write() {
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
                    flow.reads.note(taken);
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
            if self.nagle == Nagle::Used && !matches!(self.held, Held::Nothing) {
                self.hurry(destination);
            }
            let (written, ours) = match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Copied { buffer, start, end, then } => {
                    let bytes = &buffer[*start..*end];
                    let written = ready!(destination.poll_send(cx, bytes, *then))?;
                    self.corked = *then == Then::More;
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
            if self.nagle == Nagle::Unused {
                self.nagle = Nagle::Used;
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
                Ok(pipe) => {
                    self.pipeless = false;
                    let (taken, held) = ready!(poll_splice_in(cx, source, pipe, flow.pool))?;
                    self.held = held;
                    return Poll::Ready(Ok(taken));
                }
                // Out of descriptors: copying needs none.
                Err(_) => self.pipeless = true,
            }
        }
        let Taken { buffer, read: end, is_closing } =
            ready!(source.poll_take(cx, usize::MAX, || flow.pool.buffer()))?;
        if self.is_forged(&buffer[..end]) {
            self.forged = true;
            return Poll::Pending;
        }
        if end > 0 {
            // The peer had ended its stream, and this is the rest of it: it can leave with the FIN. That it is the
            // rest is not certain (urgent data ends a read as well), and need not be: the next read tells, at once.
            let is_rest = is_closing && end < buffer.len();
            let then = if is_rest { Then::More } else { Then::Nothing };
            self.held = Held::Copied { buffer, start: 0, end, then };
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
    pub(super) reads: &'a mut Reads,
    pub(super) control: &'a Control,
    pub(super) pool: &'a Pool,
    /// Why the source's connection is gone ([`Pump::lost`] of the other way).
    pub(super) source_lost: Option<i32>,
    /// The other way's end was passed on.
    pub(super) other_done: bool,
}

/// Reads once, into the pipe, which is empty, or a buffer. Returns how much, and what holds it.
///
/// splice(2) does not go past the urgent byte, and says either that there is nothing
/// (`tcp_splice_read`) or, when the stream has ended behind that byte, that this is the end. So
/// neither is believed until recv(2) says the same; what that finds goes by copy.
fn poll_splice_in(
    cx: &mut Context<'_>,
    source: &Stream,
    mut pipe: Pipe,
    pool: &Pool,
) -> Poll<io::Result<(usize, Held)>> {
    loop {
        ready!(source.poll_read_ready(cx))?;
        let result = source.try_io(Interest::READABLE, || {
            match move_bytes(source.as_fd(), pipe.write_end().as_fd(), PIPE_SIZE) {
                Ok(0) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(taken) => return Ok((taken, None)),
                Err(error) => return Err(error),
            }
            let mut buffer = pool.buffer();
            let taken = source.read_now(&mut buffer)?;
            Ok((taken, Some(buffer)))
        });
        return Poll::Ready(match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => Err(error),
            Ok((0, _)) => Ok((0, Held::Nothing)),
            Ok((taken, Some(buffer))) => {
                let held = Held::Copied { buffer, start: 0, end: taken, then: Then::Nothing };
                Ok((taken, held))
            }
            Ok((taken, None)) => {
                pipe.held = taken;
                Ok((taken, Held::Spliced(pipe)))
            }
        });
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
