//! The daemon under test: its rules file, its log, its access log.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use mux_tests::admin::AdminSocket;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{place::Place, random::MAGIC};

/// How long it may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the daemon is to run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The rule's `relay`.
    pub(crate) relay: String,
    /// `[kernel] sockmap`.
    pub(crate) sockmap: String,
    /// `[kernel] send_buffer`, bytes; the backlog limit is a quarter of it.
    pub(crate) send_buffer: Option<u32>,
}

/// A running daemon; killed by `Drop`.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: Option<JoinHandle<Vec<String>>>,
    access: Option<JoinHandle<Vec<Entry>>>,
    /// Its listeners: the one that sniffs much, the one that sniffs little.
    pub(crate) listeners: [SocketAddr; 2],
    admin: Arc<AdminSocket>,
    _rules: NamedTempFile,
}

/// What a daemon left behind.
#[derive(Debug)]
pub(crate) struct Remains {
    /// How it ended; `None`: it had to be killed.
    pub(crate) status: Option<ExitStatus>,
    /// Its log.
    pub(crate) log: Vec<String>,
    /// Its access log.
    pub(crate) access: Vec<Entry>,
}

/// What of a line of the access log is compared.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) client: Option<SocketAddr>,
    pub(crate) relay: String,
    pub(crate) note: String,
    pub(crate) promotions: u64,
    pub(crate) demotions: u64,
    pub(crate) carried: u64,
    pub(crate) passes: u64,
    pub(crate) trimmed: u64,
    pub(crate) close: String,
    pub(crate) error: String,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
}

impl Daemon {
    /// Starts it in front of `server`, and waits until it is ready.
    pub(crate) fn start(
        mux: &Path,
        place: &Place,
        server: SocketAddr,
        settings: &Settings,
    ) -> Result<Self> {
        let mut rules = NamedTempFile::with_suffix(".toml")?;
        let admin = Arc::new(AdminSocket::new()?);
        let text = rules_file(place.mux_address(), server, settings);
        rules.write_all(format!("{text}\n{}", admin.rules()).as_bytes())?;
        let mut command = Command::new(mux);
        command.arg("--rules").arg(rules.path());
        if let "packet" | "sockmap" = &*settings.relay {
            // A run that quietly tortures another relay would prove nothing.
            command.args(["--relay", &settings.relay]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = place
            .at_mux(|| command.spawn())?
            .with_context(|| format!("cannot start {}", mux.display()))?;
        let stdout = child.stdout.take().context("it was piped")?;
        let stderr = child.stderr.take().context("it was piped")?;
        let access = thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).filter_map(|l| entry(&l)).collect()
        });
        let (lines, news) = mpsc::channel();
        let log = thread::spawn(move || {
            let lines = BufReader::new(stderr).lines().map_while(Result::ok).inspect(|line| {
                let _ = lines.send(line.clone());
            });
            lines.collect()
        });
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let (log, access) = (Some(log), Some(access));
        let mut daemon = Self { child, log, access, listeners: [any; 2], admin, _rules: rules };
        daemon.wait_until_ready(&news)?;
        Ok(daemon)
    }

    fn wait_until_ready(&mut self, news: &mpsc::Receiver<String>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = news.recv_timeout(left) else {
                bail!("the daemon did not get ready; it said:\n{}", said.join("\n"));
            };
            for (listener, name) in self.listeners.iter_mut().zip(["much", "little"]) {
                let label = format!("listening listener={name} address=");
                if let Some((_, address)) = line.split_once(&label) {
                    *listener = address.trim().parse().context("the listener's address")?;
                }
            }
            if line.ends_with(" ready") {
                return Ok(());
            }
            said.push(line);
        }
    }

    /// Its admin socket.
    pub(crate) fn admin(&self) -> Arc<AdminSocket> {
        Arc::clone(&self.admin)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it, and waits until it has said everything.
    pub(crate) fn stop(mut self) -> Result<Remains> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("SIGTERM")?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                break None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        let log = self.log.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let access = self.access.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok(Remains { status, log, access })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Remains {
    /// The `name=value` numbers of the line that says `label`.
    pub(crate) fn counters(&self, label: &str) -> HashMap<String, u64> {
        let line = self.log.iter().rev().find_map(|line| line.split_once(label));
        let pairs = line.map(|(_, rest)| rest).unwrap_or_default().split_whitespace();
        pairs
            .filter_map(|pair| pair.split_once('='))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// Lines that a healthy daemon does not write.
    pub(crate) fn complaints(&self) -> impl Iterator<Item = &String> {
        self.log.iter().filter(|line| line.contains(" ERROR ") || line.contains("panicked"))
    }
}

fn rules_file(listen: Ipv4Addr, server: SocketAddr, settings: &Settings) -> String {
    let Settings { relay, sockmap, send_buffer } = settings;
    let buffers = send_buffer.map_or_else(String::new, |size| {
        format!("send_buffer = {size}\nbacklog_limit = {}\n", (size / 4).max(4096))
    });
    let packet = if relay == "packet" { "force" } else { "off" };
    format!(
        r#"[[listener]]
name = "much"
address = "{listen}:0"
sniff_timeout = "120s"

[[listener]]
name = "little"
address = "{listen}:0"
sniff_timeout = "120s"
sniff_limit = 40

[[rule]]
name = "torture"
match = {{ prefix = "{MAGIC}" }}
upstream = "server"
relay = "{relay}"

[[upstream]]
name = "server"
endpoints = ["{server}"]
connect_timeout = "60s"

[timeouts]
half_closed = "10m"

[log]
access = "json"

[kernel]
sockmap = "{sockmap}"
packet = "{packet}"
{buffers}"#
    )
}

fn entry(line: &str) -> Option<Entry> {
    let value: Value = serde_json::from_str(line).ok()?;
    let number = |key: &str| value[key].as_u64().unwrap_or(0);
    let text = |key: &str| value[key].as_str().unwrap_or("-").to_owned();
    Some(Entry {
        client: text("client").parse().ok(),
        relay: text("relay"),
        note: value["relay_note"].as_str().unwrap_or_default().to_owned(),
        promotions: number("promotions"),
        demotions: number("demotions"),
        carried: number("carried"),
        passes: number("passes"),
        trimmed: number("trimmed"),
        close: text("close"),
        error: text("error"),
        bytes_up: number("bytes_up"),
        bytes_down: number("bytes_down"),
    })
}
