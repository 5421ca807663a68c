//! Rules that demand something of an HTTP request, or of a ClientHello, found by it.

use std::collections::{BTreeMap, HashMap};

use super::{
    super::{Phase, heads::Heads},
    index::Candidates,
    names::{NameIndex, push},
    need::{HttpKey, TlsKey},
    patterns::Patterns,
    trie::Trie,
};
use crate::probe::{
    TlsVersion, Verdict,
    http::{Head, Host},
    tls::ClientHello,
};

/// Entries by what they demand of an HTTP request. All lists are sorted.
#[derive(Debug, Default)]
pub(super) struct HttpIndex {
    hosts: NameIndex,
    paths: Trie,
    path_patterns: Patterns,
    methods: HashMap<Box<[u8]>, Vec<u32>>,
    /// By the field's name.
    fields: BTreeMap<Box<str>, Patterns>,
    all: Vec<u32>,
}

impl HttpIndex {
    /// Of keys in the order of their entries.
    pub(super) fn new(keys: &[(&HttpKey, u32)]) -> Self {
        let mut index = Self::default();
        let mut fields: BTreeMap<Box<str>, Vec<(&str, u32)>> = BTreeMap::new();
        for (key, entry) in keys {
            match key {
                HttpKey::Method(method) => {
                    push(index.methods.entry(method.as_bytes().into()).or_default(), *entry);
                }
                HttpKey::Field(name, pattern) => {
                    fields.entry(name.clone()).or_default().push((&**pattern, *entry));
                }
                HttpKey::Host(_) | HttpKey::Path(_) | HttpKey::PathPattern(_) => {}
            }
            push(&mut index.all, *entry);
        }
        index.hosts = NameIndex::new(keys.iter().filter_map(|(key, entry)| match key {
            HttpKey::Host(name) => Some((name, *entry)),
            HttpKey::Path(_) | HttpKey::PathPattern(_) | HttpKey::Method(_) => None,
            HttpKey::Field(..) => None,
        }));
        index.paths = Trie::new(keys.iter().filter_map(|(key, entry)| match key {
            HttpKey::Path(path) => Some((path.as_bytes(), *entry)),
            HttpKey::Host(_) | HttpKey::PathPattern(_) | HttpKey::Method(_) => None,
            HttpKey::Field(..) => None,
        }));
        index.path_patterns = Patterns::new(keys.iter().filter_map(|(key, entry)| match key {
            HttpKey::PathPattern(pattern) => Some((&**pattern, *entry)),
            HttpKey::Host(_) | HttpKey::Path(_) | HttpKey::Method(_) => None,
            HttpKey::Field(..) => None,
        }));
        let fields = fields.into_iter();
        index.fields = fields.map(|(name, list)| (name, Patterns::new(list.into_iter()))).collect();
        index
    }

    /// Adds the entries that may be satisfied by this request, or by what it may become.
    pub(super) fn candidates<'a>(
        &'a self,
        heads: &Heads<'_>,
        phase: Phase,
        first: u32,
        candidates: &mut Candidates<'a>,
    ) {
        if self.all.is_empty() {
            return;
        }
        match (heads.http1(), heads.http2()) {
            (Verdict::Match(head), _) => self.of_head(head, phase, first, candidates),
            (_, Verdict::Match(head)) => self.of_head(head, phase, first, candidates),
            (Verdict::NoMatch, Verdict::NoMatch) => {}
            (Verdict::NeedMore(_), _) | (_, Verdict::NeedMore(_)) => {
                candidates.add_open(&self.all, phase, first);
            }
        }
    }

    fn of_head<'a>(
        &'a self,
        head: &impl Head,
        phase: Phase,
        first: u32,
        candidates: &mut Candidates<'a>,
    ) {
        let hosts = self.hosts.entries();
        if !hosts.is_empty() {
            match head.host() {
                Host::Open { .. } => candidates.add_open(hosts, phase, first),
                // No other host than this can come of it.
                Host::Expected { host, .. } if phase.is_open() => {
                    self.hosts.candidates(Some(host), first, candidates);
                }
                Host::Expected { .. } | Host::Known(None) => {}
                Host::Known(Some(host)) => self.hosts.candidates(Some(host), first, candidates),
            }
        }
        if let Some(path) = head.path() {
            let (complete, _) = self.paths.find(path);
            candidates.add(complete, first);
            if !self.path_patterns.is_empty() {
                self.path_patterns.find(path, candidates.found());
            }
        }
        if let Some(list) = self.methods.get(head.method()) {
            candidates.add(list, first);
        }
        for (name, patterns) in &self.fields {
            let look = |value: &[u8], candidates: &mut Candidates<'_>| {
                patterns.find(value, candidates.found());
            };
            if !head.each_value(name, |value| look(value, candidates)) {
                // Another line may come.
                candidates.add_open(patterns.entries(), phase, first);
            }
        }
    }
}

/// Entries by what they demand of a ClientHello. All lists are sorted.
#[derive(Debug, Default)]
pub(super) struct TlsIndex {
    names: NameIndex,
    protocols: HashMap<Box<[u8]>, Vec<u32>>,
    versions: HashMap<TlsVersion, Vec<u32>>,
    all: Vec<u32>,
}

impl TlsIndex {
    /// Of keys in the order of their entries.
    pub(super) fn new(keys: &[(&TlsKey, u32)]) -> Self {
        let mut index = Self::default();
        for (key, entry) in keys {
            match key {
                TlsKey::Sni(_) => {}
                TlsKey::Alpn(name) => {
                    push(index.protocols.entry(name.clone()).or_default(), *entry);
                }
                TlsKey::Version(version) => {
                    push(index.versions.entry(*version).or_default(), *entry);
                }
            }
            push(&mut index.all, *entry);
        }
        index.names = NameIndex::new(keys.iter().filter_map(|(key, entry)| match key {
            TlsKey::Sni(name) => Some((name, *entry)),
            TlsKey::Alpn(_) | TlsKey::Version(_) => None,
        }));
        index
    }

    /// Adds the entries that may be satisfied by this hello, or by what it may become.
    pub(super) fn candidates<'a>(
        &'a self,
        heads: &Heads<'_>,
        phase: Phase,
        first: u32,
        candidates: &mut Candidates<'a>,
    ) {
        if self.all.is_empty() {
            return;
        }
        let verdict = heads.hello(|hello| {
            if let Some(hello) = hello {
                self.of_hello(hello, first, candidates);
            }
            Verdict::Match(())
        });
        match verdict {
            Verdict::Match(()) | Verdict::NoMatch => {}
            Verdict::NeedMore(_) => candidates.add_open(&self.all, phase, first),
        }
    }

    fn of_hello<'a>(
        &'a self,
        hello: &ClientHello<'_>,
        first: u32,
        candidates: &mut Candidates<'a>,
    ) {
        self.names.candidates(hello.server_name(), first, candidates);
        if !self.protocols.is_empty() {
            let lists = hello.protocols().filter_map(|name| self.protocols.get(name));
            lists.for_each(|list| candidates.add(list, first));
        }
        if !self.versions.is_empty() {
            let lists = hello.versions().filter_map(|version| self.versions.get(&version));
            lists.for_each(|list| candidates.add(list, first));
        }
    }
}
