//! A request of known bytes, an answer of known length: HTTP, echo, TLS hello and alert.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Instant};

use rustix::event::epoll::EventFlags;

use super::{Context, Step, Talk, wrong};
use crate::{
    load::clock::Clock,
    poll::{Moved, read, write},
    wire::{self, ALERT, Persistence},
};

/// Bytes at an answer's start and end that are compared; its length always is.
const EDGE: usize = 16;

/// Exchanges on one connection, one after the other.
pub(crate) struct Exchange {
    request: Arc<[u8]>,
    answer: Arc<[u8]>,
    /// Whether the connection ends with this answer.
    persistence: Persistence,
    /// The last exchange, and how many come before it.
    last: Option<(u32, Arc<[u8]>, Arc<[u8]>)>,
    sent: usize,
    received: usize,
    begun: Instant,
    /// An answer is due.
    asked: bool,
}

impl Exchange {
    /// A request for `size` bytes.
    pub(crate) fn http(size: usize, persistence: Persistence) -> Self {
        let request = wire::request(size, persistence).into();
        Self::new(request, wire::response(size, persistence), persistence)
    }

    /// The same, `each` times on a connection, which the last answer ends.
    pub(crate) fn http_each(size: usize, each: u32) -> Self {
        let request = wire::request(size, Persistence::Close).into();
        let answer = wire::response(size, Persistence::Close);
        Self {
            last: Some((each.saturating_sub(1), request, answer)),
            ..Self::http(size, Persistence::Keep)
        }
    }

    /// A message of `size` bytes, which comes back.
    pub(crate) fn echo(size: usize) -> Self {
        let tail = (wire::ECHO.len()..size).map(|index| b'a' + (index % 23) as u8);
        let message: Arc<[u8]> = wire::ECHO.iter().copied().chain(tail).collect();
        Self::new(Arc::clone(&message), message, Persistence::Keep)
    }

    /// One of the ClientHellos.
    pub(crate) fn hello(hellos: &[Arc<[u8]>], number: u64) -> Self {
        let index = number as usize % hellos.len().max(1);
        let hello = hellos.get(index).cloned().unwrap_or_default();
        Self::new(hello, ALERT.as_slice().into(), Persistence::Close)
    }

    fn new(request: Arc<[u8]>, answer: Arc<[u8]>, persistence: Persistence) -> Self {
        let begun = Instant::now();
        Self { request, answer, persistence, last: None, sent: 0, received: 0, begun, asked: true }
    }

    /// Checks a piece of the answer against what it has to be.
    fn check(&self, piece: &[u8]) -> io::Result<()> {
        let Some(expected) = self.answer.get(self.received..self.received + piece.len()) else {
            return Err(wrong("an answer is too long"));
        };
        let edge = EDGE.min(piece.len());
        let last = piece.len() - edge;
        if piece.get(..edge) == expected.get(..edge) && piece.get(last..) == expected.get(last..) {
            Ok(())
        } else {
            Err(wrong("an answer is not what it should be"))
        }
    }

    fn write_request(&mut self, socket: &OwnedFd) -> io::Result<Step> {
        while let Some(rest) = self.request.get(self.sent..)
            && !rest.is_empty()
        {
            match write(socket, rest)? {
                Moved::Bytes(count) => self.sent += count,
                // An echo of more than the buffers hold comes back while it is sent.
                Moved::Later => return Ok(Step::Wait(EventFlags::OUT | EventFlags::IN)),
            }
        }
        Ok(Step::Wait(EventFlags::IN))
    }

    /// The answer is complete.
    fn complete(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step> {
        let now = Instant::now();
        context.unit(self.answer.len() as u64, self.begun, now);
        if self.persistence == Persistence::Close {
            return Ok(Step::Again);
        }
        (self.sent, self.received, self.begun) = (0, 0, now);
        if let Some((before, request, answer)) = &mut self.last {
            *before -= 1;
            if *before == 0 {
                self.request = Arc::clone(request);
                self.answer = Arc::clone(answer);
                self.persistence = Persistence::Close;
            }
        }
        self.asked = context.clock.begins();
        if self.asked { self.write_request(socket) } else { Ok(Step::Over) }
    }
}

impl Talk for Exchange {
    fn begin(&mut self, now: Instant) {
        self.begun = now;
    }

    fn advance(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step> {
        let fresh = self.sent == 0;
        let step = self.write_request(socket)?;
        if fresh {
            // Nothing can have come yet.
            return Ok(step);
        }
        loop {
            let count = match read(socket, context.buffer)? {
                Moved::Later => return Ok(step),
                Moved::Bytes(count) => count,
            };
            if count == 0 {
                let whole = self.received == self.answer.len();
                return match self.persistence {
                    Persistence::Close if whole => self.complete(socket, context),
                    Persistence::Keep | Persistence::Close => {
                        Err(wrong(format!("a stream ended {} bytes into an answer", self.received)))
                    }
                };
            }
            self.check(context.buffer.get(..count).unwrap_or_default())?;
            self.received += count;
            if self.received == self.answer.len() && self.persistence == Persistence::Keep {
                return self.complete(socket, context);
            }
            if count < context.buffer.len() {
                return Ok(step);
            }
        }
    }

    fn may_end(&self, _: &Clock) -> bool {
        !self.asked
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::{super::testing::Rig, *};

    #[test]
    fn a_split_answer_is_one_unit() {
        let mut rig = Rig::new(Exchange::http(10, Persistence::Keep));
        rig.advance().unwrap();
        let mut request = [0; 256];
        let count = rig.peer.read(&mut request).unwrap();
        assert_eq!(&request[..count], wire::request(10, Persistence::Keep));
        let answer = wire::response(10, Persistence::Keep);
        let (first, second) = answer.split_at(20);
        rig.peer.write_all(first).unwrap();
        assert_eq!(rig.advance().unwrap().1, 0);
        rig.peer.write_all(second).unwrap();
        assert_eq!(rig.advance().unwrap().1, 1);
        assert_eq!((rig.tally.units, rig.tally.bytes), (1, answer.len() as u64));
    }

    #[test]
    fn long_short_and_wrong_answers_are_faults() {
        for (answer, ends, fault) in [
            ("ECHOefgh+", false, "too long"),
            ("ECHOxxxx", false, "not what it should be"),
            ("ECHO", true, "ended 4 bytes"),
        ] {
            let mut rig = Rig::new(Exchange::echo(8));
            rig.advance().unwrap();
            rig.peer.write_all(answer.as_bytes()).unwrap();
            if ends {
                rig.peer.shutdown(std::net::Shutdown::Write).unwrap();
                rig.advance().unwrap();
            }
            let error = rig.advance().unwrap_err().to_string();
            assert!(error.contains(fault), "{answer}: {error}");
        }
    }

    #[test]
    fn the_last_of_some_requests_ends_the_connection() {
        let mut rig = Rig::new(Exchange::http_each(5, 2));
        rig.advance().unwrap();
        rig.peer.write_all(&wire::response(5, Persistence::Keep)).unwrap();
        assert_eq!(rig.advance().unwrap().1, 1);
        let mut asked = [0; 512];
        let count = rig.peer.read(&mut asked).unwrap();
        assert!(asked[..count].ends_with(&wire::request(5, Persistence::Close)));
        rig.peer.write_all(&wire::response(5, Persistence::Close)).unwrap();
        assert_eq!(rig.advance().unwrap().1, 0);
        rig.peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(rig.advance().unwrap(), (Step::Again, 1)));
    }

    #[test]
    fn a_connection_for_each_request_counts_with_the_end_of_the_stream() {
        let mut rig = Rig::new(Exchange::hello(&[b"hello".as_slice().into()], 7));
        rig.advance().unwrap();
        rig.peer.write_all(&ALERT).unwrap();
        assert_eq!(rig.advance().unwrap().1, 0);
        rig.peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(rig.advance().unwrap(), (Step::Again, 1)));
    }
}
