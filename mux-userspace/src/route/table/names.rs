//! Rules that demand a host name, found by it.

use std::collections::HashMap;

use super::{super::Phase, index::Candidates};
use crate::probe::Verdict;

/// A demand on a host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NameKey {
    /// This name, in lower case, without a dot at its end.
    Exact(Box<str>),
    /// One below this.
    Below(Box<str>),
    /// Any that is there.
    Any,
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
    any: Vec<u32>,
    absent: Vec<u32>,
    all: Vec<u32>,
}

impl NameIndex {
    /// Of keys in the order of their entries.
    pub(super) fn new<'a>(keys: impl Iterator<Item = (&'a NameKey, u32)>) -> Self {
        let mut index = Self::default();
        for (key, entry) in keys {
            let list = match key {
                NameKey::Exact(name) => index.exact.entry(name.as_bytes().into()).or_default(),
                NameKey::Below(name) => index.below.entry(name.as_bytes().into()).or_default(),
                NameKey::Any => &mut index.any,
                NameKey::Absent => &mut index.absent,
            };
            push(list, entry);
            push(&mut index.all, entry);
        }
        index
    }

    /// Whether it has no entry: then the name need not be looked for.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds the entries that this name, or the lack of one, may satisfy.
    pub(super) fn candidates<'a>(
        &'a self,
        name: &Verdict<Option<&[u8]>>,
        phase: Phase,
        first: u32,
        candidates: &mut Candidates<'a>,
    ) {
        match name {
            Verdict::NoMatch => {}
            Verdict::NeedMore(_) if phase.is_open() => candidates.add(&self.all, first),
            // There will be no more.
            Verdict::NeedMore(_) => {}
            Verdict::Match(None) => candidates.add(&self.absent, first),
            Verdict::Match(Some(name)) => {
                candidates.add(&self.any, first);
                self.named(name, first, candidates);
            }
        }
    }

    fn named<'a>(&'a self, name: &[u8], first: u32, candidates: &mut Candidates<'a>) {
        let mut lower = [0; MAX_NAME];
        let Some(lower) = lower.get_mut(..name.len()) else { return };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        if let Some(list) = self.exact.get(&*lower) {
            candidates.add(list, first);
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
fn push(list: &mut Vec<u32>, entry: u32) {
    if list.last() != Some(&entry) {
        list.push(entry);
    }
}
