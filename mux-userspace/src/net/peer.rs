//! Who is at the other end of a downstream connection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// A client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Over TCP. IPv4 clients of an IPv6 listener are IPv4 here (RFC 4291 2.5.5.2 unmapped).
    Ip(SocketAddr),
    /// Over a Unix socket, where clients have no name.
    Unix,
}

impl Peer {
    /// From what accept(2) said.
    #[must_use]
    pub fn from_ip(address: SocketAddr) -> Self {
        Self::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// The IP address, for rules that ask for it.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let peer = Peer::from_ip("[::ffff:192.0.2.1]:80".parse().unwrap());
        assert_eq!(peer.to_string(), "192.0.2.1:80");
    }
}
