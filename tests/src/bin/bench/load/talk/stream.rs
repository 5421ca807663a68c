//! Bytes from the source, as many as come.

use std::{io, os::fd::OwnedFd, time::Instant};

use rustix::event::epoll::EventFlags;

use super::{Context, Step, Talk, wrong};
use crate::{
    load::clock::{Clock, Phase},
    poll::{Moved, read, write},
    wire,
};

/// Reads before other connections get their turn.
const READS: u32 = 8;

/// A stream from the source.
pub(crate) struct Source {
    asked: usize,
    offset: u64,
    pattern: Box<[u8]>,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self { asked: 0, offset: 0, pattern: wire::pattern() }
    }
}

impl Talk for Source {
    fn begin(&mut self, _: Instant) {}

    fn advance(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step> {
        if let Some(rest) = wire::BULK.get(self.asked..)
            && !rest.is_empty()
        {
            match write(socket, rest)? {
                Moved::Bytes(count) => self.asked += count,
                Moved::Later => return Ok(Step::Wait(EventFlags::OUT)),
            }
            return Ok(Step::Wait(EventFlags::IN));
        }
        for _ in 0..READS {
            match read(socket, context.buffer)? {
                Moved::Later => break,
                Moved::Bytes(0) => return Err(wrong("the source's stream ended")),
                Moved::Bytes(count) => {
                    let piece = context.buffer.get(..count).unwrap_or_default();
                    if !wire::fits(&self.pattern, self.offset, piece) {
                        return Err(wrong(format!("wrong bytes after {}", self.offset)));
                    }
                    self.offset += count as u64;
                    context.done += 1;
                    if context.clock.phase() == Phase::Counting {
                        context.tally.bytes += count as u64;
                        context.tally.units += count as u64;
                    }
                }
            }
        }
        Ok(Step::Wait(EventFlags::IN))
    }

    fn may_end(&self, _: &Clock) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{super::testing::Rig, *};

    #[test]
    fn bytes_are_counted_and_wrong_ones_noticed() {
        let mut rig = Rig::new(Source::new());
        rig.advance().unwrap();
        let pattern = wire::pattern();
        rig.peer.write_all(&pattern[..5000]).unwrap();
        rig.advance().unwrap();
        assert_eq!(rig.tally.bytes, 5000);
        rig.peer.write_all(&pattern[5001..6000]).unwrap();
        assert!(rig.advance().unwrap_err().to_string().contains("wrong bytes after 5000"));
    }
}
