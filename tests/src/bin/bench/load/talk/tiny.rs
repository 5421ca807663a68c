//! Small writes to the sink, each a system call and a segment of its own; at the end the sink says
//! how many bytes it got.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Instant};

use rustix::{
    event::epoll::EventFlags,
    net::{Shutdown, shutdown},
};

use super::{Context, Step, Talk, wrong};
use crate::{
    load::clock::{Clock, Phase},
    poll::{Moved, read, write},
    wire::{COUNT, TINY},
};

/// Writes before other connections get their turn.
const WRITES: u32 = 64;

/// A stream to the sink.
pub(crate) struct Tiny {
    message: Arc<[u8]>,
    /// Of the message in hand.
    sent: usize,
    total: u64,
    answer: Vec<u8>,
    ended: bool,
    /// May begin a message without asking the clock: the connection's begin was that of its first.
    begun: bool,
}

impl Tiny {
    pub(crate) fn new(size: usize) -> Self {
        let message = TINY.iter().copied().chain(std::iter::repeat(b'.')).take(size).collect();
        Self { message, sent: 0, total: 0, answer: Vec::new(), ended: false, begun: true }
    }

    /// Reads the sink's count.
    fn finish(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step> {
        if !self.ended {
            self.ended = true;
            shutdown(socket, Shutdown::Write)?;
        }
        loop {
            match read(socket, context.buffer)? {
                Moved::Later => return Ok(Step::Wait(EventFlags::IN)),
                Moved::Bytes(0) => break,
                Moved::Bytes(count) => {
                    self.answer.extend_from_slice(context.buffer.get(..count).unwrap_or_default());
                }
            }
        }
        let counted = <[u8; COUNT]>::try_from(self.answer.as_slice()).map(u64::from_le_bytes).ok();
        if counted == Some(self.total) {
            Ok(Step::Over)
        } else {
            Err(wrong(format!("{} bytes sent, the sink says {counted:?}", self.total)))
        }
    }
}

impl Talk for Tiny {
    fn begin(&mut self, _: Instant) {}

    fn advance(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step> {
        for _ in 0..WRITES {
            if self.ended || !(self.begun || context.clock.begins()) {
                return self.finish(socket, context);
            }
            self.begun = true;
            match write(socket, self.message.get(self.sent..).unwrap_or_default())? {
                Moved::Later => return Ok(Step::Wait(EventFlags::OUT)),
                Moved::Bytes(count) => {
                    self.sent += count;
                    self.total += count as u64;
                }
            }
            if self.sent == self.message.len() {
                (self.sent, self.begun) = (0, false);
                context.done += 1;
                if context.clock.phase() == Phase::Counting {
                    context.tally.units += 1;
                    context.tally.bytes += self.message.len() as u64;
                }
            }
        }
        Ok(Step::Wait(EventFlags::OUT))
    }

    fn may_end(&self, _: &Clock) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{super::testing::Rig, *};

    #[test]
    fn the_sinks_count_must_be_what_was_sent() {
        for (lie, good) in [(0, true), (1, false)] {
            let mut rig = Rig::new(Tiny::new(32));
            rig.advance().unwrap();
            let sent = rig.talk.total;
            assert!(sent > 0 && sent.is_multiple_of(32));
            rig.clock.set(Phase::Draining);
            rig.peer.write_all(&(sent + lie).to_le_bytes()).unwrap();
            rig.peer.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(rig.advance().is_ok(), good);
        }
    }
}
