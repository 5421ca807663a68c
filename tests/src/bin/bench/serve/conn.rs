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
    /// Bytes that the sink has seen; 1 where the source was asked.
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
            return self.ended();
        }
        let taken = tools.buffer.get(..count).unwrap_or_default();
        match self.service {
            Service::Echo => return self.echo(count, tools),
            Service::Sink => self.seen += count as u64,
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

    /// The client has ended its stream.
    fn ended(&mut self) -> io::Result<Fate> {
        match self.service {
            Service::Sink => self.finish(self.seen.to_le_bytes().to_vec()),
            Service::Http | Service::Echo | Service::Source | Service::Hello => Ok(Fate::Over),
        }
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
    let length = bytes.get(3..RECORD_HEADER).map(|length| {
        length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    });
    length.is_some_and(|length| bytes.len() >= RECORD_HEADER + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_complete_with_its_last_byte() {
        assert!(record_is_complete(&ALERT));
        assert!(!record_is_complete(ALERT.get(..6).unwrap()));
        assert!(!record_is_complete(&[]));
    }
}
