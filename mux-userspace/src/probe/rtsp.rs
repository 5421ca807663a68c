//! RTSP: the request line (RFC 2326 6.1, RFC 7826 20.2.1).

use super::{
    Details, Protocol,
    request_line::{RequestLine, request_line},
    verdict::Verdict,
};

/// RTSP-Version (RFC 2326 3.1, RFC 7826 20.2.1).
const VERSIONS: &[&[u8]] = &[b"RTSP/1.0", b"RTSP/2.0"];

/// Matches once the request line is complete.
///
/// The version alone tells it from HTTP: `OPTIONS *` is a first request of both, and AirPlay's
/// is `GET /info`.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "rtsp",
    // `M * RTSP/1.0` and a line feed.
    shortest: 13,
    members: &[],
    examine,
    details,
};

fn examine(bytes: &[u8]) -> Verdict<()> {
    request_line(bytes, VERSIONS).map(|_| ()).into()
}

/// `method`, `uri` and `version` (`RTSP/1.0`).
fn details(bytes: &[u8]) -> Details {
    request_line(bytes, VERSIONS).map_or_else(|_| Details::new(), RequestLine::details)
}
