//! nginx: HTTP, HTTPS and HTTP over a Unix socket.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{Certificate, ports};
use crate::{Conn, Process, Scratch, eventually};

/// Attempts with other ports.
const ATTEMPTS: usize = 5;

/// A running nginx. It answers `/` with the name of the server that was asked: `plain`, `h2c`,
/// `tls`, `unix`, after its own name if it has one; has the files in `/files/`; answers `/connection`
/// with the number of the connection, and `/status` with how many requests it has had.
#[derive(Debug)]
pub struct Nginx {
    /// Where it speaks HTTP.
    pub http: SocketAddr,
    /// Where it speaks HTTP/2 without TLS, and nothing else.
    pub h2c: SocketAddr,
    /// Where it speaks HTTPS.
    pub https: SocketAddr,
    /// Where it speaks HTTP over a Unix socket.
    pub unix: PathBuf,
    _process: Process,
    scratch: Scratch,
}

impl Nginx {
    /// Starts one.
    ///
    /// # Errors
    /// It does not start, or is not installed.
    pub fn start(certificate: &Certificate) -> Result<Self> {
        Self::named("", certificate)
    }

    /// Starts one that says `NAME plain`, `NAME h2c` and so on, to be told from others.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn named(name: &str, certificate: &Certificate) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::try_start(name, certificate) {
                Ok(nginx) => return Ok(nginx),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt")?)
    }

    fn try_start(name: &str, certificate: &Certificate) -> Result<Self> {
        let scratch = Scratch::new()?;
        std::fs::create_dir(scratch.join("files"))?;
        let [http, h2c, https] = [ports::free_port()?, ports::free_port()?, ports::free_port()?]
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let unix = scratch.join("web.sock");
        let config = configuration(name, scratch.path(), [http, h2c, https], certificate);
        let file = scratch.write("nginx.conf", config)?;
        let mut process = Process::start(
            Command::new("nginx")
                .args(["-e", "stderr", "-p"])
                .arg(scratch.path())
                .arg("-c")
                .arg(file),
        )?;
        let up = eventually("nginx listens", || {
            if let Ok(Some(status)) = process.ended() {
                return Some(Err(anyhow::anyhow!("nginx ended: {status}: {:?}", process.err())));
            }
            (Conn::tcp(http).is_ok() && Conn::tcp(https).is_ok() && unix.exists()).then_some(Ok(()))
        })?;
        up?;
        Ok(Self { http, h2c, https, unix, _process: process, scratch })
    }

    /// Puts a file under `/files/`.
    ///
    /// # Errors
    /// The file system's.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.scratch.write(&format!("files/{name}"), bytes).map(drop)
    }
}

fn configuration(
    own_name: &str,
    directory: &Path,
    [http, h2c, https]: [SocketAddr; 3],
    certificate: &Certificate,
) -> String {
    let directory = directory.display();
    // One process, so that ending it ends all of it.
    let mut text = format!(
        "daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 512; }}\nhttp {{\naccess_log off;\n\
         keepalive_requests 100000;\nroot {directory};\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text.push_str(&format!("{kind}_temp_path {directory}/{kind};\n"));
    }
    for (name, listen) in [
        ("plain", format!("listen {http};")),
        ("h2c", format!("listen {h2c} http2;")),
        (
            "tls",
            format!(
                "listen {https} ssl;\nssl_certificate {};\nssl_certificate_key {};",
                certificate.certificate.display(),
                certificate.key.display()
            ),
        ),
        ("unix", format!("listen unix:{directory}/web.sock;")),
    ] {
        let answer = format!("{own_name} {name}");
        let answer = answer.trim_start();
        text.push_str(&format!(
            "server {{ {listen}\nlocation = / {{ return 200 \"{answer}\"; }}\nlocation /files/ {{ }}\n\
             location = /connection {{ return 200 \"$connection\"; }}\n\
             location = /status {{ stub_status; }}\n}}\n"
        ));
    }
    text.push_str("}\n");
    text
}
