//! From which address an upstream is connected to.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::SockRef;
use thiserror::Error;

use crate::{
    account::{Counter, Counters},
    net::{Peer, TcpTimers},
    rules::config::Source,
};

/// How connections to an upstream are made, beside where to.
#[derive(Clone, Copy, Debug)]
pub struct Manner<'a> {
    /// The upstream's `source`.
    pub source: Option<&'a Source>,
    /// Whose flow it is; `None`: mux's own, such as a health check.
    pub client: Option<Peer>,
    /// The longest segment that the upstream is told to send, for the packet relay.
    pub segment: Option<u32>,
    /// The client at whose own address a name's addresses begin; `None`: they take turns.
    pub sticky: Option<IpAddr>,
    /// The upstream's timers.
    pub timers: TcpTimers,
    /// Where a mismatch is counted.
    pub counters: &'a Counters,
}

/// An endpoint cannot be connected to from where `source` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("`source` has no {} address{}", if *.v4 { "IPv4" } else { "IPv6" }, if *.transparent { ": the client has none" } else { "" })]
struct Mismatch {
    /// What would be needed is IPv4.
    v4: bool,
    transparent: bool,
}

impl Manner<'_> {
    /// Prepares a TCP socket that is to be connected to `to`.
    ///
    /// # Errors
    /// `AddrNotAvailable`: `source` has no address of the family, and the upstream could take mux's
    /// own for one that it trusts; or the system refuses the one it has.
    pub fn prepare(&self, socket: impl AsFd, to: SocketAddr) -> io::Result<()> {
        self.timers.apply(&socket)?;
        if let Some(segment) = self.segment {
            // Refused, the flow is not for the packet relay, and that is found out.
            let _ = SockRef::from(&socket).set_tcp_mss(segment);
        }
        match self.address(to) {
            Ok(None) => Ok(()),
            Ok(Some(address)) => {
                let transparent = matches!(self.source, Some(Source::Transparent));
                bind(&socket, address, transparent).map_err(|error| {
                    let text = format!("cannot connect from {address}: {error}");
                    io::Error::new(io::ErrorKind::AddrNotAvailable, text)
                })
            }
            Err(mismatch) => {
                self.counters.count(Counter::SourceMismatch);
                Err(io::Error::new(io::ErrorKind::AddrNotAvailable, mismatch))
            }
        }
    }

    /// The address to bind to; `None`: the kernel's choice.
    fn address(&self, to: SocketAddr) -> Result<Option<IpAddr>, Mismatch> {
        let v4 = to.is_ipv4();
        match (self.source, self.client) {
            (None, _) | (Some(Source::Transparent), None) => Ok(None),
            (Some(Source::Addresses { v4: ours, .. }), _) if v4 => {
                ours.map(|ip| Some(ip.into())).ok_or(Mismatch { v4, transparent: false })
            }
            (Some(Source::Addresses { v6: ours, .. }), _) => {
                ours.map(|ip| Some(ip.into())).ok_or(Mismatch { v4, transparent: false })
            }
            (Some(Source::Transparent), Some(client)) => match client.ip() {
                Some(ip) if ip.is_ipv4() == v4 => Ok(Some(ip)),
                Some(_) | None => Err(Mismatch { v4, transparent: true }),
            },
        }
    }
}

/// Binds to an address, and to a port only when it is connected: before, the kernel would have to
/// choose one that no connection to anywhere has (`IP_BIND_ADDRESS_NO_PORT`, Linux 4.2, for both
/// families).
fn bind(socket: &impl AsFd, address: IpAddr, transparent: bool) -> io::Result<()> {
    setsockopt(socket, IpBindAddressNoPort, &true)?;
    let socket = SockRef::from(socket);
    if transparent {
        match address {
            IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
    }
    socket.bind(&SocketAddr::new(address, 0).into())
}

/// Whether this process may take others' addresses: tries it.
///
/// # Errors
/// The system call's, `PermissionDenied` without CAP_NET_RAW and CAP_NET_ADMIN
/// (`do_ip_setsockopt`, net/ipv4/ip_sockglue.c).
pub fn try_transparent() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_ip_transparent_v4(true)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn manner<'a>(
        source: Option<&'a Source>,
        client: Option<&str>,
        counters: &'a Counters,
    ) -> Manner<'a> {
        let client = client.map(|client| Peer::from_ip(client.parse().unwrap()));
        Manner {
            source,
            client,
            segment: None,
            sticky: None,
            timers: TcpTimers::default(),
            counters,
        }
    }

    #[test]
    fn which_address() {
        let counters = Counters::default();
        let [v4, v6] = ["192.0.2.1:80", "[2001:db8::1]:80"].map(|text| text.parse().unwrap());
        let address = |source: Option<&Source>, client, to| {
            manner(source, client, &counters).address(to).map_err(|error| error.to_string())
        };
        assert_eq!(address(None, Some("10.0.0.1:7"), v4), Ok(None));
        let both =
            Source::Addresses { v4: Some(Ipv4Addr::LOCALHOST), v6: Some(Ipv6Addr::LOCALHOST) };
        assert_eq!(address(Some(&both), None, v4), Ok(Some(Ipv4Addr::LOCALHOST.into())));
        assert_eq!(address(Some(&both), None, v6), Ok(Some(Ipv6Addr::LOCALHOST.into())));
        let one = Source::Addresses { v4: None, v6: Some(Ipv6Addr::LOCALHOST) };
        assert_eq!(address(Some(&one), None, v4), Err("`source` has no IPv4 address".into()));
        let transparent = Some(&Source::Transparent);
        assert_eq!(address(transparent, None, v4), Ok(None));
        let client = "10.0.0.1".parse().unwrap();
        assert_eq!(address(transparent, Some("10.0.0.1:7"), v4), Ok(Some(client)));
        assert_eq!(address(transparent, Some("[::ffff:10.0.0.1]:7"), v4), Ok(Some(client)));
        assert_eq!(
            address(transparent, Some("10.0.0.1:7"), v6),
            Err("`source` has no IPv6 address: the client has none".into())
        );
    }

    #[test]
    fn a_mismatch_is_no_attempt_and_is_counted() {
        let counters = Counters::default();
        let to = "[::1]:80".parse().unwrap();
        let socket =
            socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        let unix = Manner {
            client: Some(Peer::Unix),
            ..manner(Some(&Source::Transparent), None, &counters)
        };
        let error = unix.prepare(&socket, to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(counters.value(Counter::SourceMismatch), 1);
    }

    #[test]
    fn a_bound_connection_has_the_address_and_some_port() {
        let counters = Counters::default();
        let source = Source::Addresses { v4: Some(Ipv4Addr::new(127, 0, 0, 77)), v6: None };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        manner(Some(&source), None, &counters).prepare(&socket, to).unwrap();
        let bound = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!((bound.ip().to_string(), bound.port()), ("127.0.0.77".into(), 0));
        socket.connect(&to.into()).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.77");
        assert_ne!(peer.port(), 0);
    }
}
