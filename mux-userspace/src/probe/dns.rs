//! DNS over TCP: the first query (RFC 1035 4.2.2, RFC 7766).

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// The length that goes before a message (RFC 1035 4.2.2).
const LENGTH: usize = 2;
/// A message's header (RFC 1035 4.1.1).
const HEADER: usize = 12;
/// The shortest question: the root, QTYPE and QCLASS (RFC 1035 4.1.2).
const MIN_QUESTION: usize = 5;
/// The shortest message.
const MIN_MESSAGE: usize = HEADER + MIN_QUESTION;
/// The shortest resource record: the root, TYPE, CLASS, TTL and RDLENGTH (RFC 1035 4.1.3).
const MIN_RECORD: usize = 11;

/// Bits of the header's third byte (RFC 1035 4.1.1) that only answers have. AA is not among
/// them: NOTIFY has it (RFC 1996 3.7).
const QR: u8 = 0x80;
const TC: u8 = 0x02;
/// Where OPCODE is in that byte.
const OPCODE_SHIFT: u32 = 3;
const OPCODE_MASK: u8 = 0x0f;
/// QUERY, IQUERY, STATUS (RFC 1035 4.1.1), NOTIFY (RFC 1996 3.2) and UPDATE (RFC 2136 2.2):
/// those with a question or zone section. 3 was never assigned.
const OPCODES: [u8; 5] = [0x00, 0x01, 0x02, 0x04, OPCODE_UPDATE];
const OPCODE_UPDATE: u8 = 0x05;
/// Bits of the header's fourth byte that only answers have, or nobody: RA, Z and RCODE. AD
/// and CD stay (RFC 4035 4.6).
const RA_Z_RCODE: u8 = 0xcf;
/// QDCOUNT, or ZOCOUNT of an UPDATE: one.
const ONE_QUESTION: &[u8] = &[0x00, 0x01];
/// Most records of a request that is no UPDATE: a SOA as an answer (RFC 1996 3.7), one as an
/// authority (RFC 1995 3), OPT (RFC 6891 6.1.1) and TSIG (RFC 8945 5.1).
const MAX_ANSWERS: u16 = 1;
const MAX_AUTHORITIES: u16 = 1;
const MAX_ADDITIONAL: u16 = 2;

/// Longest label, and longest name with its labels' lengths and the root (RFC 1035 2.3.4).
const MAX_LABEL: u8 = 63;
const MAX_NAME: usize = 255;
/// IN, CH, HS (RFC 1035 3.2.4), NONE (RFC 2136 2.4) and ANY; the high byte is 0x00.
const CLASSES: [u8; 5] = [0x01, 0x03, 0x04, 0xfe, 0xff];

/// Names of common QTYPEs (IANA, "Resource Record (RR) TYPEs").
const TYPES: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (43, "DS"),
    (48, "DNSKEY"),
    (52, "TLSA"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
    (257, "CAA"),
];

/// Matches once the question is complete; the records after it are not waited for.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "dns", shortest: LENGTH + MIN_MESSAGE, members: &[], examine, details };

/// The question (RFC 1035 4.1.2).
struct Question<'a> {
    /// QNAME: labels, each after its length, and the root's 0x00.
    name: &'a [u8],
    /// QTYPE.
    kind: u16,
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    question(bytes).map(|_| ()).into()
}

/// `name` and `type` of the question.
fn details(bytes: &[u8]) -> Details {
    question(bytes).map_or_else(
        |_| Details::new(),
        |Question { name, kind }| {
            Details::new().with("name", &*presentation(name)).with("type", type_name(kind))
        },
    )
}

fn question(bytes: &[u8]) -> Result<Question<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    let length = usize::from(scan.u16()?);
    if length < MIN_MESSAGE {
        return Err(Stop::Contradiction);
    }
    let end = LENGTH + length;
    scan.limit(end);
    let records = header(&mut scan)?;

    let name = name(&mut scan)?;
    let kind = scan.u16()?;
    if kind == 0 {
        return Err(Stop::Contradiction);
    }
    scan.literal(&[0x00])?;
    scan.one(|class| CLASSES.contains(&class))?;

    // The records have to fit into what is left, and nothing else may be there.
    let rest = end.saturating_sub(scan.position());
    if records * MIN_RECORD > rest || (records == 0 && rest > 0) {
        return Err(Stop::Contradiction);
    }
    Ok(Question { name, kind })
}

/// Reads the header (RFC 1035 4.1.1); gives the number of records after the question.
fn header(scan: &mut Scan<'_>) -> Result<usize, Stop> {
    scan.skip(2)?; // ID
    let opcode = |flags: u8| flags >> OPCODE_SHIFT & OPCODE_MASK;
    let flags = scan.one(|flags| flags & (QR | TC) == 0 && OPCODES.contains(&opcode(flags)))?;
    scan.one(|flags| flags & RA_Z_RCODE == 0)?;
    scan.literal(ONE_QUESTION)?;
    let (answers, authorities, additional) = (scan.u16()?, scan.u16()?, scan.u16()?);
    if opcode(flags) != OPCODE_UPDATE
        && (answers > MAX_ANSWERS || authorities > MAX_AUTHORITIES || additional > MAX_ADDITIONAL)
    {
        return Err(Stop::Contradiction);
    }
    Ok([answers, authorities, additional].into_iter().map(usize::from).sum())
}

/// Reads QNAME. It has no pointers (RFC 1035 4.1.4): there is no name before it.
fn name<'a>(scan: &mut Scan<'a>) -> Result<&'a [u8], Stop> {
    let start = scan.position();
    loop {
        let length = scan.one(|length| length <= MAX_LABEL)?;
        // The root's byte is still to come.
        if scan.since(start).len() + usize::from(length) >= MAX_NAME && length > 0 {
            return Err(Stop::Contradiction);
        }
        for _ in 0..length {
            scan.one(is_text)?;
        }
        if length == 0 {
            return Ok(scan.since(start));
        }
    }
}

/// What names are made of: RFC 2181 11 allows every byte, and real ones are host names,
/// service names with spaces (RFC 6763 4.1.1) and UTF-8.
const fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f
}

/// A name as it is written (RFC 1035 5.1); a dot inside a label gets a backslash.
fn presentation(name: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&length, after)) = rest.split_first() {
        let (label, after) = after.split_at_checked(length.into()).unwrap_or_default();
        if length > 0 && !text.is_empty() {
            text.push(b'.');
        }
        for &byte in label {
            if matches!(byte, b'.' | b'\\') {
                text.push(b'\\');
            }
            text.push(byte);
        }
        rest = after;
    }
    if text.is_empty() { vec![b'.'] } else { text }
}

/// A type's mnemonic, or `TYPE` and its number (RFC 3597 5).
fn type_name(kind: u16) -> String {
    TYPES
        .iter()
        .find(|(code, _)| *code == kind)
        .map_or_else(|| format!("TYPE{kind}"), |(_, name)| (*name).to_owned())
}
