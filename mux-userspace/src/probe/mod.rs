//! Probes: recognisers of a protocol by a connection's first bytes.
//!
//! A probe is a function of a byte slice and nothing else: no socket, no clock, no state
//! between calls. It is called again with a longer slice when more bytes have arrived.
//! Its verdict is *monotone*: once it says [`Verdict::Match`] or [`Verdict::NoMatch`] of
//! some bytes, it says so of every extension of them. It must never panic on any input.

pub mod http1;
pub mod http2;
pub mod socks4;
pub mod socks5;
pub mod ssh;
mod text;
pub mod tls;
mod verdict;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

pub use self::{text::PeerText, verdict::Verdict};

/// A recogniser of one protocol, or of a family of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// A TLS ClientHello of any version from SSL 3.0 on.
    Tls,
    /// An SSH identification string.
    Ssh,
    /// HTTP/1, or HTTP/2 with prior knowledge.
    Http,
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// SOCKS4, SOCKS4a or SOCKS5.
    Socks,
    /// A SOCKS4 or SOCKS4a request.
    Socks4,
    /// A SOCKS5 greeting.
    Socks5,
}

impl Probe {
    /// Every probe.
    pub const ALL: [Self; 8] = [
        Self::Tls,
        Self::Ssh,
        Self::Http,
        Self::Http1,
        Self::Http2,
        Self::Socks,
        Self::Socks4,
        Self::Socks5,
    ];

    /// Its name in rules files and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Ssh => "ssh",
            Self::Http => "http",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Socks => "socks",
            Self::Socks4 => "socks4",
            Self::Socks5 => "socks5",
        }
    }

    /// The probe of this name; names are lower-case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|probe| probe.name() == name)
    }

    /// Whether `bytes`, the first ones of a connection, are this protocol.
    #[must_use]
    pub fn examine(self, bytes: &[u8]) -> Verdict<Details> {
        match self {
            Self::Tls => tls::examine(bytes).map(Details::Tls),
            Self::Ssh => ssh::examine(bytes).map(Details::Ssh),
            Self::Http => Self::Http1.examine(bytes).or_else(|| Self::Http2.examine(bytes)),
            Self::Http1 => http1::examine(bytes).map(Details::Http1),
            Self::Http2 => http2::examine(bytes).map(Details::Http2),
            Self::Socks => Self::Socks4.examine(bytes).or_else(|| Self::Socks5.examine(bytes)),
            Self::Socks4 => socks4::examine(bytes).map(Details::Socks4),
            Self::Socks5 => socks5::examine(bytes).map(Details::Socks5),
        }
    }

    /// The fewest bytes of which it can say [`Verdict::Match`].
    #[must_use]
    pub const fn shortest_match(self) -> usize {
        match self {
            Self::Tls => tls::SHORTEST,
            Self::Ssh => ssh::SHORTEST,
            Self::Http | Self::Http1 => http1::SHORTEST,
            Self::Http2 => http2::PREFACE.len(),
            Self::Socks4 => socks4::SHORTEST,
            Self::Socks | Self::Socks5 => socks5::SHORTEST,
        }
    }

    /// Whether it matches everything that `other` matches.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        match self {
            Self::Http => matches!(other, Self::Http | Self::Http1 | Self::Http2),
            Self::Socks => matches!(other, Self::Socks | Self::Socks4 | Self::Socks5),
            Self::Tls | Self::Ssh | Self::Http1 | Self::Http2 | Self::Socks4 | Self::Socks5 => {
                self == other
            }
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a probe saw.
///
/// [`Display`](fmt::Display) is one short line of `key=value` pairs (empty where there is
/// nothing to tell); [`Serialize`] is a flat object. In both, what the peer sent is
/// escaped, see [`PeerText`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Details {
    /// Of [`Probe::Tls`].
    Tls(tls::ClientHello),
    /// Of [`Probe::Ssh`].
    Ssh(ssh::Identification),
    /// Of [`Probe::Http1`] and [`Probe::Http`].
    Http1(http1::Request),
    /// Of [`Probe::Http2`] and [`Probe::Http`].
    Http2(http2::Preface),
    /// Of [`Probe::Socks4`] and [`Probe::Socks`].
    Socks4(socks4::Request),
    /// Of [`Probe::Socks5`] and [`Probe::Socks`].
    Socks5(socks5::Greeting),
}

impl Details {
    /// The same as a JSON value: a flat object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        // Only maps with non-string keys and failing Serialize impls are errors; there are none.
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(hello) => hello.fmt(f),
            Self::Ssh(identification) => identification.fmt(f),
            Self::Http1(request) => request.fmt(f),
            Self::Http2(preface) => preface.fmt(f),
            Self::Socks4(request) => request.fmt(f),
            Self::Socks5(greeting) => greeting.fmt(f),
        }
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
