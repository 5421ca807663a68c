//! TLS: the ClientHello (RFC 8446 4.1.2), in one record or in several.
//!
//! Two layers, two answers. The record layer and the handshake header decide the verdict;
//! the body only gives details, so a client with a body that we cannot read is TLS still,
//! with nothing to tell of it.
//!
//! A ClientHello in an SSL 2 record (RFC 5246 E.2) is none here: no client that anybody
//! should talk to has sent one for a decade, it has neither name nor protocols, and TLS 1.3
//! servers refuse it (RFC 8446 D.5).

mod hello;
mod records;
mod version;

use std::borrow::Cow;

pub(crate) use self::{hello::ClientHello, records::message};
use super::{Details, PeerText, Protocol, Value, Verdict};

pub use self::version::TlsVersion;

/// Matches once the ClientHello is complete.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "tls",
    shortest: records::SHORTEST,
    members: &[],
    examine: records::examine,
    details,
};

/// The fewest bytes of a ClientHello that can be read: its headers, and every field empty.
pub(crate) const SHORTEST_READABLE: usize = records::SHORTEST + hello::SHORTEST_BODY;

/// Most ALPN protocols told; browsers offer two or three.
const MAX_ALPN: usize = 8;

/// The host name that the client asks for (RFC 6066 3), as it was sent but for a dot at its
/// end. `Match(None)`: it asks for none. [`Verdict::NoMatch`]: this is no TLS, or none that
/// can be read.
///
/// Matchers decide by the same bytes, so an index over names agrees with them.
#[must_use]
pub fn sni(bytes: &[u8]) -> Verdict<Option<Cow<'_, [u8]>>> {
    let name = match message(bytes) {
        Verdict::Match(Cow::Borrowed(body)) => {
            ClientHello::parse(body).map(|hello| hello.server_name().map(Cow::Borrowed))
        }
        Verdict::Match(Cow::Owned(body)) => ClientHello::parse(&body)
            .map(|hello| hello.server_name().map(|name| Cow::Owned(name.to_vec()))),
        Verdict::NoMatch => None,
        Verdict::NeedMore(total) => return Verdict::NeedMore(total),
    };
    name.map_or(Verdict::NoMatch, Verdict::Match)
}

/// `sni`, `alpn`, `version` and `ech`, each if the client says it.
fn details(bytes: &[u8]) -> Details {
    let Verdict::Match(body) = message(bytes) else { return Details::new() };
    let Some(hello) = ClientHello::parse(&body) else { return Details::new() };
    let alpn: Vec<PeerText> = hello
        .protocols()
        .filter(|name| !hello::is_grease(name))
        .take(MAX_ALPN)
        .map(PeerText::new)
        .collect();
    Details::new()
        .with_some("sni", hello.raw_server_name())
        .with_some("alpn", (!alpn.is_empty()).then_some(Value::Texts(alpn)))
        .with_some("version", hello.versions().max().map(TlsVersion::name))
        .with_some("ech", hello.ech().map(hello::Ech::name))
}
