//! Position-dependent bytes: a lost, doubled, swapped or foreign byte is noticed, and where.

use std::fmt::Write as _;

/// An endless stream of bytes, each a function of the seed and of its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    seed: u64,
}

/// Bytes that one number is good for.
const WORD: u64 = 8;

impl Pattern {
    /// Streams with other seeds have other bytes.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `bytes` with those from `offset` on.
    pub fn fill(&self, offset: u64, bytes: &mut [u8]) {
        let head = (offset.next_multiple_of(WORD) - offset).min(bytes.len() as u64) as usize;
        let (head, body) = bytes.split_at_mut(head);
        let lead = self.word(offset / WORD);
        let start = (offset % WORD) as usize;
        head.copy_from_slice(&lead[start..start + head.len()]);
        let first = offset.div_ceil(WORD);
        for (index, chunk) in body.chunks_mut(WORD as usize).enumerate() {
            chunk.copy_from_slice(&self.word(first + index as u64)[..chunk.len()]);
        }
    }

    /// `length` bytes from `offset` on.
    #[must_use]
    pub fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(offset, &mut bytes);
        bytes
    }

    /// Compares.
    ///
    /// # Errors
    /// Says at which offset of the stream the first wrong byte is, and, if it can be found, which
    /// part of the stream stands there instead.
    pub fn check(&self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let expected = self.bytes(offset, bytes.len());
        if expected == bytes {
            return Ok(());
        }
        let first = expected.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
        let at = offset + first as u64;
        let found = &bytes[first..];
        let mut text = format!(
            "byte {at} (seed {}): expected {:02x?}, found {:02x?}",
            self.seed,
            &expected[first..expected.len().min(first + 8)],
            &found[..found.len().min(8)]
        );
        if let Some(from) = self.find(at, found) {
            let _ =
                write!(text, ", which is the stream's at {from} ({:+})", from as i64 - at as i64);
        }
        Err(text)
    }

    /// Where near `at` the stream has `found`.
    fn find(&self, at: u64, found: &[u8]) -> Option<u64> {
        const NEAR: u64 = 4 << 20;
        let needle = &found[..found.len().min(16)];
        if needle.len() < 8 {
            return None;
        }
        let from = at.saturating_sub(NEAR);
        let around = self.bytes(from, (at + NEAR - from) as usize);
        around.windows(needle.len()).position(|part| part == needle).map(|i| from + i as u64)
    }

    /// SplitMix64's output function (Steele, Lea, Flood 2014).
    fn word(&self, index: u64) -> [u8; WORD as usize] {
        let mut z = self
            .seed
            .wrapping_mul(0xd1b5_4a32_d192_ed03)
            .wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_the_same_as_in_the_whole() {
        let pattern = Pattern::new(7);
        let whole = pattern.bytes(0, 100);
        for from in 0..40 {
            for length in 0..40 {
                assert_eq!(pattern.bytes(from, length), whole[from as usize..][..length]);
            }
        }
    }

    #[test]
    fn a_mismatch_names_the_offset_and_what_stands_there() {
        let pattern = Pattern::new(7);
        let mut bytes = pattern.bytes(1000, 64);
        bytes.drain(10..15);
        let message = pattern.check(1000, &bytes).unwrap_err();
        assert!(message.contains("byte 1010 "), "{message}");
        assert!(message.contains("the stream's at 1015 (+5)"), "{message}");
        assert_eq!(pattern.check(1000, &pattern.bytes(1000, 64)), Ok(()));
        assert!(Pattern::new(8).check(1000, &pattern.bytes(1000, 64)).is_err());
    }
}
