//! What all subjects forward to: our own server, a TLS server, and an address where nobody is.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    child::Program,
    network::{Network, Places},
    template::{self, Values},
    work::Service,
};
use crate::sh;

const TLS_SERVER: &str = include_str!("configs/tls-server.conf");

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The running servers.
#[derive(Debug)]
pub(crate) struct Backends {
    network: Network,
    addresses: Value,
    /// The port, and the program.
    tls: Option<(u16, Program)>,
    /// Nobody listens here.
    pub(crate) closed: SocketAddr,
    workers: usize,
    /// Ended when this is dropped.
    _program: Program,
}

impl Backends {
    /// Starts our server with so many threads, where servers are in that network.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(
        ends: &Path,
        workers: usize,
        directory: &Path,
        (network, places): (Network, &Places),
    ) -> Result<Self> {
        let mut command = Command::new(ends);
        command.args(["serve", "--threads", &workers.to_string()]);
        command.args(["--ip", &network.servers().to_string()]);
        command.arg("--unix").arg(directory.join("web.sock"));
        let mut program =
            places.at_server(|| Program::start("backend", &mut command, directory))??;
        let log = directory.join("backend.log");
        let addresses = || serde_json::from_slice(&fs::read(&log).ok()?).ok();
        program.wait_until("does not say where it listens", || addresses().is_some())?;
        let addresses = addresses().context("the server's addresses")?;
        let closed = free_address(Ipv4Addr::LOCALHOST.into())?;
        Ok(Self { network, addresses, tls: None, closed, workers, _program: program })
    }

    /// Starts the TLS server, too.
    ///
    /// # Errors
    /// nginx or openssl is missing, or does not start.
    pub(crate) fn start_tls(&mut self, directory: &Path, places: &Places) -> Result<()> {
        certify(directory)?;
        let address = places.at_server(|| free_address(self.network.servers()))??;
        let values = Values::from([
            ("directory", directory.display().to_string()),
            ("listen", address.to_string()),
            ("workers", self.workers.to_string()),
            ("descriptors", descriptors().to_string()),
            ("user", nginx_user().to_owned()),
        ]);
        let file = directory.join("tls-server.conf");
        fs::write(&file, template::fill(TLS_SERVER, &values)?)?;
        let mut command = nginx(directory, &file)?;
        let mut program =
            places.at_server(|| Program::start("tls-server", &mut command, directory))??;
        program.wait_for((self.network.upstream(), address.port()).into())?;
        self.tls = Some((address.port(), program));
        Ok(())
    }

    /// Where multiplexers find a service.
    ///
    /// # Errors
    /// It was not started.
    pub(crate) fn address(&self, service: Service) -> Result<Address> {
        self.seen_at(self.network.upstream(), service)
    }

    /// Where the load generator finds it.
    ///
    /// # Errors
    /// As [`Self::address`].
    pub(crate) fn direct(&self, service: Service) -> Result<Address> {
        self.seen_at(self.network.direct(), service)
    }

    fn seen_at(&self, ip: IpAddr, service: Service) -> Result<Address> {
        let name = match service {
            Service::Http => "http",
            Service::HttpUnix => "unix",
            Service::Echo => "echo",
            Service::Source => "source",
            Service::Sink => "sink",
            Service::Hello => "hello",
            Service::Tls => {
                let (port, _) = self.tls.as_ref().context("the TLS server does not run")?;
                return Ok(Address::Tcp((ip, *port).into()));
            }
        };
        let text = self.addresses[name].as_str().with_context(|| format!("no {name} server"))?;
        Ok(match service {
            Service::HttpUnix => Address::Unix(text.into()),
            Service::Http
            | Service::Echo
            | Service::Source
            | Service::Sink
            | Service::Hello
            | Service::Tls => {
                let listens: SocketAddr = text.parse().context("a server's address")?;
                Address::Tcp((ip, listens.port()).into())
            }
        })
    }
}

/// Makes a certificate and its key, as most servers have them: ECDSA over P-256.
fn certify(directory: &Path) -> Result<()> {
    let output = Command::new("openssl")
        .current_dir(directory)
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=bench.test"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .output()
        .context("cannot start openssl")?;
    // It says on standard error how it gets on, too.
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl req: {}", said.trim());
    Ok(())
}

/// An address that nobody uses, with that IP address. Somebody may take it before whom it is for, but in a network
/// namespace of our own there is nobody else.
///
/// # Errors
/// bind(2)'s.
pub(crate) fn free_address(ip: IpAddr) -> Result<SocketAddr> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?)
}

/// nginx with a configuration.
///
/// # Errors
/// It is not installed.
pub(crate) fn nginx(directory: &Path, file: &Path) -> Result<Command> {
    let mut command = Command::new(sh::find("nginx").context("nginx is not installed")?);
    command.args(["-e", "stderr", "-p"]).arg(directory).arg("-c").arg(file);
    Ok(command)
}

/// Whom nginx's workers become. Only root can, and nginx warns where it cannot.
pub(crate) fn nginx_user() -> &'static str {
    if rustix::process::geteuid().is_root() { "user nobody nogroup;" } else { "" }
}

/// Descriptors that a program may have.
pub(crate) fn descriptors() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.unwrap_or(1 << 20)
}
