//! HTTP/2 with prior knowledge: the connection preface (RFC 9113 3.4).

use super::{
    Details, Protocol,
    verdict::{Verdict, starts_with},
};

/// The client's connection preface (RFC 9113 3.4), before its SETTINGS frame.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Matches the 24 bytes of the preface, a constant.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "http2", shortest: PREFACE.len(), members: &[], examine, details };

fn examine(bytes: &[u8]) -> Verdict<()> {
    starts_with(bytes, PREFACE)
}

fn details(_bytes: &[u8]) -> Details {
    Details::new().with("version", 2_u8)
}
