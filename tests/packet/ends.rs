//! How a flow ends, and what of it is left.

use std::{
    io::Read as _,
    net::{Shutdown, SocketAddr},
};

use anyhow::{Result, ensure};
use mux::kernel::packet::What;
use mux_tests::{Need, eventually_true, need, sys::disconnect};

use crate::{
    flow::{Flow, Middle, is_reset},
    place::Place,
    streams::both_ways,
};

#[test]
fn a_clients_reset_reaches_the_server() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open()?;
        middle.turn_on(&mut flow)?;
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
        let mut flow = middle.open()?;
        middle.turn_on(&mut flow)?;
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
        let mut flow = middle.open()?;
        middle.turn_on(&mut flow)?;
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

#[test]
fn after_a_proper_end_no_reset_leaves_us() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open()?;
        middle.turn_on(&mut flow)?;
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
        let mut flow = middle.open()?;
        middle.turn_on(&mut flow)?;
        let address: SocketAddr = flow.client.local_addr()?;
        // The server ends first, so that TIME_WAIT is its.
        flow.server.shutdown(Shutdown::Write)?;
        let flow = end_after_server(flow)?;
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

fn end_after_server(mut flow: Flow) -> Result<Flow> {
    let mut rest = Vec::new();
    flow.client.read_to_end(&mut rest)?;
    flow.client.shutdown(Shutdown::Write)?;
    flow.server.read_to_end(&mut rest)?;
    ensure!(rest.is_empty());
    Ok(flow)
}
