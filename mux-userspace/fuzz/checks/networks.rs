//! Any bytes as a file of networks: a list that says of every address what each of its networks
//! says, or the line that is wrong; never a panic.

use std::net::IpAddr;

use ipnet::IpNet;
use mux::route::{Networks, networks_in};

/// More networks than this take time and show nothing new.
const MOST: usize = 64;

/// The check.
pub(crate) fn check(text: &[u8]) {
    let mut networks = match networks_in(text) {
        Ok(networks) => networks,
        Err((line, shown)) => {
            let lines = text.iter().filter(|&&byte| byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&line), "line {line} of {lines}");
            assert!(shown.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{shown}");
            return;
        }
    };
    networks.truncate(MOST);
    let Ok(all) = Networks::new(networks.clone()) else {
        assert!(networks.is_empty());
        return;
    };
    for network in &networks {
        let (first, last) = (network.network(), network.broadcast());
        for address in [Some(first), Some(last), before(first), after(last)].into_iter().flatten() {
            let address = address.to_canonical();
            let expected = networks.iter().any(|one| one.contains(&address));
            assert_eq!(all.contains(address), expected, "{address} in {networks:?}");
            assert_eq!(all.find(address).is_some(), expected, "{address} in {networks:?}");
        }
        let shown: IpNet = network.to_string().parse().expect("as it was written");
        assert_eq!(shown, *network);
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => IpAddr::V4(address.to_bits().checked_sub(1)?.into()),
        IpAddr::V6(address) => IpAddr::V6(address.to_bits().checked_sub(1)?.into()),
    })
}

fn after(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => IpAddr::V4(address.to_bits().checked_add(1)?.into()),
        IpAddr::V6(address) => IpAddr::V6(address.to_bits().checked_add(1)?.into()),
    })
}
