//! Where client, multiplexer and server are: in one network namespace, or in two or three that are
//! joined by veth. The namespaces have no name, so that they end with the benchmark, however that ends.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::sh;

/// Addresses: the client, and what it sees of the multiplexer's machine; that machine's other side, and the server.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 2);
const EDGE: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 1);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 2);

/// An arrangement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Network {
    /// All in one namespace, on loopback
    #[default]
    Loopback,
    /// The load generator in a namespace of its own; multiplexers and servers together
    Client,
    /// Load generator, multiplexers and servers in a namespace each
    Routed,
}

impl Network {
    pub(crate) const ALL: [Self; 3] = [Self::Loopback, Self::Client, Self::Routed];

    /// Its stable name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Client => "client",
            Self::Routed => "routed",
        }
    }

    /// What it is, for a person.
    pub(crate) const fn about(self) -> &'static str {
        match self {
            Self::Loopback => {
                "load generator, multiplexers and servers in one network namespace, on loopback"
            }
            Self::Client => {
                "the load generator in a network namespace of its own, joined by veth to that of the multiplexers and the servers, which are at 127.0.0.1 for the multiplexers; \
                 direct access goes over the same veth to the same servers"
            }
            Self::Routed => {
                "load generator, multiplexers and servers in a network namespace each, joined by veth in this order; \
                 direct access is routed by the one in the middle (ip_forward)"
            }
        }
    }

    /// The heading of a work's part, whose anchor is [`Self::prefixed`].
    pub(crate) fn titled(self, name: &str) -> String {
        match self {
            Self::Loopback => name.to_owned(),
            Self::Client | Self::Routed => format!("{} {name}", self.name()),
        }
    }

    /// A name for files and anchors: `name`, or with the network before it where that is not loopback.
    pub(crate) fn prefixed(self, name: &str) -> String {
        match self {
            Self::Loopback => name.to_owned(),
            Self::Client | Self::Routed => format!("{}-{name}", self.name()),
        }
    }

    /// Where multiplexers listen.
    pub(crate) const fn edge(self) -> IpAddr {
        IpAddr::V4(match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Client | Self::Routed => EDGE,
        })
    }

    /// Where servers listen.
    pub(crate) const fn servers(self) -> IpAddr {
        IpAddr::V4(match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            // On loopback for the multiplexers, on the veth for direct access.
            Self::Client => Ipv4Addr::UNSPECIFIED,
            Self::Routed => SERVER,
        })
    }

    /// Where multiplexers find the servers.
    pub(crate) const fn upstream(self) -> IpAddr {
        IpAddr::V4(match self {
            Self::Loopback | Self::Client => Ipv4Addr::LOCALHOST,
            Self::Routed => SERVER,
        })
    }

    /// Where the load generator finds the servers.
    pub(crate) const fn direct(self) -> IpAddr {
        IpAddr::V4(match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Client => EDGE,
            Self::Routed => SERVER,
        })
    }

    /// Whether a Unix socket leads from everybody to the servers.
    pub(crate) const fn has_unix(self) -> bool {
        matches!(self, Self::Loopback)
    }
}

/// The namespaces of a run, beside the process's own, which has the multiplexers.
#[derive(Debug, Default)]
pub(crate) struct Places {
    client: Option<Namespace>,
    server: Option<Namespace>,
}

impl Places {
    /// Makes the namespaces, devices and routes of a network. The process's own has to be its own.
    ///
    /// # Errors
    /// Not root; no iproute2.
    pub(crate) fn new(network: Network) -> Result<Self> {
        let client = match network {
            Network::Loopback => None,
            Network::Client | Network::Routed => Some(joined("down0", EDGE, CLIENT)?),
        };
        let server = match network {
            Network::Loopback | Network::Client => None,
            Network::Routed => Some(joined("up0", INSIDE, SERVER)?),
        };
        if let (Some(client), Some(server)) = (&client, &server) {
            client.within(|| ip(&format!("route add default via {EDGE}")))??;
            server.within(|| ip(&format!("route add default via {INSIDE}")))??;
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
        }
        Ok(Self { client, server })
    }

    /// Runs something where the load generator belongs: what it starts stays there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub(crate) fn at_client<T>(&self, inside: impl FnOnce() -> T) -> Result<T> {
        within(self.client.as_ref(), inside)
    }

    /// The same, where the servers belong.
    ///
    /// # Errors
    /// As [`Self::at_client`].
    pub(crate) fn at_server<T>(&self, inside: impl FnOnce() -> T) -> Result<T> {
        within(self.server.as_ref(), inside)
    }
}

fn within<T>(namespace: Option<&Namespace>, inside: impl FnOnce() -> T) -> Result<T> {
    match namespace {
        Some(namespace) => namespace.within(inside),
        None => Ok(inside()),
    }
}

/// A namespace that a pair of veth joins to the process's own: the device's name on both ends, and their addresses.
fn joined(device: &str, ours: Ipv4Addr, theirs: Ipv4Addr) -> Result<Namespace> {
    let namespace = Namespace::new()?;
    let there = format!("/proc/{}/fd/{}", std::process::id(), namespace.0.as_raw_fd());
    ip(&format!("link add {device} type veth peer name {device} netns {there}"))?;
    let up = |address: Ipv4Addr| -> Result<()> {
        ip(&format!("address add {address}/24 dev {device}"))?;
        ip(&format!("link set {device} up"))
    };
    up(ours)?;
    namespace.within(|| {
        ip("link set lo up")?;
        unpaced();
        up(theirs)
    })??;
    Ok(namespace)
}

fn ip(arguments: &str) -> Result<()> {
    sh::run(Command::new("ip").args(arguments.split_whitespace()))
}

/// Chooses a congestion control that does not pace. The host's may (BBR), which on loopback
/// measures the pacing. cubic is Linux's default, but a namespace may choose only what the host has
/// allowed; without losses reno is the same. The results say what was in force.
pub(crate) fn unpaced() {
    const CHOICE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
    let _ = std::fs::write(CHOICE, "cubic").or_else(|_| std::fs::write(CHOICE, "reno"));
}

/// A network namespace without a name: it lasts as long as somebody holds or uses it.
#[derive(Debug)]
struct Namespace(File);

impl Namespace {
    /// A new one.
    fn new() -> Result<Self> {
        // A process that says what it is told is there; one of ours that made itself a namespace would
        // have to find its way back before anything else can go wrong.
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let mut word = [0];
        let said = (|| {
            holder.stdin.as_mut().context("it was piped")?.write_all(b"?")?;
            holder.stdout.as_mut().context("it was piped")?.read_exact(&mut word)?;
            File::open(format!("/proc/{}/ns/net", holder.id())).context("its namespace")
        })();
        // Its input ends, and so does it.
        drop(holder.stdin.take());
        let status = holder.wait()?;
        let namespace = said.with_context(|| format!("unshare --net: {status}"))?;
        Ok(Self(namespace))
    }

    /// Runs something in it, on this thread: a thread of its own would end, and with it what was started there
    /// and is to end with its parent (`PR_SET_PDEATHSIG`).
    fn within<T>(&self, inside: impl FnOnce() -> T) -> Result<T> {
        let own = File::open("/proc/thread-self/ns/net").context("this thread's namespace")?;
        let enter = |namespace: &File| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        };
        enter(&self.0).context("entering a network namespace")?;
        let done = inside();
        enter(&own).context("leaving a network namespace")?;
        Ok(done)
    }
}

/// That there is a namespace of our own to add devices to.
///
/// # Errors
/// There is none.
pub(crate) fn demand_own(network: Network, is_own: bool) -> Result<()> {
    ensure!(
        is_own || network == Network::Loopback,
        "--network {} makes network namespaces, which needs root, unshare and ip",
        network.name()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn names_in_results_are_those_of_the_command_line() {
        for network in Network::ALL {
            let value = clap::ValueEnum::to_possible_value(&network).unwrap();
            assert_eq!(value.get_name(), network.name());
            assert_eq!(serde_json::to_value(network).unwrap(), network.name());
        }
        assert_eq!(Network::Loopback.prefixed("a"), "a");
        assert_eq!(Network::Routed.prefixed("a"), "routed-a");
    }

    #[test]
    fn without_a_namespace_of_our_own_there_is_loopback_only() {
        assert!(demand_own(Network::Loopback, false).is_ok());
        assert!(demand_own(Network::Client, true).is_ok());
        let error = demand_own(Network::Client, false).unwrap_err().to_string();
        assert!(error.contains("--network client"), "{error}");
    }

    /// As the benchmark does it, in namespaces of this test's.
    #[test]
    fn what_is_started_in_a_namespace_is_there_and_we_are_not() {
        if !rustix::process::geteuid().is_root() || sh::find("unshare").is_none() {
            eprintln!("skipped: it needs root and unshare");
            return;
        }
        let here = || std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let before = here();
        let middle = Namespace::new().unwrap();
        middle
            .within(|| {
                ip("link set lo up").unwrap();
                let places = Places::new(Network::Routed).unwrap();
                let own = here();
                let listener = places
                    .at_server(|| {
                        assert_ne!(here(), own);
                        TcpListener::bind((SERVER, 0)).unwrap()
                    })
                    .unwrap();
                let to = listener.local_addr().unwrap();
                let client =
                    places.at_client(|| std::net::TcpStream::connect(to).unwrap()).unwrap();
                // Routed by the one in the middle, not translated.
                assert_eq!(client.local_addr().unwrap().ip(), CLIENT);
                assert_eq!(listener.accept().unwrap().1.ip(), CLIENT);
                assert_eq!(here(), own);
            })
            .unwrap();
        assert_eq!(here(), before);
    }
}
