//! PostgreSQL: the client's first message ("Frontend/Backend Protocol", Message Formats).
//!
//! It has no type byte: a length, and a code that is either the protocol's version or the
//! number of a request that no version can have.

use std::ops::RangeInclusive;

use super::{
    Details, Protocol,
    scan::{Scan, split_at_nul},
    verdict::{Stop, Verdict},
};

/// Length, which counts itself, and code.
const HEADER: u32 = 8;
/// Longest message that a server takes: `MAX_STARTUP_PACKET_LENGTH`, and the length before it.
const MAX_LENGTH: u32 = 10_000 + 4;
/// `StartupMessage`: 3.0 (0x0003_0000) and later. Those of libpq are 3.0, 3.2 and, to see
/// whether servers ignore what they must, 3.9999.
const VERSION_3: RangeInclusive<u32> = 0x0003_0000..=0x0003_270f;
/// `CancelRequest`: 80877102.
const CANCEL_REQUEST: u32 = 0x04d2_162e;
/// `SSLRequest`: 80877103.
const SSL_REQUEST: u32 = 0x04d2_162f;
/// `GSSENCRequest`: 80877104.
const GSSENC_REQUEST: u32 = 0x04d2_1630;
/// A header, a process's number and its secret key: 4 bytes before 3.2, up to 256 since.
const CANCEL_LENGTH: RangeInclusive<u32> = 16..=12 + 256;
/// A header, `user`, a name of one character, and the end of the list.
const MIN_STARTUP: u32 = HEADER + 8;

/// Matches a request at its code and a `StartupMessage` once it is complete.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "postgres", shortest: HEADER as usize, members: &[], examine, details };

fn examine(bytes: &[u8]) -> Verdict<()> {
    message(bytes).map(|_| ()).into()
}

/// `request`: startup, ssl, gssenc or cancel; of a startup also `version`, `user` and
/// `database`, where the client names one.
fn details(bytes: &[u8]) -> Details {
    let Ok(message) = message(bytes) else { return Details::new() };
    let details = Details::new().with("request", message.name());
    match message {
        Message::Startup { minor, parameters: Parameters { user, database } } => details
            .with("version", format!("3.{minor}"))
            .with("user", user)
            .with_some("database", database),
        Message::Ssl | Message::Gssenc | Message::Cancel => details,
    }
}

enum Message<'a> {
    Startup { minor: u16, parameters: Parameters<'a> },
    Ssl,
    Gssenc,
    Cancel,
}

impl Message<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Startup { .. } => "startup",
            Self::Ssl => "ssl",
            Self::Gssenc => "gssenc",
            Self::Cancel => "cancel",
        }
    }
}

/// Those of a `StartupMessage` that are told.
struct Parameters<'a> {
    user: &'a [u8],
    database: Option<&'a [u8]>,
}

fn message(bytes: &[u8]) -> Result<Message<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    let length = scan.big_endian::<4>(HEADER..=MAX_LENGTH)?;
    if length == HEADER {
        let code = scan.big_endian::<4>(SSL_REQUEST..=GSSENC_REQUEST)?;
        return Ok(if code == SSL_REQUEST { Message::Ssl } else { Message::Gssenc });
    }
    if length < MIN_STARTUP {
        return Err(Stop::Contradiction);
    }

    let [cancel, ..] = CANCEL_REQUEST.to_be_bytes();
    if CANCEL_LENGTH.contains(&length) && scan.peek()? == cancel {
        scan.literal(&CANCEL_REQUEST.to_be_bytes())?;
        return Ok(Message::Cancel);
    }
    let version = scan.big_endian::<4>(VERSION_3)?;
    let list = scan.take((length - HEADER) as usize)?;
    let parameters = parameters(list).ok_or(Stop::Contradiction)?;
    Ok(Message::Startup { minor: version as u16, parameters })
}

/// Names and values, each ending in NUL, and a NUL after the last. `None`: it is no such
/// list, or names no user, whom servers insist on.
fn parameters(mut list: &[u8]) -> Option<Parameters<'_>> {
    let (mut user, mut database) = (None, None);
    loop {
        let (name, rest) = split_at_nul(list)?;
        if name.is_empty() {
            let user = user.filter(|_| rest.is_empty())?;
            return Some(Parameters { user, database });
        }
        let (value, rest) = split_at_nul(rest)?;
        let value = Some(value).filter(|value| !value.is_empty());
        match name {
            b"user" => user = value,
            b"database" => database = value,
            _ => {}
        }
        list = rest;
    }
}
