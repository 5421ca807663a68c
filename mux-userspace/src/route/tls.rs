//! `tls = { … }`: conditions on what a ClientHello offers.
//!
//! All of it is decided once the hello is complete: clients send it in one go, and half of
//! one may still turn out to be malformed, or to name a second host.

use std::fmt;

use super::{EmptyMatcher, Names, heads::Heads};
use crate::probe::{
    TlsVersion, Verdict,
    tls::{self, ClientHello},
};

/// A TLS client whose hello can be read, and of which all of this holds.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsMatcher {
    sni: Option<Sni>,
    /// One of these protocols is offered (RFC 7301), byte for byte; sorted, never empty.
    alpn: Option<Vec<Box<[u8]>>>,
    /// One of these versions is offered; sorted, never empty.
    versions: Option<Vec<TlsVersion>>,
}

/// What the client says of the host that it wants (RFC 6066 3).
#[derive(Clone, Debug, PartialEq)]
pub enum Sni {
    /// Nothing.
    Absent,
    /// One of these names.
    Names(Names),
}

/// What it asks for, as rules files call it: `sni a.example, *.b.example; alpn h2`.
impl fmt::Display for TlsMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sni, alpn, versions } = self;
        let sni = sni.as_ref().map(|sni| match sni {
            Sni::Absent => "no sni".to_owned(),
            Sni::Names(names) => format!("sni {names}"),
        });
        let alpn = alpn.as_ref().map(|list| {
            let names = list.iter().map(|name| name.escape_ascii().to_string());
            format!("alpn {}", names.collect::<Vec<_>>().join(", "))
        });
        let versions = versions.as_ref().map(|list| {
            let names = list.iter().map(|version| version.name());
            format!("version {}", names.collect::<Vec<_>>().join(", "))
        });
        let all: Vec<String> = [sni, alpn, versions].into_iter().flatten().collect();
        f.write_str(&all.join("; "))
    }
}

impl TlsMatcher {
    /// `None` is no condition. `alpn` and `versions` are lists one of which has to be offered.
    ///
    /// # Errors
    /// [`EmptyMatcher`]: no condition at all, or an empty list.
    pub fn new(
        sni: Option<Sni>,
        alpn: Option<Vec<Box<[u8]>>>,
        versions: Option<Vec<TlsVersion>>,
    ) -> Result<Self, EmptyMatcher> {
        if sni.is_none() && alpn.is_none() && versions.is_none() {
            return Err(EmptyMatcher);
        }
        let (alpn, versions) = (alpn.map(set).transpose()?, versions.map(set).transpose()?);
        Ok(Self { sni, alpn, versions })
    }

    /// What it says of the host name.
    #[must_use]
    pub const fn sni(&self) -> Option<&Sni> {
        self.sni.as_ref()
    }

    /// Whether the host name alone decides.
    #[must_use]
    pub const fn is_sni_alone(&self) -> bool {
        self.alpn.is_none() && self.versions.is_none()
    }

    /// The application protocols of which one has to be offered.
    pub(super) fn alpn(&self) -> Option<&[Box<[u8]>]> {
        self.alpn.as_deref()
    }

    /// The versions of which one has to be offered.
    pub(super) fn versions(&self) -> Option<&[TlsVersion]> {
        self.versions.as_deref()
    }

    pub(super) fn examine(&self, heads: &Heads<'_>) -> Verdict<()> {
        heads.hello(|hello| {
            let holds = hello.is_some_and(|hello| self.holds(hello));
            if holds { Verdict::Match(()) } else { Verdict::NoMatch }
        })
    }

    fn holds(&self, hello: &ClientHello<'_>) -> bool {
        let Self { sni, alpn, versions } = self;
        let name = || match (sni, hello.server_name()) {
            (None, _) | (Some(Sni::Absent), None) => true,
            (Some(Sni::Names(names)), Some(name)) => names.contains(name),
            (Some(Sni::Absent), Some(_)) | (Some(Sni::Names(_)), None) => false,
        };
        let protocol = || {
            alpn.as_ref().is_none_or(|wanted| {
                hello.protocols().any(|name| wanted.iter().any(|wanted| **wanted == *name))
            })
        };
        let version = || {
            versions
                .as_ref()
                .is_none_or(|wanted| hello.versions().any(|version| wanted.contains(&version)))
        };
        version() && protocol() && name()
    }

    /// Whether it visibly matches all that `other` does.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let names = match (&self.sni, &other.sni) {
            (None, _) | (Some(Sni::Absent), Some(Sni::Absent)) => true,
            (Some(Sni::Names(mine)), Some(Sni::Names(theirs))) => mine.include(theirs),
            (Some(Sni::Absent), Some(Sni::Names(_)) | None)
            | (Some(Sni::Names(_)), Some(Sni::Absent) | None) => false,
        };
        names
            && includes(self.alpn.as_deref(), other.alpn.as_deref())
            && includes(self.versions.as_deref(), other.versions.as_deref())
    }

    /// The fewest bytes with which it can match.
    pub(super) fn shortest_match(&self) -> usize {
        /// Headers of the extensions, of `server_name`, of its list and of a name in it.
        const AROUND_A_NAME: usize = 2 + 4 + 2 + 3;
        let name = match &self.sni {
            Some(Sni::Names(names)) => AROUND_A_NAME + names.shortest(),
            Some(Sni::Absent) | None => 0,
        };
        tls::SHORTEST_READABLE + name
    }
}

/// Sorted and each once, so that lists that say the same are equal.
pub(super) fn set<T: Ord>(mut list: Vec<T>) -> Result<Vec<T>, EmptyMatcher> {
    list.sort_unstable();
    list.dedup();
    if list.is_empty() { Err(EmptyMatcher) } else { Ok(list) }
}

/// Whether "one of mine" follows from "one of theirs"; `None` is no condition.
pub(super) fn includes<T: PartialEq>(mine: Option<&[T]>, theirs: Option<&[T]>) -> bool {
    match (mine, theirs) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(mine), Some(theirs)) => theirs.iter().all(|one| mine.contains(one)),
    }
}
