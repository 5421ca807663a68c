//! Small writes to the sink, each a system call and a segment of its own; at the end the sink says
//! how many bytes it got.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Instant};

use rustix::event::epoll::EventFlags;

use super::{Context, Step, Talk, wrong};
use crate::{
    load::clock::{Clock, Phase},
    poll::{Moved, read, write},
    wire::{COUNT, DONE, TINY},
};

/// Writes before other connections get their turn.
const WRITES: u32 = 64;

/// A stream to the sink.
pub(crate) struct Tiny {
    message: Arc<[u8]>,
    last: Arc<[u8]>,
    /// Of the message in hand.
    sent: usize,
    total: u64,
    answer: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between two messages.
    Between,
    /// A message is begun.
    Message,
    /// The last message is begun.
    Last,
    /// The sink's answer is due.
    Asked,
}

impl Tiny {
    pub(crate) fn new(size: usize) -> Self {
        let message = TINY.iter().copied().chain(std::iter::repeat(b'.')).take(size).collect();
        let filling = std::iter::repeat_n(b'.', size.saturating_sub(DONE.len()));
        let last = filling.chain(DONE.iter().copied()).collect();
        // The connection's begin was that of its first message.
        let state = State::Message;
        Self { message, last, sent: 0, total: 0, answer: Vec::new(), state }
    }

    /// Writes what is begun; whether all of it went out.
    fn write(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        let message = if self.state == State::Last { &self.last } else { &self.message };
        match write(socket, message.get(self.sent..).unwrap_or_default())? {
            Moved::Later => return Ok(false),
            Moved::Bytes(count) => {
                self.sent += count;
                self.total += count as u64;
            }
        }
        Ok(self.sent == message.len())
    }

    /// Reads the sink's count.
    fn finish(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step> {
        while self.answer.len() < COUNT {
            match read(socket, context.buffer)? {
                Moved::Later => return Ok(Step::Wait(EventFlags::IN)),
                Moved::Bytes(0) => return Err(wrong("the sink has not answered")),
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
            match self.state {
                State::Asked => return self.finish(socket, context),
                State::Between => {
                    let more = context.clock.begins();
                    self.state = if more { State::Message } else { State::Last };
                }
                State::Message | State::Last => {}
            }
            if !self.write(socket)? {
                return Ok(Step::Wait(EventFlags::OUT));
            }
            self.sent = 0;
            if self.state == State::Last {
                self.state = State::Asked;
                continue;
            }
            self.state = State::Between;
            context.done += 1;
            if context.clock.phase() == Phase::Counting {
                context.tally.units += 1;
                context.tally.bytes += self.message.len() as u64;
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
    use std::io::{Read as _, Write as _};

    use super::{super::testing::Rig, *};

    #[test]
    fn the_sinks_count_must_be_what_was_sent() {
        for (lie, good) in [(0, true), (1, false)] {
            let mut rig = Rig::new(Tiny::new(32));
            rig.advance().unwrap();
            rig.clock.set(Phase::Draining);
            rig.advance().unwrap();
            let sent = rig.talk.total;
            let mut bytes = vec![0; sent as usize];
            rig.peer.read_exact(&mut bytes).unwrap();
            assert!(bytes.starts_with(TINY) && bytes.ends_with(DONE));
            assert_eq!(rig.tally.bytes + 32, sent);
            rig.peer.write_all(&(sent + lie).to_le_bytes()).unwrap();
            assert_eq!(rig.advance().is_ok(), good);
        }
    }
}
