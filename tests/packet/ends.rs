//! How a flow ends, and what of it is left.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

use anyhow::{Result, ensure};
use mux::kernel::{
    books::Way,
    packet::{State, What},
};
use mux_tests::{Need, eventually, eventually_true, need, sys::disconnect};

use crate::{
    flow::{Flow, Middle, is_reset},
    place::{Kind, Place},
    streams::both_ways,
};

#[test]
fn a_clients_reset_reaches_the_server() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        disconnect(&flow.client)?;
        is_reset(&mut flow.server)?;
        middle.wait_for(&flow, What::Reset)
    })
}

#[test]
fn a_servers_reset_reaches_the_client() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        disconnect(&flow.server)?;
        is_reset(&mut flow.client)?;
        middle.wait_for(&flow, What::Reset)
    })
}

#[test]
fn closing_our_sockets_resets_both_peers() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        // So that our sockets' own numbers are far behind.
        flow.ping_pong(20, 5000)?;
        flow.relay.close()?;
        is_reset(&mut flow.client)?;
        is_reset(&mut flow.server)?;
        let stats = middle.stats();
        ensure!(stats.resets_put_right == 2, "{stats:?}");
        Ok(())
    })
}

/// A packet that overtook a RST made it a number of the past, and the flow, which was over for user
/// space, went on for two seconds more: 1 of 40 busy ones on a busy machine. Here the RSTs are lost.
#[test]
fn a_stopped_flow_whose_resets_missed_carries_nothing_more() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        flow.ping_pong(20, 5000)?;
        let before = Way::BOTH.map(|way| flow.bytes(way));
        place.relay().nft(
            "table inet stop { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }; }",
        )?;
        flow.relay.close()?;
        place.relay().nft("delete table inet stop")?;
        flow.client.write_all(b"nobody hears this")?;
        is_reset(&mut flow.client)?;
        flow.server.write_all(b"nor this")?;
        is_reset(&mut flow.server)?;
        ensure!(flow.states() == [State::Stopped; 2]);
        ensure!(Way::BOTH.map(|way| flow.bytes(way)) == before, "it is counted");
        let stats = middle.stats();
        ensure!(stats.resets_put_right == 0, "{stats:?}");
        Ok(())
    })
}

#[test]
fn after_a_proper_end_no_reset_leaves_us() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let flow = middle.open_on()?;
        let flow = both_ways(flow, 10_000)?;
        middle.wait_for(&flow, What::Ended)?;
        flow.relay.close()?;
        eventually_true("both RSTs were dropped", || middle.stats().resets_dropped == 2)?;
        ensure!(middle.stats().resets_put_right == 0);
        Ok(())
    })
}

#[test]
fn a_clients_port_can_be_used_again_at_once() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        let address: SocketAddr = flow.client.local_addr()?;
        // The server ends first, so that TIME_WAIT is its.
        end_in_turn(&mut flow.server, &mut flow.client)?;
        middle.wait_for(&flow, What::Ended)?;
        flow.relay.close()?;
        disconnect(&flow.client)?;
        // The entries of the old flow are still there.
        let mut again = middle.open_from(Some(address))?;
        again.ping_pong(5, 100)?;
        middle.turn_on(&mut again)?;
        again.ping_pong(5, 100)
    })
}

/// The client ends first, so that its port is in TIME_WAIT, and takes the port again as soon as its
/// kernel lets it.
#[test]
fn a_clients_port_can_be_used_again_out_of_time_wait() -> Result<()> {
    need!(Need::Root);
    Place::each_of(&Kind::AWAY, |place| {
        place.client().sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let middle = Middle::new(place)?;
        let mut flow = middle.open_from(Some(SocketAddr::new(place.family.client(), 0)))?;
        middle.turn_on(&mut flow)?;
        flow.ping_pong(5, 10_000)?;
        let address: SocketAddr = flow.client.local_addr()?;
        end_in_turn(&mut flow.client, &mut flow.server)?;
        middle.wait_for(&flow, What::Ended)?;
        flow.relay.close()?;
        // The relay's entries stay: it is the flow that is dropped at the end.
        let Flow { client, server, relay } = flow;
        drop((client, server));
        let client = eventually("a connection from a port in TIME_WAIT", || {
            middle.connect_from(Some(address)).ok()
        })?;
        let again = middle.open_with(client, None)?;
        lives(&middle, again)?;
        drop(relay);
        Ok(())
    })
}

/// The upstream ends first: it is in TIME_WAIT towards our port, which our kernel takes for free. What it
/// remembers of numbers and timestamps is what was translated, and a new connection of ours fits.
#[test]
fn our_own_port_can_be_used_again_at_an_upstream_in_time_wait() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        flow.ping_pong(5, 10_000)?;
        let ours: SocketAddr = flow.server.peer_addr()?;
        end_in_turn(&mut flow.server, &mut flow.client)?;
        middle.wait_for(&flow, What::Ended)?;
        flow.relay.close()?;
        let Flow { client, server, relay } = flow;
        drop((client, server));
        let client = middle.connect_from(None)?;
        let again = middle.open_with(client, Some(ours))?;
        lives(&middle, again)?;
        drop(relay);
        Ok(())
    })
}

/// Ends both streams: the second end when it has seen the first one's.
fn end_in_turn(first: &mut TcpStream, second: &mut TcpStream) -> Result<()> {
    let mut rest = Vec::new();
    first.shutdown(Shutdown::Write)?;
    second.read_to_end(&mut rest)?;
    second.shutdown(Shutdown::Write)?;
    first.read_to_end(&mut rest)?;
    ensure!(rest.is_empty());
    Ok(())
}

/// The kernel takes the flow over, and all of it arrives.
fn lives(middle: &Middle<'_>, mut flow: Flow) -> Result<()> {
    flow.ping_pong(5, 100)?;
    middle.turn_on(&mut flow)?;
    let flow = both_ways(flow, 100_000)?;
    middle.wait_for(&flow, What::Ended)
}
