//! WebSocket: the client's opening handshake over HTTP/1.1 (RFC 6455 4.1).
//!
//! Over HTTP/2 (RFC 8441) it is a stream inside of a connection, which no first byte shows.

use super::{
    Details, Protocol,
    http::{Head, HttpVersion},
    http1,
    verdict::{Verdict, starts_with},
};

/// The method and what follows it (RFC 6455 4.1, 2).
const GET: &[u8] = b"GET ";
/// The fields (4.1, 5, 6 and 9).
const UPGRADE: &str = "upgrade";
const CONNECTION: &str = "connection";
const VERSION: &str = "sec-websocket-version";
/// Their values. The case of the first two does not count.
const WEBSOCKET: &[u8] = b"websocket";
const VERSION_13: &[u8] = b"13";
/// Longest header section believed; servers' limits are 8 to 32 KiB.
const MAX_HEAD: usize = 32 << 10;

/// Matches once the three fields are there, at the end of the header section at the latest.
/// The key is left to the server.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "websocket",
    // The shortest request line, and the shortest three field lines, each with a line feed.
    shortest: b"GET / HTTP/1.1\nupgrade:websocket\nconnection:upgrade\nsec-websocket-version:13\n"
        .len(),
    members: &[],
    examine,
    details,
};

fn examine(bytes: &[u8]) -> Verdict<()> {
    let head = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    let request = starts_with(head, GET).and_then(|()| http1::request(head));
    match request.and_then(|request| handshake(&request)) {
        Verdict::NeedMore(_) if head.len() == MAX_HEAD => Verdict::NoMatch,
        verdict => verdict,
    }
}

/// `host` and `path`, as [`http1`] says them.
fn details(bytes: &[u8]) -> Details {
    let request = (http1::PROTOCOL.details)(bytes);
    ["host", "path"]
        .into_iter()
        .fold(Details::new(), |details, key| details.with_some(key, request.get(key).cloned()))
}

/// Whether a request has the three fields.
fn handshake(request: &impl Head) -> Verdict<()> {
    if request.version() != HttpVersion::Http11 {
        return Verdict::NoMatch;
    }
    request
        .has_field(UPGRADE, |value| lists(value, WEBSOCKET))
        .and(|| request.has_field(CONNECTION, |value| lists(value, UPGRADE.as_bytes())))
        .and(|| request.has_field(VERSION, |value| value == VERSION_13))
}

/// Whether a list (RFC 9110 5.6.1) has this member, whatever its case.
fn lists(value: &[u8], member: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(member))
}
