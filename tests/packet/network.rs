//! Networks that lose, repeat and reorder, and ends that differ.

use anyhow::{Result, ensure};
use mux::kernel::{books::Way, packet::What};
use mux_tests::{Need, eventually, need, sys::agreed};

use crate::{
    flow::Middle,
    place::{Kind, Place},
    streams::both_ways,
};

const LENGTH: u64 = 2 << 20;

/// One packet in forty is lost at its receiver, however often this is asked for. Not by chance: long
/// ones are few.
fn lose(place: &Place) -> Result<()> {
    for namespace in [&place.three.client, &place.three.server] {
        // nft(8) adds to a table that is there: the namespaces of several places would lose more with each.
        namespace.nft(
            "table inet loss {}\ndelete table inet loss\ntable inet loss {\n chain in {\n  type filter hook input priority 0\n  \
             tcp flags & (syn | fin) == 0 numgen inc mod 40 20 drop\n }\n}\n",
        )?;
    }
    Ok(())
}

#[test]
fn lost_packets_are_repeated_by_the_peers_with_sack() -> Result<()> {
    need!(Need::Root);
    Place::each_of(&Kind::AWAY, |place| {
        let middle = Middle::new(place)?;
        ensure!(agreed(&middle.open()?.client)?.sack);
        until_sack(&middle)?;
        let stats = middle.stats();
        ensure!(stats.dropped == 0, "{stats:?}");
        Ok(())
    })
}

/// Flows over lossy ways, until packets with SACK blocks were translated: the packets of a flow are long and
/// few, and chance may spare those that others come after.
fn until_sack(middle: &Middle<'_>) -> Result<()> {
    eventually("packets with SACK blocks", || {
        let one = || -> Result<()> {
            let flow = middle.open_on()?;
            lose(middle.place)?;
            let flow = both_ways(flow, LENGTH)?;
            middle.wait_for(&flow, What::Ended)?;
            for way in Way::BOTH {
                let snapshot = flow.snapshot(way);
                ensure!(snapshot.bytes >= LENGTH, "{snapshot:?}");
            }
            Ok(())
        };
        match one() {
            Ok(()) => (middle.stats().slow_options > 0).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    })?
}

#[test]
fn lost_packets_are_repeated_without_sack_and_timestamps_as_well() -> Result<()> {
    need!(Need::Root);
    Place::each_of(&Kind::AWAY, |place| {
        for namespace in [&place.three.client, &place.three.server, &place.three.mux] {
            namespace.sysctl("net/ipv4/tcp_sack", "0")?;
            namespace.sysctl("net/ipv4/tcp_timestamps", "0")?;
        }
        let middle = Middle::new(place)?;
        let mut flow = middle.open()?;
        ensure!(!agreed(&flow.client)?.sack && !agreed(&flow.client)?.timestamps);
        middle.turn_on(&mut flow)?;
        lose(place)?;
        let flow = both_ways(flow, LENGTH / 4)?;
        middle.wait_for(&flow, What::Ended)
    })
}

#[test]
fn without_timestamps_sack_blocks_are_translated_all_the_same() -> Result<()> {
    need!(Need::Root);
    let place = Place::new(Kind::Routed, mux_tests::Family::V4)?;
    for namespace in [&place.three.client, &place.three.server, &place.three.mux] {
        namespace.sysctl("net/ipv4/tcp_timestamps", "0")?;
    }
    let middle = Middle::new(&place)?;
    ensure!(!agreed(&middle.open()?.client)?.timestamps);
    until_sack(&middle)
}

/// Window scales that differ between the two connections, in both directions, down to none.
#[test]
fn windows_are_scaled_as_each_peer_was_promised() -> Result<()> {
    need!(Need::Root);
    Place::each_of(&Kind::AWAY, |place| {
        for (end, name) in [(&place.three.client, "client"), (place.server(), "server")] {
            end.sysctl("net/ipv4/tcp_window_scaling", "0")?;
            let middle = Middle::new(place)?;
            let flow = middle.open_on()?;
            let flow = both_ways(flow, LENGTH).map_err(|error| error.context(name))?;
            middle.wait_for(&flow, What::Ended)?;
            end.sysctl("net/ipv4/tcp_window_scaling", "1")?;
        }
        // The client's buffer is so large that its scale is; the server's so small that it is 0.
        place.three.client.sysctl("net/ipv4/tcp_rmem", "4096 131072 67108864")?;
        place.server().sysctl("net/ipv4/tcp_rmem", "4096 16384 32768")?;
        let middle = Middle::new(place)?;
        let flow = middle.open_on()?;
        let flow = both_ways(flow, LENGTH)?;
        middle.wait_for(&flow, What::Ended)
    })
}

/// Each packet of the two ends comes twice, so that every acknowledgement of a repeated one is selective
/// (RFC 2883).
#[test]
fn repeated_packets_are_translated_twice_and_count_once() -> Result<()> {
    need!(Need::Root);
    Place::each_of(&Kind::AWAY, |place| {
        let middle = Middle::new(place)?;
        let flow = middle.open_on()?;
        for (namespace, device) in [(&place.three.client, "down0"), (&place.three.server, "up0")] {
            namespace.nft(&format!(
                "table netdev twice\ndelete table netdev twice\ntable netdev twice {{\n chain out {{\n  \
                 type filter hook egress device \"{device}\" priority 0\n  \
                 meta l4proto tcp meta mark != 1 meta mark set 1 dup to \"{device}\"\n }}\n}}\n"
            ))?;
        }
        let before = Way::BOTH.map(|way| flow.bytes(way));
        let flow = both_ways(flow, LENGTH)?;
        middle.wait_for(&flow, What::Ended)?;
        for (way, before) in Way::BOTH.into_iter().zip(before) {
            let bytes = flow.bytes(way);
            ensure!(bytes == before + LENGTH, "{way:?}: {bytes}, {before} before");
        }
        let stats = middle.stats();
        ensure!(stats.slow_options > 0, "nothing was acknowledged as repeated: {stats:?}");
        ensure!(stats.dropped == 0, "{stats:?}");
        for namespace in [&place.three.client, &place.three.server] {
            namespace.nft("delete table netdev twice\n")?;
        }
        Ok(())
    })
}

/// Connection tracking looks at numbers, and a rule drops what it calls INVALID. It calls nothing so but
/// what is given to a socket with the addresses that it came with.
#[test]
fn strict_connection_tracking_minds_no_packets_but_those_that_keep_their_addresses() -> Result<()> {
    need!(Need::Root);
    Place::each(|place| {
        place.relay().nft(
            "table inet track\ndelete table inet track\ntable inet track {\n chain in {\n  \
             type filter hook input priority 0\n  ct state invalid drop\n }\n}\n",
        )?;
        let is_liberal = if place.kind == Kind::UpstreamHere { "1" } else { "0" };
        place.relay().sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", is_liberal)?;
        let middle = Middle::new(place)?;
        let flow = middle.open_on()?;
        let flow = both_ways(flow, LENGTH)?;
        middle.wait_for(&flow, What::Ended)
    })
}

#[test]
fn a_packet_too_long_for_its_way_out_ends_the_flow() -> Result<()> {
    need!(Need::Root);
    Place::each_of(&[Kind::Routed], |place| {
        let middle = Middle::new(place)?;
        let mut flow = middle.open_on()?;
        middle.kernel().records().record(flow.relay.pair, Way::Up).lower_mtu(1000);
        flow.ping_pong(3, 900)?;
        use std::io::Write as _;
        flow.client.write_all(&[0; 5000])?;
        middle.wait_for(&flow, What::TooBig)?;
        flow.relay.close()?;
        crate::flow::is_reset(&mut flow.client)?;
        crate::flow::is_reset(&mut flow.server)
    })
}
