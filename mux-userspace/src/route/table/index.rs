//! Which rules to ask about some first bytes.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{
    super::{Matcher, Phase, Sniffed, heads::Heads},
    clients::ClientIndex,
    need::{Demands, Key, Need},
    patterns::Patterns,
    requests::{HttpIndex, TlsIndex},
    shapes::Shapes,
    trie::Trie,
};

/// An index over the demands of rules.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Entries that demand nothing that could be looked up.
    always: Vec<u32>,
    literals: Trie,
    shapes: Shapes,
    /// Regular expressions that can match anywhere.
    ///
    /// While bytes arrive, the first of them that has not matched holds back all others, so they
    /// are asked one by one. In the end each would have to be tried on all the bytes: there they
    /// are searched for together.
    patterns: Patterns,
    clients: ClientIndex,
    tls: TlsIndex,
    http: HttpIndex,
}

impl Index {
    /// Over the matchers of a listener's rules, in their order.
    pub(super) fn new<'a>(matchers: impl Iterator<Item = &'a Matcher>) -> Self {
        let demands: Vec<Demands> = matchers.map(Demands::of).collect();
        let mut counts = HashMap::new();
        demands.iter().for_each(|demands| demands.count(&mut counts));
        let mut always = Vec::new();
        let mut keys = Vec::new();
        for (entry, demands) in (0..).zip(&demands) {
            match demands.choose(&counts) {
                Need::Unknown => always.push(entry),
                Need::OneOf(needed) => keys.extend(needed.into_iter().map(|key| (key, entry))),
            }
        }
        Self { always, ..Self::of_keys(&keys) }
    }

    fn of_keys(keys: &[(Key, u32)]) -> Self {
        let (mut literals, mut shapes, mut patterns) = (Vec::new(), Vec::new(), Vec::new());
        let (mut clients, mut tls, mut http) = (Vec::new(), Vec::new(), Vec::new());
        for (key, entry) in keys {
            match key {
                Key::Literal(literal) => literals.push((&**literal, *entry)),
                Key::Shape(shape) => shapes.push((shape, *entry)),
                Key::Pattern(pattern) => patterns.push((&**pattern, *entry)),
                Key::Client(network) => clients.push((*network, *entry)),
                Key::Tls(key) => tls.push((key, *entry)),
                Key::Http(key) => http.push((key, *entry)),
            }
        }
        Self {
            always: Vec::new(),
            literals: Trie::new(literals.into_iter()),
            shapes: Shapes::new(shapes.into_iter()),
            patterns: Patterns::new(patterns.into_iter()),
            clients: ClientIndex::new(clients.into_iter()),
            tls: TlsIndex::new(&tls),
            http: HttpIndex::new(&http),
        }
    }

    /// The entries from `first` on that can match, in their order, each once.
    pub(super) fn candidates(
        &self,
        sniffed: &Sniffed<'_>,
        heads: &Heads<'_>,
        first: u32,
    ) -> Candidates<'_> {
        let phase = sniffed.phase;
        let (complete, below) = self.literals.find(sniffed.bytes);
        let mut candidates = Candidates::default();
        candidates.add(&self.always, first);
        candidates.add(complete, first);
        candidates.add(below, first);
        if !self.shapes.is_empty() {
            self.shapes.find(sniffed.bytes, candidates.found());
        }
        self.clients.candidates(sniffed.client, first, &mut candidates);
        self.tls.candidates(heads, phase, first, &mut candidates);
        self.http.candidates(heads, phase, first, &mut candidates);
        if phase.is_open() {
            candidates.add(self.patterns.entries(), first);
        } else if !self.patterns.is_empty() {
            self.patterns.find(sniffed.bytes, candidates.found());
        }
        candidates.sort(first);
        candidates
    }
}

/// Entries, in no order, maybe twice.
pub(super) type Found = SmallVec<[u32; 16]>;

/// Merges sorted lists of entries.
#[derive(Debug, Default)]
pub(super) struct Candidates<'a> {
    lists: SmallVec<[&'a [u32]; 8]>,
    /// One more list, sorted backwards in the end.
    found: Found,
}

impl<'a> Candidates<'a> {
    /// Adds a sorted list, from `first` on.
    pub(super) fn add(&mut self, list: &'a [u32], first: u32) {
        let list = &list[list.partition_point(|&entry| entry < first)..];
        if !list.is_empty() {
            self.lists.push(list);
        }
    }

    /// Adds a list of those that more bytes may satisfy, if more can come.
    pub(super) fn add_open(&mut self, list: &'a [u32], phase: Phase, first: u32) {
        if phase.is_open() {
            self.add(list, first);
        }
    }

    /// Where single entries are added.
    pub(super) fn found(&mut self) -> &mut Found {
        &mut self.found
    }

    /// To be called once all are there.
    fn sort(&mut self, first: u32) {
        self.found.retain(|entry| *entry >= first);
        self.found.sort_unstable_by(|one, other| other.cmp(one));
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let heads = self.lists.iter().filter_map(|list| list.first());
        let entry = *heads.chain(self.found.last()).min()?;
        for list in &mut self.lists {
            if let [head, rest @ ..] = *list
                && *head == entry
            {
                *list = rest;
            }
        }
        while self.found.last() == Some(&entry) {
            self.found.pop();
        }
        Some(entry)
    }
}
