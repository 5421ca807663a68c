//! systemd's protocols, spoken by the test: sockets that are passed to the daemon (sd_listen_fds(3)), and
//! what the daemon tells (sd_notify(3)).

use std::{
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use anyhow::{Result, ensure};
use mux_tests::{Conn, Daemon, Relay, Starter, deadline, eventually, eventually_true};
use rustix::process::{Pid, Signal, kill_process};

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
struct Manager(UnixDatagram);

impl Manager {
    /// The next message, whose lines are in any order.
    fn next(&self) -> Result<Vec<String>> {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes)?;
        let text = String::from_utf8(bytes[..length].to_vec())?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn expect(&self, lines: &[&str]) -> Result<Vec<String>> {
        let said = self.next()?;
        let has = |line: &&str| said.iter().any(|other| other == line);
        ensure!(lines.iter().all(has), "{lines:?} are not in {said:?}");
        Ok(said)
    }
}

#[test]
fn the_service_manager_is_told_what_happens() -> Result<()> {
    // An abstract one, which the sandbox must let through.
    let name = format!("mux-tests-notify-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    socket.set_read_timeout(Some(deadline()))?;
    let manager = Manager(socket);
    let daemon = Starter::new(&Relay::Copy.rule("builtin:echo"))
        .user_space()
        .environment("NOTIFY_SOCKET", &format!("@{name}"))
        .start()?;
    let main = format!("MAINPID={}", daemon.proc().0);
    manager.expect(&["READY=1", &main])?;

    daemon.signal(Signal::HUP)?;
    let said = manager.expect(&["RELOADING=1"])?;
    ensure!(said.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{said:?}");
    manager.expect(&["READY=1", &main])?;

    daemon.signal(Signal::USR2)?;
    let said = manager.expect(&["READY=1"])?;
    let new = said.iter().find_map(|line| line.strip_prefix("MAINPID="));
    let new: i32 = new.unwrap_or_default().parse()?;
    ensure!(new.cast_unsigned() != daemon.proc().0, "{said:?}");
    // The old one has no flow. That it ends is no end of the service: it says nothing.
    eventually_true("the old process ends", || {
        daemon.proc().status("State").is_ok_and(|state| state.starts_with('Z'))
    })?;
    let new = eventually("a process id", || Pid::from_raw(new))?;
    kill_process(new, Signal::TERM)?;
    manager.expect(&["STOPPING=1"])?;
    Ok(())
}
