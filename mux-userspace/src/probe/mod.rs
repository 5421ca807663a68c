//! Probes: recognisers of a protocol by a connection's first bytes.
//!
//! A probe is a function of a byte slice and nothing else: no socket, no clock, no state
//! between calls. It is called again with a longer slice when more bytes have arrived.
//! Its verdict is *monotone*: once it says [`Verdict::Match`] or [`Verdict::NoMatch`] of
//! some bytes, it says so of every extension of them. It must never panic on any input,
//! and to recognise it needs no allocation; only what it tells ([`Details`]) is allocated,
//! once, for the rule that wins.
//!
//! A protocol is one file with one `PROTOCOL`, entered in [`Probe::all`].

mod adb;
mod amqp;
mod bittorrent;
mod details;
mod dns;
mod families;
mod git;
pub mod http;
pub(crate) mod http1;
pub(crate) mod http2;
#[doc(hidden)]
pub mod inside;
mod ldap;
mod minecraft;
mod mongodb;
mod mqtt;
mod mysql;
mod openvpn;
mod postgres;
mod proxy;
mod rdp;
mod redis;
mod request_line;
mod rsync;
mod rtsp;
mod scan;
mod sip;
mod smb;
mod smtp;
mod socks4;
mod socks5;
mod ssh;
mod stun;
mod syslog;
mod text;
mod tinc;
pub mod tls;
mod verdict;
mod vnc;
mod websocket;
mod xmpp;

#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc};

pub use self::{
    details::{Details, Value},
    http::HttpVersion,
    text::PeerText,
    tls::TlsVersion,
    verdict::Verdict,
};

pub(crate) use self::http1::MAX_METHOD;

/// A protocol that mux knows.
#[derive(Debug)]
struct Protocol {
    /// Its name in rules files and logs; lower-case.
    name: &'static str,
    /// The fewest bytes of which `examine` can say [`Verdict::Match`].
    shortest: usize,
    /// The protocols that it consists of, if it is a family of them.
    members: &'static [&'static Protocol],
    /// Whether these first bytes are this protocol.
    examine: fn(&[u8]) -> Verdict<()>,
    /// What there is to tell of bytes that are.
    details: fn(&[u8]) -> Details,
}

impl Protocol {
    /// Whether it visibly matches everything that `other` matches.
    fn includes(&self, other: &Self) -> bool {
        self.name == other.name
            || self.members.iter().any(|member| member.includes(other))
            || families::NARROWER
                .iter()
                .any(|(wide, narrow)| wide.name == self.name && narrow.includes(other))
    }
}

/// In the order of the reference.
const PROTOCOLS: &[&Protocol] = &[
    &tls::PROTOCOL,
    &ssh::PROTOCOL,
    &families::HTTP,
    &http1::PROTOCOL,
    &http2::PROTOCOL,
    &websocket::PROTOCOL,
    &families::SOCKS,
    &socks4::PROTOCOL,
    &socks4::WITH_NAME,
    &socks5::PROTOCOL,
    &smtp::PROTOCOL,
    &xmpp::PROTOCOL,
    &syslog::PROTOCOL,
    &dns::PROTOCOL,
    &rtsp::PROTOCOL,
    &sip::PROTOCOL,
    &stun::PROTOCOL,
    &bittorrent::PROTOCOL,
    &git::PROTOCOL,
    &rsync::PROTOCOL,
    &proxy::PROTOCOL,
    &postgres::PROTOCOL,
    &mysql::PROTOCOL,
    &redis::PROTOCOL,
    &mongodb::PROTOCOL,
    &mqtt::PROTOCOL,
    &amqp::PROTOCOL,
    &rdp::PROTOCOL,
    &vnc::PROTOCOL,
    &openvpn::PROTOCOL,
    &tinc::PROTOCOL,
    &adb::PROTOCOL,
    &ldap::PROTOCOL,
    &smb::PROTOCOL,
    &minecraft::PROTOCOL,
];

/// Recognises a protocol that mux does not know: what a program that embeds mux registers
/// with [`Probes::register`].
///
/// Any `Fn(&[u8]) -> Verdict<()>` is one.
pub trait Recognise: Send + Sync {
    /// Whether `bytes`, the first ones of a connection, are this protocol. Must be monotone
    /// (see the [module](self)); asked again whenever more bytes have arrived.
    fn examine(&self, bytes: &[u8]) -> Verdict<()>;

    /// What there is to tell of bytes that are; for the access log.
    fn details(&self, bytes: &[u8]) -> Details {
        let _ = bytes;
        Details::new()
    }

    /// The fewest bytes of which [`Recognise::examine`] can say [`Verdict::Match`]; a lower
    /// bound will do.
    fn shortest_match(&self) -> usize {
        0
    }
}

impl<F: Fn(&[u8]) -> Verdict<()> + Send + Sync> Recognise for F {
    fn examine(&self, bytes: &[u8]) -> Verdict<()> {
        self(bytes)
    }
}

/// A recogniser of one protocol, or of a family of them. Cheap to clone.
#[derive(Clone)]
pub struct Probe(Kind);

#[derive(Clone)]
enum Kind {
    Known(&'static Protocol),
    Custom { name: Arc<str>, recogniser: Arc<dyn Recognise> },
}

impl Probe {
    /// Every probe that mux has.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        PROTOCOLS.iter().map(|protocol| Self(Kind::Known(protocol)))
    }

    /// The probe of mux's own of this name; names are lower-case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|probe| probe.name() == name)
    }

    /// The probe `tls`.
    pub(crate) const fn tls() -> Self {
        Self(Kind::Known(&tls::PROTOCOL))
    }

    /// The probe `http1`.
    pub(crate) const fn http1() -> Self {
        Self(Kind::Known(&http1::PROTOCOL))
    }

    /// The probe `http2`.
    pub(crate) const fn http2() -> Self {
        Self(Kind::Known(&http2::PROTOCOL))
    }

    /// A probe of the caller's.
    #[must_use]
    pub fn custom(name: &str, recogniser: impl Recognise + 'static) -> Self {
        Self(Kind::Custom { name: name.into(), recogniser: Arc::new(recogniser) })
    }

    /// Its name in rules files and logs.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Known(protocol) => protocol.name,
            Kind::Custom { name, .. } => name,
        }
    }

    /// Whether `bytes`, the first ones of a connection, are this protocol.
    #[must_use]
    pub fn examine(&self, bytes: &[u8]) -> Verdict<()> {
        match &self.0 {
            Kind::Known(protocol) => (protocol.examine)(bytes),
            Kind::Custom { recogniser, .. } => recogniser.examine(bytes),
        }
    }

    /// What there is to tell of bytes of which [`Probe::examine`] says [`Verdict::Match`].
    #[must_use]
    pub fn details(&self, bytes: &[u8]) -> Details {
        match &self.0 {
            Kind::Known(protocol) => (protocol.details)(bytes),
            Kind::Custom { recogniser, .. } => recogniser.details(bytes),
        }
    }

    /// The fewest bytes of which it can say [`Verdict::Match`].
    #[must_use]
    pub fn shortest_match(&self) -> usize {
        match &self.0 {
            Kind::Known(protocol) => protocol.shortest,
            Kind::Custom { recogniser, .. } => recogniser.shortest_match(),
        }
    }

    /// Whether it consists of other probes.
    #[cfg(test)]
    fn is_family(&self) -> bool {
        matches!(&self.0, Kind::Known(protocol) if !protocol.members.is_empty())
    }

    /// Whether it visibly matches everything that `other` matches.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Known(mine), Kind::Known(theirs)) => mine.includes(theirs),
            (Kind::Known(_) | Kind::Custom { .. }, Kind::Custom { .. })
            | (Kind::Custom { .. }, Kind::Known(_)) => self == other,
        }
    }
}

impl PartialEq for Probe {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Known(mine), Kind::Known(theirs)) => mine.name == theirs.name,
            (Kind::Custom { recogniser: mine, .. }, Kind::Custom { recogniser: theirs, .. }) => {
                Arc::ptr_eq(mine, theirs)
            }
            (Kind::Known(_), Kind::Custom { .. }) | (Kind::Custom { .. }, Kind::Known(_)) => false,
        }
    }
}

impl Eq for Probe {}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Probe({})", self.name())
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The probes that rules can name: mux's own, and those of the program that embeds it.
#[derive(Clone, Debug)]
pub struct Probes(BTreeMap<Box<str>, Probe>);

/// Why [`Probes::register`] refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// There is a probe of this name.
    #[error("there is a probe `{0}` already")]
    Taken(String),
    /// Not a name that a rules file could use.
    #[error("`{0}` is not a probe's name: 1 to 64 of a-z, 0-9, `-` and `_`, a letter first")]
    Name(String),
}

impl Default for Probes {
    fn default() -> Self {
        Self(Probe::all().map(|probe| (probe.name().into(), probe)).collect())
    }
}

impl Probes {
    /// Makes a probe known to rules.
    ///
    /// # Errors
    /// [`RegisterError`]: its name is taken, or cannot be one.
    pub fn register(&mut self, probe: Probe) -> Result<(), RegisterError> {
        let name = probe.name();
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_lowercase())
            || name.len() > 64
            || !name.chars().all(allowed)
        {
            return Err(RegisterError::Name(name.to_owned()));
        }
        if self.get(name).is_some() {
            return Err(RegisterError::Taken(name.to_owned()));
        }
        self.0.insert(name.into(), probe);
        Ok(())
    }

    /// The probe of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Probe> {
        self.0.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.keys().map(AsRef::as_ref)
    }
}

/// Details, and the probe that saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The probe that the rule names; `http`, not `http1`, where the rule says `http`.
    pub probe: Probe,
    /// What it saw.
    pub details: Details,
}
