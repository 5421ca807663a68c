//! A client's, mux's and a server's network namespace in a row, with addresses of both families,
//! so that an address can be seen to pass. Needs root, iproute2 and nftables.

use std::net::IpAddr;

use anyhow::Result;

use crate::netns::Netns;

/// Three namespaces: `client ── mux ── server`. The server sends everything back through mux.
#[derive(Debug)]
pub struct Three {
    /// Where clients are.
    pub client: Netns,
    /// Where mux is.
    pub mux: Netns,
    /// Where servers are.
    pub server: Netns,
}

/// The family of the addresses that a test uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The client's address.
    #[must_use]
    pub fn client(self) -> IpAddr {
        self.pick([10, 41, 0, 2], 0x41, 2)
    }

    /// mux's, on the client's side.
    #[must_use]
    pub fn mux(self) -> IpAddr {
        self.pick([10, 41, 0, 1], 0x41, 1)
    }

    /// mux's, on the server's side.
    #[must_use]
    pub fn mux_inside(self) -> IpAddr {
        self.pick([10, 42, 0, 1], 0x42, 1)
    }

    /// The server's.
    #[must_use]
    pub fn server(self) -> IpAddr {
        self.pick([10, 42, 0, 2], 0x42, 2)
    }

    fn pick(self, v4: [u8; 4], network: u16, host: u16) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => [0xfd00, network, 0, 0, 0, 0, 0, host].into(),
        }
    }
}

impl Three {
    /// Makes them.
    ///
    /// # Errors
    /// Not root, or no iproute2.
    pub fn new() -> Result<Self> {
        let three = Self {
            client: Netns::new("client")?,
            mux: Netns::new("mux")?,
            server: Netns::new("server")?,
        };
        let Self { client, mux, server } = &three;
        for (outer, device) in [(client, "down0"), (server, "up0")] {
            mux.ip(&format!(
                "link add {device} type veth peer name {device} netns {}",
                outer.name()
            ))?;
        }
        for family in Family::ALL {
            let length = if family == Family::V4 { 24 } else { 64 };
            for (namespace, address, device) in [
                (client, family.client(), "down0"),
                (mux, family.mux(), "down0"),
                (mux, family.mux_inside(), "up0"),
                (server, family.server(), "up0"),
            ] {
                // Nobody else is there that could have an IPv6 address already.
                let nodad = if family == Family::V6 { " nodad" } else { "" };
                namespace.ip(&format!("address add {address}/{length} dev {device}{nodad}"))?;
            }
        }
        for (namespace, device) in
            [(client, "down0"), (mux, "down0"), (mux, "up0"), (server, "up0")]
        {
            // Nor a link-local one. While that is tentative, which takes a second or two, whoever
            // sends from an address that is not its own cannot ask for a neighbour (ndisc_send_ns,
            // net/ipv6/ndisc.c).
            for conf in ["all", device] {
                namespace.sysctl(&format!("net/ipv6/conf/{conf}/accept_dad"), "0")?;
            }
            namespace.ip(&format!("link set {device} up"))?;
        }
        for family in Family::ALL {
            server.ip(&format!(
                "{} route add default via {}",
                option(family),
                family.mux_inside()
            ))?;
        }
        Ok(three)
    }

    /// Brings what servers answer to clients' addresses back to mux, as docs/guide.md says.
    ///
    /// # Errors
    /// No nftables.
    pub fn route_replies(&self) -> Result<()> {
        for family in Family::ALL {
            let option = option(family);
            self.mux.ip(&format!("{option} rule add fwmark 1 lookup 100"))?;
            self.mux.ip(&format!("{option} route add local default dev lo table 100"))?;
        }
        self.mux.nft(
            "table inet mux {\n chain reply {\n  type filter hook prerouting priority mangle\n  \
             socket transparent 1 meta mark set 1\n }\n}\n",
        )
    }

    /// Has the server's machine lose all that comes in.
    ///
    /// # Errors
    /// No nftables.
    pub fn silence_server(&self) -> Result<()> {
        self.server.nft(
            "table inet silence {\n chain in {\n  type filter hook input priority 0\n  drop\n }\n}\n",
        )
    }
}

const fn option(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}
