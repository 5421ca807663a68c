//! A running daemon.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Output},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::{
    Access, Conn, Process, Relay, Scratch, Starter, Upstream, eventually, procfs::Proc, starter,
};

/// A daemon of the test's own. Dropping it ends it with SIGTERM (twice: at once) and panics if it
/// did not end well; a test that panics kills it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    scratch: Scratch,
    listeners: Vec<(String, String)>,
    ended: bool,
}

/// In the log: a reload that failed.
const FAILED: &str = ": reload failed, nothing has changed: ";
/// The same of an upgrade.
const NOT_UPGRADED: &str = ": upgrade failed, nothing has changed: ";

/// How a daemon ended, and all it has said.
#[derive(Debug)]
pub struct Stopped {
    /// Exit status 0, always: anything else is an error of `stop`.
    pub status: ExitStatus,
    /// Its log.
    pub log: Vec<String>,
    /// Its access log.
    pub access: Vec<Access>,
}

impl Stopped {
    /// What it counted under this name, by its last message.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        let summary = self.log.iter().rev().find_map(|line| line.split_once(" stopped: "));
        let counters = summary.map_or("", |(_, counters)| counters).split_whitespace();
        let mut values = counters.filter_map(|counter| counter.split_once('='));
        let value = values.find(|(counter, _)| *counter == name);
        value.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }
}

impl Daemon {
    /// Starts one with these rules (see [`Starter::new`]) and arguments, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// It ends before, or does not get there.
    pub fn start(rules: &str, arguments: &[&str]) -> Result<Self> {
        Starter::new(rules).arguments(arguments).start()
    }

    /// Starts one without the kernel relay, whose self-test costs a good part of a second.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn user_space(rules: &str) -> Result<Self> {
        Starter::new(rules).user_space().start()
    }

    /// Starts one with a rules file as it is.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with_file(path: &Path, arguments: &[&str]) -> Result<Self> {
        Starter::file(path).arguments(arguments).start()
    }

    /// Runs `mux check`.
    ///
    /// # Errors
    /// It does not end.
    pub fn check(path: &Path) -> Result<Output> {
        starter::check(path)
    }

    pub(crate) fn ready(process: Process, scratch: Scratch) -> Result<Self> {
        let mut listeners = Vec::new();
        let ready = process.wait_err("`ready`", |line| {
            if let Some((_, fields)) = line.split_once(" INFO listening listener=") {
                let (name, address) = fields.split_once(" address=")?;
                listeners.push((name.to_owned(), address.to_owned()));
            }
            line.ends_with(" INFO ready").then_some(())
        });
        if let Err(error) = ready {
            // Its end is no news, and its log is in the error.
            return Err(error.context("the daemon does not start"));
        }
        Ok(Self { process, scratch, listeners, ended: false })
    }

    /// Its process.
    #[must_use]
    pub fn proc(&self) -> Proc {
        Proc(self.process.id())
    }

    /// A name in its own directory, which it cannot write to once it is `nobody`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Where the listener of this name listens, as the log prints it.
    ///
    /// # Panics
    /// There is no such listener.
    #[must_use]
    pub fn listener(&self, name: &str) -> &str {
        let found = self.listeners.iter().find(|(listener, _)| listener == name);
        &found.unwrap_or_else(|| panic!("no listener {name} among {:?}", self.listeners)).1
    }

    /// Where its first TCP listener listens.
    ///
    /// # Panics
    /// It has none.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let mut addresses = self.listeners.iter().filter_map(|(_, address)| address.parse().ok());
        addresses.next().expect("a TCP listener")
    }

    /// Its first TCP listener's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// Connects to its first TCP listener.
    ///
    /// # Errors
    /// connect(2)'s.
    pub fn connect(&self) -> Result<Conn> {
        Conn::tcp(self.address())
    }

    /// A flow through the daemon, both ends: `hello` (5 bytes) went up and `olleh` came back,
    /// so that it is on its relay.
    ///
    /// # Errors
    /// Either end's.
    pub fn flow(&self, upstream: &Upstream) -> Result<(Conn, Conn)> {
        let client = self.connect()?;
        let server = upstream.accept()?;
        self.relay().greet(&client, &server)?;
        Ok((client, server))
    }

    /// What its rules ask for, as far as it makes a difference to how a flow is opened.
    fn relay(&self) -> Relay {
        let rules = std::fs::read_to_string(self.path("rules.toml")).unwrap_or_default();
        if rules.contains("relay = \"packet\"") { Relay::Packet } else { Relay::Copy }
    }

    /// Replaces its rules file (see [`Starter::new`]), has it reload, and waits for the outcome: the
    /// last line of the log about it. Only for a daemon that was started with rules as text.
    ///
    /// # Errors
    /// The file cannot be written, or nothing is said.
    pub fn reload(&self, rules: &str) -> Result<String> {
        let new = self.scratch.write("rules.new", starter::complete(rules))?;
        std::fs::rename(new, self.path("rules.toml"))?;
        self.hang_up()
    }

    /// Has it reload the rules file that there is, and waits for the outcome.
    ///
    /// # Errors
    /// Nothing is said.
    pub fn hang_up(&self) -> Result<String> {
        let outcomes = || {
            let lines = self.process.err().into_iter();
            let is_outcome = |line: &String| line.contains(" reloaded: ") || line.contains(FAILED);
            lines.filter(is_outcome).collect::<Vec<_>>()
        };
        let before = outcomes().len();
        self.signal(Signal::HUP)?;
        eventually("the outcome of the reload", || outcomes().get(before).cloned())
    }

    /// The same, of rules that have to come into force; the outcome's summary.
    ///
    /// # Errors
    /// They do not.
    pub fn reload_ok(&self, rules: &str) -> Result<String> {
        let outcome = self.reload(rules)?;
        let (_, summary) = outcome.split_once(" reloaded: ").with_context(|| outcome.clone())?;
        Ok(summary.to_owned())
    }

    /// Where the listener of this name listens that was added last.
    ///
    /// # Errors
    /// There is none such.
    pub fn added(&self, name: &str) -> Result<String> {
        let lines = self.process.err();
        let prefix = format!(" INFO listening listener={name} address=");
        let found = lines.iter().rev().find_map(|line| line.split_once(&prefix));
        Ok(found.with_context(|| format!("no listener {name}"))?.1.to_owned())
    }

    /// Waits for a line of its log that contains `text`.
    ///
    /// # Errors
    /// None comes.
    pub fn wait_log(&self, text: &str) -> Result<String> {
        self.process
            .wait_err(&format!("`{text}`"), |line| line.contains(text).then(|| line.to_owned()))
    }

    /// Waits for the upgrade of this number, from 0, in its log, where its successors write, too; gives
    /// the process that succeeded.
    ///
    /// # Errors
    /// None comes.
    pub fn successor(&self, number: usize) -> Result<u32> {
        let line =
            eventually("the upgrade", || self.log_lines(" upgraded: ").get(number).cloned())?;
        let pid = line.split(" successor=").nth(1).and_then(|rest| rest.split(' ').next());
        pid.and_then(|pid| pid.parse().ok()).with_context(|| line.clone())
    }

    /// Lines of its log so far that contain `text`. Its successors write there, too.
    #[must_use]
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        self.process.err().into_iter().filter(|line| line.contains(text)).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn log_count(&self, text: &str) -> usize {
        self.log_lines(text).len()
    }

    /// Waits for an access-log line.
    ///
    /// # Errors
    /// None comes for which `is_it` says yes.
    pub fn wait_access(&self, is_it: impl Fn(&Access) -> bool) -> Result<Access> {
        self.process.wait_out("an access-log entry", |line| {
            Access::parse(line).ok().filter(|access| is_it(access))
        })
    }

    /// Waits for the access-log line of a connection of ours.
    ///
    /// # Errors
    /// None comes.
    pub fn access_of(&self, client: SocketAddr) -> Result<Access> {
        let client = client.to_string();
        self.wait_access(|access| access.client() == client)
    }

    /// Its access log so far.
    ///
    /// # Errors
    /// A line is no JSON.
    pub fn access(&self) -> Result<Vec<Access>> {
        self.process.out().iter().map(|line| Access::parse(line)).collect()
    }

    /// Lines of its access log so far.
    #[must_use]
    pub fn access_count(&self) -> usize {
        self.process.out_lines().count()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Kills it (SIGKILL) and returns its directory, which outlives it.
    #[must_use]
    pub fn kill(mut self) -> KeptScratch {
        self.process.kill();
        self.ended = true;
        KeptScratch(self)
    }

    /// Ends it by SIGTERM. Its flows must have ended, or it takes until the drain deadline.
    ///
    /// # Errors
    /// It does not end, or not with 0, or its log has an error in it.
    pub fn stop(self) -> Result<Stopped> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// Waits for its end, which something else has brought about.
    ///
    /// # Errors
    /// It does not end, or not with 0, or its log has an error in it.
    pub fn wait(mut self) -> Result<Stopped> {
        let status = self.end()?;
        let access = self.process.out_lines().to_end()?;
        let log = self.process.err_lines().to_end()?;
        let access = access.iter().map(|line| Access::parse(line)).collect::<Result<_>>()?;
        Ok(Stopped { status, log, access })
    }

    fn end(&mut self) -> Result<ExitStatus> {
        self.ended = true;
        let status = self.process.wait().inspect_err(|_| self.process.kill())?;
        ensure!(status.success(), "the daemon ended with {status}");
        let log = self.process.err_lines().to_end()?;
        // Errors are bugs: unbalanced books, panics of a core. Peers' misbehaviour is no error.
        // That a reload or an upgrade fails is the business of whoever wrote the rules.
        let is_bad = |line: &&String| {
            let is_expected = [FAILED, NOT_UPGRADED].iter().any(|failed| line.contains(failed));
            (line.contains(" ERROR ") && !is_expected) || line.contains("panicked")
        };
        let bad = log.iter().find(is_bad);
        if let Some(line) = bad {
            bail!("the daemon's log has an error in it: {line}");
        }
        Ok(status)
    }
}

/// What is left of a killed daemon: its directory.
#[derive(Debug)]
pub struct KeptScratch(Daemon);

impl KeptScratch {
    /// A name in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.ended && !thread::panicking() {
            let ending = self.end_at_once();
            self.print();
            if let Err(error) = ending {
                panic!("{error:#}");
            }
        } else {
            self.process.kill();
            self.print();
        }
    }
}

impl Daemon {
    fn end_at_once(&mut self) -> Result<()> {
        if self.process.ended()?.is_none() {
            self.signal(Signal::TERM)?;
            let process = &mut self.process;
            eventually("the daemon drains", || {
                let drains = process.err().iter().any(|line| line.contains(": draining"));
                (drains || process.ended().is_ok_and(|status| status.is_some())).then_some(())
            })?;
            // Twice is at once. It may have had no flows, and be gone: its end is looked at below.
            let _ = self.signal(Signal::TERM);
        }
        self.end().map(drop)
    }

    /// For the report of a failed test; libtest shows it only then.
    fn print(&self) {
        println!("── the daemon's log");
        self.process.err().iter().for_each(|line| println!("{line}"));
        let access = self.process.out();
        println!("── its access log, {} lines", access.len());
        access.iter().rev().take(10).rev().for_each(|line| println!("{line}"));
    }
}
