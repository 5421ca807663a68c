//! Which rules to ask about some first bytes.

use std::borrow::Cow;

use ::regex::bytes::{RegexSet, RegexSetBuilder};
use smallvec::SmallVec;

use super::{
    super::{Matcher, Sniffed},
    names::NameIndex,
    need::{Key, Need},
    trie::Trie,
};
use crate::probe::{self, Verdict};

/// Most memory that the patterns of a listener, compiled together, may take, bytes; where it
/// is not enough they are tried one by one.
const SET_SIZE_LIMIT: usize = 64 << 20;
/// Most memory that the cache of such a search may take, a thread, bytes.
const SET_CACHE_LIMIT: usize = 8 << 20;
/// Fewer patterns than this are tried one by one.
const MIN_SET: usize = 4;

/// An index over the demands of rules.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Entries that demand nothing that could be looked up.
    always: Vec<u32>,
    literals: Trie,
    patterns: Patterns,
    sni: NameIndex,
    hosts: NameIndex,
}

impl Index {
    /// Over the matchers of a listener's rules, in their order.
    pub(super) fn new<'a>(matchers: impl Iterator<Item = &'a Matcher>) -> Self {
        let mut always = Vec::new();
        let mut keys = Vec::new();
        for (entry, matcher) in (0..).zip(matchers) {
            match Need::of(matcher) {
                Need::Unknown => always.push(entry),
                Need::OneOf(needed) => keys.extend(needed.into_iter().map(|key| (key, entry))),
            }
        }
        let literals = Trie::new(keys.iter().filter_map(|(key, entry)| match key {
            Key::Literal(literal) => Some((&**literal, *entry)),
            Key::Pattern(_) | Key::Sni(_) | Key::Host(_) => None,
        }));
        let patterns = Patterns::new(keys.iter().filter_map(|(key, entry)| match key {
            Key::Pattern(pattern) => Some((&**pattern, *entry)),
            Key::Literal(_) | Key::Sni(_) | Key::Host(_) => None,
        }));
        let sni = NameIndex::new(keys.iter().filter_map(|(key, entry)| match key {
            Key::Sni(name) => Some((name, *entry)),
            Key::Literal(_) | Key::Pattern(_) | Key::Host(_) => None,
        }));
        let hosts = NameIndex::new(keys.iter().filter_map(|(key, entry)| match key {
            Key::Host(name) => Some((name, *entry)),
            Key::Literal(_) | Key::Pattern(_) | Key::Sni(_) => None,
        }));
        Self { always, literals, patterns, sni, hosts }
    }

    /// The entries from `first` on that can match, in their order, each once.
    pub(super) fn candidates(&self, sniffed: &Sniffed<'_>, first: u32) -> Candidates<'_> {
        let (complete, below) = self.literals.find(sniffed.bytes);
        let mut candidates = Candidates::default();
        candidates.add(&self.always, first);
        candidates.add(complete, first);
        candidates.add(below, first);
        if !self.sni.is_empty() {
            let name = probe::tls::sni(sniffed.bytes);
            self.sni.candidates(&borrowed(&name), sniffed.phase, first, &mut candidates);
        }
        if !self.hosts.is_empty() {
            let name = probe::http::host(sniffed.bytes);
            self.hosts.candidates(&borrowed(&name), sniffed.phase, first, &mut candidates);
        }
        if sniffed.phase.is_open() {
            candidates.add(&self.patterns.entries, first);
        } else {
            candidates.matched = self.patterns.find(sniffed.bytes, first);
        }
        candidates
    }
}

fn borrowed<'a>(name: &'a Verdict<Option<Cow<'_, [u8]>>>) -> Verdict<Option<&'a [u8]>> {
    match name {
        Verdict::Match(name) => Verdict::Match(name.as_deref()),
        Verdict::NoMatch => Verdict::NoMatch,
        Verdict::NeedMore(total) => Verdict::NeedMore(*total),
    }
}

/// Regular expressions that can match anywhere.
///
/// While bytes arrive, the first of them that has not matched holds back all others, so they
/// are asked one by one. In the end each would have to be tried on all the bytes: there they
/// are searched for together.
#[derive(Debug, Default)]
struct Patterns {
    /// Sorted.
    entries: Vec<u32>,
    /// With the entry of each pattern.
    set: Option<(RegexSet, Vec<u32>)>,
}

impl Patterns {
    fn new<'a>(patterns: impl Iterator<Item = (&'a str, u32)>) -> Self {
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

    /// The entries from `first` on with a pattern in these bytes, which are all; backwards.
    fn find(&self, bytes: &[u8], first: u32) -> Vec<u32> {
        let mut found: Vec<u32> = match &self.set {
            None => self.entries.clone(),
            Some((set, numbers)) => {
                set.matches(bytes).iter().filter_map(|at| numbers.get(at).copied()).collect()
            }
        };
        found.retain(|&entry| entry >= first);
        found.reverse();
        found
    }
}

/// Merges sorted lists of entries.
#[derive(Debug, Default)]
pub(super) struct Candidates<'a> {
    lists: SmallVec<[&'a [u32]; 8]>,
    /// One more list, backwards.
    matched: Vec<u32>,
}

impl<'a> Candidates<'a> {
    /// Adds a sorted list, from `first` on.
    pub(super) fn add(&mut self, list: &'a [u32], first: u32) {
        let list = &list[list.partition_point(|&entry| entry < first)..];
        if !list.is_empty() {
            self.lists.push(list);
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let heads = self.lists.iter().filter_map(|list| list.first());
        let entry = *heads.chain(self.matched.last()).min()?;
        for list in &mut self.lists {
            if let [head, rest @ ..] = *list
                && *head == entry
            {
                *list = rest;
            }
        }
        while self.matched.last() == Some(&entry) {
            self.matched.pop();
        }
        Some(entry)
    }
}
