//! Text that a peer chose, made harmless for logs and terminals.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

/// Bytes that a peer sent and that are about to be shown to somebody.
///
/// At most [`PeerText::MAX`] bytes are kept. Shown, they are printable ASCII without
/// spaces, quotes or backslashes; everything else is `\xNN`, so that a log line of
/// `key=value` pairs can be split at its spaces and a terminal gets no control codes.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerText {
    bytes: Box<[u8]>,
    truncated: bool,
}

impl PeerText {
    /// Most bytes kept; a DNS name has at most 253 (RFC 1035 2.3.4).
    pub const MAX: usize = 256;

    /// Copies what the peer sent.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let kept = &bytes[..bytes.len().min(Self::MAX)];
        Self { bytes: kept.into(), truncated: kept.len() < bytes.len() }
    }

    /// The bytes as the peer sent them, as many as were kept.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in &self.bytes {
            match byte {
                b'\\' | b'"' | b'\'' | b',' => write!(f, "\\x{byte:02x}")?,
                _ if byte.is_ascii_graphic() => f.write_char(char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        if self.truncated { f.write_str("...") } else { Ok(()) }
    }
}

impl fmt::Debug for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for PeerText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::PeerText;

    #[test]
    fn hostile_text_is_escaped_and_cut() {
        assert_eq!(
            PeerText::new(b"a b\x1b[2J\n\"\\\xff").to_string(),
            "a\\x20b\\x1b[2J\\x0a\\x22\\x5c\\xff"
        );
        let long = PeerText::new(&[b'a'; PeerText::MAX + 1]).to_string();
        assert_eq!(long.len(), PeerText::MAX + 3);
        assert!(long.ends_with("a..."));
    }
}
