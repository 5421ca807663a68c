//! Small messages both ways at once: each is a system call of its own, and the next ones are sent before the
//! first is back.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Instant};

use rustix::event::epoll::EventFlags;

use super::{Context, Step, Talk, wrong};
use crate::{
    load::clock::Clock,
    poll::{Moved, read, write},
    wire::ECHO,
};

/// Messages sent and not back.
pub(crate) struct Ahead {
    message: Arc<[u8]>,
    most: u64,
    /// Bytes of the whole stream.
    sent: u64,
    received: u64,
    /// Nothing more is begun.
    last: bool,
    /// When the last messages came back.
    begun: Instant,
}

impl Ahead {
    /// Messages of `size` bytes, at most `most` of them on their way.
    pub(crate) fn new(size: usize, most: u32) -> Self {
        let filling = std::iter::repeat(b'.');
        let message = ECHO.iter().copied().chain(filling).take(size).collect();
        Self {
            message,
            most: u64::from(most),
            sent: 0,
            received: 0,
            last: false,
            begun: Instant::now(),
        }
    }

    fn size(&self) -> u64 {
        self.message.len() as u64
    }

    /// Sends what may be sent; whether the socket is full.
    fn send(&mut self, socket: &OwnedFd, clock: &Clock) -> io::Result<bool> {
        loop {
            let within = self.sent % self.size();
            // The connection's begin was that of its first message.
            if within == 0 && self.sent > 0 {
                if self.last || self.sent - self.received >= self.most * self.size() {
                    return Ok(false);
                }
                self.last = !clock.begins();
                if self.last {
                    return Ok(false);
                }
            }
            match write(socket, self.message.get(within as usize..).unwrap_or_default())? {
                Moved::Later => return Ok(true),
                Moved::Bytes(count) => self.sent += count as u64,
            }
        }
    }

    /// Takes what is back.
    fn receive(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<()> {
        loop {
            let count = match read(socket, context.buffer)? {
                Moved::Later => return Ok(()),
                Moved::Bytes(0) => return Err(wrong("a stream ended among messages")),
                Moved::Bytes(count) => count,
            };
            let size = self.message.len();
            let start = (self.received % self.size()) as usize;
            let due = self.message.iter().cycle().skip(start);
            let bytes = context.buffer.get(..count).unwrap_or_default();
            // As long as a message is enough: what is lost shifts everything after it.
            if !bytes.iter().zip(due).take(2 * size).all(|(byte, due)| byte == due) {
                return Err(wrong("an answer is not what it should be"));
            }
            let before = self.received / self.size();
            self.received += count as u64;
            if self.received > self.sent {
                return Err(wrong("an answer is too long"));
            }
            let now = Instant::now();
            for _ in before..self.received / self.size() {
                context.unit(self.size(), self.begun, now);
            }
            self.begun = now;
            if count < context.buffer.len() {
                return Ok(());
            }
        }
    }
}

impl Talk for Ahead {
    fn begin(&mut self, now: Instant) {
        self.begun = now;
    }

    fn advance(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step> {
        if self.sent > 0 {
            self.receive(socket, context)?;
        }
        let full = self.send(socket, context.clock)?;
        if self.last && self.sent == self.received {
            return Ok(Step::Over);
        }
        Ok(Step::Wait(if full { EventFlags::OUT | EventFlags::IN } else { EventFlags::IN }))
    }

    fn may_end(&self, _: &Clock) -> bool {
        self.last && self.sent == self.received
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::{super::testing::Rig, *};
    use crate::load::clock::Phase;

    #[test]
    fn so_many_are_on_their_way_and_the_last_ones_are_waited_for() {
        let mut rig = Rig::new(Ahead::new(8, 3));
        rig.advance().unwrap();
        let mut bytes = [0; 64];
        assert_eq!(rig.peer.read(&mut bytes).unwrap(), 24);
        rig.peer.write_all(&bytes[..12]).unwrap();
        assert_eq!(rig.advance().unwrap().1, 1);
        assert_eq!(rig.peer.read(&mut bytes[24..]).unwrap(), 8, "one more");
        rig.clock.set(Phase::Draining);
        rig.peer.write_all(&bytes[12..32]).unwrap();
        assert!(matches!(rig.advance().unwrap(), (Step::Over, 3)));
    }

    #[test]
    fn a_lost_byte_is_noticed() {
        let mut rig = Rig::new(Ahead::new(8, 4));
        rig.advance().unwrap();
        let mut bytes = [0; 64];
        let count = rig.peer.read(&mut bytes).unwrap();
        rig.peer.write_all(&bytes[1..count]).unwrap();
        assert!(rig.advance().is_err());
    }
}
