//! systemd's protocols, spoken by the test: sockets that are passed to the daemon (sd_listen_fds(3)), and
//! what the daemon tells (sd_notify(3)).

use std::{
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mux_tests::{
    Conn, Daemon, Need, Relay, Scratch, Starter, deadline, eventually, eventually_true, hold::held,
    need, procfs::Proc,
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, Signal, kill_process},
};

fn echoes(address: std::net::SocketAddr) -> Result<()> {
    let client = Conn::tcp(address)?;
    client.send("echo?")?;
    client.expect("echo?")?;
    client.finish()?;
    client.expect_end()
}

fn rules(listen: &str) -> String {
    format!("listen = {listen}\n{}", Relay::Copy.rule("builtin:echo"))
}

/// A socket that is passed under these names, once for each.
fn passed(listen: &str, names: &[&str]) -> Result<(Daemon, std::net::SocketAddr)> {
    let socket = TcpListener::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    let starter = Starter::new(&rules(listen)).user_space().passing(socket.into(), names);
    Ok((starter.argument("--threads").argument("2").start()?, address))
}

#[test]
fn a_passed_socket_is_listened_on() -> Result<()> {
    let (daemon, address) = passed("\"systemd:web\"", &["web"])?;
    for _ in 0..4 {
        echoes(address)?;
    }
    daemon.stop()?;
    ensure!(Conn::tcp(address).is_err(), "the port is still open");
    Ok(())
}

#[test]
fn several_passed_sockets_go_to_the_listeners_of_their_names() -> Result<()> {
    let names = ["web", "web", "other", "web"];
    let (daemon, address) = passed("[\"systemd:other\", \"systemd:web\"]", &names)?;
    echoes(address)?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_passed_socket_goes_to_the_successor() -> Result<()> {
    let (daemon, address) = passed("\"systemd:web\"", &["web"])?;
    let held = Conn::tcp(address)?;
    held.send("x")?;
    held.expect("x")?;
    daemon.signal(Signal::USR2)?;
    let new = Pid::from_raw(daemon.successor(0)?.cast_signed());
    echoes(address)?;
    held.finish()?;
    held.expect_end()?;
    eventually_true("the old process ends", || {
        daemon.proc().status("State").is_ok_and(|state| state.starts_with('Z'))
    })?;
    echoes(address)?;
    kill_process(eventually("a process id", || new)?, Signal::TERM)?;
    eventually_true("the port is closed", || Conn::tcp(address).is_err())
}

#[test]
fn a_socket_that_was_not_passed_is_an_error() -> Result<()> {
    let output = Starter::new(&rules("\"systemd:web\"")).user_space().fail()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{said}");
    ensure!(said.contains("cannot listen on systemd:web: no socket was passed"), "{said}");
    Ok(())
}

/// A service manager's end.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    /// At an abstract address, which the sandbox must let through.
    fn new(test: &str) -> Result<Self> {
        let name = format!("mux-tests-{test}-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        Self::with(socket, format!("@{name}"))
    }

    /// At a path.
    fn at(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        // The daemon is nobody by the time of most messages.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        Self::with(socket, path.display().to_string())
    }

    fn with(socket: UnixDatagram, name: String) -> Result<Self> {
        socket.set_read_timeout(Some(deadline()))?;
        Ok(Self { socket, name })
    }

    /// A daemon that it has started.
    fn start(&self, starter: Starter) -> Result<Daemon> {
        starter.user_space().environment("NOTIFY_SOCKET", &self.name).start()
    }

    /// The next message, whose lines are in any order.
    fn next(&self) -> Result<Vec<String>> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes)?;
        let text = String::from_utf8(bytes[..length].to_vec())?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn expect(&self, lines: &[&str]) -> Result<Vec<String>> {
        let said = self.next()?;
        let has = |line: &&str| said.iter().any(|other| other == line);
        ensure!(lines.iter().all(has), "{lines:?} are not in {said:?}");
        Ok(said)
    }

    /// The two messages of a reload, the first with its time.
    fn expect_reload(&self, status: &str) -> Result<()> {
        let said = self.expect(&["RELOADING=1"])?;
        let time = said.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        ensure!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{said:?}");
        let said = self.expect(&["READY=1"])?;
        let is_status = |line: &&String| line.starts_with("STATUS=");
        let told = said.iter().find(is_status).cloned().unwrap_or_default();
        ensure!(told.starts_with(&format!("STATUS={status}")), "{status:?} is not in {said:?}");
        Ok(())
    }

    /// The process that is the service's main one from now on.
    fn expect_main(&self) -> Result<Pid> {
        let said = self.expect(&["READY=1", SERVING])?;
        let main = said.iter().find_map(|line| line.strip_prefix("MAINPID="));
        let main = main.and_then(|main| Pid::from_raw(main.parse().ok()?));
        main.with_context(|| format!("{said:?}"))
    }

    /// Whether nothing comes for so long; what has come already is not looked at.
    fn is_silent_for(&self, time: Duration) -> Result<bool> {
        self.forget()?;
        self.socket.set_read_timeout(Some(time))?;
        let next = self.next();
        self.socket.set_read_timeout(Some(deadline()))?;
        Ok(next.is_err())
    }

    /// Forgets what has come.
    fn forget(&self) -> Result<()> {
        self.socket.set_nonblocking(true)?;
        while self.next().is_ok() {}
        self.socket.set_nonblocking(false)?;
        Ok(())
    }
}

const SERVING: &str = "STATUS=serving, 1 listener, relay user space";
const PING: &str = "WATCHDOG=1";
/// Microseconds; a ping is due after half of it.
const PERIOD: u64 = 200_000;
/// Several pings are due in it.
const LONG: Duration = Duration::from_micros(5 * PERIOD);

fn end_of(daemon: &Daemon) -> Result<()> {
    eventually_true("the old process ends", || {
        daemon.proc().status("State").is_ok_and(|state| state.starts_with('Z'))
    })
}

fn the_service_manager_is_told(manager: &Manager) -> Result<()> {
    let rules = Relay::Copy.rule("builtin:echo");
    let daemon = manager.start(Starter::new(&rules))?;
    let main = manager.expect_main()?;
    ensure!(main.as_raw_nonzero().get().cast_unsigned() == daemon.proc().0);

    daemon.hang_up()?;
    manager.expect_reload("serving, 1 listener, relay user space")?;
    daemon.reload("listen = 1\n")?;
    manager.expect_reload("reload failed: ")?;
    daemon.reload_ok(&rules)?;
    manager.expect_reload("serving, ")?;

    daemon.signal(Signal::USR2)?;
    let new = manager.expect_main()?;
    ensure!(new != main);
    // The old one has no flow. That it ends is no end of the service: it says nothing.
    end_of(&daemon)?;
    kill_process(new, Signal::TERM)?;
    manager.expect(&["STOPPING=1", "STATUS=draining"])?;
    Ok(())
}

#[test]
fn the_service_manager_is_told_what_happens() -> Result<()> {
    the_service_manager_is_told(&Manager::new("told")?)
}

#[test]
fn the_service_manager_is_told_what_happens_at_a_path() -> Result<()> {
    let scratch = Scratch::new()?;
    the_service_manager_is_told(&Manager::at(&scratch.join("notify"))?)
}

/// A reload that is refused, because an upgrade is under way, ends for the service manager, too.
#[test]
fn a_refused_reload_is_told_from_its_beginning_to_its_end() -> Result<()> {
    let manager = Manager::new("refused")?;
    let daemon = manager.start(Starter::new(&Relay::Copy.rule("builtin:echo")))?;
    manager.expect_main()?;
    // A successor that stays where it reads its rules.
    let path = daemon.path("rules.toml");
    fs::remove_file(&path)?;
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
    daemon.signal(Signal::USR2)?;
    let [keeper] = daemon.proc().children()?[..] else { bail!("the daemon has not one child") };
    let starting = || Proc(keeper).children().ok()?.first().copied();
    let starting = eventually("a successor starts", starting)?;
    let said = daemon.hang_up()?;
    ensure!(said.contains("an upgrade is under way"), "{said}");
    manager.expect_reload("reload failed: an upgrade is under way")?;
    let starting = Pid::from_raw(starting.cast_signed()).context("a process id")?;
    kill_process(starting, Signal::KILL)?;
    daemon.wait_log("upgrade failed, nothing has changed: ")?;
    Ok(())
}

#[test]
fn the_watchdog_is_told_while_each_core_answers() -> Result<()> {
    need!(Need::Root);
    let manager = Manager::new("watchdog")?;
    let rules = Relay::Copy.rule("builtin:echo");
    let starter = Starter::new(&rules).arguments(&["--threads", "2"]).watched(PERIOD);
    let daemon = manager.start(starter)?;
    manager.expect_main()?;
    for _ in 0..3 {
        manager.expect(&[PING])?;
    }
    let told_not = "the watchdog is not told that all is well: core 1: no answer within 1 s";
    held(daemon.proc(), "mux-core-1", || {
        daemon.wait_log(told_not)?;
        manager.forget()?;
        let before = daemon.log_count(told_not);
        eventually_true("it is not told again", || daemon.log_count(told_not) > before)?;
        manager.socket.set_nonblocking(true)?;
        let said = manager.next();
        manager.socket.set_nonblocking(false)?;
        ensure!(said.is_err(), "{said:?} though a core hangs");
        Ok(())
    })?;
    manager.expect(&[PING])?;

    daemon.signal(Signal::STOP)?;
    eventually_true("the daemon is stopped", || {
        let states = daemon.proc().status_of_threads("State").unwrap_or_default();
        states.iter().all(|state| state.starts_with('T'))
    })?;
    ensure!(manager.is_silent_for(LONG)?, "a stopped daemon says something");
    daemon.signal(Signal::CONT)?;
    manager.expect(&[PING])?;
    daemon.stop()?;
    Ok(())
}

/// The keeper's environment names the first process, which is not the one to tell any more.
#[test]
fn after_an_upgrade_the_new_process_tells_the_watchdog_and_no_other() -> Result<()> {
    let manager = Manager::new("successor")?;
    let starter = Starter::new(&Relay::Copy.rule("builtin:echo")).watched(PERIOD);
    let daemon = manager.start(starter)?;
    manager.expect_main()?;
    manager.expect(&[PING])?;
    let held = daemon.connect()?;
    held.send("keeps the old process there")?;
    held.expect("keeps the old process there")?;
    daemon.signal(Signal::USR2)?;
    let new = loop {
        let said = manager.next()?;
        if let Some(new) = said.iter().find_map(|line| line.strip_prefix("MAINPID=")) {
            break Pid::from_raw(new.parse()?).context("a process id")?;
        }
    };
    daemon.successor(0)?;
    manager.expect(&[PING])?;
    // While the new one is silent the old one does not speak for it.
    kill_process(new, Signal::STOP)?;
    ensure!(manager.is_silent_for(LONG)?, "the old process tells for the new one");
    kill_process(new, Signal::CONT)?;
    manager.expect(&[PING])?;
    // It speaks again when it accepts again.
    kill_process(new, Signal::KILL)?;
    daemon.wait_log("this process accepts again")?;
    manager.forget()?;
    manager.expect(&[PING])?;
    held.finish()?;
    held.expect_end()
}

#[test]
fn a_watchdog_that_is_for_another_process_is_not_told() -> Result<()> {
    let manager = Manager::new("another")?;
    let starter = Starter::new(&Relay::Copy.rule("builtin:echo"))
        .environment("WATCHDOG_USEC", &PERIOD.to_string())
        .environment("WATCHDOG_PID", "1");
    let daemon = manager.start(starter)?;
    manager.expect_main()?;
    ensure!(manager.is_silent_for(LONG)?);
    daemon.stop()?;
    Ok(())
}
