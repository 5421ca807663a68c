//! Regular expressions that are searched for together, in text that is there to its end.

use ::regex::bytes::{RegexSet, RegexSetBuilder};

use super::index::Found;

/// Most memory that the patterns of one kind, compiled together, may take, bytes; where it
/// is not enough they are tried one by one.
const SET_SIZE_LIMIT: usize = 64 << 20;
/// Most memory that the cache of such a search may take, a thread, bytes.
const SET_CACHE_LIMIT: usize = 8 << 20;
/// Fewer patterns than this are tried one by one.
const MIN_SET: usize = 4;

/// Patterns, with the entries that they belong to.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// Sorted, each once.
    entries: Vec<u32>,
    /// With the entry of each pattern.
    set: Option<(RegexSet, Vec<u32>)>,
}

impl Patterns {
    /// Of patterns in the order of their entries.
    pub(super) fn new<'a>(patterns: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let (texts, numbers): (Vec<&str>, Vec<u32>) = patterns.unzip();
        let mut entries = numbers.clone();
        entries.dedup();
        let set = if texts.len() < MIN_SET {
            None
        } else {
            // Each compiles alone; together they may be too large, and then there is no set.
            RegexSetBuilder::new(texts)
                .unicode(false)
                .size_limit(SET_SIZE_LIMIT)
                .dfa_size_limit(SET_CACHE_LIMIT)
                .build()
                .ok()
        };
        Self { entries, set: set.map(|set| (set, numbers)) }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, sorted.
    pub(super) fn entries(&self) -> &[u32] {
        &self.entries
    }

    /// Adds the entries with a pattern that may find something in this text.
    pub(super) fn find(&self, text: &[u8], found: &mut Found) {
        match &self.set {
            None => found.extend(self.entries.iter().copied()),
            Some((set, numbers)) => {
                found.extend(set.matches(text).iter().filter_map(|at| numbers.get(at).copied()));
            }
        }
    }
}
