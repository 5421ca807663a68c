//! What a matcher demands that can be looked up.

use super::{
    super::{Matcher, NamePattern, Names, Sni},
    names::NameKey,
};

/// A demand: the matcher is sure not to match where it cannot be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing that could be looked up.
    Unknown,
    /// One of these.
    OneOf(Vec<Key>),
}

/// Something that can be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The first bytes are these; at least one.
    Literal(Box<[u8]>),
    /// This regular expression finds something.
    Pattern(Box<str>),
    /// A ClientHello with this name in it.
    Sni(NameKey),
    /// An HTTP request for this host.
    Host(NameKey),
}

/// More alternatives than this are not worth an index.
const MAX_KEYS: usize = 256;

impl Need {
    /// That of a matcher.
    pub(super) fn of(matcher: &Matcher) -> Self {
        match matcher {
            Matcher::Prefix(prefix) => Self::literal(prefix.as_bytes()),
            Matcher::Bytes(masked) => Self::literal(masked.literal()),
            Matcher::Regex(regex) => match regex.prefixes() {
                Some(prefixes) => Self::OneOf(prefixes.iter().cloned().map(Key::Literal).collect()),
                None => Self::OneOf(vec![Key::Pattern(regex.as_str().into())]),
            },
            Matcher::All(group) => {
                group.members().iter().map(Self::of).min_by_key(Self::cost).unwrap_or(Self::Unknown)
            }
            Matcher::Any(group) => {
                group.members().iter().map(Self::of).reduce(Self::or).unwrap_or(Self::Unknown)
            }
            Matcher::Tls(tls) => match tls.sni() {
                None => Self::Unknown,
                Some(Sni::Absent) => Self::OneOf(vec![Key::Sni(NameKey::Absent)]),
                Some(Sni::Names(names)) => Self::OneOf(of_names(names).map(Key::Sni).collect()),
            },
            Matcher::Http(http) => http.hosts().map_or(Self::Unknown, |names| {
                Self::OneOf(of_names(names).map(Key::Host).collect())
            }),
            Matcher::Always
            | Matcher::Probe(_)
            | Matcher::Predicate(_)
            | Matcher::Client(_)
            | Matcher::Not(_) => Self::Unknown,
        }
    }

    fn literal(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self::Unknown } else { Self::OneOf(vec![Key::Literal(bytes.into())]) }
    }

    /// How often it is met by chance, roughly: lower is better.
    fn cost(&self) -> usize {
        let of_key = |key: &Key| match key {
            Key::Sni(_) | Key::Host(_) => 1,
            Key::Literal(_) => 2,
            Key::Pattern(_) => MAX_KEYS,
        };
        match self {
            Self::Unknown => usize::MAX,
            Self::OneOf(keys) => keys.iter().map(of_key).sum(),
        }
    }

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

fn of_names(names: &Names) -> impl Iterator<Item = NameKey> {
    names.patterns().iter().map(|pattern| match pattern {
        NamePattern::Exact(name) => NameKey::Exact(name.as_str().into()),
        NamePattern::Below(name) => NameKey::Below(name.as_str().into()),
        NamePattern::Regex(_) => NameKey::Any,
    })
}
