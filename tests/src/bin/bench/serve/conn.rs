//! A connection of the server: reads, answers, waits.

use std::{io, os::fd::OwnedFd, sync::Arc};

use rustix::event::epoll::EventFlags;

use super::service::{Service, Tools};
use crate::{
    poll::{Moved, read, write},
    wire::{self, ALERT, Persistence, RECORD_HEADER},
};

/// Longest head of a request, and longest TLS record with its header.
const LONGEST: usize = 5 + (1 << 14) + 256;
/// Writes of the source before other connections get their turn.
const WRITES: usize = 4;

/// A connection.
pub(crate) struct Conn {
    pub(crate) socket: OwnedFd,
    /// What epoll was told.
    pub(crate) interest: EventFlags,
    service: Service,
    /// Read, and not understood yet.
    partial: Vec<u8>,
    /// To be written.
    out: Out,
    /// What of `out`, or of the source's stream, is written.
    written: usize,
    /// Bytes that the sink has seen; 1 where the source was asked for its own.
    seen: u64,
    /// Close once `out` is written.
    last: bool,
}

/// Bytes to be written.
enum Out {
    Nothing,
    Shared(Arc<[u8]>),
    Owned(Vec<u8>),
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Waits(EventFlags),
    Over,
}

impl Out {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::Shared(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Conn {
    pub(crate) fn new(socket: OwnedFd, service: Service) -> Self {
        Self {
            socket,
            interest: EventFlags::empty(),
            service,
            partial: Vec::new(),
            out: Out::Nothing,
            written: 0,
            seen: 0,
            last: false,
        }
    }

    /// Does what can be done now. A peer that resets is one whose connection is over.
    pub(crate) fn advance(&mut self, tools: &mut Tools) -> Fate {
        self.try_advance(tools).unwrap_or(Fate::Over)
    }

    fn try_advance(&mut self, tools: &mut Tools) -> io::Result<Fate> {
        if self.service == Service::Source && self.seen > 0 {
            return self.pour(&tools.pattern);
        }
        let answered = !self.out.bytes().is_empty();
        if let Moved::Later = self.flush()? {
            return Ok(Fate::Waits(EventFlags::OUT));
        }
        if self.last {
            return Ok(Fate::Over);
        }
        if answered && self.service == Service::Http && !self.partial.is_empty() {
            // Requests that came before the answer to this one was out.
            return self.answer(tools);
        }
        let Moved::Bytes(count) = read(&self.socket, &mut tools.buffer)? else {
            return Ok(Fate::Waits(EventFlags::IN));
        };
        if count == 0 {
            return Ok(Fate::Over);
        }
        let taken = tools.buffer.get(..count).unwrap_or_default();
        match self.service {
            Service::Echo => return self.echo(count, tools),
            Service::Sink => return self.count(taken),
            Service::Source => {
                self.partial.extend_from_slice(taken);
                if self.partial.len() >= wire::BULK.len() {
                    if self.partial != wire::BULK {
                        return Ok(Fate::Over);
                    }
                    self.seen = 1;
                    return self.pour(&tools.pattern);
                }
            }
            Service::Hello => {
                self.partial.extend_from_slice(taken);
                if record_is_complete(&self.partial) {
                    return self.finish(ALERT.to_vec());
                }
            }
            Service::Http => {
                self.partial.extend_from_slice(taken);
                return self.answer(tools);
            }
        }
        if self.partial.len() > LONGEST {
            return Ok(Fate::Over);
        }
        Ok(Fate::Waits(EventFlags::IN))
    }

    /// Counts what came; answers if that was all.
    fn count(&mut self, taken: &[u8]) -> io::Result<Fate> {
        self.seen += taken.len() as u64;
        // The last bytes, of which some may have come before.
        self.partial.extend_from_slice(taken);
        let before = self.partial.len().saturating_sub(wire::DONE.len());
        self.partial.drain(..before);
        if self.partial == wire::DONE {
            return self.finish(self.seen.to_le_bytes().to_vec());
        }
        Ok(Fate::Waits(EventFlags::IN))
    }

    /// Writes its last bytes.
    fn finish(&mut self, bytes: Vec<u8>) -> io::Result<Fate> {
        self.out = Out::Owned(bytes);
        self.last = true;
        self.after_flush()
    }

    fn after_flush(&mut self) -> io::Result<Fate> {
        Ok(match self.flush()? {
            Moved::Later => Fate::Waits(EventFlags::OUT),
            Moved::Bytes(_) if self.last => Fate::Over,
            Moved::Bytes(_) => Fate::Waits(EventFlags::IN),
        })
    }

    fn flush(&mut self) -> io::Result<Moved> {
        while let Some(rest) = self.out.bytes().get(self.written..)
            && !rest.is_empty()
        {
            match write(&self.socket, rest)? {
                Moved::Bytes(count) => self.written += count,
                Moved::Later => return Ok(Moved::Later),
            }
        }
        self.out = Out::Nothing;
        self.written = 0;
        Ok(Moved::Bytes(0))
    }

    /// Sends back the first `count` bytes of the buffer; keeps what does not go out at once.
    fn echo(&mut self, count: usize, tools: &Tools) -> io::Result<Fate> {
        let bytes = tools.buffer.get(..count).unwrap_or_default();
        let written = match write(&self.socket, bytes)? {
            Moved::Bytes(written) => written,
            Moved::Later => 0,
        };
        match bytes.get(written..) {
            Some(rest) if !rest.is_empty() => {
                self.out = Out::Owned(rest.to_vec());
                Ok(Fate::Waits(EventFlags::OUT))
            }
            _ => Ok(Fate::Waits(EventFlags::IN)),
        }
    }

    /// Answers the first request that is complete; further ones wait until it is written.
    fn answer(&mut self, tools: &mut Tools) -> io::Result<Fate> {
        loop {
            let method = wire::GET.get(..self.partial.len()).unwrap_or(wire::GET);
            if !self.partial.starts_with(method) {
                return Ok(Fate::Over);
            }
            let Some(end) = self.partial.windows(4).position(|four| four == b"\r\n\r\n") else {
                let too_long = self.partial.len() > LONGEST;
                return Ok(if too_long { Fate::Over } else { Fate::Waits(EventFlags::IN) });
            };
            let head = self.partial.get(..end + 4).unwrap_or_default();
            let response = wire::parse_request(head).and_then(|(size, persistence)| {
                Some((tools.response(size, persistence)?, persistence))
            });
            let Some((response, persistence)) = response else { return Ok(Fate::Over) };
            self.partial.drain(..end + 4);
            self.out = Out::Shared(response);
            self.last = persistence == Persistence::Close;
            let fate = self.after_flush()?;
            if matches!(fate, Fate::Over | Fate::Waits(EventFlags::OUT)) || self.partial.is_empty()
            {
                return Ok(fate);
            }
        }
    }

    /// Sends the pattern, on and on.
    fn pour(&mut self, pattern: &[u8]) -> io::Result<Fate> {
        for _ in 0..WRITES {
            let rest = pattern.get(self.written..).unwrap_or_default();
            match write(&self.socket, rest)? {
                Moved::Bytes(count) => self.written = (self.written + count) % pattern.len(),
                Moved::Later => break,
            }
        }
        Ok(Fate::Waits(EventFlags::OUT))
    }
}

/// Whether a TLS record is there as a whole (RFC 8446, section 5.1).
fn record_is_complete(bytes: &[u8]) -> bool {
    let length = bytes
        .get(3..RECORD_HEADER)
        .map(|length| length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)));
    length.is_some_and(|length| bytes.len() >= RECORD_HEADER + length)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    use super::*;

    fn pair(service: Service) -> (Conn, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Conn::new(ours.into(), service), theirs)
    }

    #[test]
    fn the_sink_answers_after_its_last_word_even_if_that_comes_in_pieces() {
        let mut tools = Tools::default();
        let (mut conn, mut peer) = pair(Service::Sink);
        for piece in ["TINY....", "...do", "n"] {
            peer.write_all(piece.as_bytes()).unwrap();
            assert!(matches!(conn.advance(&mut tools), Fate::Waits(EventFlags::IN)));
        }
        peer.write_all(b"e").unwrap();
        assert!(matches!(conn.advance(&mut tools), Fate::Over));
        let mut count = [0; 8];
        peer.read_exact(&mut count).unwrap();
        assert_eq!(u64::from_le_bytes(count), 15);
    }

    #[test]
    fn requests_that_come_together_are_answered_in_turn() {
        let mut tools = Tools::default();
        let (mut conn, mut peer) = pair(Service::Http);
        let two = [wire::request(5, Persistence::Keep), wire::request(7, Persistence::Close)];
        peer.write_all(&two.concat()).unwrap();
        assert!(matches!(conn.advance(&mut tools), Fate::Over));
        drop(conn);
        let mut answers = Vec::new();
        peer.read_to_end(&mut answers).unwrap();
        let expected =
            [wire::response(5, Persistence::Keep), wire::response(7, Persistence::Close)].concat();
        assert_eq!(answers, expected);
    }

    #[test]
    fn an_answer_larger_than_the_buffers_goes_on_when_there_is_room() {
        let mut tools = Tools::default();
        let (mut conn, mut peer) = pair(Service::Http);
        peer.write_all(&wire::request(4 << 20, Persistence::Close)).unwrap();
        assert!(matches!(conn.advance(&mut tools), Fate::Waits(EventFlags::OUT)));
        let expected = wire::response(4 << 20, Persistence::Close);
        let mut answer = vec![0; expected.len()];
        let mut read = 0;
        while read < answer.len() {
            read += peer.read(&mut answer[read..]).unwrap();
            let _ = conn.advance(&mut tools);
        }
        assert!(answer == *expected);
    }

    #[test]
    fn a_record_is_complete_with_its_last_byte() {
        assert!(record_is_complete(&ALERT));
        assert!(!record_is_complete(ALERT.get(..6).unwrap()));
        assert!(!record_is_complete(&[]));
    }
}
