//! Rules that demand a client's network, found by its address.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::index::Candidates;

/// Entries by the network that they demand. All lists are sorted.
#[derive(Debug, Default)]
pub(super) struct ClientIndex {
    networks: HashMap<IpNet, Vec<u32>>,
    /// The lengths of prefixes that there are, of IPv4 and of IPv6.
    lengths: [Vec<u8>; 2],
}

impl ClientIndex {
    /// Of networks in the order of their entries, without bits behind the prefix.
    pub(super) fn new(keys: impl Iterator<Item = (IpNet, u32)>) -> Self {
        let mut index = Self::default();
        for (network, entry) in keys {
            let lengths = match network {
                IpNet::V4(_) => &mut index.lengths[0],
                IpNet::V6(_) => &mut index.lengths[1],
            };
            if !lengths.contains(&network.prefix_len()) {
                lengths.push(network.prefix_len());
            }
            let list = index.networks.entry(network).or_default();
            if list.last() != Some(&entry) {
                list.push(entry);
            }
        }
        index
    }

    /// Adds the entries with a network that this client is in.
    pub(super) fn candidates<'a>(
        &'a self,
        client: Option<IpAddr>,
        first: u32,
        candidates: &mut Candidates<'a>,
    ) {
        let Some(client) = client.map(|client| client.to_canonical()) else { return };
        let lengths = match client {
            IpAddr::V4(_) => &self.lengths[0],
            IpAddr::V6(_) => &self.lengths[1],
        };
        for &length in lengths {
            let network = IpNet::new(client, length).map(|network| network.trunc());
            if let Some(list) = network.ok().and_then(|network| self.networks.get(&network)) {
                candidates.add(list, first);
            }
        }
    }
}
