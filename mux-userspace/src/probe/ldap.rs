//! LDAP: a client's first message (RFC 4511 4), in BER with definite lengths (RFC 4511 5.1).

use std::ops::RangeInclusive;

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// `LDAPMessage ::= SEQUENCE` (RFC 4511 4.1.1).
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
/// `BindRequest ::= [APPLICATION 0] SEQUENCE` (RFC 4511 4.2).
const BIND_REQUEST: u8 = 0x60;
/// `SearchRequest ::= [APPLICATION 3] SEQUENCE` (RFC 4511 4.5.1).
const SEARCH_REQUEST: u8 = 0x63;
/// `ExtendedRequest ::= [APPLICATION 23] SEQUENCE` (RFC 4511 4.12).
const EXTENDED_REQUEST: u8 = 0x77;
/// `requestName [0] LDAPOID`.
const REQUEST_NAME: u8 = 0x80;
/// StartTLS (RFC 4511 4.14.1).
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// `AuthenticationChoice` (RFC 4511 4.2): simple is `[0]`, sasl `[3] SEQUENCE`; `[9]`, `[10]`
/// and `[11]` are Microsoft's ([MS-ADTS] 5.1.1.1.3).
const SIMPLE: u8 = 0x80;
const SASL: u8 = 0xa3;
const SICILY: RangeInclusive<u8> = 0x89..=0x8b;

/// `scope`; 3 is subordinateSubtree, of a draft that OpenLDAP has.
const SCOPES: RangeInclusive<u8> = 0..=3;
/// `derefAliases`.
const DEREFERENCES: RangeInclusive<u8> = 0..=3;
/// Content of a message: at least an identifier and a short extended request, at most a
/// bind with a Kerberos ticket, which Windows limits to 64 KiB.
const MESSAGE: RangeInclusive<u32> = 10..=0x01_ffff;
/// Longest distinguished name believed.
const MAX_NAME: u32 = 4096;
/// Longest OID believed, and the shortest one.
const OID: RangeInclusive<u32> = 3..=128;

/// Matches at the first field by which the request differs from everything else in BER:
/// the choice of authentication, a search's scope, an OID.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "ldap",
    // An extended request with an OID of three characters.
    shortest: 2 + 3 + 2 + 2 + 3,
    members: &[],
    examine,
    details,
};

enum Request<'a> {
    Bind { version: u8, name: &'a [u8], authentication: &'static str },
    Search { base: &'a [u8] },
    Extended { oid: &'a [u8] },
}

/// Reads the rest of one kind.
type Read = for<'a> fn(Scan<'a>) -> Result<Request<'a>, Stop>;

fn examine(bytes: &[u8]) -> Verdict<()> {
    request(bytes).map(|_| ()).into()
}

/// `op`: bind, search, starttls or extended; with `version`, `dn` (if it names anything) and
/// `auth` (simple, sasl or sicily), with `dn`, or with `oid`.
fn details(bytes: &[u8]) -> Details {
    let named = |name: &'static str, value: &[u8]| {
        Details::new().with("op", name).with_some("dn", Some(value).filter(|it| !it.is_empty()))
    };
    match request(bytes) {
        Ok(Request::Bind { version, name, authentication }) => {
            named("bind", name).with("version", version).with("auth", authentication)
        }
        Ok(Request::Search { base }) => named("search", base),
        Ok(Request::Extended { oid: START_TLS }) => Details::new().with("op", "starttls"),
        Ok(Request::Extended { oid }) => Details::new().with("op", "extended").with("oid", oid),
        Err(_) => Details::new(),
    }
}

fn request(bytes: &[u8]) -> Result<Request<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    scan.literal(&[SEQUENCE])?;
    content(&mut scan, MESSAGE)?;
    identifier(&mut scan)?;
    let read = scan.choose::<Read>(&[
        (&[BIND_REQUEST], bind),
        (&[SEARCH_REQUEST], search),
        (&[EXTENDED_REQUEST], extended),
    ])?;
    content(&mut scan, 0..=*MESSAGE.end())?;
    read(scan)
}

/// `messageID`: not 0, which is the server's for notifications, and up to 2^31 - 1
/// (RFC 4511 4.1.1).
fn identifier(message: &mut Scan<'_>) -> Result<(), Stop> {
    message.literal(&[INTEGER])?;
    let length = length(message, 1..=4)?;
    let first = message.one(|byte| byte < 0x80)?;
    let rest = message.take(length - 1)?;
    if first == 0 && rest.iter().all(|&byte| byte == 0) {
        return Err(Stop::Contradiction);
    }
    Ok(())
}

/// Up to the tag of `authentication`.
fn bind(mut content: Scan<'_>) -> Result<Request<'_>, Stop> {
    let version = small(&mut content, INTEGER, 2..=3)?;
    let name = name(&mut content)?;
    let is_choice = |byte| matches!(byte, SIMPLE | SASL) || SICILY.contains(&byte);
    let authentication = match content.one(is_choice)? {
        SIMPLE => "simple",
        SASL => "sasl",
        _ => "sicily",
    };
    Ok(Request::Bind { version, name, authentication })
}

/// Up to `derefAliases`.
fn search(mut content: Scan<'_>) -> Result<Request<'_>, Stop> {
    let base = name(&mut content)?;
    small(&mut content, ENUMERATED, SCOPES)?;
    small(&mut content, ENUMERATED, DEREFERENCES)?;
    Ok(Request::Search { base })
}

/// Up to the end of `requestName`.
fn extended(mut content: Scan<'_>) -> Result<Request<'_>, Stop> {
    content.literal(&[REQUEST_NAME])?;
    let length = length(&mut content, OID)?;
    let oid = content.each(length, |byte| byte.is_ascii_digit() || byte == b'.')?;
    Ok(Request::Extended { oid })
}

/// A number that takes one byte.
fn small(scan: &mut Scan<'_>, tag: u8, range: RangeInclusive<u8>) -> Result<u8, Stop> {
    scan.literal(&[tag])?;
    length(scan, 1..=1)?;
    scan.one(|byte| range.contains(&byte))
}

/// `LDAPDN`.
fn name<'a>(scan: &mut Scan<'a>) -> Result<&'a [u8], Stop> {
    scan.literal(&[OCTET_STRING])?;
    let length = length(scan, 0..=MAX_NAME)?;
    scan.take(length)
}

/// Reads the length of what is behind a tag; nothing goes beyond that from now on.
fn content(scan: &mut Scan<'_>, range: RangeInclusive<u32>) -> Result<(), Stop> {
    let length = length(scan, range)?;
    scan.within(length)
}

/// A length in its short form, or in its long one of up to four bytes, of which the first
/// ones may be zero: Windows always sends four.
fn length(scan: &mut Scan<'_>, range: RangeInclusive<u32>) -> Result<usize, Stop> {
    let first = scan.one(|byte| match byte {
        0x00..0x80 => range.contains(&byte.into()),
        // 0x80 is the indefinite form.
        0x80..=0xff => matches!(byte, 0x81..=0x84),
    })?;
    let length = match first {
        0x81 => scan.big_endian::<1>(range)?,
        0x82 => scan.big_endian::<2>(range)?,
        0x83 => scan.big_endian::<3>(range)?,
        0x84 => scan.big_endian::<4>(range)?,
        short => short.into(),
    };
    Ok(length as usize)
}
