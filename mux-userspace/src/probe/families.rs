//! Probes that recognise what any of several others does.

use super::{Details, Protocol, Verdict, http1, http2, socks4, socks5, websocket};

/// HTTP/1, or HTTP/2 with prior knowledge.
pub(super) const HTTP: Protocol = Protocol {
    name: "http",
    shortest: http1::PROTOCOL.shortest,
    members: &[&http1::PROTOCOL, &http2::PROTOCOL],
    examine: |bytes| any(HTTP.members, bytes),
    details: |bytes| details(HTTP.members, bytes),
};

/// SOCKS4, SOCKS4a or SOCKS5.
pub(super) const SOCKS: Protocol = Protocol {
    name: "socks",
    shortest: socks5::PROTOCOL.shortest,
    members: &[&socks4::PROTOCOL, &socks5::PROTOCOL],
    examine: |bytes| any(SOCKS.members, bytes),
    details: |bytes| details(SOCKS.members, bytes),
};

/// Pairs of which the first matches whatever the second does, though it is no family.
pub(super) const NARROWER: &[(&Protocol, &Protocol)] = &[
    // The opening handshake is an HTTP request.
    (&http1::PROTOCOL, &websocket::PROTOCOL),
    (&socks4::PROTOCOL, &socks4::WITH_NAME),
];

fn any(members: &[&Protocol], bytes: &[u8]) -> Verdict<()> {
    members
        .iter()
        .fold(Verdict::NoMatch, |verdict, member| verdict.or_else(|| (member.examine)(bytes)))
}

/// Those of the first member that matches.
fn details(members: &[&Protocol], bytes: &[u8]) -> Details {
    members
        .iter()
        .find(|member| (member.examine)(bytes).is_match())
        .map_or_else(Details::new, |member| (member.details)(bytes))
}
