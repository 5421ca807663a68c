//! Rules that demand a host name, found by it.

use std::collections::HashMap;

use super::{index::Candidates, patterns::Patterns};

/// A demand on a host name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum NameKey {
    /// This name, in lower case, without a dot at its end.
    Exact(Box<str>),
    /// One below this.
    Below(Box<str>),
    /// One in which, in lower case, this regular expression finds something.
    Pattern(Box<str>),
    /// None at all.
    Absent,
}

/// Longest name that is looked up; a longer one is no host name (RFC 1035 2.3.4).
const MAX_NAME: usize = 255;

/// Entries by the name that they demand. All lists are sorted.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    exact: HashMap<Box<[u8]>, Vec<u32>>,
    below: HashMap<Box<[u8]>, Vec<u32>>,
    patterns: Patterns,
    absent: Vec<u32>,
    all: Vec<u32>,
}

impl NameIndex {
    /// Of keys in the order of their entries.
    pub(super) fn new<'a>(keys: impl Iterator<Item = (&'a NameKey, u32)>) -> Self {
        let mut index = Self::default();
        let mut patterns = Vec::new();
        for (key, entry) in keys {
            match key {
                NameKey::Exact(name) => {
                    push(index.exact.entry(name.as_bytes().into()).or_default(), entry)
                }
                NameKey::Below(name) => {
                    push(index.below.entry(name.as_bytes().into()).or_default(), entry)
                }
                NameKey::Pattern(pattern) => patterns.push((&**pattern, entry)),
                NameKey::Absent => push(&mut index.absent, entry),
            }
            push(&mut index.all, entry);
        }
        index.patterns = Patterns::new(patterns.into_iter());
        index
    }

    /// All entries.
    pub(super) fn entries(&self) -> &[u32] {
        &self.all
    }

    /// Adds the entries that this name, or the lack of one, satisfies.
    pub(super) fn candidates<'a>(
        &'a self,
        name: Option<&[u8]>,
        first: u32,
        candidates: &mut Candidates<'a>,
    ) {
        let Some(name) = name else { return candidates.add(&self.absent, first) };
        let mut lower = [0; MAX_NAME];
        let Some(lower) = lower.get_mut(..name.len()) else { return };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        if let Some(list) = self.exact.get(&*lower) {
            candidates.add(list, first);
        }
        if !self.patterns.is_empty() {
            self.patterns.find(lower, candidates.found());
        }
        if self.below.is_empty() {
            return;
        }
        for (at, _) in lower.iter().enumerate().filter(|(at, byte)| **byte == b'.' && *at > 0) {
            if let Some(list) = lower.get(at + 1..).and_then(|parent| self.below.get(parent)) {
                candidates.add(list, first);
            }
        }
    }
}

/// Adds an entry to a sorted list of smaller ones, once.
pub(super) fn push(list: &mut Vec<u32>, entry: u32) {
    if list.last() != Some(&entry) {
        list.push(entry);
    }
}
