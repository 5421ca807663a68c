//! Upgrade: a new process takes over what the old one listens on. Nobody is refused meanwhile, flows end
//! where they began, and a successor that cannot serve, or dies, changes nothing.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use mux_tests::{
    Conn, Daemon, Pattern, Relay, Scratch, Upstream,
    admin::{AdminSocket, ask, metrics_address},
    eventually, eventually_true, exchange, join, on_each_relay,
    procfs::Proc,
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    process::{Pid, Signal, kill_process},
};

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
        let pid = self.first.successor(self.successors.len())?;
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

/// A flow of which the beginning went before the upgrade is the old process's to the end, exact.
fn a_flow_is_exact_over_an_upgrade(relay: Relay) -> Result<()> {
    const EARLIER: u64 = 100_000;
    const LENGTH: u64 = 1_000_000;
    let upstream = Upstream::tcp()?;
    let (up, down) = (Pattern::new(1), Pattern::new(2));
    let rules = relay.rule(&upstream.name());
    let mut line = Line::new(Daemon::start(&rules, &["--relay", relay.name()])?);
    let (client, server) = line.first.flow(&upstream)?;
    let local = client.local()?;
    for (from, to, pattern) in [(&client, &server, up), (&server, &client, down)] {
        thread::scope(|scope| {
            let sender = scope.spawn(|| from.send_pattern(pattern, 0, EARLIER));
            to.expect_pattern(pattern, 0, EARLIER)?;
            join(sender, "sending")
        })?;
    }
    thread::scope(|scope| {
        let rest = scope.spawn(|| exchange((&client, up, LENGTH), (&server, down, LENGTH)));
        let upgraded = line.upgrade();
        join(rest, "the rest of the flow")?;
        upgraded
    })?;
    let access = line.first.access_of(local)?;
    let total = relay.hello() + EARLIER + LENGTH;
    let (sent_up, sent_down) = access.bytes();
    ensure!((sent_up, sent_down) == (total, total), "{access:?}");
    ensure!(access.relay() == relay.name(), "{access:?}");
    let Line { first, .. } = &line;
    eventually_true("the first process ends", || is_over(first))?;
    // The successor's flows take the same relay.
    let (client, server) = line.first.flow(&upstream)?;
    let local = client.local()?;
    exchange((&client, up, LENGTH), (&server, down, LENGTH))?;
    let access = line.first.access_of(local)?;
    ensure!(access.relay() == relay.name(), "{access:?}");
    Ok(())
}

on_each_relay!(a_flow_is_exact_over_an_upgrade);

/// A successor that reads its rules from a pipe, on which nobody has written yet.
struct Held {
    pid: u32,
    rules: File,
}

impl Held {
    /// Replaces the rules by a pipe and has a successor start; it stays where it reads them.
    fn start(daemon: &Daemon) -> Result<Self> {
        let path = daemon.path("rules.toml");
        fs::remove_file(&path)?;
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
        daemon.signal(Signal::USR2)?;
        // Without a reader it cannot be opened like this.
        let open = || {
            let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
            OpenOptions::new().write(true).custom_flags(nonblocking).open(&path).ok()
        };
        let rules = eventually("the successor reads its rules", open)?;
        let [keeper] = daemon.proc().children()?[..] else { bail!("the daemon has not one child") };
        let [pid] = Proc(keeper).children()?[..] else { bail!("the keeper has not one child") };
        Ok(Self { pid, rules })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = signal_to(self.pid, Signal::KILL);
    }
}

#[test]
fn a_successor_that_is_killed_before_it_serves_changes_nothing() -> Result<()> {
    let daemon = Daemon::user_space(&echo())?;
    let rules = daemon.path("rules.toml");
    let good = fs::read_to_string(&rules)?;
    let open = daemon.connect()?;
    open.send("before")?;
    open.expect("before")?;
    let held = Held::start(&daemon)?;
    echo_once(&daemon.connect()?)?;
    signal_to(held.pid, Signal::KILL)?;
    let said = daemon.wait_log("upgrade failed, nothing has changed: ")?;
    ensure!(said.contains("it ended by signal 9 before it served"), "{said}");
    echo_once(&daemon.connect()?)?;
    open.send("after")?;
    open.expect("after")?;
    open.finish()?;
    open.expect_end()?;
    fs::remove_file(&rules)?;
    fs::write(&rules, good)?;
    let mut line = Line::new(daemon);
    line.upgrade()?;
    echo_once(&Conn::tcp(line.first.address())?)
}

#[test]
fn a_successor_serves_though_the_old_process_is_killed_before_it_does() -> Result<()> {
    let scratch = Scratch::new()?;
    let unix = scratch.join("mux.sock");
    let listen = |port| format!("listen = [\"127.0.0.1:{port}\", \"{}\"]\n", unix.display());
    let daemon = Daemon::user_space(&format!("{}{}", listen(0), echo()))?;
    let address: SocketAddr = daemon.address();
    let mut held = Held::start(&daemon)?;
    let kept = daemon.kill();
    let rules = format!("{}{}", listen(address.port()), echo());
    held.rules.write_all(rules.as_bytes())?;
    // What comes after the end of a file is nothing: it must see that end.
    held.rules = File::open("/dev/null")?;
    let conn = eventually("the successor serves", || Conn::tcp(address).ok())?;
    echo_once(&conn)?;
    echo_once(&eventually("the successor serves", || Conn::unix(&unix).ok())?)?;
    drop(kept);
    Ok(())
}

#[test]
fn a_reload_that_adds_and_removes_listeners_goes_with_upgrades() -> Result<()> {
    let rules = |other: &str| format!("listen = [\"127.0.0.1:0\", \"{other}\"]\n{}", echo());
    let daemon = Daemon::user_space(&rules("127.0.0.2:0"))?;
    let address = daemon.address();
    daemon.reload_ok(&rules("127.0.0.3:0"))?;
    let second: SocketAddr = daemon.added("listener-2")?.parse()?;
    let held = daemon.connect()?;
    held.send("x")?;
    held.expect("x")?;
    let mut line = Line::new(daemon);
    line.upgrade()?;
    echo_once(&Conn::tcp(address)?)?;
    echo_once(&Conn::tcp(second)?)?;
    // The successor's rules change: what it closes is open nowhere, though the old process lives.
    fs::write(line.first.path("rules.toml"), rules("127.0.0.4:0"))?;
    line.signal(Signal::HUP)?;
    let third = || line.first.added("listener-2").ok().filter(|at| at.starts_with("127.0.0.4:"));
    let third = eventually("a listener is added", third)?.parse()?;
    echo_once(&Conn::tcp(third)?)?;
    eventually_true("nobody listens there", || Conn::tcp(second).is_err())?;
    echo_once(&Conn::tcp(address)?)?;
    line.upgrade()?;
    echo_once(&Conn::tcp(address)?)?;
    echo_once(&Conn::tcp(third)?)?;
    held.finish()?;
    held.expect_end()
}
