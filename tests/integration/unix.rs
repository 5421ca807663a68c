//! Unix sockets at either end.

use std::{os::unix::fs::FileTypeExt, path::Path};

use anyhow::{Result, ensure};
use mux_tests::{
    Conn, Daemon, Pattern, Relay, Scratch, Starter, Upstream, eventually_true, exchange,
    on_each_relay,
};

on_each_relay!(to_a_unix_upstream, from_a_unix_listener);

const UP: Pattern = Pattern::new(21);
const DOWN: Pattern = Pattern::new(22);
const LENGTH: u64 = 8 << 20;

/// What serves instead of the kernel, which leaves Unix sockets alone.
fn instead(relay: Relay) -> [&'static str; 2] {
    match relay {
        Relay::Copy => ["copy", "copy"],
        Relay::Splice => ["splice", "splice"],
        Relay::Sockmap | Relay::Packet => ["copy", "splice"],
    }
}

fn to_a_unix_upstream(relay: Relay) -> Result<()> {
    let scratch = Scratch::new()?;
    let upstream = Upstream::unix(&scratch.join("upstream.sock"))?;
    let daemon = Daemon::start(&relay.rule(&upstream.name()), &[])?;
    let client = daemon.connect()?;
    let server = upstream.accept()?;
    exchange((&client, UP, LENGTH), (&server, DOWN, LENGTH))?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(instead(relay).contains(&access.relay()), "{access:?}");
    ensure!(access.bytes() == (LENGTH, LENGTH) && access.close() == "finished", "{access:?}");
    if matches!(relay, Relay::Sockmap | Relay::Packet) {
        ensure!(access.note().ends_with("the upstream is a Unix socket"), "{access:?}");
    }
    daemon.stop()?;
    Ok(())
}

fn listener(path: &Path, rest: &str) -> String {
    format!("listen = \"unix:{}\"\n{rest}", path.display())
}

fn from_a_unix_listener(relay: Relay) -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("mux.sock");
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&listener(&path, &relay.rule(&upstream.name())), &[])?;
    let client = Conn::unix(&path)?;
    let server = upstream.accept()?;
    exchange((&client, UP, LENGTH), (&server, DOWN, LENGTH))?;
    let access = daemon.wait_access(|access| access.rule() == "all")?;
    ensure!(instead(relay).contains(&access.relay()), "{access:?}");
    ensure!(access.bytes() == (LENGTH, LENGTH) && access.close() == "finished", "{access:?}");
    if matches!(relay, Relay::Sockmap | Relay::Packet) {
        ensure!(access.note().ends_with("the client came over a Unix socket"), "{access:?}");
    }
    daemon.stop()?;
    Ok(())
}

const ECHO: &str = "[[rule]]\nupstream = \"builtin:echo\"\n";

fn echoes(path: &Path) -> Result<()> {
    let client = Conn::unix(path)?;
    client.send("echo")?;
    client.expect("echo")
}

#[test]
fn the_socket_file_is_removed_at_the_end() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("mux.sock");
    let daemon = Daemon::user_space(&listener(&path, ECHO))?;
    ensure!(path.symlink_metadata()?.file_type().is_socket());
    echoes(&path)?;
    daemon.stop()?;
    ensure!(!path.exists(), "the socket file is still there");
    Ok(())
}

#[test]
fn the_socket_file_is_removed_when_the_daemon_is_killed() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("mux.sock");
    let daemon = Daemon::user_space(&listener(&path, ECHO))?;
    ensure!(path.exists());
    drop(daemon.kill());
    eventually_true("the socket file is gone", || !path.exists())
}

#[test]
fn a_stale_socket_file_is_replaced() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("mux.sock");
    drop(Upstream::unix(&path)?);
    ensure!(path.exists());
    let daemon = Daemon::user_space(&listener(&path, ECHO))?;
    echoes(&path)?;
    daemon.stop()?;
    ensure!(!path.exists());
    Ok(())
}

#[test]
fn a_socket_that_is_in_use_is_left_alone() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("mux.sock");
    let daemon = Daemon::user_space(&listener(&path, ECHO))?;
    let output = Starter::new(&listener(&path, ECHO)).user_space().fail()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && text.contains("in use"), "{text}");
    echoes(&path)?;
    daemon.stop()?;
    Ok(())
}

/// Another's file in our place is not ours to remove.
#[test]
fn a_file_that_took_the_sockets_place_is_left_alone() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("mux.sock");
    let daemon = Daemon::user_space(&listener(&path, ECHO))?;
    std::fs::remove_file(&path)?;
    scratch.write("mux.sock", "another's")?;
    daemon.stop()?;
    ensure!(std::fs::read(&path)? == b"another's");
    Ok(())
}
