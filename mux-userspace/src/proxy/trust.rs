//! Whose headers a listener believes.

use crate::{net::Peer, route::Networks};

/// The peers of which a listener requires a header, and whose headers it believes.
#[derive(Clone, Debug, PartialEq)]
pub struct Trusted {
    networks: Option<Networks>,
    unix: bool,
}

impl Trusted {
    /// Peers in these networks, and with `unix` those of a Unix socket.
    #[must_use]
    pub const fn new(networks: Option<Networks>, unix: bool) -> Self {
        Self { networks, unix }
    }

    /// Whether this peer is one of them.
    #[must_use]
    pub fn includes(&self, peer: Peer) -> bool {
        match peer {
            Peer::Ip(address) => {
                self.networks.as_ref().is_some_and(|networks| networks.contains(address.ip()))
            }
            Peer::Unix => self.unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_named_is_trusted() {
        let peer = |text: &str| Peer::from_ip(text.parse().unwrap());
        let networks = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let trusted = Trusted::new(Networks::new(networks).ok(), false);
        assert!(trusted.includes(peer("10.1.2.3:1")));
        assert!(trusted.includes(peer("[::ffff:10.1.2.3]:1")));
        assert!(trusted.includes(peer("[2001:db8::1]:1")));
        assert!(!trusted.includes(peer("11.0.0.1:1")));
        assert!(!trusted.includes(Peer::Unix));
        let unix = Trusted::new(None, true);
        assert!(unix.includes(Peer::Unix) && !unix.includes(peer("10.1.2.3:1")));
    }
}
