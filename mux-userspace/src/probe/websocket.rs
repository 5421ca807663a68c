//! WebSocket: the client's opening handshake over HTTP/1.1 (RFC 6455 4.1).
//!
//! Over HTTP/2 (RFC 8441) it is a stream inside of a connection, which no first byte shows.

use super::{
    Details, Protocol, http1,
    verdict::{Verdict, starts_with},
};

/// The method and what follows it (RFC 6455 4.1, 2).
const GET: &[u8] = b"GET ";
/// HTTP/1.1 or a higher minor version (the same).
const MIN_MINOR: u8 = b'1';
/// `Upgrade` (4.1, 5), `Connection` (4.1, 6) and `Sec-WebSocket-Version` (4.1, 9).
const UPGRADE: &[u8] = b"upgrade";
const CONNECTION: &[u8] = b"connection";
const VERSION: &[u8] = b"sec-websocket-version";
/// Their values; the case of the first does not count.
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
    match handshake(head) {
        Verdict::NeedMore(_) if head.len() == MAX_HEAD => Verdict::NoMatch,
        verdict => verdict,
    }
}

/// `host` and `path`, as [`http1`] says them.
fn details(bytes: &[u8]) -> Details {
    match http1::request(bytes) {
        Verdict::Match(request) => Details::new()
            .with_some("host", http1::host(request.fields))
            .with("path", request.target),
        Verdict::NoMatch | Verdict::NeedMore(_) => Details::new(),
    }
}

fn handshake(head: &[u8]) -> Verdict<()> {
    match starts_with(head, GET) {
        Verdict::Match(()) => {}
        verdict => return verdict,
    }
    match http1::request(head) {
        Verdict::Match(request) if request.minor >= MIN_MINOR => fields(head, request.fields),
        Verdict::Match(_) | Verdict::NoMatch => Verdict::NoMatch,
        Verdict::NeedMore(total) => Verdict::NeedMore(total),
    }
}

/// Looks for the three among the field lines that are there to their end.
fn fields(head: &[u8], fields: &[u8]) -> Verdict<()> {
    let (mut upgrade, mut connection, mut version) = (false, false, false);
    for line in fields.split_inclusive(|&byte| byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut halves = line.splitn(2, |&byte| byte == b':');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
            // The empty line at the end, or no field line.
            return Verdict::NoMatch;
        };
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(UPGRADE) {
            upgrade |= lists(value, WEBSOCKET);
        } else if name.eq_ignore_ascii_case(CONNECTION) {
            connection |= lists(value, UPGRADE);
        } else if name.eq_ignore_ascii_case(VERSION) {
            if value != VERSION_13 {
                return Verdict::NoMatch;
            }
            version = true;
        }
        if upgrade && connection && version {
            return Verdict::Match(());
        }
    }
    Verdict::NeedMore(head.len() + 1)
}

/// Whether a list (RFC 9110 5.6.1) has this member, whatever its case.
fn lists(value: &[u8], member: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(member))
}
