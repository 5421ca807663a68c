//! What names mean on this machine: hosts and ports. sslh looks both up when it starts; a rules
//! file has addresses to listen on, and numbers for ports.

use std::{
    fs,
    net::{IpAddr, ToSocketAddrs},
};

/// Looks names up.
pub trait Lookup {
    /// The addresses of a host, each once, in the resolver's order; none if it is unknown.
    fn addresses(&self, host: &str) -> Vec<IpAddr>;
    /// The TCP port of a service, as services(5) names it.
    fn port(&self, service: &str) -> Option<u16>;
}

/// By the system's resolver and `/etc/services`.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Lookup for System {
    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in (host, 0).to_socket_addrs().into_iter().flatten() {
            if !addresses.contains(&address.ip()) {
                addresses.push(address.ip());
            }
        }
        addresses
    }

    fn port(&self, service: &str) -> Option<u16> {
        let file = fs::read_to_string("/etc/services").unwrap_or_default();
        find(&file, service).or_else(|| find(WELL_KNOWN, service))
    }
}

/// For machines without `/etc/services` (Debian's package netbase), what sslh's users name: IANA's
/// registry.
const WELL_KNOWN: &str = "\
ssh 22/tcp
domain 53/tcp
http 80/tcp www
imap2 143/tcp imap
ldap 389/tcp
https 443/tcp
ldaps 636/tcp
tinc 655/tcp
imaps 993/tcp
pop3s 995/tcp
socks 1080/tcp
openvpn 1194/tcp
ms-wbt-server 3389/tcp
xmpp-client 5222/tcp jabber-client
xmpp-server 5269/tcp jabber-server
";

/// The TCP port of a service in the text of services(5): `name port/protocol alias… # comment`.
fn find(services: &str, name: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let official = words.next()?;
        let (port, protocol) = words.next()?.split_once('/')?;
        let named = official == name || words.any(|alias| alias == name);
        if named && protocol == "tcp" { port.parse().ok().filter(|port| *port != 0) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_and_alias() {
        let services = "# ssh 1/tcp\nssh\t22/tcp\t# Secure Shell\ndomain 53/udp\ndomain 53/tcp\n\
                        http 80/tcp www # www2\nbroken\nodd 99999/tcp\nnull 0/tcp\n";
        assert_eq!(find(services, "ssh"), Some(22));
        assert_eq!(find(services, "domain"), Some(53));
        assert_eq!(find(services, "www"), Some(80));
        for unknown in ["www2", "Secure", "22", "", "broken", "odd", "null", "#"] {
            assert_eq!(find(services, unknown), None, "{unknown}");
        }
        assert_eq!(find(WELL_KNOWN, "xmpp-client"), Some(5222));
        assert_eq!(find(WELL_KNOWN, "www"), Some(80));
    }

    #[test]
    fn addresses_need_no_resolver() {
        assert_eq!(System.addresses("127.0.0.1"), ["127.0.0.1".parse::<IpAddr>().expect("one")]);
        assert_eq!(System.addresses("::1"), ["::1".parse::<IpAddr>().expect("one")]);
        assert_eq!(System.port("https"), Some(443));
        assert_eq!(System.port("no-such-service"), None);
    }
}
