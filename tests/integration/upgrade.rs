//! Upgrade: a new process takes over what the old one listens on. Nobody is refused meanwhile, flows end
//! where they began, and a successor that cannot serve, or dies, changes nothing.

use std::{
    fs,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Conn, Daemon, Relay, Scratch, Upstream,
    admin::{AdminSocket, ask, metrics_address},
    eventually, eventually_true, join,
};
use rustix::process::{Pid, Signal, kill_process};

const UPGRADES: usize = 5;
const CLIENTS: usize = 4;

fn echo() -> String {
    Relay::Copy.rule("builtin:echo")
}

fn echo_once(client: &Conn) -> Result<()> {
    client.send("echo?")?;
    client.expect("echo?")?;
    client.finish()?;
    client.expect_end()
}

/// Daemons that succeed one another, and write to the log of the first one.
struct Line {
    first: Daemon,
    /// Killed in the end, if they are there: nobody waits for them.
    successors: Vec<u32>,
}

impl Line {
    fn new(first: Daemon) -> Self {
        Self { first, successors: Vec::new() }
    }

    /// The one that serves.
    fn current(&self) -> u32 {
        self.successors.last().copied().unwrap_or(self.first.proc().0)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        signal_to(self.current(), signal)
    }

    /// Waits for the next successor, of which the log tells.
    fn upgraded(&mut self) -> Result<u32> {
        let lines = || self.first.log_lines(" upgraded: ");
        let number = self.successors.len();
        let line = eventually("the upgrade", || lines().get(number).cloned())?;
        let pid = line.split(" successor=").nth(1).and_then(|rest| rest.split(' ').next());
        let pid = pid.and_then(|pid| pid.parse().ok()).with_context(|| line.clone())?;
        self.successors.push(pid);
        Ok(pid)
    }

    fn upgrade(&mut self) -> Result<u32> {
        self.signal(Signal::USR2)?;
        self.upgraded()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for &pid in &self.successors {
            // Most are gone. Ids are not used again as soon as that.
            let _ = signal_to(pid, Signal::KILL);
        }
    }
}

fn signal_to(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

/// Whether it has ended; it is there until its test asks how.
fn is_over(daemon: &Daemon) -> bool {
    daemon.proc().status("State").is_ok_and(|state| state.starts_with('Z'))
}

#[test]
fn upgrades_under_load_fail_nobody() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = format!(
        "[[rule]]\nmatch = {{ prefix = \"hello\" }}\nupstream = \"{}\"\nrelay = \"splice\"\n{}",
        upstream.name(),
        echo()
    );
    let mut line = Line::new(Daemon::start(&rules, &["--threads", "2", "--relay", "splice"])?);
    let address = line.first.address();
    let client = Conn::tcp(address)?;
    client.send("hello")?;
    let server = upstream.accept()?;
    server.expect("hello")?;
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while !stop.load(Ordering::Acquire) {
                        echo_once(&Conn::tcp(address)?)?;
                        served.fetch_add(1, Ordering::AcqRel);
                    }
                    Ok(())
                })
            })
            .collect();
        let upgrades = (0..UPGRADES).try_for_each(|_| -> Result<()> {
            let before = served.load(Ordering::Acquire);
            line.upgrade()?;
            eventually_true("connections are served", || {
                served.load(Ordering::Acquire) >= before + 2 * CLIENTS
                    || clients.iter().any(thread::ScopedJoinHandle::is_finished)
            })
        });
        stop.store(true, Ordering::Release);
        clients.into_iter().try_for_each(|client| join(client, "a client"))?;
        upgrades
    })?;
    // The flow is where it was, both ways, and holds the first process.
    ensure!(!upstream.has_connection()?);
    for _ in 0..3 {
        client.send("ping")?;
        server.expect("ping")?;
        server.send("pong")?;
        client.expect("pong")?;
    }
    client.finish()?;
    server.expect_end()?;
    server.finish()?;
    client.expect_end()?;
    echo_once(&Conn::tcp(address)?)?;
    line.signal(Signal::TERM)?;
    // With its last flow it ends by itself.
    let Line { first, .. } = &line;
    eventually_true("the first process ends", || is_over(first))
}

#[test]
fn a_successor_that_cannot_serve_changes_nothing() -> Result<()> {
    let daemon = Daemon::user_space(&echo())?;
    let rules = daemon.path("rules.toml");
    let good = fs::read_to_string(&rules)?;
    fs::write(&rules, format!("{good}nonsense = 1\n"))?;
    daemon.signal(Signal::USR2)?;
    let said = daemon.wait_log("upgrade failed, nothing has changed: ")?;
    ensure!(said.contains("nonsense"), "{said}");
    echo_once(&daemon.connect()?)?;
    fs::write(&rules, good)?;
    let mut line = Line::new(daemon);
    line.upgrade()?;
    echo_once(&Conn::tcp(line.first.address())?)
}

#[test]
fn the_old_process_accepts_again_when_the_new_one_is_killed() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&Relay::Copy.rule(&upstream.name()))?;
    // Keeps the old one there.
    let (client, server) = daemon.flow(&upstream)?;
    let mut line = Line::new(daemon);
    let new = line.upgrade()?;
    signal_to(new, Signal::KILL)?;
    line.first.wait_log("this process accepts again")?;
    let (again, other) = line.first.flow(&upstream)?;
    drop((again, other, client, server));
    line.successors.clear();
    Ok(())
}

#[test]
fn the_admin_socket_and_the_metrics_port_are_handed_over() -> Result<()> {
    let admin = AdminSocket::new()?;
    let daemon = Daemon::user_space(&format!("{}{}", echo(), admin.rules()))?;
    let metrics = metrics_address(&daemon)?;
    let first = daemon.connect()?;
    first.send("keeps the old process there")?;
    first.expect("keeps the old process there")?;
    let mut line = Line::new(daemon);
    let said = admin.mux_ok(&["upgrade"])?;
    let pid = line.upgraded()?;
    ensure!(
        said.contains(&format!("process {pid} serves; 1 connections end in the old one")),
        "{said}"
    );
    let status = admin.mux_ok(&["status"])?;
    ensure!(status.contains(&format!("process {pid}, serving")), "{status}");
    let answer = ask(&Conn::tcp(metrics)?, "GET", "/metrics", "")?;
    ensure!(answer.status == 200, "{answer:?}");
    // The file outlives the old process, and goes with the new one.
    first.finish()?;
    first.expect_end()?;
    let Line { first, .. } = &line;
    eventually_true("the first process ends", || is_over(first))?;
    ensure!(admin.path().exists());
    line.signal(Signal::TERM)?;
    eventually_true("the socket's file is removed", || !admin.path().exists())
}

#[test]
fn a_unix_listeners_file_survives_and_is_removed_at_the_end() -> Result<()> {
    for end in [Signal::TERM, Signal::KILL] {
        let scratch = Scratch::new()?;
        let path = scratch.join("mux.sock");
        let rules = format!("listen = \"{}\"\n{}", path.display(), echo());
        let mut line = Line::new(Daemon::user_space(&rules)?);
        line.upgrade()?;
        let Line { first, .. } = &line;
        eventually_true("the first process ends", || is_over(first))?;
        echo_once(&Conn::unix(&path)?)?;
        line.signal(end)?;
        eventually_true("the socket's file is removed", || !path.exists())?;
    }
    Ok(())
}

#[test]
fn a_listener_that_the_new_rules_do_not_have_is_closed() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("gone.sock");
    let both = format!("listen = [\"127.0.0.1:0\", \"{}\"]\n{}", path.display(), echo());
    let daemon = Daemon::user_space(&both)?;
    let held = daemon.connect()?;
    held.send("x")?;
    held.expect("x")?;
    let rules = daemon.path("rules.toml");
    let text = fs::read_to_string(&rules)?;
    fs::write(&rules, text.replace(&format!(", \"{}\"", path.display()), ""))?;
    let mut line = Line::new(daemon);
    line.upgrade()?;
    eventually_true("nobody listens there", || UnixStream::connect(&path).is_err())?;
    held.finish()?;
    held.expect_end()?;
    let Line { first, .. } = &line;
    eventually_true("the first process ends", || is_over(first))?;
    ensure!(!path.exists(), "its file is left");
    Ok(())
}
