//! SSH: the client's identification string (RFC 4253 4.2).

use std::fmt;

use serde::Serialize;

use super::{
    text::{Pairs, PeerText},
    verdict::{Verdict, starts_with},
};

/// Versions that exist: 2.0, and 1.x of before the RFC (1.99 is "2.0, and 1.x too", RFC 4253 5.1).
const V2: &[u8] = b"SSH-2.0-";
const V1: &[u8] = b"SSH-1.";

/// The identification string has at most 255 bytes with its CR LF (RFC 4253 4.2).
const MAX_LINE: usize = 255;

/// `SSH-1.`
pub(super) const SHORTEST: usize = V1.len();

/// The client's identification, as far as it had arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identification {
    /// `protoversion`, e.g. `2.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<PeerText>,
    /// `softwareversion`, e.g. `OpenSSH_9.2p1`, without the comments after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software: Option<PeerText>,
}

impl fmt::Display for Identification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pairs = Pairs::new(f);
        pairs.optional("version", self.version.as_ref())?;
        pairs.optional("software", self.software.as_ref())
    }
}

/// Matches at `SSH-2.0-` or `SSH-1.`; the rest of the line only adds details.
///
/// The lines of text that RFC 4253 4.2 allows before the identification are the server's
/// privilege, so a client's first byte is `S`.
pub(super) fn examine(bytes: &[u8]) -> Verdict<Identification> {
    starts_with(bytes, V2).or_else(|| starts_with(bytes, V1)).map(|()| identification(bytes))
}

/// Reads `SSH-protoversion-softwareversion SP comments CR LF` where the whole line is there.
fn identification(bytes: &[u8]) -> Identification {
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
        return Identification { version: None, software: None };
    };
    let mut fields = line[b"SSH-".len()..end].splitn(2, |&byte| byte == b'-');
    let version = fields.next().map(PeerText::new);
    let software = fields
        .next()
        .and_then(|rest| rest.split(|&byte| matches!(byte, b' ' | b'\r')).next())
        .map(PeerText::new);
    Identification { version, software }
}
