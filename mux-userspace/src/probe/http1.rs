//! HTTP/1: the request line (RFC 9112 3).

use super::{
    Details, Protocol,
    verdict::{Verdict, starts_with},
};

/// Longest method believed. The longest registered one is `UPDATEREDIRECTREF` (17).
const MAX_METHOD: usize = 32;

/// What stands between the second space and the minor version (RFC 9112 2.3).
const VERSION: &[u8] = b"HTTP/1.";

/// Matches as soon as the request line is complete, so that slow header fields do not hold
/// up the route.
///
/// An empty line before the request line is not skipped: RFC 9112 2.2 grants it for clients
/// that end a request body with one, and there is no body before the first request.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "http1",
    // `G / HTTP/1.1` and a line feed.
    shortest: 13,
    members: &[],
    examine,
    details,
};

/// A request's first line, and what of its field lines had arrived.
pub(super) struct Request<'a> {
    method: &'a [u8],
    /// In whichever of its four forms (RFC 9112 3.2).
    pub(super) target: &'a [u8],
    /// Of `HTTP/1.minor`.
    pub(super) minor: u8,
    pub(super) fields: &'a [u8],
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    request(bytes).map(|_| ())
}

/// `host` is the first Host field's, if its whole line was among the bytes.
fn details(bytes: &[u8]) -> Details {
    let Verdict::Match(Request { method, target, minor, fields }) = request(bytes) else {
        return Details::new();
    };
    Details::new()
        .with("method", method)
        .with("path", target)
        .with("version", &[b'1', b'.', minor][..])
        .with_some("host", host(fields))
}

pub(super) fn request(bytes: &[u8]) -> Verdict<Request<'_>> {
    let more = Verdict::NeedMore(bytes.len() + 1);

    let method_end = bytes.iter().take(MAX_METHOD + 1).position(|&byte| !is_token(byte));
    let method = match method_end {
        Some(end) if end > 0 && bytes[end] == b' ' => &bytes[..end],
        Some(_) => return Verdict::NoMatch,
        None if bytes.len() > MAX_METHOD => return Verdict::NoMatch,
        None => return more,
    };

    let rest = &bytes[method.len() + 1..];
    let target = match rest.iter().position(|&byte| !is_target(byte)) {
        Some(end) if end > 0 && rest[end] == b' ' => &rest[..end],
        Some(_) => return Verdict::NoMatch,
        None => return more,
    };

    let rest = &rest[target.len() + 1..];
    match starts_with(rest, VERSION) {
        Verdict::Match(()) => {}
        Verdict::NoMatch => return Verdict::NoMatch,
        Verdict::NeedMore(_) => return more,
    }
    // A lone LF may end the line (RFC 9112 2.2).
    let (minor, fields) = match &rest[VERSION.len()..] {
        [minor, b'\n', fields @ ..] | [minor, b'\r', b'\n', fields @ ..] => (minor, fields),
        [minor] | [minor, b'\r'] if minor.is_ascii_digit() => return more,
        [] => return more,
        [..] => return Verdict::NoMatch,
    };
    if !minor.is_ascii_digit() {
        return Verdict::NoMatch;
    }
    Verdict::Match(Request { method, target, minor: *minor, fields })
}

/// The value of the first `Host` field line (RFC 9112 3.2) that is there to its end.
pub(super) fn host(fields: &[u8]) -> Option<&[u8]> {
    for line in fields.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\n")?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut halves = line.splitn(2, |&byte| byte == b':');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
            // The empty line that ends the header, or no HTTP at all.
            return None;
        };
        if name.eq_ignore_ascii_case(b"host") {
            return Some(value.trim_ascii());
        }
    }
    None
}

/// `tchar` (RFC 9110 5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
        | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z')
}

/// What may stand in a request target. RFC 3986 allows fewer; browsers and `curl` do send
/// raw UTF-8 and brackets, and their servers take them.
pub(super) const fn is_target(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}
