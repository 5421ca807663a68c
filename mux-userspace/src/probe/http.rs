//! HTTP: what the requests of all versions have in common.
//!
//! Both parsers read a request's head as far as it has come, and say of each part whether it
//! is there already, so that a rule by method or path need not wait for the header.

use std::borrow::Cow;

use super::{Verdict, http1, http2};

/// A version of HTTP, as far as requests look different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HttpVersion {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1; a higher minor version is taken for it (RFC 9110 6.2).
    Http11,
    /// HTTP/2.
    Http2,
}

impl HttpVersion {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Http10, Self::Http11, Self::Http2];

    /// Its name in rules files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
        }
    }
}

/// A request's head, as far as it has come; its first line always has.
pub(crate) trait Head {
    fn version(&self) -> HttpVersion;

    /// As sent: methods have case (RFC 9110 9.1).
    fn method(&self) -> &[u8];

    /// The path of the target without its query, as sent. `None`: the target has none, as
    /// that of CONNECT; `*` where it is that of OPTIONS.
    fn path(&self) -> Option<&[u8]>;

    /// The host asked for, see [`host`].
    fn host(&self) -> Host<'_>;

    /// Whether a field of this name, which is in lower case, has a value like this. Several
    /// lines of the same name are several values.
    fn has_field(&self, name: &str, is_wanted: impl Fn(&[u8]) -> bool) -> Verdict<()>;

    /// Looks at the value of each field of this name, which is in lower case, that is there.
    /// Whether these are all, so that no other can come.
    fn each_value(&self, name: &str, look: impl FnMut(&[u8])) -> bool;
}

/// What a head says of the host so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host<'a> {
    /// Nothing, and not before there are so many bytes.
    Open {
        /// In total.
        total: usize,
    },
    /// This, unless another `Host` line comes before the end of the header.
    Expected {
        /// The host.
        host: &'a [u8],
        /// Bytes in total before which nothing changes.
        total: usize,
    },
    /// This; `None`: none that could be used.
    Known(Option<&'a [u8]>),
}

impl<'a> Host<'a> {
    /// The host, once it is sure. Never [`Verdict::NoMatch`].
    pub(crate) const fn sure(self) -> Verdict<Option<&'a [u8]>> {
        match self {
            Self::Known(host) => Verdict::Match(host),
            Self::Open { total } | Self::Expected { host: _, total } => Verdict::NeedMore(total),
        }
    }
}

/// The host that a request is for: that of the target's authority, else of the `Host` field
/// (RFC 9112 3.2.2, RFC 9113 8.3.1); as it was sent, but without port and without a
/// dot at its end. `Match(None)`: it names none that could be used, or several: servers have to
/// refuse a second `Host` line (RFC 9112 3.2), and those that do not take the first or the last.
/// [`Verdict::NoMatch`]: this is no HTTP.
///
/// Matchers decide by the same bytes, so an index over names agrees with them.
#[must_use]
pub fn host(bytes: &[u8]) -> Verdict<Option<Cow<'_, [u8]>>> {
    let http1 = http1::request(bytes).and_then(|head| head.host_name().sure());
    let http2 = || {
        let head = http2::request(bytes);
        head.map(|head| match head.host() {
            Host::Known(host) => host.map(|host| Cow::Owned(host.to_vec())),
            // A decoded head is whole.
            Host::Open { .. } | Host::Expected { .. } => None,
        })
    };
    http1.map(|host| host.map(Cow::Borrowed)).or_else(http2)
}

/// The host of `host [":" port]` (RFC 9110 4.2.1, RFC 3986 3.2.2), without a dot at its end;
/// IPv6 addresses keep their brackets. `None`: it is empty or malformed, or has user
/// information, which is there to deceive (RFC 9110 4.2.4).
pub(super) fn host_of(authority: &[u8]) -> Option<&[u8]> {
    let (host, port) = if authority.starts_with(b"[") {
        let end = authority.iter().position(|&byte| byte == b']')?;
        authority.split_at_checked(end + 1)?
    } else {
        let end = authority.iter().position(|&byte| byte == b':').unwrap_or(authority.len());
        authority.split_at_checked(end)?
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        [..] => false,
    };
    let host = host.strip_suffix(b".").unwrap_or(host);
    let is_host = !host.is_empty() && host.iter().all(|&byte| is_host_byte(byte));
    (is_host && is_port).then_some(host)
}

/// What can stand in a host, or in the brackets of an address.
const fn is_host_byte(byte: u8) -> bool {
    byte > b' '
        && byte != 0x7f
        && !matches!(byte, b'@' | b'/' | b'?' | b'#' | b'\\' | b'"' | b'<' | b'>' | b',')
}

/// `tchar` (RFC 9110 5.6.2).
pub(crate) const fn is_token(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
        | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z')
}

/// A path without the query after it (RFC 3986 3.4).
pub(super) fn without_query(path: &[u8]) -> &[u8] {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
    &path[..end]
}
