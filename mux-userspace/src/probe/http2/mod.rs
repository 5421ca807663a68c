//! HTTP/2 with prior knowledge: the connection preface (RFC 9113 3.4), and the first request.
//!
//! The preface is a constant and makes the probe sure. What is asked for stands in the frames
//! after it. Clients may send them at once (RFC 9113 3.4), and curl, h2load and nghttp do.
//! One that waits for the server's SETTINGS, as gRPC does, gets none before there is an
//! upstream: whatever asks for more than the preface is undecided until the sniff times out.

mod frames;
pub(super) mod hpack;

use std::ops::Range;

use self::hpack::Fields;
use super::{
    Details, Protocol,
    http::{Head, Host, HttpVersion, host_of, is_token, without_query},
    verdict::{Verdict, starts_with},
};

/// The client's connection preface (RFC 9113 3.4), before its SETTINGS frame.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The fewest bytes of a request: preface, SETTINGS, and HEADERS of two indexed fields.
pub(crate) const SHORTEST_REQUEST: usize = PREFACE.len() + 2 * frames::FRAME_HEADER + 2;

/// Matches the 24 bytes of the preface, a constant.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "http2", shortest: PREFACE.len(), members: &[], examine, details };

fn examine(bytes: &[u8]) -> Verdict<()> {
    starts_with(bytes, PREFACE)
}

/// `version`, and of the first request, where its head was among the bytes, `method`, `path`
/// (with its query) and `host` (with its port).
fn details(bytes: &[u8]) -> Details {
    let Verdict::Match(head) = request(bytes) else {
        return Details::new().with("version", 2_u8);
    };
    Details::new()
        .with("method", head.method())
        .with_some("path", head.target())
        .with("version", 2_u8)
        .with_some("host", head.authority())
}

/// Reads the first request's head, once it is complete.
pub(crate) fn request(bytes: &[u8]) -> Verdict<Request> {
    starts_with(bytes, PREFACE).and_then(|()| {
        frames::header_block(bytes, PREFACE.len()).and_then(|block| {
            let request = hpack::decode(&block).and_then(Request::new);
            request.map_or(Verdict::NoMatch, Verdict::Match)
        })
    })
}

/// The first request's head.
#[derive(Debug)]
pub(crate) struct Request {
    fields: Fields,
    method: Range<usize>,
    path: Option<Range<usize>>,
    authority: Option<Range<usize>>,
}

impl Request {
    /// Finds the pseudo-header fields (RFC 9113 8.3). `None`: the request is malformed.
    fn new(fields: Fields) -> Option<Self> {
        let (mut method, mut path, mut authority) = (None, None, None);
        let (mut scheme, mut protocol) = (None, None);
        let mut regular = false;
        for (name, value) in fields.ranges() {
            let text = fields.text(&name);
            let slot = match text {
                b":method" => &mut method,
                b":path" => &mut path,
                b":authority" => &mut authority,
                b":scheme" => &mut scheme,
                // Of extended CONNECT (RFC 8441 4).
                b":protocol" => &mut protocol,
                _ if is_field_name(text) => {
                    regular = true;
                    continue;
                }
                _ => return None,
            };
            // All of them come first, and none twice.
            if regular || slot.replace(value).is_some() {
                return None;
            }
        }
        let method = method?;
        let name = fields.text(&method);
        let is_method = !name.is_empty() && name.iter().all(|&byte| is_token(byte));
        let has_target = path.is_some() || name == b"CONNECT";
        (is_method && has_target).then_some(Self { fields, method, path, authority })
    }

    /// Path and query.
    fn target(&self) -> Option<&[u8]> {
        self.path.as_ref().map(|path| self.fields.text(path))
    }

    /// `:authority`, else `host` (RFC 9113 8.3.1), if it is there once.
    fn authority(&self) -> Option<&[u8]> {
        if let Some(authority) = &self.authority {
            return Some(self.fields.text(authority));
        }
        let mut hosts = self.fields.iter().filter(|(name, _)| *name == b"host");
        let (_, host) = hosts.next()?;
        hosts.next().is_none().then_some(host)
    }
}

impl Head for Request {
    fn version(&self) -> HttpVersion {
        HttpVersion::Http2
    }

    fn method(&self) -> &[u8] {
        self.fields.text(&self.method)
    }

    fn path(&self) -> Option<&[u8]> {
        let target = self.target()?;
        (target.starts_with(b"/") || target == b"*").then(|| without_query(target))
    }

    fn host(&self) -> Host<'_> {
        Host::Known(self.authority().and_then(host_of))
    }

    fn has_field(&self, name: &str, is_wanted: impl Fn(&[u8]) -> bool) -> Verdict<()> {
        let is_it = |(other, value): (&[u8], &[u8])| other == name.as_bytes() && is_wanted(value);
        if self.fields.iter().any(is_it) { Verdict::Match(()) } else { Verdict::NoMatch }
    }

    fn each_value(&self, name: &str, mut look: impl FnMut(&[u8])) -> bool {
        let named = self.fields.iter().filter(|(other, _)| *other == name.as_bytes());
        named.for_each(|(_, value)| look(value));
        true
    }
}

/// A token without capitals (RFC 9113 8.2.1).
fn is_field_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| is_token(byte) && !byte.is_ascii_uppercase())
}
