//! Where the run takes place: on this machine's loopback, or across network namespaces.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use mux_tests::netns::Netns;

use crate::hop::Hop;

/// What happens on the way between the namespaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Packets dropped on each hop, out of a thousand.
    pub(crate) loss_per_mille: u64,
    /// `net.ipv4.tcp_sack`.
    pub(crate) sack: bool,
    /// Segmentation and receive offload.
    pub(crate) offload: bool,
    /// Longest that a hop holds a packet; zero: no hop.
    pub(crate) delay: Duration,
}

/// Where clients, daemon and servers live.
#[derive(Debug)]
pub(crate) enum Place {
    /// All on loopback.
    Loopback,
    /// client ── mux ── server, each in a namespace, with a veth pair or a [`Hop`] on each line.
    Namespaces {
        /// What delays packets; before the namespaces, which its devices are in.
        hops: Vec<Hop>,
        client: Netns,
        mux: Netns,
        server: Netns,
    },
}

impl Place {
    /// Makes three namespaces and the lines between them.
    pub(crate) fn namespaces(weather: Weather) -> Result<Self> {
        let [client, mux, server] =
            [Netns::new("client")?, Netns::new("mux")?, Netns::new("server")?];
        let mut hops = Vec::new();
        for (outer, net, device) in [(&client, "10.201.0", "left"), (&server, "10.203.0", "right")]
        {
            let addresses = [format!("{net}.1"), format!("{net}.2")];
            let [outer_address, mux_address] = [&*addresses[0], &*addresses[1]];
            if weather.delay.is_zero() {
                line(outer, outer_address, &mux, mux_address, device, weather)?;
            } else {
                let (ends, at) = ([outer, &mux], [outer_address, mux_address]);
                hops.push(Hop::new(ends, at, device, weather.delay)?);
            }
        }
        // Every address of this network is the client's.
        client.ip("route add local 10.202.0.0/16 dev lo")?;
        mux.ip("route add 10.202.0.0/16 via 10.201.0.1")?;
        for namespace in [&client, &mux, &server] {
            namespace.sysctl("net/ipv4/tcp_sack", if weather.sack { "1" } else { "0" })?;
            if weather.loss_per_mille > 0 {
                drop_packets(namespace, weather.loss_per_mille)?;
            }
        }
        Ok(Self::Namespaces { hops, client, mux, server })
    }

    /// The namespaces' names.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Self::Loopback => Vec::new(),
            Self::Namespaces { client, mux, server, .. } => {
                [client, mux, server].map(|namespace| namespace.name().to_owned()).into()
            }
        }
    }

    /// Packets that were overtaken on the way.
    pub(crate) fn overtaken(&self) -> u64 {
        match self {
            Self::Loopback => 0,
            Self::Namespaces { hops, .. } => hops.iter().map(Hop::overtaken).sum(),
        }
    }

    /// Where the daemon listens.
    pub(crate) const fn mux_address(&self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Namespaces { .. } => Ipv4Addr::new(10, 201, 0, 2),
        }
    }

    /// Where the servers listen.
    pub(crate) const fn server_address(&self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Namespaces { .. } => Ipv4Addr::new(10, 203, 0, 1),
        }
    }

    /// The first half of the clients' addresses.
    pub(crate) const fn client_network(&self) -> [u8; 2] {
        match self {
            Self::Loopback => [127, 100],
            Self::Namespaces { .. } => [10, 202],
        }
    }

    /// Moves the calling thread to where the clients are.
    pub(crate) fn enter_client(&self) -> Result<()> {
        match self {
            Self::Loopback => Ok(()),
            Self::Namespaces { client, .. } => client.enter(),
        }
    }

    /// Moves the calling thread to where the servers are.
    pub(crate) fn enter_server(&self) -> Result<()> {
        match self {
            Self::Loopback => Ok(()),
            Self::Namespaces { server, .. } => server.enter(),
        }
    }

    /// Runs `inside` where the daemon is.
    pub(crate) fn at_mux<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        match self {
            Self::Loopback => Ok(inside()),
            Self::Namespaces { mux, .. } => mux.within(inside),
        }
    }
}

/// A veth pair between two namespaces.
fn line(
    outer: &Netns,
    outer_address: &str,
    mux: &Netns,
    mux_address: &str,
    device: &str,
    weather: Weather,
) -> Result<()> {
    mux.ip(&format!("link add {device} type veth peer name {device} netns {}", outer.name()))?;
    for (namespace, address) in [(outer, outer_address), (mux, mux_address)] {
        namespace.ip(&format!("address add {address}/24 dev {device}"))?;
        if !weather.offload {
            without_offload(namespace, device)?;
        }
        namespace.ip(&format!("link set {device} up"))?;
    }
    Ok(())
}

/// Every segment a packet of its own. `gso_max_segs 1` does for sending what ethtool does; a veth
/// device merges received packets only when it is told to.
fn without_offload(namespace: &Netns, device: &str) -> Result<()> {
    namespace.ip(&format!("link set {device} gso_max_segs 1"))
}

/// Drops TCP packets at random where they come in; not resets, which nobody would repeat.
fn drop_packets(namespace: &Netns, per_mille: u64) -> Result<()> {
    let rules = format!(
        "table ip torture {{\n chain in {{\n  type filter hook input priority 0; policy accept;\n  \
         tcp flags & rst == 0 numgen random mod 1000 < {per_mille} drop\n }}\n}}\n"
    );
    namespace.nft(&rules)
}
