//! HTTP/1: the request line (RFC 9112 3) and the field lines after it (RFC 9112 5).

mod fields;

pub(super) use self::fields::{End, Fields};
use super::{
    Details, Protocol,
    http::{Head, Host, HttpVersion, host_of, is_token, without_query},
    verdict::{Verdict, starts_with},
};

/// Longest method believed. The longest registered one is `UPDATEREDIRECTREF` (17).
pub(crate) const MAX_METHOD: usize = 32;

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

fn examine(bytes: &[u8]) -> Verdict<()> {
    request(bytes).map(|_| ())
}

/// `path` is the whole target; `host` is that of a target that has one, else the Host field's if
/// its whole line was among the bytes, and no second one.
fn details(bytes: &[u8]) -> Details {
    let Verdict::Match(head) = request(bytes) else { return Details::new() };
    let host = head.authority().or_else(|| match head.host_fields() {
        (first, None) => first,
        (_, Some(_)) => None,
    });
    Details::new()
        .with("method", head.method)
        .with("path", head.target)
        .with("version", &[b'1', b'.', head.minor][..])
        .with_some("host", host)
}

/// A request's first line, and what of its field lines has arrived.
pub(crate) struct Request<'a> {
    method: &'a [u8],
    /// In whichever of its four forms (RFC 9112 3.2).
    target: &'a [u8],
    /// Of `HTTP/1.minor`, in ASCII.
    minor: u8,
    fields: Fields<'a>,
    /// All bytes there are.
    length: usize,
}

impl<'a> Request<'a> {
    /// The authority of a target in authority form, which is CONNECT's, or in absolute form
    /// (RFC 9112 3.2.2, 3.2.3). A `Host` field does not count then.
    fn authority(&self) -> Option<&'a [u8]> {
        if self.method == b"CONNECT" {
            return Some(self.target);
        }
        absolute(self.target).map(|(authority, _)| authority)
    }

    /// The values of the first two `Host` fields that are there.
    fn host_fields(&self) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
        let mut hosts = self.fields.clone().filter(|(name, _)| name.eq_ignore_ascii_case(b"host"));
        let mut next = || hosts.next().map(|(_, value)| value);
        (next(), next())
    }

    /// See [`Head::host`].
    pub(super) fn host_name(&self) -> Host<'a> {
        if let Some(authority) = self.authority() {
            return Host::Known(host_of(authority));
        }
        let is_host = |(name, _): &(&[u8], &[u8])| name.eq_ignore_ascii_case(b"host");
        let total = self.length + 1;
        let mut fields = self.fields.clone();
        let Some((_, value)) = fields.find(is_host) else {
            return match fields.end() {
                End::Open => Host::Open { total },
                End::Complete | End::Malformed => Host::Known(None),
            };
        };
        let Some(host) = host_of(value) else { return Host::Known(None) };
        let is_twice = fields.any(|field| is_host(&field));
        match fields.end() {
            _ if is_twice => Host::Known(None),
            End::Open => Host::Expected { host, total },
            End::Complete | End::Malformed => Host::Known(Some(host)),
        }
    }
}

impl Head for Request<'_> {
    fn version(&self) -> HttpVersion {
        if self.minor == b'0' { HttpVersion::Http10 } else { HttpVersion::Http11 }
    }

    fn method(&self) -> &[u8] {
        self.method
    }

    fn path(&self) -> Option<&[u8]> {
        let target = match absolute(self.target) {
            _ if self.method == b"CONNECT" => return None,
            // An empty path is that of the root (RFC 9110 4.2.3).
            Some((_, path)) if without_query(path).is_empty() => b"/",
            Some((_, path)) => path,
            None => self.target,
        };
        (target.starts_with(b"/") || target == b"*").then(|| without_query(target))
    }

    fn host(&self) -> Host<'_> {
        self.host_name()
    }

    fn has_field(&self, name: &str, is_wanted: impl Fn(&[u8]) -> bool) -> Verdict<()> {
        let mut fields = self.fields.clone();
        let found = fields
            .any(|(other, value)| other.eq_ignore_ascii_case(name.as_bytes()) && is_wanted(value));
        match fields.end() {
            _ if found => Verdict::Match(()),
            End::Open => Verdict::NeedMore(self.length + 1),
            End::Complete | End::Malformed => Verdict::NoMatch,
        }
    }

    fn each_value(&self, name: &str, mut look: impl FnMut(&[u8])) -> bool {
        let mut fields = self.fields.clone();
        for (_, value) in
            fields.by_ref().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
        {
            look(value);
        }
        fields.end() != End::Open
    }
}

/// Splits a target in absolute form (RFC 9112 3.2.2) into its authority and what follows it.
fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let scheme = target.iter().position(|&byte| byte == b':')?;
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    if scheme == 0 || !target[..scheme].iter().all(is_scheme) {
        return None;
    }
    let rest = target[scheme + 1..].strip_prefix(b"//")?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    Some(rest.split_at(end.unwrap_or(rest.len())))
}

/// Reads the request line, once it is complete.
pub(crate) fn request(bytes: &[u8]) -> Verdict<Request<'_>> {
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
    let fields = Fields::new(fields);
    Verdict::Match(Request { method, target, minor: *minor, fields, length: bytes.len() })
}

/// What may stand in a request target. RFC 3986 allows fewer; browsers and `curl` do send
/// raw UTF-8 and brackets, and their servers take them.
pub(super) const fn is_target(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}
