//! What is said on a connection; one file a kind.

pub(crate) mod ahead;
pub(crate) mod connect;
pub(crate) mod exchange;
pub(crate) mod stream;
pub(crate) mod tiny;
pub(crate) mod tls;

use std::{io, os::fd::OwnedFd, time::Instant};

use rustix::event::epoll::EventFlags;

use super::{
    clock::{Clock, Phase},
    report::Tally,
};

/// A connection's part in a work.
pub(crate) trait Talk {
    /// The connection was begun.
    fn begin(&mut self, now: Instant);

    /// Does what can be done now.
    ///
    /// # Errors
    /// The system call's, or what the peer did wrong: either voids the round.
    fn advance(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step>;

    /// Whether the connection may be closed, now that nothing counts any more.
    fn may_end(&self, clock: &Clock) -> bool;
}

/// What a connection does next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Waits.
    Wait(EventFlags),
    /// Makes place for another one.
    Again,
    /// Ends.
    Over,
}

/// What a connection may use.
pub(crate) struct Context<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) tally: &'a mut Tally,
    /// For reading into.
    pub(crate) buffer: &'a mut [u8],
    /// Units done in this step.
    pub(crate) done: u64,
}

impl Context<'_> {
    /// A unit is done: counts it, if this is the time to.
    pub(crate) fn unit(&mut self, bytes: u64, begun: Instant, now: Instant) {
        self.done += 1;
        if self.clock.phase() == Phase::Counting {
            self.tally.unit(bytes, now - begun);
        }
    }
}

/// A peer that did what it should not have.
fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Runs a talk over a real pair of sockets until it waits; what tests need.
#[cfg(test)]
pub(crate) mod testing {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A talk, its socket and its peer's.
    pub(crate) struct Rig<T> {
        pub(crate) talk: T,
        pub(crate) peer: UnixStream,
        pub(crate) clock: Clock,
        pub(crate) tally: Tally,
        socket: OwnedFd,
    }

    impl<T: Talk> Rig<T> {
        pub(crate) fn new(mut talk: T) -> Self {
            let (ours, peer) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            talk.begin(Instant::now());
            let clock = Clock::new(None);
            clock.set(Phase::Counting);
            Self { talk, peer, clock, tally: Tally::new().unwrap(), socket: ours.into() }
        }

        /// One step; the units that were done in it.
        pub(crate) fn advance(&mut self) -> io::Result<(Step, u64)> {
            let mut buffer = vec![0; 1 << 16];
            let mut context = Context {
                clock: &self.clock,
                tally: &mut self.tally,
                buffer: &mut buffer,
                done: 0,
            };
            let step = self.talk.advance(&self.socket, &mut context)?;
            Ok((step, context.done))
        }
    }
}
