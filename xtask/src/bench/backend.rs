//! What all subjects forward to: our own server, a TLS server, and an address where nobody is.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    child::Program,
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
    addresses: Value,
    tls: Option<(SocketAddr, Program)>,
    /// Nobody listens here.
    pub(crate) closed: SocketAddr,
    workers: usize,
    /// Ended when this is dropped.
    _program: Program,
}

impl Backends {
    /// Starts our server with so many threads.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(ends: &Path, workers: usize, directory: &Path) -> Result<Self> {
        let mut command = Command::new(ends);
        command.args(["serve", "--threads", &workers.to_string(), "--unix"]);
        command.arg(directory.join("web.sock"));
        let mut program = Program::start("backend", &mut command, directory)?;
        let log = directory.join("backend.log");
        let addresses = || serde_json::from_slice(&fs::read(&log).ok()?).ok();
        program.wait_until("does not say where it listens", || addresses().is_some())?;
        let addresses = addresses().context("the server's addresses")?;
        Ok(Self { addresses, tls: None, closed: free_address()?, workers, _program: program })
    }

    /// Starts the TLS server, too.
    ///
    /// # Errors
    /// nginx or openssl is missing, or does not start.
    pub(crate) fn start_tls(&mut self, directory: &Path) -> Result<()> {
        certify(directory)?;
        let address = free_address()?;
        let values = Values::from([
            ("directory", directory.display().to_string()),
            ("port", address.port().to_string()),
            ("workers", self.workers.to_string()),
            ("descriptors", descriptors().to_string()),
            ("user", nginx_user().to_owned()),
        ]);
        let file = directory.join("tls-server.conf");
        fs::write(&file, template::fill(TLS_SERVER, &values)?)?;
        let mut command = nginx(directory, &file)?;
        let mut program = Program::start("tls-server", &mut command, directory)?;
        program.wait_for(address)?;
        self.tls = Some((address, program));
        Ok(())
    }

    /// Where a service is.
    ///
    /// # Errors
    /// It was not started.
    pub(crate) fn address(&self, service: Service) -> Result<Address> {
        let name = match service {
            Service::Http => "http",
            Service::HttpUnix => "unix",
            Service::Echo => "echo",
            Service::Source => "source",
            Service::Sink => "sink",
            Service::Hello => "hello",
            Service::Tls => {
                let (address, _) = self.tls.as_ref().context("the TLS server does not run")?;
                return Ok(Address::Tcp(*address));
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
            | Service::Tls => Address::Tcp(text.parse().context("a server's address")?),
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

/// An address that nobody uses. Somebody may take it before whom it is for, but in a network
/// namespace of our own there is nobody else.
///
/// # Errors
/// bind(2)'s.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
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
