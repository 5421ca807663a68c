//! The layers below a ClientHello: records (RFC 8446 5.1), of which it may take several,
//! and the handshake header (RFC 8446 4).

use std::borrow::Cow;

use crate::probe::verdict::{Stop, Verdict};

/// `ContentType.handshake` (RFC 8446 5.1).
const HANDSHAKE: u8 = 0x16;
/// Major byte of `legacy_record_version`, 0x0300 to 0x0304 (RFC 8446 5.1).
const MAJOR: u8 = 0x03;
/// Type, version and length of a record (RFC 8446 5.1).
const RECORD_HEADER: usize = 5;
/// Longest fragment: 2^14 and what TLS 1.2 compression may add (RFC 5246 6.2.2 allows
/// 1024; nobody compresses a ClientHello, and RFC 8446 5.2 draws the line at 256).
const MAX_FRAGMENT: usize = (1 << 14) + 256;
/// Most records that a ClientHello may take. All of them are walked anew with every read
/// and for every rule, so records of a byte each must not be able to make that long. The
/// largest hello believed needs four full ones; the clients that cut theirs, to get around
/// censors, make two or three of it.
pub(super) const MAX_RECORDS: usize = 64;
/// `HandshakeType.client_hello` (RFC 8446 4).
const CLIENT_HELLO: u8 = 0x01;
/// Type and length of a handshake message (RFC 8446 4).
const HANDSHAKE_HEADER: usize = 4;
/// Longest ClientHello believed; the length field could say 16 MiB.
const MAX_HANDSHAKE: usize = 64 << 10;

/// A record header, and a handshake header that announces an empty body.
pub(super) const SHORTEST: usize = RECORD_HEADER + HANDSHAKE_HEADER;

/// Whether the bytes begin with a whole ClientHello, whatever its body says.
pub(super) fn examine(bytes: &[u8]) -> Verdict<()> {
    Verdict::from(find(bytes)).map(|_| ())
}

/// Takes the ClientHello's body out of its records. Copies only where there are several.
pub(crate) fn message(bytes: &[u8]) -> Verdict<Cow<'_, [u8]>> {
    Verdict::from(find(bytes)).map(|found| body(bytes, found))
}

/// Where a whole message is.
#[derive(Clone, Copy)]
struct Found {
    /// Records that it takes.
    records: usize,
    /// Length of its body.
    body: usize,
}

/// Walks the records until the message is whole.
fn find(bytes: &[u8]) -> Result<Found, Stop> {
    let mut header = [0; HANDSHAKE_HEADER];
    let mut gathered = 0;
    let mut at = 0;
    for records in 1..=MAX_RECORDS {
        let length = record_length(bytes, at)?;
        let start = at + RECORD_HEADER;
        let arrived = &bytes[start..bytes.len().min(start + length)];
        for (slot, byte) in header.iter_mut().skip(gathered).zip(arrived) {
            *slot = *byte;
        }
        gathered += arrived.len();

        let needed = match handshake_length(&header[..gathered.min(HANDSHAKE_HEADER)])? {
            // Each byte of the header can contradict.
            None => gathered + 1,
            Some(body) => HANDSHAKE_HEADER + body,
        };
        if needed <= gathered {
            return Ok(Found { records, body: needed - HANDSHAKE_HEADER });
        }
        if arrived.len() < length {
            // Bytes of the body cannot contradict; the next record's first byte can.
            let missing = (needed - gathered).min(length - arrived.len());
            return Err(Stop::Incomplete { total: bytes.len() + missing });
        }
        at = start + length;
    }
    Err(Stop::Contradiction)
}

/// The body of a message that is whole.
fn body(bytes: &[u8], found: Found) -> Cow<'_, [u8]> {
    let whole = HANDSHAKE_HEADER..HANDSHAKE_HEADER + found.body;
    let mut fragments = Fragments(bytes);
    if found.records == 1 {
        let fragment = fragments.next().unwrap_or_default();
        return Cow::Borrowed(fragment.get(whole).unwrap_or_default());
    }
    let mut message = Vec::with_capacity(whole.end);
    for fragment in fragments.take(found.records) {
        message.extend_from_slice(&fragment[..fragment.len().min(whole.end - message.len())]);
    }
    message.drain(..whole.start);
    Cow::Owned(message)
}

/// What is in records whose headers were checked; the last of them may be there in part.
struct Fragments<'a>(&'a [u8]);

impl<'a> Iterator for Fragments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let ([_, _, _, high, low], rest) = self.0.split_first_chunk::<RECORD_HEADER>()?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (fragment, rest) = rest.split_at(length.min(rest.len()));
        self.0 = rest;
        Some(fragment)
    }
}

/// Checks the record header at `at` (RFC 8446 5.1) byte by byte and gives its length.
fn record_length(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    let header = &bytes[at..bytes.len().min(at + RECORD_HEADER)];
    let [content, major, _minor, length @ ..] = header else {
        let expected = [HANDSHAKE, MAJOR];
        let len = header.len().min(expected.len());
        return Err(if header[..len] == expected[..len] {
            incomplete(bytes)
        } else {
            Stop::Contradiction
        });
    };
    if (*content, *major) != (HANDSHAKE, MAJOR) {
        return Err(Stop::Contradiction);
    }
    match *length {
        [high, low] => match usize::from(u16::from_be_bytes([high, low])) {
            // An empty handshake fragment is forbidden (RFC 8446 5.1).
            length @ 1..=MAX_FRAGMENT => Ok(length),
            _ => Err(Stop::Contradiction),
        },
        [high] if usize::from(high) << 8 > MAX_FRAGMENT => Err(Stop::Contradiction),
        [..] => Err(incomplete(bytes)),
    }
}

/// One byte more could decide.
fn incomplete(bytes: &[u8]) -> Stop {
    Stop::Incomplete { total: bytes.len() + 1 }
}

/// Checks the handshake header (RFC 8446 4) byte by byte; gives the body's length when whole.
fn handshake_length(header: &[u8]) -> Result<Option<usize>, Stop> {
    match *header {
        [] | [CLIENT_HELLO] => Ok(None),
        // 64 KiB is 0x010000: the first byte of three can be 0 or 1.
        [CLIENT_HELLO, high] | [CLIENT_HELLO, high, _]
            if usize::from(high) << 16 <= MAX_HANDSHAKE =>
        {
            Ok(None)
        }
        [CLIENT_HELLO, high, middle, low, ..] => {
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if length <= MAX_HANDSHAKE { Ok(Some(length)) } else { Err(Stop::Contradiction) }
        }
        [..] => Err(Stop::Contradiction),
    }
}
