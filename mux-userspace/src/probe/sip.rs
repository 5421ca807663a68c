//! SIP over TCP: the request line (RFC 3261 7.1).

use super::{
    Details, Protocol,
    request_line::{RequestLine, request_line},
    verdict::Verdict,
};

/// SIP-Version. Its case does not count, but a client has to send it so (RFC 3261 7.1).
const VERSIONS: &[&[u8]] = &[b"SIP/2.0"];

/// Matches once the request line is complete; the version tells it from HTTP.
///
/// Empty lines before it are not skipped: RFC 3261 7.5 has receivers ignore them, between
/// messages, and clients send them to keep a connection open, not to begin one.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "sip",
    // `M u SIP/2.0` and a line feed.
    shortest: 12,
    members: &[],
    examine,
    details,
};

fn examine(bytes: &[u8]) -> Verdict<()> {
    request_line(bytes, VERSIONS).map(|_| ()).into()
}

/// `method`, `uri` and `version` (`SIP/2.0`).
fn details(bytes: &[u8]) -> Details {
    request_line(bytes, VERSIONS).map_or_else(|_| Details::new(), RequestLine::details)
}
