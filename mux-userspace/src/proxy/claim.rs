//! Headers from those who are not trusted: recognised, to be refused.

use super::{V1_SIGNATURE, begins_with, binary};

/// Whether a connection that begins with `bytes` claims to be somebody else's; `None`: more bytes
/// will tell.
#[must_use]
pub fn is_claim(bytes: &[u8]) -> Option<bool> {
    let text = begins_with(bytes, V1_SIGNATURE);
    let binary = begins_with(bytes, binary::SIGNATURE);
    match (text, binary) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        (None, _) | (_, None) => None,
    }
}

/// Watches the first bytes of a stream go by, in pieces, for a claim.
///
/// Nothing is held back for it: of a claim that comes in pieces the first ones may pass, and the
/// one that completes a signature does not. Part of a signature is believed by nobody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    first: [u8; binary::SIGNATURE.len()],
    seen: usize,
}

impl Guard {
    /// Looks at the next bytes: whether they complete a claim; `None`: they may be part of one.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Option<bool> {
        for (place, byte) in self.first.iter_mut().skip(self.seen).zip(bytes) {
            *place = *byte;
            self.seen += 1;
        }
        is_claim(self.first.get(..self.seen).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it says of each piece.
    fn looks(pieces: &[&[u8]]) -> Vec<Option<bool>> {
        let mut guard = Guard::default();
        pieces.iter().map(|piece| guard.look(piece)).collect()
    }

    #[test]
    fn a_claim_is_seen_in_whatever_pieces_it_comes() {
        for claim in [&b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11"] {
            for at in 0..=claim.len() {
                let (one, two) = claim.split_at(at);
                let looks = looks(&[one, two]);
                assert!(looks.contains(&Some(true)) && !looks.contains(&Some(false)), "{at}");
            }
            let bytes: Vec<&[u8]> = claim.chunks(1).collect();
            assert_eq!(
                looks(&bytes).iter().position(|look| *look == Some(true)),
                Some(if claim[0] == b'P' { 5 } else { 11 })
            );
        }
    }

    #[test]
    fn other_streams_are_told_by_the_first_byte_that_differs() {
        assert_eq!(looks(&[b"", b"PRO", b"TO"]), [None, None, Some(false)]);
        assert_eq!(looks(&[b"\r\n", b"\r\n", b"GET"]), [None, None, Some(false)]);
        assert_eq!(looks(&[b"GET /"]), [Some(false)]);
        assert_eq!(looks(&[b"PROXY"]), [None]);
    }
}
