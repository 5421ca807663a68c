//! The end of the daemon: drain, deadline, at once; and that nothing stays behind.

use std::os::unix::fs::FileTypeExt;

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Daemon, Need, Relay, Scratch, Upstream, bpf::Objects, eventually_true, need, on_each_relay,
    procfs::Proc,
};
use rustix::process::Signal;

on_each_relay!(
    sigterm_lets_a_flow_end,
    the_drain_deadline_resets_what_is_left,
    a_second_signal_ends_at_once,
);

fn sigterm_lets_a_flow_end(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&relay.rule(&upstream.name()), &[])?;
    let (client, server) = daemon.flow(&upstream)?;
    let local = client.local()?.to_string();
    // Connections that come until the listener is closed find no upstream, and are over.
    drop(upstream);
    daemon.signal(Signal::TERM)?;
    daemon.wait_log("SIGTERM: draining")?;
    eventually_true("new connections are refused", || daemon.connect().is_err())?;
    for _ in 0..100 {
        client.send("still there?")?;
        server.expect("still there?")?;
        server.send("yes")?;
        client.expect("yes")?;
    }
    client.finish()?;
    server.expect_end()?;
    server.send("bye")?;
    drop(server);
    client.expect("bye")?;
    client.expect_end()?;
    let access = daemon.wait()?.access;
    let access = access.iter().find(|access| access.client() == local).context("no entry")?;
    ensure!(access.close() == "finished" && access.relay() == relay.name(), "{access:?}");
    ensure!(access.bytes() == (relay.hello() + 1200, relay.hello() + 300 + 3), "{access:?}");
    Ok(())
}

fn the_drain_deadline_resets_what_is_left(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = format!("{}[timeouts]\ndrain = \"200ms\"\n", relay.rule(&upstream.name()));
    let daemon = Daemon::start(&rules, &[])?;
    let (client, server) = daemon.flow(&upstream)?;
    daemon.signal(Signal::TERM)?;
    ensure!(client.expect_reset()? == 0);
    ensure!(server.expect_reset()? == 0);
    let access = daemon.wait()?.access;
    ensure!(access.len() == 1 && access[0].close() == "drain-deadline", "{access:?}");
    ensure!(
        access[0].relay() == relay.name() && access[0].bytes() == (relay.hello(), relay.hello()),
        "{access:?}"
    );
    Ok(())
}

fn a_second_signal_ends_at_once(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = format!("{}[timeouts]\ndrain = \"1h\"\n", relay.rule(&upstream.name()));
    let daemon = Daemon::start(&rules, &[])?;
    let (client, server) = daemon.flow(&upstream)?;
    daemon.signal(Signal::INT)?;
    daemon.wait_log("SIGINT: draining")?;
    daemon.signal(Signal::INT)?;
    ensure!(client.expect_reset()? == 0);
    ensure!(server.expect_reset()? == 0);
    let access = daemon.wait()?.access;
    ensure!(access.len() == 1 && access[0].relay() == relay.name(), "{access:?}");
    Ok(())
}

#[test]
fn a_signal_right_after_ready_drains() -> Result<()> {
    for _ in 0..20 {
        let daemon = Daemon::user_space("[[rule]]\nupstream = \"builtin:echo\"\n")?;
        let log = daemon.stop()?.log;
        ensure!(log.iter().any(|line| line.contains("draining")), "{log:?}");
    }
    Ok(())
}

#[test]
fn a_client_that_is_being_sniffed_does_not_hold_up_the_end() -> Result<()> {
    let daemon = Daemon::user_space(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nsniff_timeout = \"1h\"\n\
         [[rule]]\nmatch = \"ssh\"\nupstream = \"builtin:echo\"\n[timeouts]\ndrain = \"100ms\"\n",
    )?;
    let client = daemon.connect()?;
    client.send_one_by_one("SSH")?;
    let access = daemon.stop()?.access;
    ensure!(access.len() == 1 && access[0].close() == "drain-deadline", "{access:?}");
    Ok(())
}

/// With a flow in the kernel, a Unix listener and the keeper; `end` ends the daemon.
fn nothing_stays(end: impl FnOnce(Daemon) -> Result<()>) -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.join("mux.sock");
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(
        &format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"unix:{}\"\n{}\
             [timeouts]\ndrain = \"100ms\"\n",
            file.display(),
            Relay::Sockmap.rule(&upstream.name())
        ),
        &[],
    )?;
    let _flow = daemon.flow(&upstream)?;
    let objects = Objects::of(&daemon)?;
    objects.program()?;
    for name in [mux_common::MAP_SOCKS, mux_common::MAP_SLOTS, mux_common::MAP_BOOKS] {
        objects.map(name)?;
    }
    ensure!(objects.loaded()?.maps.len() == objects.maps.len(), "{objects:?}");
    ensure!(file.metadata()?.file_type().is_socket());
    let children = daemon.proc().children()?;
    let process = daemon.proc();

    end(daemon)?;
    ensure!(!process.exists());
    eventually_true("programs and maps are gone", || {
        objects.loaded().is_ok_and(|objects| objects.is_empty())
    })?;
    eventually_true("child processes are gone", || {
        children.iter().all(|child| !Proc(*child).exists())
    })?;
    eventually_true("the socket file is gone", || !file.exists())
}

#[test]
fn nothing_stays_behind() -> Result<()> {
    need!(Need::Root);
    nothing_stays(|daemon| daemon.stop().map(drop))
}

#[test]
fn nothing_stays_behind_when_it_is_killed() -> Result<()> {
    need!(Need::Root);
    nothing_stays(|daemon| {
        drop(daemon.kill());
        Ok(())
    })
}
