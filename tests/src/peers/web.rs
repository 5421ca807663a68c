//! A web server that is killed, stopped and started again: nginx, one process, one address.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::ports;
use crate::{Conn, Process, Scratch, eventually};

/// Attempts with other ports.
const ATTEMPTS: usize = 5;

/// An nginx that answers every request with its name.
#[derive(Debug)]
pub struct Web {
    listen: Listen,
    process: Option<Process>,
    scratch: Scratch,
}

#[derive(Clone, Debug)]
enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Web {
    /// Starts one on 127.0.0.1.
    ///
    /// # Errors
    /// It does not start, or is not installed.
    pub fn start(name: &str) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let listen = Listen::Tcp(([127, 0, 0, 1], ports::free_port()?).into());
            match Self::on(listen, name) {
                Ok(web) => return Ok(web),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt")?)
    }

    /// Starts one on a Unix socket that everybody may connect to (nginx makes it so).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_unix(path: &Path, name: &str) -> Result<Self> {
        Self::on(Listen::Unix(path.to_owned()), name)
    }

    fn on(listen: Listen, name: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        scratch.write("nginx.conf", configuration(scratch.path(), &listen, name))?;
        let mut web = Self { listen, process: None, scratch };
        web.restart()?;
        Ok(web)
    }

    /// As `endpoints = ["…"]` names it.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.listen {
            Listen::Tcp(address) => address.to_string(),
            Listen::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Kills it (SIGKILL): its port refuses from now on.
    pub fn kill(&mut self) {
        // Dropping the process kills it, and waits for its end.
        self.process = None;
    }

    /// Starts it again, where it was.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        if let Listen::Unix(path) = &self.listen {
            // One that was killed has left its file, which nginx does not replace.
            let _ = std::fs::remove_file(path);
        }
        let mut process = Process::start(
            Command::new("nginx")
                .args(["-e", "stderr", "-p"])
                .arg(self.scratch.path())
                .arg("-c")
                .arg(self.scratch.join("nginx.conf")),
        )?;
        let listen = self.listen.clone();
        eventually("nginx listens", || {
            if let Ok(Some(status)) = process.ended() {
                return Some(Err(anyhow::anyhow!("nginx ended: {status}: {:?}", process.err())));
            }
            let answers = match &listen {
                Listen::Tcp(address) => Conn::tcp(*address).is_ok(),
                Listen::Unix(path) => Conn::unix(path).is_ok(),
            };
            answers.then_some(Ok(()))
        })??;
        self.process = Some(process);
        Ok(())
    }

    /// Sends it a signal: SIGSTOP leaves it listening and answering nothing, SIGCONT ends that.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match &self.process {
            Some(process) => process.signal(signal),
            None => bail!("nginx does not run"),
        }
    }
}

fn configuration(directory: &Path, listen: &Listen, name: &str) -> String {
    let directory = directory.display();
    let listen = match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    };
    // One process, so that ending it ends all of it.
    let mut text = format!(
        "daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 1024; }}\nhttp {{\naccess_log off;\nkeepalive_timeout 0;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text.push_str(&format!("{kind}_temp_path {directory}/{kind};\n"));
    }
    text.push_str(&format!(
        "server {{ listen {listen} backlog=1024;\nlocation / {{ return 200 \"{name}\"; }}\n}}\n}}\n"
    ));
    text
}
