//! RDP: the client's X.224 Connection Request ([MS-RDPBCGR] 2.2.1.1).

use std::ops::RangeInclusive;

use super::{
    Details, PeerText, Protocol, Value,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// Version and reserved byte of a TPKT header (RFC 1006 6).
const TPKT: [u8; 2] = [0x03, 0x00];
/// TPKT header and length indicator, which does not count itself.
const BEFORE_INDICATED: u32 = 5;
/// TPKT and X.224 headers, and nothing behind them.
const FIXED: u32 = 11;
/// The length indicator says 254 at most (X.224 13.2.1).
const LENGTH: RangeInclusive<u32> = FIXED..=BEFORE_INDICATED + 254;
/// Connection Request, no credit (X.224 13.3).
const CONNECTION_REQUEST: u8 = 0xe0;
/// Destination reference, of which there is none yet.
const NO_REFERENCE: [u8; 2] = [0; 2];
/// Class 0, no options.
const CLASS: u8 = 0x00;

/// What a routing token or a cookie begins with. `tsv:` is what connection brokers call
/// their collections.
const TOKEN_STARTS: [&[u8]; 2] = [b"Cookie: msts=", b"tsv:"];
const COOKIE_START: &[u8] = b"Cookie: mstshash=";
/// `TYPE_RDP_NEG_REQ` ([MS-RDPBCGR] 2.2.1.1.1).
const NEGOTIATION: u8 = 0x01;
/// Its length, in little endian.
const NEGOTIATION_LENGTH: [u8; 2] = [0x08, 0x00];
/// `CORRELATION_INFO_PRESENT`, of its flags; the others are 0x01 and 0x02.
const CORRELATION: u8 = 0x08;
const FLAGS: u8 = 0x01 | 0x02 | CORRELATION;
/// `TYPE_RDP_CORRELATION_INFO`, no flags, and its length ([MS-RDPBCGR] 2.2.1.1.2).
const CORRELATION_HEADER: [u8; 4] = [0x06, 0x00, 0x24, 0x00];
const CORRELATION_LENGTH: usize = 0x24;

/// `requestedProtocols`, by bit; none of them is standard RDP security.
const PROTOCOLS: [(u32, &str); 5] =
    [(0x01, "ssl"), (0x02, "hybrid"), (0x04, "rdstls"), (0x08, "hybrid-ex"), (0x10, "rdsaad")];

/// Matches once the request is complete: S7, H.323 and others have the same two headers,
/// and other things behind them.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "rdp", shortest: FIXED as usize, members: &[], examine, details };

/// What a Connection Request carries.
#[derive(Default)]
struct Request<'a> {
    cookie: Option<&'a [u8]>,
    token: Option<&'a [u8]>,
    protocols: Option<u32>,
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    request(bytes).map(|_| ()).into()
}

/// `cookie` (of `mstshash=`, often the user's name), `token` (for load balancers) and
/// `protocols`: rdp, or a list of ssl, hybrid, rdstls, hybrid-ex and rdsaad.
fn details(bytes: &[u8]) -> Details {
    let Ok(Request { cookie, token, protocols }) = request(bytes) else { return Details::new() };
    Details::new()
        .with_some("cookie", cookie.filter(|cookie| !cookie.is_empty()))
        .with_some("token", token)
        .with_some("protocols", protocols.map(names))
}

fn names(protocols: u32) -> Value {
    if protocols == 0 {
        return "rdp".into();
    }
    let asked = PROTOCOLS.iter().filter(|(bit, _)| protocols & bit != 0);
    Value::Texts(asked.map(|(_, name)| PeerText::new(name.as_bytes())).collect())
}

fn request(bytes: &[u8]) -> Result<Request<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    scan.literal(&TPKT)?;
    let length = scan.big_endian::<2>(LENGTH)?;
    let indicated = length - BEFORE_INDICATED;
    scan.one(|byte| u32::from(byte) == indicated)?;
    scan.literal(&[CONNECTION_REQUEST])?;
    scan.literal(&NO_REFERENCE)?;
    scan.take(2)?; // source reference
    scan.literal(&[CLASS])?;

    let variable = (length - FIXED) as usize;
    if variable > 0 && !matches!(scan.peek()?, NEGOTIATION | b'C' | b't') {
        return Err(Stop::Contradiction);
    }
    variable_part(scan.take(variable)?).ok_or(Stop::Contradiction)
}

/// A token or a cookie, and a negotiation request; each may be missing.
fn variable_part(bytes: &[u8]) -> Option<Request<'_>> {
    let mut request = Request::default();
    let mut rest = bytes;
    if bytes.first().is_some_and(|byte| *byte != NEGOTIATION) {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let (line, after) = bytes.split_at_checked(end)?;
        rest = after.get(2..)?;
        request.cookie = line.strip_prefix(COOKIE_START);
        let is_token = TOKEN_STARTS.iter().any(|start| line.starts_with(start));
        request.token = is_token.then(|| line.strip_prefix(b"Cookie: msts=").unwrap_or(line));
        request.cookie.or(request.token)?;
    }
    if !rest.is_empty() {
        request.protocols = Some(negotiation(rest)?);
    }
    Some(request)
}

/// `requestedProtocols` of an `RDP_NEG_REQ`, which is all there is, but for the correlation
/// information that its flags announce.
fn negotiation(bytes: &[u8]) -> Option<u32> {
    let (&[kind, flags, low, high, a, b, c, d], rest) = bytes.split_first_chunk()?;
    let correlation = if flags & CORRELATION == 0 {
        rest.is_empty()
    } else {
        rest.len() == CORRELATION_LENGTH && rest.starts_with(&CORRELATION_HEADER)
    };
    let valid = kind == NEGOTIATION
        && flags & !FLAGS == 0
        && [low, high] == NEGOTIATION_LENGTH
        && correlation;
    valid.then(|| u32::from_le_bytes([a, b, c, d]))
}
