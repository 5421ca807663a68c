//! Streams of bytes that say where they belong, both ways at once.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mux::kernel::{
    books::Way,
    packet::{State, What},
};
use mux_tests::{Family, Need, Pattern, need};

use crate::{
    flow::{Flow, Middle},
    place::{Kind, Place},
};

const MIB: u64 = 1 << 20;

#[test]
fn long_streams_are_exact_both_ways_and_end_with_a_fin_each() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let flow = middle.open_on()?;
        let before = Way::BOTH.map(|way| flow.bytes(way));
        let flow = both_ways(flow, 8 * MIB)?;
        middle.wait_for(&flow, What::Ended)?;
        for (way, before) in Way::BOTH.into_iter().zip(before) {
            let bytes = flow.bytes(way);
            ensure!(bytes == before + 8 * MIB, "{way:?}: {bytes}, {before} before");
            ensure!(flow.relay.late(way) == 0, "{way:?}: late bytes");
            let snapshot = flow.snapshot(way);
            ensure!(snapshot.state == State::Ended && snapshot.fin && snapshot.fin_acked);
        }
        let stats = middle.stats();
        ensure!(stats.dropped == 0 && stats.no_socket == 0 && stats.too_big == 0, "{stats:?}");
        // What one end, on this machine, has for the other, elsewhere, does not go through loopback.
        let leaves = !matches!(place.kind, Kind::Loopback | Kind::Routed);
        ensure!((stats.shortcuts > 0) == leaves, "{stats:?}");
        Ok(())
    })
}

#[test]
fn one_way_stays_open_when_the_other_has_ended() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        flow.client.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        flow.server.read_to_end(&mut rest)?;
        ensure!(rest.is_empty());
        let answer = Pattern::new(7).bytes(0, MIB as usize);
        let mut server = flow.server.try_clone()?;
        let (sent, read) = thread::scope(|scope| {
            let sender = scope.spawn(|| -> Result<()> {
                server.write_all(&answer)?;
                Ok(server.shutdown(Shutdown::Write)?)
            });
            let mut read = Vec::new();
            let result = flow.client.read_to_end(&mut read).map(|_| read);
            (sender.join(), result)
        });
        sent.map_err(|_| anyhow::anyhow!("a panic"))??;
        ensure!(read? == answer, "another answer");
        middle.wait_for(&flow, What::Ended)
    })
}

#[test]
fn a_window_that_closes_opens_again() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        // Fill everything until nothing moves any more.
        let pattern = Pattern::new(3);
        flow.client.set_write_timeout(Some(Duration::from_millis(300)))?;
        let mut sent = 0;
        loop {
            let bytes = pattern.bytes(sent, 64 << 10);
            match flow.client.write(&bytes) {
                Ok(count) => sent += count as u64,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        flow.client.shutdown(Shutdown::Write)?;
        let mut received = Vec::new();
        flow.server.read_to_end(&mut received)?;
        ensure!(received.len() as u64 == sent, "{} of {sent} bytes", received.len());
        pattern.check(0, &received).map_err(anyhow::Error::msg)
    })
}

/// Sends and checks so many bytes each way at once, and ends both.
pub(crate) fn both_ways(flow: Flow, length: u64) -> Result<Flow> {
    let (client, server) = (&flow.client, &flow.server);
    thread::scope(|scope| {
        let threads = [
            scope.spawn(move || send(client, 1, length)),
            scope.spawn(move || send(server, 2, length)),
            scope.spawn(move || receive(server, 1, length).context("at the server")),
            scope.spawn(move || receive(client, 2, length).context("at the client")),
        ];
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(flow)
}

fn send(mut to: &TcpStream, seed: u64, length: u64) -> Result<()> {
    let pattern = Pattern::new(seed);
    let mut at = 0;
    while at < length {
        let bytes = pattern.bytes(at, (length - at).min(50_000) as usize);
        to.write_all(&bytes).with_context(|| format!("sending from byte {at} on"))?;
        at += bytes.len() as u64;
    }
    Ok(to.shutdown(Shutdown::Write)?)
}

fn receive(mut from: &TcpStream, seed: u64, length: u64) -> Result<()> {
    let pattern = Pattern::new(seed);
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let count = from.read(&mut buffer).with_context(|| format!("reading from byte {at} on"))?;
        if count == 0 {
            ensure!(at == length, "it ended after {at} of {length} bytes");
            return Ok(());
        }
        pattern.check(at, &buffer[..count]).map_err(anyhow::Error::msg)?;
        at += count as u64;
    }
}

/// Bytes that so many pushes of [`push_both_ways`] are.
pub(crate) const fn pushed(pushes: u64) -> u64 {
    pushes * PUSH
}

const PUSH: u64 = 37;

/// Both ends send small pieces at odd moments, and end.
pub(crate) fn push_both_ways(flow: Flow, seed: u64, pushes: u64) -> Result<Flow> {
    let (client, server) = (&flow.client, &flow.server);
    thread::scope(|scope| {
        let threads = [
            scope.spawn(move || push(client, 2 * seed, pushes)),
            scope.spawn(move || push(server, 2 * seed + 1, pushes)),
            scope.spawn(move || receive(server, 2 * seed, pushed(pushes)).context("at the server")),
            scope.spawn(move || {
                receive(client, 2 * seed + 1, pushed(pushes)).context("at the client")
            }),
        ];
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(flow)
}

fn push(mut to: &TcpStream, seed: u64, pushes: u64) -> Result<()> {
    let pattern = Pattern::new(seed);
    // A pause that differs from push to push, so that pushes of the two ends meet in every way.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for index in 0..pushes {
        to.write_all(&pattern.bytes(index * PUSH, PUSH as usize))?;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let end = std::time::Instant::now() + Duration::from_nanos(state % 150_000);
        while std::time::Instant::now() < end {
            std::hint::spin_loop();
        }
    }
    Ok(to.shutdown(Shutdown::Write)?)
}

/// Not for the relay: a flow that user space copies is exact as well, or no test here says a thing.
#[test]
fn the_copying_relay_of_these_tests_is_exact() -> Result<()> {
    need!(Need::Root);
    let place = Place::new(Kind::Routed, Family::V4)?;
    let middle = Middle::new(&place)?;
    let flow = middle.open()?;
    ensure!(flow.relay.withdraw()?);
    let flow = both_ways(flow, MIB)?;
    ensure!(flow.relay.copied(Way::Up) == MIB && flow.relay.copied(Way::Down) == MIB);
    Ok(())
}
