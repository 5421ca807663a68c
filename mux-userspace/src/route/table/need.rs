//! What a matcher demands that can be looked up.
//!
//! A condition often demands several things, each of which would do to find it: a host and a path.
//! Of those, the one that the fewest other rules demand is looked up: among a thousand rules for
//! one host, the path.

use std::collections::HashMap;

use ipnet::IpNet;

use super::{
    super::{HttpConditions, Matcher, NamePattern, Names, Regex, Sni, TlsMatcher},
    names::NameKey,
    shapes::Shape,
};
use crate::probe::TlsVersion;

/// A demand: the matcher is sure not to match where it cannot be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing that could be looked up.
    Unknown,
    /// One of these.
    OneOf(Vec<Key>),
}

/// Something that can be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The first bytes are these; at least one.
    Literal(Box<[u8]>),
    /// The first bytes are of this shape.
    Shape(Shape),
    /// This regular expression finds something.
    Pattern(Box<str>),
    /// The client is in this network.
    Client(IpNet),
    /// Of a ClientHello.
    Tls(TlsKey),
    /// Of an HTTP request.
    Http(HttpKey),
}

/// Something that can be looked up of a ClientHello.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TlsKey {
    /// It asks for this name.
    Sni(NameKey),
    /// It offers this protocol.
    Alpn(Box<[u8]>),
    /// It offers this version.
    Version(TlsVersion),
}

/// Something that can be looked up of an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum HttpKey {
    /// It is for this host.
    Host(NameKey),
    /// Its path begins so.
    Path(Box<str>),
    /// This regular expression finds something in its path.
    PathPattern(Box<str>),
    /// Its method is this.
    Method(Box<str>),
    /// It has a field of this name, in whose value this regular expression finds something.
    Field(Box<str>, Box<str>),
}

/// More alternatives than this are not worth an index.
const MAX_KEYS: usize = 256;

/// What a matcher demands, before it is known what others do.
#[derive(Debug)]
pub(super) enum Demands {
    /// One of each of these lists; maybe none of them.
    Lists(Vec<Vec<Key>>),
    /// All of these.
    All(Vec<Demands>),
    /// One of these.
    Any(Vec<Demands>),
}

impl Demands {
    /// Those of a matcher.
    pub(super) fn of(matcher: &Matcher) -> Self {
        // Its "no" may become a "yes", so that it wants to be asked.
        if matcher.is_tentative() {
            return Self::Lists(Vec::new());
        }
        match matcher {
            Matcher::Prefix(prefix) => Self::one(Key::Literal(prefix.as_bytes().into())),
            Matcher::Bytes(masked) => match masked.literal() {
                [] => {
                    let shape = Shape::of_bytes(masked).map(|shape| vec![Key::Shape(shape)]);
                    Self::Lists(shape.into_iter().collect())
                }
                literal => Self::one(Key::Literal(literal.into())),
            },
            Matcher::Regex(regex) => Self::Lists(vec![of_regex(regex)]),
            Matcher::All(group) => Self::All(group.members().iter().map(Self::of).collect()),
            Matcher::Any(group) => Self::Any(group.members().iter().map(Self::of).collect()),
            Matcher::Tls(tls) => Self::Lists(of_tls(tls)),
            Matcher::Http(http) => Self::Lists(of_http(http.conditions())),
            // A file may have other networks in it by and by.
            Matcher::Client(networks) if networks.files().is_empty() => {
                let key = |network: &IpNet| Key::Client(network.trunc());
                Self::Lists(vec![networks.written().iter().map(key).collect()])
            }
            Matcher::Client(_)
            | Matcher::Always
            | Matcher::Probe(_)
            | Matcher::Predicate(_)
            | Matcher::Not(_) => Self::Lists(Vec::new()),
        }
    }

    fn one(key: Key) -> Self {
        Self::Lists(vec![vec![key]])
    }

    /// Counts each of its keys.
    pub(super) fn count<'a>(&'a self, counts: &mut HashMap<&'a Key, usize>) {
        match self {
            Self::Lists(lists) => {
                lists.iter().flatten().for_each(|key| *counts.entry(key).or_default() += 1);
            }
            Self::All(members) | Self::Any(members) => {
                members.iter().for_each(|member| member.count(counts));
            }
        }
    }

    /// What is to be looked up, where keys are as frequent as that.
    pub(super) fn choose(&self, counts: &HashMap<&Key, usize>) -> Need {
        let cost = |need: &Need| match need {
            Need::Unknown => usize::MAX,
            Need::OneOf(keys) => {
                keys.iter().map(|key| counts.get(key).copied().unwrap_or(1) * key.weight()).sum()
            }
        };
        match self {
            Self::Lists(lists) => {
                lists.iter().cloned().map(Need::OneOf).min_by_key(cost).unwrap_or(Need::Unknown)
            }
            Self::All(members) => members
                .iter()
                .map(|member| member.choose(counts))
                .min_by_key(cost)
                .unwrap_or(Need::Unknown),
            Self::Any(members) => members
                .iter()
                .map(|member| member.choose(counts))
                .reduce(Need::or)
                .unwrap_or(Need::Unknown),
        }
    }
}

impl Key {
    /// How often it is met by chance, roughly: lower is better.
    const fn weight(&self) -> usize {
        match self {
            Self::Client(_) | Self::Tls(TlsKey::Sni(_)) => 1,
            Self::Http(HttpKey::Host(_) | HttpKey::Path(_)) => 1,
            Self::Literal(_) | Self::Tls(TlsKey::Alpn(_)) => 2,
            Self::Http(HttpKey::PathPattern(_) | HttpKey::Field(_, _)) => 4,
            Self::Shape(_) | Self::Tls(TlsKey::Version(_)) | Self::Http(HttpKey::Method(_)) => 16,
            // While bytes arrive, it is no help.
            Self::Pattern(_) => MAX_KEYS,
        }
    }
}

impl Need {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::OneOf(mut mine), Self::OneOf(theirs))
                if mine.len() + theirs.len() <= MAX_KEYS =>
            {
                mine.extend(theirs);
                Self::OneOf(mine)
            }
            (Self::OneOf(_) | Self::Unknown, Self::OneOf(_) | Self::Unknown) => Self::Unknown,
        }
    }
}

fn of_regex(regex: &Regex) -> Vec<Key> {
    if let Some(prefixes) = regex.prefixes() {
        return prefixes.iter().cloned().map(Key::Literal).collect();
    }
    let pattern = || Key::Pattern(regex.as_str().into());
    vec![Shape::of_regex(regex).map_or_else(pattern, Key::Shape)]
}

fn of_tls(tls: &TlsMatcher) -> Vec<Vec<Key>> {
    let sni = tls.sni().map(|sni| match sni {
        Sni::Absent => vec![TlsKey::Sni(NameKey::Absent)],
        Sni::Names(names) => of_names(names).map(TlsKey::Sni).collect(),
    });
    let alpn = tls.alpn().map(|list| list.iter().cloned().map(TlsKey::Alpn).collect());
    let versions = tls.versions().map(|list| list.iter().copied().map(TlsKey::Version).collect());
    let lists = [sni, alpn, versions].into_iter().flatten();
    lists.map(|list: Vec<TlsKey>| list.into_iter().map(Key::Tls).collect()).collect()
}

fn of_http(conditions: &HttpConditions) -> Vec<Vec<Key>> {
    // Versions alone say little, and HTTP/2's is known before the rest.
    let HttpConditions { versions: _, methods, hosts, paths, path_prefixes, path_regexes, headers } =
        conditions;
    let texts = |list: &Option<Vec<Box<str>>>, key: fn(Box<str>) -> HttpKey| {
        list.as_ref().map(|list| list.iter().cloned().map(key).collect::<Vec<_>>())
    };
    let hosts = hosts.as_ref().map(|names| of_names(names).map(HttpKey::Host).collect());
    let patterns = path_regexes
        .as_ref()
        .map(|list| list.iter().map(|regex| HttpKey::PathPattern(regex.as_str().into())).collect());
    let fields = headers
        .iter()
        .map(|(name, regex)| vec![HttpKey::Field(name.as_str().into(), regex.as_str().into())]);
    [
        hosts,
        texts(paths, HttpKey::Path),
        texts(path_prefixes, HttpKey::Path),
        patterns,
        texts(methods, HttpKey::Method),
    ]
    .into_iter()
    .flatten()
    .chain(fields)
    .map(|list: Vec<HttpKey>| list.into_iter().map(Key::Http).collect())
    .collect()
}

fn of_names(names: &Names) -> impl Iterator<Item = NameKey> {
    names.patterns().iter().map(|pattern| match pattern {
        NamePattern::Exact(name) => NameKey::Exact(name.as_str().into()),
        NamePattern::Below(name) => NameKey::Below(name.as_str().into()),
        NamePattern::Regex(regex) => NameKey::Pattern(regex.as_str().into()),
    })
}
