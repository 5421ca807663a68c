//! HAProxy: in front of mux, sending PROXY headers, and behind it, taking them.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result};

use super::{Certificate, ports};
use crate::{Conn, Process, Scratch, eventually};

/// Attempts with other ports.
const ATTEMPTS: usize = 5;

/// A running HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
    _scratch: Scratch,
}

impl Haproxy {
    /// Passes connections on to `server`, whose line has these `options`: `send-proxy`.
    ///
    /// # Errors
    /// It does not start, or is not installed.
    pub fn in_front_of(server: SocketAddr, options: &str) -> Result<Self> {
        Self::start(|address, _| {
            format!(
                "frontend front\n mode tcp\n bind {address}\n unique-id-format from-haproxy\n \
                 default_backend mux\nbackend mux\n mode tcp\n server mux {server} {options}\n"
            )
        })
    }

    /// Requires PROXY headers and answers every HTTP request with
    /// `CLIENT,PORT,UNIQUE-ID,AUTHORITY;`, as they say.
    ///
    /// # Errors
    /// It does not start, or is not installed.
    pub fn behind() -> Result<Self> {
        Self::start(|address, _| answering(address, ""))
    }

    /// The same over TLS, with this certificate.
    ///
    /// # Errors
    /// It does not start, or is not installed.
    pub fn behind_tls(certificate: &Certificate) -> Result<Self> {
        let pem = [&certificate.certificate, &certificate.key].map(std::fs::read_to_string);
        let [certificate, key] = pem;
        let pem = certificate? + &key?;
        Self::start(|address, scratch| {
            // One file with both. That it cannot be written HAProxy says, too.
            let _ = scratch.write("both.pem", &pem);
            answering(address, &format!("ssl crt {}", scratch.join("both.pem").display()))
        })
    }

    fn start(sections: impl Fn(SocketAddr, &Scratch) -> String) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::try_start(&sections) {
                Ok(haproxy) => return Ok(haproxy),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt")?)
    }

    fn try_start(sections: &impl Fn(SocketAddr, &Scratch) -> String) -> Result<Self> {
        let scratch = Scratch::new()?;
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free_port()?));
        let text = format!(
            "global\n maxconn 100\ndefaults\n timeout connect 10s\n timeout client 20s\n \
             timeout server 20s\n{}",
            sections(address, &scratch)
        );
        let config = scratch.write("haproxy.cfg", text)?;
        // One process, in the foreground.
        let mut process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(config))?;
        let up = eventually("HAProxy listens", || {
            if let Ok(Some(status)) = process.ended() {
                return Some(Err(anyhow::anyhow!("HAProxy ended: {status}: {:?}", process.err())));
            }
            Conn::tcp(address).is_ok().then_some(Ok(()))
        })?;
        up?;
        Ok(Self { address, _process: process, _scratch: scratch })
    }
}

fn answering(address: SocketAddr, options: &str) -> String {
    format!(
        "frontend behind\n mode http\n bind {address} accept-proxy {options}\n http-request return \
         content-type text/plain lf-string \
         \"%[src],%[src_port],%[fc_pp_unique_id],%[fc_pp_authority];\"\n"
    )
}
