//! The frames after the preface (RFC 9113 4, 6), up to the first request's header.

use std::borrow::Cow;

use crate::probe::verdict::{Stop, Verdict};

/// Length, type, flags and stream (RFC 9113 4.1).
pub(super) const FRAME_HEADER: usize = 9;
/// Longest payload: `SETTINGS_MAX_FRAME_SIZE` before the server has said another (RFC 9113
/// 6.5.2), which it cannot have.
const MAX_FRAME: usize = 1 << 14;
/// Most frames looked at, those of the header among them: clients send two to eight. All are
/// walked anew with every read.
const MAX_FRAMES: usize = 64;
/// Longest header believed, as it is on the wire.
const MAX_BLOCK: usize = 64 << 10;

/// Frame types (RFC 9113 6).
const DATA: u8 = 0x00;
const HEADERS: u8 = 0x01;
const RST_STREAM: u8 = 0x03;
const SETTINGS: u8 = 0x04;
const PUSH_PROMISE: u8 = 0x05;
const GOAWAY: u8 = 0x07;
const CONTINUATION: u8 = 0x09;

/// Flags (RFC 9113 6.2, 6.5).
const ACK: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// The field block of the first HEADERS frame and its CONTINUATIONs, whose frames begin at
/// `at`. Copies only where there are CONTINUATIONs.
pub(super) fn header_block(bytes: &[u8], at: usize) -> Verdict<Cow<'_, [u8]>> {
    Frames { bytes, at, left: MAX_FRAMES }.header_block().into()
}

/// What comes before a frame's payload.
#[derive(Clone, Copy, Debug)]
struct Header {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Where in the frames we are.
struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Frames that may still come.
    left: usize,
}

impl<'a> Frames<'a> {
    fn header_block(&mut self) -> Result<Cow<'a, [u8]>, Stop> {
        let first = self.header()?;
        // The preface has SETTINGS at its end (RFC 9113 3.4).
        if first.kind != SETTINGS
            || first.stream != 0
            || first.flags & ACK != 0
            || first.length % 6 != 0
        {
            return Err(Stop::Contradiction);
        }
        self.payload(first)?;

        let (headers, mut block) = loop {
            let header = self.header()?;
            match header.kind {
                // Streams of a client are odd (RFC 9113 5.1.1).
                HEADERS if header.stream % 2 == 1 => {
                    let payload = self.payload(header)?;
                    let block = fragment(header.flags, payload).ok_or(Stop::Contradiction)?;
                    break (header, Cow::Borrowed(block));
                }
                // What needs a stream, what is the server's to send, and farewells.
                HEADERS | DATA | RST_STREAM | PUSH_PROMISE | GOAWAY | CONTINUATION => {
                    return Err(Stop::Contradiction);
                }
                // SETTINGS, PRIORITY, PING, WINDOW_UPDATE, and what is to be ignored
                // (RFC 9113 5.5).
                _ => {
                    self.payload(header)?;
                }
            }
        };

        let mut flags = headers.flags;
        while flags & END_HEADERS == 0 {
            let header = self.header()?;
            if header.kind != CONTINUATION
                || header.stream != headers.stream
                || block.len() + header.length > MAX_BLOCK
            {
                return Err(Stop::Contradiction);
            }
            block.to_mut().extend_from_slice(self.payload(header)?);
            flags = header.flags;
        }
        Ok(block)
    }

    /// The next frame's header.
    fn header(&mut self) -> Result<Header, Stop> {
        self.left = self.left.checked_sub(1).ok_or(Stop::Contradiction)?;
        let end = self.at + FRAME_HEADER;
        let header = self.bytes.get(self.at..end).ok_or(Stop::Incomplete { total: end })?;
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *header else {
            return Err(Stop::Incomplete { total: end });
        };
        let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
        if length > MAX_FRAME {
            return Err(Stop::Contradiction);
        }
        self.at = end;
        // The highest bit is reserved and ignored (RFC 9113 4.1).
        Ok(Header { length, kind, flags, stream: u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]) })
    }

    /// Its payload.
    fn payload(&mut self, header: Header) -> Result<&'a [u8], Stop> {
        let end = self.at + header.length;
        let payload = self.bytes.get(self.at..end).ok_or(Stop::Incomplete { total: end })?;
        self.at = end;
        Ok(payload)
    }
}

/// The field block fragment of a HEADERS frame (RFC 9113 6.2), without padding and priority.
fn fragment(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    let mut rest = payload;
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (length, after) = rest.split_first()?;
        (padding, rest) = (usize::from(*length), after);
    }
    if flags & PRIORITY != 0 {
        // Stream dependency and weight.
        rest = rest.get(5..)?;
    }
    rest.get(..rest.len().checked_sub(padding)?)
}
