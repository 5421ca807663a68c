//! TLS: the ClientHello (RFC 8446 4.1.2), in one record or in several.
//!
//! Two layers, two answers. The record layer and the handshake header decide the verdict;
//! the body only gives details, so a client with a body that we cannot read is TLS still,
//! with nothing to tell of it.

use std::{borrow::Cow, fmt};

use super::{Details, PeerText, Protocol, Value, Verdict, reader::Stop};

/// `ContentType.handshake` (RFC 8446 5.1).
const HANDSHAKE: u8 = 0x16;
/// Major byte of `legacy_record_version`, 0x0300 to 0x0304 (RFC 8446 5.1).
const MAJOR: u8 = 0x03;
/// Type, version and length of a record (RFC 8446 5.1).
const RECORD_HEADER: usize = 5;
/// Longest fragment: 2^14 and what TLS 1.2 compression may add (RFC 5246 6.2.2 allows
/// 1024; nobody compresses a ClientHello, and RFC 8446 5.2 draws the line at 256).
const MAX_FRAGMENT: usize = (1 << 14) + 256;
/// `HandshakeType.client_hello` (RFC 8446 4).
const CLIENT_HELLO: u8 = 0x01;
/// Type and length of a handshake message (RFC 8446 4).
const HANDSHAKE_HEADER: usize = 4;
/// Longest ClientHello believed; the length field could say 16 MiB.
const MAX_HANDSHAKE: usize = 64 << 10;
/// Matches once the ClientHello is complete.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "tls",
    // A record header and a handshake header that announces an empty body.
    shortest: RECORD_HEADER + HANDSHAKE_HEADER,
    members: &[],
    examine,
    details,
};

/// `server_name` (RFC 6066 3).
const EXT_SERVER_NAME: u16 = 0x0000;
/// `NameType.host_name` (RFC 6066 3).
const NAME_TYPE_HOST: u8 = 0x00;
/// `application_layer_protocol_negotiation` (RFC 7301 3.1).
const EXT_ALPN: u16 = 0x0010;
/// `supported_versions` (RFC 8446 4.2.1).
const EXT_SUPPORTED_VERSIONS: u16 = 0x002b;
/// Most ALPN protocols kept; browsers offer two or three.
const MAX_ALPN: usize = 8;

/// What a ClientHello offers. All of it is absent where the body could not be read.
#[derive(Default)]
struct ClientHello {
    /// Host name of `server_name` (RFC 6066 3).
    sni: Option<PeerText>,
    /// Protocols offered (RFC 7301), in the client's order, at most eight, without GREASE.
    alpn: Vec<PeerText>,
    /// Highest version offered.
    version: Option<Version>,
}

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    /// 0x0300 (RFC 6101).
    Ssl3,
    /// 0x0301 (RFC 2246).
    Tls10,
    /// 0x0302 (RFC 4346).
    Tls11,
    /// 0x0303 (RFC 5246).
    Tls12,
    /// 0x0304 (RFC 8446).
    Tls13,
}

impl Version {
    /// The version of this code; `None` for GREASE (RFC 8701), drafts and the unknown.
    const fn from_code(code: u16) -> Option<Self> {
        match code {
            0x0300 => Some(Self::Ssl3),
            0x0301 => Some(Self::Tls10),
            0x0302 => Some(Self::Tls11),
            0x0303 => Some(Self::Tls12),
            0x0304 => Some(Self::Tls13),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ssl3 => "ssl3",
            Self::Tls10 => "1.0",
            Self::Tls11 => "1.1",
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    message(bytes).map(|_| ()).into()
}

/// `sni`, `alpn` and `version`, each if the client says it.
fn details(bytes: &[u8]) -> Details {
    let hello = message(bytes).ok().and_then(|body| client_hello(&body));
    let ClientHello { sni, alpn, version } = hello.unwrap_or_default();
    Details::new()
        .with_some("sni", sni.map(Value::Text))
        .with_some("alpn", (!alpn.is_empty()).then_some(Value::Texts(alpn)))
        .with_some("version", version.map(|version| version.to_string()))
}

/// Takes the ClientHello's body out of its records. Copies only where there are several.
fn message(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Stop> {
    let mut at = 0;
    let mut whole: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let length = record_length(bytes, at)?;
        let start = at + RECORD_HEADER;
        let arrived = &bytes[start..bytes.len().min(start + length)];
        if whole.is_empty() {
            whole = Cow::Borrowed(arrived);
        } else {
            whole.to_mut().extend_from_slice(arrived);
        }

        let needed = match handshake_length(&whole)? {
            // Each byte of the header can contradict.
            None => whole.len() + 1,
            Some(body) => HANDSHAKE_HEADER + body,
        };
        if needed <= whole.len() {
            return Ok(match whole {
                Cow::Borrowed(slice) => Cow::Borrowed(&slice[HANDSHAKE_HEADER..needed]),
                Cow::Owned(vec) => Cow::Owned(vec[HANDSHAKE_HEADER..needed].to_vec()),
            });
        }
        if arrived.len() < length {
            // Bytes of the body cannot contradict; the next record's first byte can.
            let missing = (needed - whole.len()).min(length - arrived.len());
            return Err(Stop::Incomplete { total: bytes.len() + missing });
        }
        at = start + length;
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
fn handshake_length(message: &[u8]) -> Result<Option<usize>, Stop> {
    match *message {
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

/// Reads the body of a ClientHello (RFC 8446 4.1.2). `None`: it is malformed.
fn client_hello(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
    let legacy_version = body.u16()?;
    body.take(32)?; // random
    body.vector8()?; // legacy_session_id
    body.vector16()?; // cipher_suites
    body.vector8()?; // legacy_compression_methods

    let mut hello =
        ClientHello { version: Version::from_code(legacy_version), ..ClientHello::default() };
    if body.0.is_empty() {
        // Before TLS 1.2 there need be no extensions at all (RFC 5246 7.4.1.2).
        return Some(hello);
    }
    let mut extensions = body.vector16()?;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        match kind {
            EXT_SERVER_NAME => hello.sni = Some(server_name(data)?),
            EXT_ALPN => hello.alpn = protocols(data)?,
            EXT_SUPPORTED_VERSIONS => hello.version = versions(data)?.or(hello.version),
            // GREASE (RFC 8701) and everything that no rule asks about.
            _ => {}
        }
    }
    Some(hello)
}

/// `ServerNameList` (RFC 6066 3): the first host name.
fn server_name(mut data: Reader<'_>) -> Option<PeerText> {
    let mut list = data.vector16()?;
    loop {
        let kind = list.u8()?;
        let name = list.vector16()?;
        if kind == NAME_TYPE_HOST && !name.0.is_empty() {
            return Some(PeerText::new(name.0));
        }
    }
}

/// `ProtocolNameList` (RFC 7301 3.1).
fn protocols(mut data: Reader<'_>) -> Option<Vec<PeerText>> {
    let mut list = data.vector16()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?.0;
        if !is_grease(name) && protocols.len() < MAX_ALPN {
            protocols.push(PeerText::new(name));
        }
    }
    Some(protocols)
}

/// `SupportedVersions` of a client (RFC 8446 4.2.1): the highest one that exists.
fn versions(mut data: Reader<'_>) -> Option<Option<Version>> {
    let mut list = data.vector8()?;
    let mut highest = None;
    while !list.0.is_empty() {
        highest = highest.max(Version::from_code(list.u16()?));
    }
    Some(highest)
}

/// Whether an ALPN name is one of the reserved 0x0a0a, 0x1a1a, …, 0xfafa (RFC 8701 2).
fn is_grease(name: &[u8]) -> bool {
    matches!(name, [a, b] if a == b && a & 0x0f == 0x0a)
}

/// Reads big-endian numbers and length-prefixed vectors off the front (RFC 8446 3).
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        let (&value, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(value)
    }

    fn u16(&mut self) -> Option<u16> {
        let (&value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(value))
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length.into()).map(Reader)
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into()).map(Reader)
    }
}
