//! Which network devices the packet relay is attached to: those of `[kernel] interfaces`, or `lo`
//! and those that the listeners' addresses and the upstreams' routes use.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use crate::{
    net::route::Routes,
    rules::config::{Address, Config, ListenAddress},
};

/// Devices to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Devices {
    /// Their numbers, `lo`'s first.
    pub(super) numbers: Vec<u32>,
    /// The file names them: each must be there.
    pub(super) are_named: bool,
}

/// An address of this machine, and its device.
#[derive(Clone, Debug)]
struct Owned {
    device: String,
    ip: IpAddr,
    is_up: bool,
}

/// Addresses of no one (RFC 5737, RFC 3849), for the way that names' addresses are likely to be.
const SOMEWHERE: [&str; 2] = ["192.0.2.1:1", "[2001:db8::1]:1"];

/// Those that this configuration asks for. `listening`: where its listeners are bound, if they are.
///
/// # Errors
/// A named one is not there; or the system's.
pub(super) fn wanted(config: &Config, listening: Option<&[SocketAddr]>) -> io::Result<Devices> {
    let mut numbers = BTreeSet::from([mux_common::packet::LOOPBACK]);
    if let Some(names) = &config.kernel.interfaces {
        for name in names {
            numbers.insert(number(name)?);
        }
        return Ok(Devices { numbers: numbers.into_iter().collect(), are_named: true });
    }
    let owned = owned()?;
    for address in listeners(config, listening) {
        for device in devices_of(address, &owned) {
            // One that went meanwhile has no packets.
            numbers.extend(number(device).ok());
        }
    }
    let routes = Routes::new()?;
    for address in upstreams(config) {
        // Where there is no route now, flows are not translated.
        numbers.extend(routes.find(address, None).ok().map(|route| route.interface));
    }
    Ok(Devices { numbers: numbers.into_iter().collect(), are_named: false })
}

fn number(name: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(name)
        .map_err(|error| io::Error::other(format!("there is no interface `{name}`: {error}")))
}

fn owned() -> io::Result<Vec<Owned>> {
    let all = getifaddrs().map_err(io::Error::from)?;
    Ok(all
        .filter_map(|one| {
            let address = one.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()));
            let is_up = one.flags.contains(InterfaceFlags::IFF_UP);
            Some(Owned { device: one.interface_name, ip: v4.or_else(v6)?, is_up })
        })
        .collect())
}

/// Where clients come in.
fn listeners(config: &Config, listening: Option<&[SocketAddr]>) -> Vec<IpAddr> {
    if let Some(listening) = listening {
        return listening.iter().map(SocketAddr::ip).collect();
    }
    let addresses = config.listeners.iter().filter_map(|listener| match &listener.address {
        ListenAddress::Tcp(address) => Some(address.ip()),
        // Whatever the service manager binds it to.
        ListenAddress::Systemd(_) => Some(IpAddr::from([0; 16])),
        ListenAddress::Unix(_) => None,
    });
    addresses.collect()
}

/// The devices that have an address; of an unspecified one, all that have any and are up.
fn devices_of(address: IpAddr, owned: &[Owned]) -> impl Iterator<Item = &str> {
    let address = address.to_canonical();
    let takes = move |one: &&Owned| {
        if address.is_unspecified() {
            // One on `::` takes IPv4 too, as a rule.
            one.is_up && (address.is_ipv6() || one.ip.is_ipv4())
        } else {
            one.ip == address
        }
    };
    owned.iter().filter(takes).map(|one| &*one.device)
}

fn upstreams(config: &Config) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for address in config.upstreams.iter().flat_map(|upstream| upstream.addresses()) {
        match address {
            Address::Ip(address) => addresses.push(*address),
            Address::Name { .. } => {
                addresses
                    .extend(SOMEWHERE.iter().filter_map(|text| text.parse::<SocketAddr>().ok()));
            }
            Address::Unix(_) | Address::Builtin(_) => {}
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(device: &str, ip: &str, is_up: bool) -> Owned {
        Owned { device: device.into(), ip: ip.parse().expect("valid"), is_up }
    }

    fn config(text: &str) -> Config {
        crate::rules::parse("x", text).expect("valid")
    }

    #[test]
    fn an_unspecified_address_is_on_every_device_that_is_up() {
        let all = [
            owned("lo", "127.0.0.1", true),
            owned("eth0", "10.0.0.1", true),
            owned("eth1", "fd00::1", true),
            owned("eth2", "10.2.0.1", false),
        ];
        let of = |ip: &str| devices_of(ip.parse().expect("valid"), &all).collect::<Vec<_>>();
        assert_eq!(of("0.0.0.0"), ["lo", "eth0"]);
        assert_eq!(of("::"), ["lo", "eth0", "eth1"]);
        assert_eq!(of("10.0.0.1"), ["eth0"]);
        assert_eq!(of("::ffff:10.0.0.1"), ["eth0"]);
        assert_eq!(of("10.2.0.1"), ["eth2"]);
    }

    #[test]
    fn loopback_is_always_there_and_a_named_one_must_be() {
        let rule = "[[rule]]\nupstream = '127.0.0.1:80'\n";
        let plain = config(&format!("listen = '127.0.0.1:0'\n{rule}"));
        let lo = Devices { numbers: vec![1], are_named: false };
        assert_eq!(wanted(&plain, None).expect("found"), lo);
        let named =
            config(&format!("listen = '127.0.0.1:0'\n{rule}[kernel]\ninterfaces = ['nosuch0']\n"));
        let error = wanted(&named, None).expect_err("it is not there").to_string();
        assert!(error.contains("`nosuch0`"), "{error}");
    }
}
