//! openssl: a certificate, `s_server` and `s_client`.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{Process, Scratch, run_ok};

/// The name that certificates are for.
pub(super) const NAME: &str = "mux.test";

/// A self-signed certificate for `mux.test`, and its key.
#[derive(Debug)]
pub struct Certificate {
    /// PEM file.
    pub certificate: PathBuf,
    /// PEM file.
    pub key: PathBuf,
    _scratch: Scratch,
}

impl Certificate {
    /// Makes one.
    ///
    /// # Errors
    /// openssl fails, or is not installed.
    pub fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let (certificate, key) = (scratch.join("certificate.pem"), scratch.join("key.pem"));
        run_ok(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
                .args(["-nodes", "-days", "30", "-subj", "/CN=mux.test"])
                .args(["-addext", "subjectAltName=DNS:mux.test", "-keyout"])
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        )?;
        Ok(Self { certificate, key, _scratch: scratch })
    }
}

/// A running `openssl s_server -rev`: sends each line back, reversed.
#[derive(Debug)]
pub struct TlsServer {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

impl TlsServer {
    /// Starts one.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(certificate: &Certificate) -> Result<Self> {
        let process = Process::start(
            Command::new("openssl")
                .args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-cert"])
                .arg(&certificate.certificate)
                .arg("-key")
                .arg(&certificate.key),
        )?;
        let address = process.wait_out("the port", |line| {
            line.strip_prefix("ACCEPT ").and_then(|address| address.parse().ok())
        })?;
        Ok(Self { address, _process: process })
    }
}

/// Sends lines by `openssl s_client`, each when the one before was answered; returns the answers.
///
/// # Errors
/// The handshake fails, or an answer does not come.
pub fn tls_client(address: SocketAddr, authority: &Path, lines: &[&str]) -> Result<Vec<String>> {
    tls_client_with(&[], address, authority, lines)
}

/// The same, with more options of `openssl s_client`.
///
/// # Errors
/// As [`tls_client`].
pub fn tls_client_with(
    options: &[&str],
    address: SocketAddr,
    authority: &Path,
    lines: &[&str],
) -> Result<Vec<String>> {
    let mut client = Process::start_with(
        Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", NAME])
            .args(["-servername", NAME, "-connect", &address.to_string(), "-CAfile"])
            .arg(authority)
            .args(options)
            .stdin(Stdio::piped()),
    )?;
    let mut input = client.input().context("no standard input")?;
    for (index, line) in lines.iter().enumerate() {
        writeln!(input, "{line}")?;
        let mut seen = 0;
        client.wait_out("an answer", |_| {
            seen += 1;
            (seen > index).then_some(())
        })?;
    }
    Ok(client.out())
}
