//! The multiplexers that are compared, each behind the same trait. All are Debian's packages, run
//! in the foreground with a configuration of the benchmark's own.

mod direct;
mod haproxy;
mod mux;
mod nginx;
mod sslh;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use self::mux::{Mux, Relay};
use super::{
    backend::{Address, Backends},
    child::Program,
    network::Network,
    template::Values,
    work::{self, Service, Work},
};
use crate::sh;

/// Something that connections go through.
pub(crate) trait Subject {
    /// Its stable name.
    fn name(&self) -> &'static str;

    /// What it is to the comparison.
    fn role(&self) -> Role;

    /// Its version, and how it is configured, for a person.
    fn about(&self) -> String;

    /// Why a work cannot be done through it. `None`: it can.
    fn hindrance(&self, work: &dyn Work) -> Option<String>;

    /// Starts it.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    fn start(&self, stage: &Stage<'_>) -> Result<Running>;

    /// Looks, after a round and while it still runs, whether it did the work in the way that is
    /// to be measured.
    ///
    /// # Errors
    /// It did not, and the round is void.
    fn verify(&self, _: &Stage<'_>, _: &dyn Work) -> Result<()> {
        Ok(())
    }

    /// Whether most of a work's flows are to come to the packet relay, so that their share is worth a look.
    fn has_packet_flows(&self, _: &dyn Work) -> bool {
        false
    }

    /// The share of its flows that the packet relay has now.
    ///
    /// # Errors
    /// It does not say, or has not as many flows as the work has connections.
    fn packet_share(&self, _: &Stage<'_>, _: &dyn Work) -> Result<f64> {
        anyhow::bail!("{} has no packet relay", self.name())
    }
}

/// What a subject is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// No multiplexer at all.
    Direct,
    /// Ours.
    Mux,
    /// Another one.
    Peer,
}

/// What a subject is started with.
pub(crate) struct Stage<'a> {
    /// For its files; other users can enter it.
    pub(crate) directory: &'a Path,
    /// Where it has to listen.
    pub(crate) address: SocketAddr,
    /// What is behind it.
    pub(crate) backends: &'a Backends,
    /// What the work at hand is for.
    pub(crate) service: Service,
    /// Threads or processes, where it has such a setting.
    pub(crate) workers: usize,
}

/// A subject that runs.
pub(crate) struct Running {
    /// Where it takes connections.
    pub(crate) target: Address,
    /// Its process; direct access has none.
    pub(crate) program: Option<Program>,
}

/// Debian's packages that the subjects come in, with a program of each.
pub(crate) const PACKAGES: [(&str, &str); 5] = [
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("sslh-select", "sslh"),
];
/// Brings no program, but a module for nginx.
pub(crate) const NGINX_STREAM: &str = "libnginx-mod-stream";

/// Every subject, in the order of tables.
pub(crate) fn all(mux: &Path) -> Vec<Box<dyn Subject>> {
    let ours = |relay| -> Box<dyn Subject> { Box::new(Mux::new(mux, relay)) };
    vec![
        Box::new(direct::Direct),
        ours(Relay::Auto),
        ours(Relay::Copy),
        ours(Relay::Splice),
        ours(Relay::Sockmap),
        ours(Relay::Packet),
        Box::new(haproxy::Haproxy),
        Box::new(nginx::Nginx),
        Box::new(sslh::Sslh::fastest()),
        Box::new(sslh::Sslh::fork()),
    ]
}

/// Those that `--quick` compares.
const QUICK: [&str; 5] = ["direct", "mux", "haproxy", "nginx", "sslh"];
/// Those that are compared on other networks than loopback.
const AWAY: [&str; 5] = ["direct", "mux", "mux-packet", "haproxy", "nginx"];

/// Whether a subject takes part where none are named.
pub(crate) fn is_default(name: &str, network: Network, quick: bool) -> bool {
    let is_away = network == Network::Loopback || AWAY.contains(&name);
    is_away && (!quick || QUICK.contains(&name) || network != Network::Loopback)
}

impl Stage<'_> {
    /// Where HTTP goes.
    fn http(&self) -> Result<Address> {
        self.backends.address(match self.service {
            Service::HttpUnix => Service::HttpUnix,
            Service::Http
            | Service::Echo
            | Service::Source
            | Service::Sink
            | Service::Hello
            | Service::Tls => Service::Http,
        })
    }

    /// The server names and where they lead to; none, unless the work is about them.
    fn names(&self) -> Result<Vec<(String, SocketAddr)>> {
        if !self.service.has_names() {
            return Ok(Vec::new());
        }
        let server = tcp(&self.backends.address(self.service)?)?;
        Ok((0..work::NAMES).map(|index| (server_name(index), server)).collect())
    }

    /// Starts a program that is then to listen where it was told to.
    fn run(&self, name: &str, command: &mut Command) -> Result<Running> {
        sh::without_rust(command);
        let mut program = Program::start(name, command, self.directory)?;
        program.wait_for(self.address)?;
        Ok(Running { target: Address::Tcp(self.address), program: Some(program) })
    }

    /// Writes a configuration file from a template.
    fn write(&self, name: &str, template: &str, values: &Values) -> Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::write(&path, super::template::fill(template, values)?)?;
        Ok(path)
    }
}

/// As the generator has them.
fn server_name(index: u16) -> String {
    format!("host-{index:04}.bench.test")
}

fn tcp(address: &Address) -> Result<SocketAddr> {
    match address {
        Address::Tcp(address) => Ok(*address),
        Address::Unix(path) => anyhow::bail!("{} is no TCP address", path.display()),
    }
}

/// The first line that a program prints when asked for its version, by whichever stream.
fn version(program: &str, argument: &str) -> String {
    let output = sh::find(program)
        .and_then(|path| Command::new(path).arg(argument).output().ok())
        .map(|output| [output.stdout, output.stderr].concat());
    let text = output.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    text.as_deref().and_then(|text| text.lines().next()).unwrap_or("not installed").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_part_where_none_are_named() {
        let names = |network, quick| -> Vec<&str> {
            let all = all(Path::new("mux"));
            let names = all.iter().map(|subject| subject.name());
            names.filter(|name| is_default(name, network, quick)).collect()
        };
        assert_eq!(names(Network::Loopback, false).len(), 10);
        assert_eq!(names(Network::Loopback, true), QUICK);
        for network in [Network::Client, Network::Routed] {
            assert_eq!([names(network, false), names(network, true)], [AWAY, AWAY]);
        }
    }
}
