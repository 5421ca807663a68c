//! When a flow is turned on, and when not.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mux::kernel::{
    allow,
    books::Way,
    packet::{Ends, PacketOptions, State, What},
};
use mux_common::packet::{LOOPBACK, refusal};
use mux_tests::{Family, Need, Pattern, eventually, eventually_true, need, skip};
use rustix::{
    net::sockopt,
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use crate::{
    flow::{Flow, Middle},
    place::{Kind, Place},
    streams,
};

#[test]
fn a_flow_of_requests_and_answers_is_turned_on_wherever_its_ends_are() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        let copied = Way::BOTH.map(|way| flow.relay.copied(way));
        flow.ping_pong(50, 300)?;
        let after = Way::BOTH.map(|way| flow.relay.copied(way));
        ensure!(copied == after, "the relay was woken: {copied:?}, then {after:?}");
        Ok(())
    })
}

#[test]
fn a_withdrawn_flow_stays_with_user_space() -> Result<()> {
    need!(Need::Root);
    let place = Place::new(Kind::Routed, Family::V4)?;
    let middle = Middle::new(&place)?;
    let mut flow = middle.open()?;
    ensure!(flow.relay.withdraw()?, "it was on without a packet");
    flow.ping_pong(20, 100)?;
    ensure!(flow.states() == [State::Empty; 2], "{:?}", flow.states());
    ensure!(flow.relay.copied(Way::Up) == 2000);
    Ok(())
}

#[test]
fn a_flow_that_is_on_cannot_be_withdrawn() -> Result<()> {
    need!(Need::Root);
    let place = Place::new(Kind::Loopback, Family::V4)?;
    let middle = Middle::new(&place)?;
    let mut flow = middle.open_on()?;
    ensure!(!flow.relay.withdraw()?, "withdrawn");
    flow.ping_pong(20, 100)?;
    ensure!(flow.is_on());
    Ok(())
}

/// The request is not acknowledged by a packet of its own, so that our socket would repeat it for
/// ever: the peer's answer to the first repetition goes to it.
#[test]
fn our_sockets_stop_repeating_what_was_acknowledged_past_them() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        let outstanding = flow.relay.unacknowledged();
        eventually_true("both sockets have nothing to repeat", || {
            flow.relay.unacknowledged() == vec![Some(0); 2]
        })
        .map_err(|error| {
            error.context(format!("{outstanding:?} at first; {:?}", middle.stats()))
        })?;
        ensure!(!flow.relay.is_broken());
        flow.ping_pong(20, 100)
    })
}

/// What a packet must have had to reach its socket, in the tests that choose the packet that turns a
/// flow on: an answer follows its request sooner, and an acknowledgement that waits for something to
/// go with waits longer (40 ms, `TCP_DELACK_MIN`).
const LONG_QUIET: Duration = Duration::from_millis(10);

/// A flow that a bare acknowledgement has turned on, so that no byte of it was translated yet and our
/// sockets are where the two ends believe them to be. The client holds the acknowledgement of an
/// answer back until nothing else is under way.
fn on_without_a_byte(middle: &Middle<'_>) -> Result<Flow> {
    eventually("a flow that is on before a byte was translated", || {
        let mut flow = middle.open().ok()?;
        sockopt::set_tcp_quickack(&flow.client, false).ok()?;
        sockopt::set_tcp_quickack(&flow.server, false).ok()?;
        flow.ping_pong(1, 100).ok()?;
        // The answer was at our socket before it was at the client.
        let quiet = Instant::now() + 2 * LONG_QUIET;
        while Instant::now() < quiet {
            std::thread::yield_now();
        }
        sockopt::set_tcp_quickack(&flow.client, true).ok()?;
        // On a machine that stood still meanwhile the answer has turned the flow on, or the
        // acknowledgement came too early, and it is the next flow's turn.
        let end = Instant::now() + Duration::from_millis(200);
        while !flow.is_on() && Instant::now() < end {
            std::thread::yield_now();
        }
        let unused = Way::BOTH.iter().all(|way| flow.snapshot(*way).bytes == 0);
        (flow.is_on() && unused).then_some(flow)
    })
}

/// Bytes that passed the program before the flow was on, and reach our socket after. Here they pass a
/// device that the program has been taken off for a moment.
#[test]
fn bytes_that_reach_our_socket_after_all_are_delivered_once() -> Result<()> {
    need!(Need::Root);
    const LATE: usize = 5000;
    Place::each_of(&Kind::AWAY, |place| {
        for way in Way::BOTH {
            let options = PacketOptions { quiet: LONG_QUIET, ..PacketOptions::new(4096) };
            let mut middle = Middle::with(place, options)?;
            let mut flow = on_without_a_byte(&middle)?;
            let before = Way::BOTH.map(|way| flow.bytes(way));
            let device = match way {
                Way::Up => place.relay().device("down0")?,
                Way::Down if place.kind == Kind::Routed => place.relay().device("up0")?,
                Way::Down => LOOPBACK,
            };
            middle.detach(device)?;
            let late = Pattern::new(5).bytes(0, LATE);
            let (from, to) = match way {
                Way::Up => (&mut flow.client, &mut flow.server),
                Way::Down => (&mut flow.server, &mut flow.client),
            };
            from.write_all(&late)?;
            let mut received = vec![0; LATE];
            to.read_exact(&mut received)?;
            ensure!(received == late, "{way:?}: other bytes");
            middle.attach(device)?;
            let seen = flow.relay.late(way);
            ensure!(seen == LATE as u64, "{way:?}: {seen} late bytes");
            ensure!(flow.relay.late(way.back()) == 0, "{way:?}: late bytes of the other way");
            eventually_true("both sockets have nothing to repeat", || {
                flow.relay.unacknowledged() == vec![Some(0); 2]
            })
            .map_err(|error| error.context(format!("{way:?}: {:?}", middle.stats())))?;
            ensure!(middle.stats().acks_diverted > 0, "{way:?}: {:?}", middle.stats());
            ensure!(!flow.relay.is_broken(), "{way:?}");
            flow.ping_pong(20, 1000)?;
            let mut wanted = before.map(|bytes| bytes + 20_000);
            wanted[way.index()] += LATE as u64;
            let after = Way::BOTH.map(|way| flow.bytes(way));
            ensure!(after == wanted, "{way:?}: {before:?}, {after:?}");
            let flow = streams::both_ways(flow, 100_000)?;
            middle.wait_for(&flow, What::Ended)?;
        }
        Ok(())
    })
}

/// Whether a byte is late depends on what the CPUs do: there need not be one here, and what is said of
/// those that are holds for any number. The test above is the one that makes some.
#[test]
fn bytes_that_come_late_are_delivered_once() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let mut late = 0;
        let options = PacketOptions { quiet: Duration::ZERO, ..PacketOptions::new(64) };
        let middle = Middle::with(place, options)?;
        for round in 0..20 {
            let flow = middle.open()?;
            // Both ends push whenever they like; nobody waits for the other.
            let flow = streams::push_both_ways(flow, round, 600)?;
            for way in Way::BOTH {
                late += flow.relay.late(way);
                ensure!(flow.bytes(way) == streams::pushed(600), "{way:?}: {}", flow.bytes(way));
            }
        }
        eprintln!("{:?} {:?}: {late} late bytes", place.kind, place.family);
        Ok(())
    })
}

#[test]
fn the_look_needs_no_capability() -> Result<()> {
    need!(Need::Root);
    let place = Place::new(Kind::Loopback, Family::V4)?;
    let middle = Middle::new(&place)?;
    let mut flow = middle.open()?;
    // One that is on would leave our sockets' numbers behind.
    ensure!(flow.relay.withdraw()?);
    flow.ping_pong(1, 10)?;
    let handle = middle.kernel().handle()?;
    let ends = Ends::new(flow.client.local_addr()?, flow.client.peer_addr()?);
    // Commit c8644cd0efe7; before, the daemon keeps that one.
    let is_old = allow::running().is_some_and(|it| (it.major, it.minor) < (5, 19));
    let kept = if is_old { CapabilitySet::BPF } else { CapabilitySet::empty() };
    let numbers = place.relay().within(move || -> Result<_> {
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)?;
        // Of a connection on loopback both ends are ours to look at.
        Ok(handle.look(&ends, &Ends::new(ends.own, ends.peer))?)
    })??;
    ensure!(numbers.client.rcv_nxt == numbers.upstream.write_seq, "{numbers:?}");
    ensure!(numbers.upstream.rcv_nxt == numbers.client.write_seq, "{numbers:?}");
    if is_old {
        return skip("the look wants CAP_BPF before Linux 5.19, and worked with that alone");
    }
    Ok(())
}

#[test]
fn a_flow_that_never_pauses_says_why_it_was_not_turned_on() -> Result<()> {
    need!(Need::Root);
    let place = Place::new(Kind::Routed, Family::V4)?;
    let options = PacketOptions { quiet: Duration::from_secs(3600), ..PacketOptions::new(16) };
    let middle = Middle::with(&place, options)?;
    let mut flow = middle.open()?;
    flow.ping_pong(50, 100)?;
    ensure!(flow.states() == [State::Pending; 2], "{:?}", flow.states());
    let snapshot = flow.snapshot(Way::Up);
    ensure!(snapshot.refusals > 0 && snapshot.refusal == refusal::RECENT, "{snapshot:?}");
    ensure!(middle.reports().iter().all(|report| report.what != What::On));
    Ok(())
}
