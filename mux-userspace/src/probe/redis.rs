//! Redis: a client's first command, as an array of bulk strings or inline ("Redis
//! serialization protocol specification", Sending commands to a Redis server, Inline commands).

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict, starts_with},
};

/// First byte of an array.
const ARRAY: u8 = b'*';
/// First byte of a bulk string.
const BULK_STRING: u8 = b'$';
/// Most elements that a server takes (`processMultibulkBuffer` in networking.c).
const MAX_ELEMENTS: u32 = 1024 * 1024;
/// Longest command name; the longest of Redis's own have 20 characters, modules' a few more.
const MAX_NAME: u32 = 64;

/// Inline commands, with what may follow the name.
///
/// Other text protocols send words on a line too, and even some of the same ones: `GET`
/// (HTTP, memcached), `AUTH` and `QUIT` (mail, FTP), `INFO` and `SUBSCRIBE` (SIP), `config get`
/// (memcached's clusters). What is here is what people type, health checks send, and
/// `redis-benchmark` and old replicas do, and no other protocol begins with.
const INLINE: &[(&[u8], Follows)] = &[
    (b"PING", Follows::Line),
    (b"INFO", Follows::Line),
    (b"ROLE", Follows::Line),
    (b"SYNC", Follows::Line),
    (b"DBSIZE", Follows::Line),
    (b"COMMAND", Follows::Line),
    (b"MONITOR", Follows::Line),
    (b"ECHO", Follows::Arguments),
    (b"HELLO", Follows::Arguments),
    (b"KEYS", Follows::Arguments),
    (b"CLIENT", Follows::Arguments),
    (b"SELECT", Follows::Arguments),
    (b"PSYNC", Follows::Arguments),
    (b"REPLCONF", Follows::Arguments),
];

/// What follows the name of an inline command.
#[derive(Clone, Copy)]
enum Follows {
    /// The end of the line, LF or CR LF.
    Line,
    /// A space.
    Arguments,
}

/// Matches at the end of the command's name.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "redis",
    // `PING` and a line feed. The shortest array is `*1\r\n$1\r\nX\r\n`.
    shortest: 5,
    members: &[],
    examine,
    details,
};

fn examine(bytes: &[u8]) -> Verdict<()> {
    command(bytes).map(|_| ())
}

/// `command`: its name, as the client spells it. Its arguments may be secret (`AUTH`).
fn details(bytes: &[u8]) -> Details {
    match command(bytes) {
        Verdict::Match(name) => Details::new().with("command", name),
        Verdict::NoMatch | Verdict::NeedMore(_) => Details::new(),
    }
}

fn command(bytes: &[u8]) -> Verdict<&[u8]> {
    match bytes.first() {
        Some(&ARRAY) => array(bytes).into(),
        Some(_) => INLINE.iter().fold(Verdict::NoMatch, |verdict, &(name, follows)| {
            verdict.or_else(|| inline(bytes, name, follows))
        }),
        None => Verdict::NeedMore(1),
    }
}

/// `*elements CR LF $length CR LF name CR LF`.
fn array(bytes: &[u8]) -> Result<&[u8], Stop> {
    let mut scan = Scan::new(bytes);
    scan.literal(&[ARRAY])?;
    number(&mut scan, MAX_ELEMENTS)?;
    scan.literal(&[BULK_STRING])?;
    let length = number(&mut scan, MAX_NAME)? as usize;
    if !scan.peek()?.is_ascii_alphabetic() {
        return Err(Stop::Contradiction);
    }
    let name = scan.each(length, is_name)?;
    scan.literal(b"\r\n")?;
    Ok(name)
}

/// What names of commands are made of; those of modules have dots and underscores.
const fn is_name(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-')
}

/// A positive decimal number without zeros before it, at most `max`, and CR LF.
fn number(scan: &mut Scan<'_>, max: u32) -> Result<u32, Stop> {
    let mut number = u32::from(scan.one(|byte| matches!(byte, b'1'..=b'9'))? - b'0');
    loop {
        match scan.one(|byte| byte.is_ascii_digit() || byte == b'\r')? {
            b'\r' => break,
            digit => number = number * 10 + u32::from(digit - b'0'),
        }
        if number > max {
            return Err(Stop::Contradiction);
        }
    }
    scan.literal(b"\n")?;
    Ok(number)
}

/// Compares with one inline command, whose case does not count.
fn inline<'a>(bytes: &'a [u8], name: &[u8], follows: Follows) -> Verdict<&'a [u8]> {
    let (arrived, rest) = bytes.split_at_checked(name.len()).unwrap_or((bytes, &[]));
    if !name.get(..arrived.len()).is_some_and(|name| name.eq_ignore_ascii_case(arrived)) {
        return Verdict::NoMatch;
    }
    if arrived.len() < name.len() {
        return Verdict::NeedMore(bytes.len() + 1);
    }
    let end = match follows {
        Follows::Line => starts_with(rest, b"\n").or_else(|| starts_with(rest, b"\r\n")),
        Follows::Arguments => starts_with(rest, b" "),
    };
    match end {
        Verdict::Match(()) => Verdict::Match(arrived),
        Verdict::NoMatch => Verdict::NoMatch,
        Verdict::NeedMore(total) => Verdict::NeedMore(name.len() + total),
    }
}
