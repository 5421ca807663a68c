//! Numbers that a seed decides, and bytes that a position decides.

/// splitmix64's finaliser: every bit of the input changes every bit of the output.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A generator of numbers; the same seed gives the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator for one purpose of one flow.
    pub(crate) const fn new(seed: u64, flow: u64, purpose: u64) -> Self {
        Self(mix(seed ^ mix(flow ^ mix(purpose))))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to `bound` - 1; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True `per_mille` times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// From `low` (at least 1) to `high`, each order of magnitude as likely as another.
    pub(crate) fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = (low.max(1), high.max(low).max(1));
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let value = (low as f64) * (high as f64 / low as f64).powf(unit);
        (value.round() as u64).clamp(low, high)
    }
}

/// Length of the head of a client's stream, which says which flow it is.
pub(crate) const HEAD: usize = 32;
/// What it begins with; the rules file matches this.
pub(crate) const MAGIC: &str = "mux-torture ";

/// The bytes of one way of one flow: each depends on its position and on the flow.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    key: u64,
    head: Vec<u8>,
}

impl Pattern {
    /// Client to server: the flow's number first.
    pub(crate) fn up(seed: u64, flow: u64) -> Self {
        let head = format!("{MAGIC}{flow:016x}   \n").into_bytes();
        debug_assert_eq!(head.len(), HEAD);
        Self { key: mix(seed ^ mix(flow)), head }
    }

    /// Server to client.
    pub(crate) fn down(seed: u64, flow: u64) -> Self {
        Self { key: mix(!seed ^ mix(flow)), head: Vec::new() }
    }

    /// The flow that a head names.
    pub(crate) fn flow(head: &[u8; HEAD]) -> Option<u64> {
        let text = std::str::from_utf8(head).ok()?.strip_prefix(MAGIC)?;
        u64::from_str_radix(text.get(..16)?, 16).ok()
    }

    fn word(&self, index: u64) -> [u8; 8] {
        mix(self.key ^ index).to_le_bytes()
    }

    /// Writes the bytes from `offset` on.
    pub(crate) fn fill(&self, buffer: &mut [u8], offset: u64) {
        let mut at = 0;
        while at < buffer.len() {
            let position = offset + at as u64;
            let skip = (position % 8) as usize;
            let word = &self.word(position / 8)[skip..];
            let take = word.len().min(buffer.len() - at);
            buffer[at..at + take].copy_from_slice(&word[..take]);
            at += take;
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.head.len());
        let take = (self.head.len() - start).min(buffer.len());
        buffer[..take].copy_from_slice(&self.head[start..start + take]);
    }

    /// The index of the first byte that is not what belongs at its place.
    pub(crate) fn first_wrong(
        &self,
        bytes: &[u8],
        offset: u64,
        scratch: &mut Vec<u8>,
    ) -> Option<usize> {
        scratch.resize(bytes.len(), 0);
        self.fill(scratch, offset);
        if scratch == bytes {
            return None;
        }
        scratch.iter().zip(bytes).position(|(expected, found)| expected != found)
    }

    /// Where in the first `limit` bytes of the stream this piece of it stands, if it does: tells
    /// repeated and skipped bytes from garbage.
    pub(crate) fn find(&self, piece: &[u8], limit: u64) -> Option<u64> {
        let piece = &piece[..piece.len().min(16)];
        if piece.len() < 8 {
            return None;
        }
        let mut stream = vec![0; usize::try_from(limit).ok()?];
        self.fill(&mut stream, 0);
        stream.windows(piece.len()).position(|window| window == piece).map(|at| at as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_depend_on_their_position_and_not_on_how_they_are_cut() {
        for pattern in [Pattern::up(1, 7), Pattern::down(1, 7)] {
            let mut whole = vec![0; 500];
            pattern.fill(&mut whole, 0);
            for start in [0, 1, 7, 8, 31, 32, 33, 77] {
                for end in [start, start + 1, start + 9, 400] {
                    let mut piece = vec![0; end - start];
                    pattern.fill(&mut piece, start as u64);
                    assert_eq!(piece, whole[start..end], "{start}..{end}");
                }
            }
            assert_eq!(pattern.find(&whole[100..130], 500), Some(100));
        }
    }

    #[test]
    fn a_head_names_its_flow() {
        let mut head = [0; HEAD];
        Pattern::up(3, 0xabc).fill(&mut head, 0);
        assert_eq!(Pattern::flow(&head), Some(0xabc));
        Pattern::down(3, 0xabc).fill(&mut head, 0);
        assert_eq!(Pattern::flow(&head), None);
    }

    #[test]
    fn log_uniform_stays_in_its_range_and_reaches_its_ends() {
        let mut random = Random::new(1, 2, 3);
        let values: Vec<u64> = (0..5000).map(|_| random.log_uniform(1, 8)).collect();
        assert_eq!(values.iter().min(), Some(&1));
        assert_eq!(values.iter().max(), Some(&8));
    }
}
