//! MySQL and MariaDB: the client's answer to the server's greeting ("Connection Phase
//! Packets", Protocol::HandshakeResponse41 and Protocol::SSLRequest).
//!
//! A client waits for the greeting, so that behind a port that says nothing only a client
//! that does not wait is ever seen: a load balancer's split connection, a replayed one.

use super::{
    Details, Protocol,
    scan::{Scan, split_at_nul},
    verdict::{Stop, Verdict},
};

/// Length of the payload and sequence number.
const HEADER: usize = 4;
/// The greeting has sequence number 0, its answer 1.
const SEQUENCE: u8 = 0x01;
/// Flags, longest packet, character set and filler: all of an `SSLRequest`, and what a
/// `HandshakeResponse41` begins with.
const FIXED: u32 = 32;
/// Longest payload believed; the longest attributes are 64 KiB, and clients send some 200 bytes.
const MAX_PAYLOAD: u32 = 0xffff;
/// Longest user name; MariaDB's have at most 128 characters.
const MAX_USER: usize = 512;
/// Filler between the character set and what MariaDB uses the last four bytes for.
const FILLER: [u8; 19] = [0; 19];

/// `CLIENT_LONG_PASSWORD`, 0x01; MariaDB calls it `CLIENT_MYSQL`, and where it is not set the
/// last four bytes of filler are more flags.
const CLIENT_MYSQL: u8 = 0x01;
/// `CLIENT_CONNECT_WITH_DB`, 0x08.
const CONNECT_WITH_DB: u8 = 0x08;
/// `CLIENT_PROTOCOL_41`, 0x0200: its second byte. Without it, it is MySQL 3's answer.
const PROTOCOL_41: u8 = 0x02;
/// `CLIENT_SSL`, 0x0800: its second byte.
const SSL: u8 = 0x08;
/// `CLIENT_SECURE_CONNECTION` (`CLIENT_RESERVED2`), 0x8000: its second byte.
const SECURE_CONNECTION: u8 = 0x80;
/// `CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA`, 0x0020_0000: its third byte.
const PLUGIN_AUTH_LENENC: u8 = 0x20;

/// Matches an `SSLRequest` once it is complete, and a `HandshakeResponse41` at the end of
/// the user's name.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "mysql",
    // And an empty name's NUL makes a HandshakeResponse41 no shorter.
    shortest: HEADER + FIXED as usize,
    members: &[],
    examine,
    details,
};

fn examine(bytes: &[u8]) -> Verdict<()> {
    answer(bytes).map(|_| ()).into()
}

/// `request`: ssl or login; of a login also `user` and, where it has arrived, `database`.
fn details(bytes: &[u8]) -> Details {
    match answer(bytes) {
        Ok(Answer::Ssl) => Details::new().with("request", "ssl"),
        Ok(Answer::Login { user, database }) => Details::new()
            .with("request", "login")
            .with_some("user", (!user.is_empty()).then_some(user))
            .with_some("database", database),
        Err(_) => Details::new(),
    }
}

enum Answer<'a> {
    Ssl,
    Login { user: &'a [u8], database: Option<&'a [u8]> },
}

fn answer(bytes: &[u8]) -> Result<Answer<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    let length = scan.little_endian::<3>(FIXED..=MAX_PAYLOAD)?;
    scan.literal(&[SEQUENCE])?;
    let ssl = length == FIXED;
    let [first] = scan.array()?;
    // A client that says SSL says nothing more before it speaks TLS.
    let second = scan.one(|byte| byte & PROTOCOL_41 != 0 && (byte & SSL != 0) == ssl)?;
    // The other half of the flags, the longest packet and the character set.
    let [third, _, _, _, _, _, _] = scan.array()?;
    scan.literal(&FILLER)?;
    if first & CLIENT_MYSQL == 0 {
        scan.take(4)?;
    } else {
        scan.literal(&[0; 4])?;
    }
    if ssl {
        return Ok(Answer::Ssl);
    }

    let room = (length - FIXED) as usize - 1;
    let user = scan.run(room.min(MAX_USER), |byte| byte != 0)?;
    scan.literal(&[0])?;
    let packet = bytes.get(..HEADER + length as usize).unwrap_or(bytes);
    let rest = packet.get(scan.position()..).unwrap_or_default();
    let database = (first & CONNECT_WITH_DB != 0)
        .then(|| after_authentication(rest, second, third))
        .flatten()
        .and_then(split_at_nul)
        .map(|(database, _)| database)
        .filter(|database| !database.is_empty());
    Ok(Answer::Login { user, database })
}

/// Skips the authentication's data, whose form flags say; `None` if it has not all arrived.
fn after_authentication(bytes: &[u8], second: u8, third: u8) -> Option<&[u8]> {
    if third & PLUGIN_AUTH_LENENC == 0 && second & SECURE_CONNECTION == 0 {
        return split_at_nul(bytes).map(|(_, rest)| rest);
    }
    // A length of one byte. As a length-encoded integer it could be longer, from 0xfb on,
    // but nothing that clients hash is.
    let (&length, rest) = bytes.split_first()?;
    rest.get(length.into()..).filter(|_| length < 0xfb)
}
