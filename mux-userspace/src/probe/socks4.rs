//! SOCKS4 and SOCKS4a: the client's request.
//!
//! Neither has an RFC: "SOCKS: A protocol for TCP proxy across firewalls" (Ying-Da Lee)
//! and "SOCKS 4A: A Simple Extension to SOCKS 4 Protocol" (the same) define them.

use std::net::Ipv4Addr;

use super::{Details, Protocol, verdict::Verdict};

/// VN.
const VERSION: u8 = 0x04;
/// CD of a CONNECT request.
const CONNECT: u8 = 0x01;
/// CD of a BIND request.
const BIND: u8 = 0x02;
/// VN and CD.
const VERSION_AND_COMMAND: usize = 2;
/// Where DSTIP is.
const ADDRESS: usize = 4;
/// VN, CD, DSTPORT and DSTIP, before USERID.
const HEADER: usize = 8;
/// Longest USERID and longest host name, without their NUL.
const MAX_TEXT: usize = 255;
/// The header and an empty USERID's NUL.
const SHORTEST: usize = HEADER + 1;

/// Matches once USERID and, in SOCKS4a, the host name have ended.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "socks4", shortest: SHORTEST, members: &[], examine, details };

/// SOCKS4a alone: requests with a host name, which is left to the proxy to resolve.
pub(super) const WITH_NAME: Protocol = Protocol {
    name: "socks4a",
    // A host name of one byte, and its NUL.
    shortest: SHORTEST + 2,
    members: &[],
    examine: examine_with_name,
    details,
};

fn examine(bytes: &[u8]) -> Verdict<()> {
    request(bytes).map(|_| ())
}

fn examine_with_name(bytes: &[u8]) -> Verdict<()> {
    let address = bytes.get(ADDRESS..bytes.len().min(HEADER)).unwrap_or_default();
    if !matches!(address, [] | [0] | [0, 0] | [0, 0, 0] | [0, 0, 0, 0x01..=0xff]) {
        return Verdict::NoMatch;
    }
    match request(bytes).map(|_| ()) {
        // Each byte of the address can contradict.
        Verdict::NeedMore(_) if (VERSION_AND_COMMAND..HEADER).contains(&bytes.len()) => {
            Verdict::NeedMore(bytes.len().max(ADDRESS) + 1)
        }
        verdict => verdict,
    }
}

/// `command` (CD), `host` (DSTIP, or in SOCKS4a the host name), `port` and `user` (USERID).
fn details(bytes: &[u8]) -> Details {
    let Verdict::Match(Request { command, port, host, user }) = request(bytes) else {
        return Details::new();
    };
    let details = Details::new().with("command", command);
    let details = match host {
        Host::Address(address) => details.with("host", address.to_string()),
        Host::Name(name) => details.with("host", name),
    };
    details.with("port", port).with_some("user", (!user.is_empty()).then_some(user))
}

/// A request.
struct Request<'a> {
    command: &'static str,
    port: u16,
    host: Host<'a>,
    user: &'a [u8],
}

enum Host<'a> {
    Address(Ipv4Addr),
    Name(&'a [u8]),
}

fn request(bytes: &[u8]) -> Verdict<Request<'_>> {
    let command = match bytes {
        [] | [VERSION] => return Verdict::NeedMore(bytes.len() + 1),
        [VERSION, CONNECT, ..] => "connect",
        [VERSION, BIND, ..] => "bind",
        [..] => return Verdict::NoMatch,
    };
    let Some((&[_, _, port_high, port_low, a, b, c, d], rest)) =
        bytes.split_first_chunk::<HEADER>()
    else {
        return Verdict::NeedMore(SHORTEST);
    };

    let (user, rest) = match until_nul(rest) {
        Text::Complete { text, rest } => (text, rest),
        Text::Partial => return Verdict::NeedMore(bytes.len() + 1),
        Text::TooLong => return Verdict::NoMatch,
    };
    // SOCKS4a: 0.0.0.x with x not 0 says that a host name follows USERID.
    let host = if [a, b, c] == [0, 0, 0] && d != 0 {
        match until_nul(rest) {
            Text::Complete { text: [], rest: _ } | Text::TooLong => return Verdict::NoMatch,
            Text::Complete { text, rest: _ } => Host::Name(text),
            Text::Partial => return Verdict::NeedMore(bytes.len() + 1),
        }
    } else {
        Host::Address(Ipv4Addr::new(a, b, c, d))
    };
    Verdict::Match(Request { command, port: u16::from_be_bytes([port_high, port_low]), host, user })
}

/// A text that ends in NUL, as far as it has arrived.
enum Text<'a> {
    Complete { text: &'a [u8], rest: &'a [u8] },
    Partial,
    TooLong,
}

fn until_nul(bytes: &[u8]) -> Text<'_> {
    match bytes.iter().take(MAX_TEXT + 1).position(|&byte| byte == 0) {
        Some(end) => Text::Complete { text: &bytes[..end], rest: &bytes[end + 1..] },
        None if bytes.len() > MAX_TEXT => Text::TooLong,
        None => Text::Partial,
    }
}
