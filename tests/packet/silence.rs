//! Packets without bytes: probes of closed windows and of silent peers, and peers that are gone.

use std::{
    io::{self, Read as _, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mux::kernel::{books::Way, packet::What};
use mux_tests::{Need, Pattern, eventually_true, need, sys::unacknowledged};
use socket2::{SockRef, TcpKeepalive};

use crate::{
    flow::{Flow, Middle},
    place::{Kind, Place},
};

/// Waits until so many packets have gone each way, none of them with a byte that is new.
fn packets_alone(flow: &Flow, count: u64) -> Result<()> {
    let look = || Way::BOTH.map(|way| flow.snapshot(way));
    let before = look();
    eventually_true("packets without bytes", || {
        look().iter().zip(before).all(|(now, before)| now.packets >= before.packets + count)
    })?;
    let after = look();
    let same = after.iter().zip(before).all(|(after, before)| after.bytes == before.bytes);
    ensure!(same, "{before:?}, then {after:?}");
    Ok(())
}

/// The window's owner has nothing to say and the sender may send nothing: it probes, and the answers say
/// that the window is closed still.
#[test]
fn a_closed_window_is_probed_from_end_to_end() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        let pattern = Pattern::new(9);
        flow.client.set_write_timeout(Some(Duration::from_millis(300)))?;
        let mut sent = 0;
        loop {
            match flow.client.write(&pattern.bytes(sent, 64 << 10)) {
                Ok(count) => sent += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        packets_alone(&flow, 2)?;
        ensure!(flow.is_on(), "{:?}", flow.states());
        let mut received = vec![0; sent as usize];
        flow.server.read_exact(&mut received).context("after the window opened")?;
        pattern.check(0, &received).map_err(anyhow::Error::msg)?;
        flow.ping_pong(5, 1000)
    })
}

fn keep_alive(socket: impl std::os::fd::AsFd, probes: u32) -> io::Result<()> {
    let second = Duration::from_secs(1);
    let settings = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(probes);
    SockRef::from(&socket).set_tcp_keepalive(&settings)
}

#[test]
fn keep_alive_probes_are_answered_by_the_other_end() -> Result<()> {
    need!(Need::Root);
    Place::each_of(&[Kind::UpstreamOnLoopback, Kind::Routed], |place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        for socket in [&flow.client, &flow.server] {
            keep_alive(socket, 3)?;
        }
        packets_alone(&flow, 6)?;
        flow.ping_pong(5, 1000)?;
        ensure!(flow.is_on(), "{:?}", flow.states());
        Ok(())
    })
}

/// A machine that is off: the other end's own probes find it out, and its RST is the flow's end.
#[test]
fn a_peer_that_is_gone_is_found_out_by_the_other_end() -> Result<()> {
    need!(Need::Root);
    // Namespaces of its own each: a device that is down loses its IPv6 addresses.
    Place::each_alone(&[Kind::UpstreamOnLoopback, Kind::Routed], |place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        let mut silent = middle.open_on()?;
        // What is not acknowledged yet is repeated, and nothing is probed meanwhile.
        eventually_true("the client has acknowledged all", || {
            unacknowledged(&flow.server).is_ok_and(|left| left == 0)
        })?;
        place.three.client.ip("link set down0 down")?;
        keep_alive(&flow.server, 1)?;
        let error = flow.server.read(&mut [0]).expect_err("nobody is there");
        ensure!(error.kind() == io::ErrorKind::TimedOut, "{error}");
        middle.wait_for(&flow, What::Reset)?;
        // One that nobody asks about is ended by its owner: the end that is left learns of it.
        silent.relay.close()?;
        crate::flow::is_reset(&mut silent.server)
    })
}
