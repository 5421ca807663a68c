//! The PROXY protocol, versions 1 and 2: between whom a connection is, told before its first byte.
//!
//! Sections cited are those of haproxy's doc/proxy-protocol.txt. What is here does no I/O:
//! [`examine`] is asked again when more bytes have come, and what [`fn@announce`] and [`mod@write`] make
//! is sent by others.

mod announce;
mod claim;
mod parse;
mod tlv;
mod trust;
pub mod write;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

pub(crate) use self::claim::Guard;
pub use self::{
    announce::{Announcement, announce, announce_own},
    claim::is_claim,
    parse::{Examined, examine, parse},
    trust::Trusted,
};
use crate::{account::Counter, net::Peer, probe::Details};

/// Longest header of version 2 that is read, bytes: its fixed part and [`MAX_BLOCK`].
pub const MAX_HEADER: usize = binary::FIXED + MAX_BLOCK;
/// Most bytes after the fixed part of version 2: addresses and TLVs. The length field could say
/// 64 KiB; a sender needs less than 1 KiB but for a certificate's details.
pub const MAX_BLOCK: usize = 4096;
/// Longest header of version 1, bytes, CRLF included (2.1).
pub const MAX_LINE: usize = 107;

/// What a header of version 1 begins with (2.1).
const V1_SIGNATURE: &[u8] = b"PROXY ";

/// Constants of version 2 (2.2).
mod binary {
    /// What a header begins with.
    pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    /// Signature, version and command, family and transport, length.
    pub(super) const FIXED: usize = SIGNATURE.len() + 4;
    /// High half of the 13th byte.
    pub(super) const VERSION: u8 = 0x20;
    /// Low half: of the sender's own accord.
    pub(super) const LOCAL: u8 = 0x0;
    /// Low half: on behalf of another.
    pub(super) const PROXY: u8 = 0x1;
    /// 14th byte: TCP over IPv4.
    pub(super) const TCP4: u8 = 0x11;
    /// 14th byte: TCP over IPv6.
    pub(super) const TCP6: u8 = 0x21;
    /// 14th byte: a Unix stream socket.
    pub(super) const UNIX_STREAM: u8 = 0x31;
}

/// Which form of header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary, with TLVs.
    V2,
}

impl Version {
    /// Its name in rules files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// A header, as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its form.
    pub version: Version,
    /// Between whom the connection is.
    pub origin: Origin,
    /// What else it tells; empty in version 1.
    pub extras: Extras,
    /// Bytes of it. What follows is the stream.
    pub length: usize,
}

impl Header {
    /// The client that it names; `peer`, who sent it, where it names none.
    #[must_use]
    pub fn client(&self, peer: Peer) -> Peer {
        match &self.origin {
            Origin::Own => peer,
            Origin::Tcp { source, .. } => Peer::from_ip(*source),
            Origin::Unix(_) => Peer::Unix,
        }
    }

    /// What the access log tells of it.
    #[must_use]
    pub fn details(&self) -> Details {
        let Extras { authority, alpn, unique_id } = &self.extras;
        let version: u8 = match self.version {
            Version::V1 => 1,
            Version::V2 => 2,
        };
        Details::new()
            .with("version", version)
            .with_some("authority", authority.as_deref())
            .with_some("alpn", alpn.as_deref())
            .with_some("unique_id", unique_id.as_deref())
    }
}

/// Between whom a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Between the sender of the header and its receiver: LOCAL, UNKNOWN, or what TCP cannot have
    /// been accepted from (UDP).
    Own,
    /// TCP. Both addresses are of one family, IPv4 where that can be.
    Tcp {
        /// The client.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
    /// A Unix stream socket.
    Unix(Box<UnixPair>),
}

/// Two `sun_path`s (unix(7)), filled up with NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixPair {
    /// The client's: all NUL, unless it is bound.
    pub source: [u8; SUN_PATH],
    /// Where it connected to.
    pub destination: [u8; SUN_PATH],
}

/// Length of `sun_path`, bytes (2.2).
pub const SUN_PATH: usize = 108;

impl Origin {
    /// TCP between these. IPv4-mapped addresses (RFC 4291 2.5.5.2) become IPv4 if both are.
    #[must_use]
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        let plain = [source, destination].map(|address| address.ip().to_canonical());
        let [source_ip, destination_ip] = match plain {
            same @ ([IpAddr::V4(_), IpAddr::V4(_)] | [IpAddr::V6(_), IpAddr::V6(_)]) => same,
            [IpAddr::V4(v4), v6 @ IpAddr::V6(_)] => [v4.to_ipv6_mapped().into(), v6],
            [v6 @ IpAddr::V6(_), IpAddr::V4(v4)] => [v6, v4.to_ipv6_mapped().into()],
        };
        Self::Tcp {
            source: SocketAddr::new(source_ip, source.port()),
            destination: SocketAddr::new(destination_ip, destination.port()),
        }
    }
}

/// What a header of version 2 tells in its TLVs (2.2), as far as mux passes it on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// `PP2_TYPE_AUTHORITY`: the host name that the client asked for.
    pub authority: Option<Box<[u8]>>,
    /// `PP2_TYPE_ALPN`: the protocol above.
    pub alpn: Option<Box<[u8]>>,
    /// `PP2_TYPE_UNIQUE_ID`: the sender's name of the connection, at most 128 bytes.
    pub unique_id: Option<Box<[u8]>>,
}

/// Why a connection to a listener with `accept_proxy_protocol` was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A trusted peer began with something else, or ended at once.
    #[error("no PROXY header came first")]
    Missing,
    /// A trusted peer's header is wrong.
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    /// A trusted peer's header is longer than [`MAX_HEADER`], or [`MAX_LINE`].
    #[error("the PROXY header is too long")]
    TooLong,
    /// A trusted peer's header and its `PP2_TYPE_CRC32C` do not fit.
    #[error("wrong CRC32C of a PROXY header")]
    Checksum,
    /// A trusted peer sent no whole header in time.
    #[error("no whole PROXY header came in time")]
    TimedOut,
    /// Another peer sent a header.
    #[error("a PROXY header from a peer that is not trusted")]
    Untrusted,
}

impl Refusal {
    /// What counts it.
    #[must_use]
    pub const fn counter(self) -> Counter {
        match self {
            Self::Missing => Counter::ProxyMissing,
            Self::Malformed(_) => Counter::ProxyMalformed,
            Self::TooLong => Counter::ProxyTooLong,
            Self::Checksum => Counter::ProxyChecksum,
            Self::TimedOut => Counter::ProxyTimeout,
            Self::Untrusted => Counter::ProxyUntrusted,
        }
    }
}

/// The close reason of every [`Refusal`].
pub const CLOSE: &str = "proxy-header";

/// Whether `bytes` begin with `expected`; `None`: there are too few to say.
fn begins_with(bytes: &[u8], expected: &[u8]) -> Option<bool> {
    let common = bytes.iter().zip(expected).take_while(|(one, other)| one == other).count();
    if common == expected.len() { Some(true) } else { (common < bytes.len()).then_some(false) }
}
