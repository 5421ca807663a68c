//! nginx as a proxy: in front of mux, sending PROXY headers, and behind it, taking them.

use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result};

use super::ports;
use crate::{Conn, Process, Scratch, eventually};

/// Attempts with other ports.
const ATTEMPTS: usize = 5;
/// Debian's place of the module for `stream { … }`.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A running nginx.
#[derive(Debug)]
pub struct NginxProxy {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
    _scratch: Scratch,
}

impl NginxProxy {
    /// Passes connections on to `server`, with a header of version 1.
    ///
    /// # Errors
    /// It does not start, or is not installed.
    pub fn in_front_of(server: SocketAddr) -> Result<Self> {
        Self::start(|address, _| {
            format!(
                "load_module {STREAM};\nevents {{ }}\nstream {{\n server {{ listen {address}; \
                 proxy_protocol on; proxy_pass {server}; }}\n}}\n"
            )
        })
    }

    /// Requires PROXY headers and answers every HTTP request with `CLIENT,PORT,;`, as they say.
    ///
    /// # Errors
    /// It does not start, or is not installed.
    pub fn behind() -> Result<Self> {
        Self::start(|address, directory| {
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .iter()
                .map(|kind| format!(" {kind}_temp_path {}/{kind};\n", directory.display()))
                .collect();
            format!(
                "events {{ }}\nhttp {{\n access_log off;\n{temporary} server {{ listen {address} \
                 proxy_protocol; return 200 \"$proxy_protocol_addr,$proxy_protocol_port,;\"; }}\n}}\n"
            )
        })
    }

    fn start(sections: impl Fn(SocketAddr, &Path) -> String) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::try_start(&sections) {
                Ok(nginx) => return Ok(nginx),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt")?)
    }

    fn try_start(sections: &impl Fn(SocketAddr, &Path) -> String) -> Result<Self> {
        let scratch = Scratch::new()?;
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free_port()?));
        let text = format!(
            "daemon off;\nmaster_process off;\npid {}/nginx.pid;\nerror_log stderr;\n{}",
            scratch.path().display(),
            // `load_module` has to come before every block.
            sections(address, scratch.path())
        );
        let config = scratch.write("nginx.conf", text)?;
        let mut process = Process::start(
            Command::new("nginx")
                .args(["-e", "stderr", "-p"])
                .arg(scratch.path())
                .arg("-c")
                .arg(config),
        )?;
        let up = eventually("nginx listens", || {
            if let Ok(Some(status)) = process.ended() {
                return Some(Err(anyhow::anyhow!("nginx ended: {status}: {:?}", process.err())));
            }
            Conn::tcp(address).is_ok().then_some(Ok(()))
        })?;
        up?;
        Ok(Self { address, _process: process, _scratch: scratch })
    }
}
