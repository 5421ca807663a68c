//! Where a test's client, relay and upstream are.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Result;
use mux::kernel::packet::Out;
use mux_common::packet::LOOPBACK;
use mux_tests::{Family, Three, netns::Netns};

/// Who is on the relay's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All, on loopback addresses.
    Loopback,
    /// The upstream, at a loopback address.
    UpstreamOnLoopback,
    /// The upstream, at an address of the machine's.
    UpstreamHere,
    /// Neither.
    Routed,
    /// The client.
    ClientHere,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Loopback,
        Self::UpstreamOnLoopback,
        Self::UpstreamHere,
        Self::Routed,
        Self::ClientHere,
    ];

    /// Those with a client on another machine.
    pub(crate) const AWAY: [Self; 3] = [Self::UpstreamOnLoopback, Self::UpstreamHere, Self::Routed];
}

/// Three namespaces and which of them a test's parts are in.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) three: Arc<Three>,
    pub(crate) kind: Kind,
    pub(crate) family: Family,
}

impl Place {
    pub(crate) fn new(kind: Kind, family: Family) -> Result<Self> {
        let three = Arc::new(Three::new()?);
        Ok(Self { three, kind, family })
    }

    /// Every kind and family.
    pub(crate) fn each(mut run: impl FnMut(&Self) -> Result<()>) -> Result<()> {
        Self::each_of(&Kind::ALL, &mut run)
    }

    /// Some kinds, in the same namespaces.
    pub(crate) fn each_of(kinds: &[Kind], mut run: impl FnMut(&Self) -> Result<()>) -> Result<()> {
        let three = Arc::new(Three::new()?);
        for &kind in kinds {
            for family in Family::ALL {
                let place = Self { three: Arc::clone(&three), kind, family };
                run(&place).map_err(|error| error.context(format!("{kind:?} {family:?}")))?;
            }
        }
        Ok(())
    }

    /// Some kinds, in namespaces of their own.
    pub(crate) fn each_alone(
        kinds: &[Kind],
        mut run: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        for &kind in kinds {
            for family in Family::ALL {
                let place = Self::new(kind, family)?;
                run(&place).map_err(|error| error.context(format!("{kind:?} {family:?}")))?;
            }
        }
        Ok(())
    }

    /// The relay's namespace.
    pub(crate) fn relay(&self) -> &Netns {
        &self.three.mux
    }

    pub(crate) fn client(&self) -> &Netns {
        match self.kind {
            Kind::Loopback | Kind::ClientHere => &self.three.mux,
            Kind::UpstreamOnLoopback | Kind::UpstreamHere | Kind::Routed => &self.three.client,
        }
    }

    pub(crate) fn server(&self) -> &Netns {
        match self.kind {
            Kind::Loopback | Kind::UpstreamOnLoopback | Kind::UpstreamHere => &self.three.mux,
            Kind::Routed | Kind::ClientHere => &self.three.server,
        }
    }

    /// Where the relay listens.
    pub(crate) fn listener(&self) -> SocketAddr {
        let ip = match self.kind {
            Kind::Loopback | Kind::ClientHere => self.loopback(),
            Kind::UpstreamOnLoopback | Kind::UpstreamHere | Kind::Routed => self.family.mux(),
        };
        SocketAddr::new(ip, 0)
    }

    /// Where the upstream listens.
    pub(crate) fn upstream(&self) -> SocketAddr {
        let ip = match self.kind {
            Kind::Loopback | Kind::UpstreamOnLoopback => self.loopback(),
            Kind::UpstreamHere => self.family.mux_inside(),
            Kind::Routed | Kind::ClientHere => self.family.server(),
        };
        SocketAddr::new(ip, 0)
    }

    fn loopback(&self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// The devices that the programs are attached to.
    pub(crate) fn devices(&self) -> Result<Vec<u32>> {
        Ok(vec![LOOPBACK, self.relay().device("down0")?, self.relay().device("up0")?])
    }

    pub(crate) fn client_out(&self) -> Result<Out> {
        Ok(match self.kind {
            Kind::Loopback | Kind::ClientHere => Out::Local,
            Kind::UpstreamOnLoopback | Kind::UpstreamHere | Kind::Routed => {
                Out::Device { device: self.relay().device("down0")?, mtu: 1500 }
            }
        })
    }

    pub(crate) fn upstream_out(&self) -> Result<Out> {
        Ok(match self.kind {
            Kind::Loopback | Kind::UpstreamOnLoopback | Kind::UpstreamHere => Out::Local,
            Kind::Routed | Kind::ClientHere => {
                Out::Device { device: self.relay().device("up0")?, mtu: 1500 }
            }
        })
    }
}
