//! The packet relay over wires of the tests' own: client, mux and server in network namespaces.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Access, Conn, Daemon, Family, Need, Pattern, Relay, Three, Upstream, admin::AdminSocket,
    exchange, join, need,
};

const UP: Pattern = Pattern::new(71);
const DOWN: Pattern = Pattern::new(72);
const MIB: u64 = 1 << 20;
const LENGTH: u64 = 8 * MIB;

/// Where the upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a third namespace.
    Elsewhere,
    /// In mux's, at a loopback address.
    Loopback,
    /// In mux's, at an address of its other interface.
    Local,
}

impl Place {
    const ALL: [Self; 3] = [Self::Elsewhere, Self::Loopback, Self::Local];

    fn address(self, family: Family) -> SocketAddr {
        let ip = match (self, family) {
            (Self::Elsewhere, _) => family.server(),
            (Self::Local, _) => family.mux_inside(),
            (Self::Loopback, Family::V4) => [127, 0, 0, 1].into(),
            (Self::Loopback, Family::V6) => [0, 0, 0, 0, 0, 0, 0, 1].into(),
        };
        SocketAddr::new(ip, 0)
    }
}

/// A daemon in its namespace, with an upstream.
struct Setting<'a> {
    three: &'a Three,
    upstream: Upstream,
    daemon: Daemon,
}

impl<'a> Setting<'a> {
    fn new(three: &'a Three, family: Family, place: Place, rest: &str) -> Result<Self> {
        let at = place.address(family);
        let namespace = if place == Place::Elsewhere { &three.server } else { &three.mux };
        let upstream = namespace.within(|| Upstream::at(at, 1024))??;
        let rules = format!(
            "listen = \"{}\"\n{}{rest}",
            SocketAddr::new(family.mux(), 0),
            Relay::Packet.rule(&upstream.name())
        );
        let daemon = three.mux.within(|| Daemon::start(&rules, &[]))??;
        Ok(Self { three, upstream, daemon })
    }

    /// A flow whose packets are translated.
    fn flow(&self) -> Result<(Conn, Conn)> {
        let client = self.three.client.within(|| Conn::tcp(self.daemon.address()))??;
        self.greet(client)
    }

    fn greet(&self, client: Conn) -> Result<(Conn, Conn)> {
        let server = self.upstream.accept()?;
        for _ in 0..Relay::Packet.greetings() {
            Relay::Packet.pause();
            client.send("hello")?;
            server.expect("hello")?;
            server.send("olleh")?;
            client.expect("olleh")?;
        }
        Ok((client, server))
    }

    fn access(&self, local: SocketAddr) -> Result<Access> {
        let access = self.daemon.access_of(local)?;
        ensure!(access.relay() == Relay::Packet.name(), "another relay: {access:?}");
        Ok(access)
    }

    /// The line of a flow that has made an [`exchange`] of so many bytes.
    fn finished(&self, client: &Conn, up: u64, down: u64) -> Result<()> {
        let access = self.access(client.local()?)?;
        let hello = Relay::Packet.hello();
        ensure!(access.close() == "finished", "{access:?}");
        ensure!(access.bytes() == (up + hello, down + hello), "{access:?}");
        Ok(())
    }
}

/// A MiB one way.
fn carry(from: &Conn, to: &Conn, pattern: Pattern) -> Result<()> {
    thread::scope(|scope| {
        let sending = scope.spawn(|| from.send_pattern(pattern, 0, MIB));
        to.expect_pattern(pattern, 0, MIB)?;
        join(sending, "the end that sends")
    })
}

/// Every place, both families: bytes, ends, counts.
#[test]
fn bytes_and_ends_arrive_wherever_the_upstream_is() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    for family in Family::ALL {
        for place in Place::ALL {
            let around = || format!("{family:?}, {place:?}");
            let setting = Setting::new(&three, family, place, "").with_context(around)?;
            let (client, server) = setting.flow().with_context(around)?;
            exchange((&client, UP, LENGTH), (&server, DOWN, LENGTH)).with_context(around)?;
            setting.finished(&client, LENGTH, LENGTH).with_context(around)?;
            // One way alone, half-closed from the beginning.
            let (client, server) = setting.flow().with_context(around)?;
            client.finish()?;
            server.expect_end()?;
            carry(&server, &client, DOWN).with_context(around)?;
            drop(server);
            client.expect_end()?;
            setting.finished(&client, 0, MIB).with_context(around)?;
            setting.daemon.stop()?;
        }
    }
    Ok(())
}

#[test]
fn resets_arrive_wherever_the_upstream_is() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    for place in Place::ALL {
        let around = || format!("{place:?}");
        let setting = Setting::new(&three, Family::V4, place, "")?;
        let (client, server) = setting.flow().with_context(around)?;
        let local = client.local()?;
        client.reset()?;
        server.expect_reset().with_context(around)?;
        ensure!(setting.access(local)?.close() == "client-reset", "{place:?}");
        let (client, server) = setting.flow().with_context(around)?;
        server.reset()?;
        client.expect_reset().with_context(around)?;
        ensure!(setting.access(client.local()?)?.close() == "upstream-reset", "{place:?}");
        setting.daemon.stop()?;
    }
    Ok(())
}

/// What mux ends itself: both peers are reset, from wherever they are.
#[test]
fn a_killed_and_an_idle_flow_are_reset_at_both_ends() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    for place in Place::ALL {
        let socket = AdminSocket::new()?;
        let rest = format!("[timeouts]\nidle = \"2s\"\n{}", socket.rules());
        let setting = Setting::new(&three, Family::V4, place, &rest)?;
        let (client, server) = setting.flow()?;
        carry(&client, &server, UP)?;
        let flows = socket.json("/flows")?;
        let flow = &flows["flows"][0];
        ensure!(flow["relay"] == "packet" && flow["relay_note"] == "", "{flows}");
        ensure!(flow["bytes_up"] == MIB + Relay::Packet.hello(), "{flows}");
        let id = flow["id"].as_str().context("an id")?;
        socket.mux_ok(&["kill", id])?;
        client.expect_reset().with_context(|| format!("{place:?}"))?;
        server.expect_reset().with_context(|| format!("{place:?}"))?;
        ensure!(setting.access(client.local()?)?.close() == "killed", "{place:?}");

        let (client, server) = setting.flow()?;
        client.expect_reset().with_context(|| format!("{place:?}"))?;
        server.expect_reset().with_context(|| format!("{place:?}"))?;
        ensure!(setting.access(client.local()?)?.close() == "idle-timeout", "{place:?}");
        setting.daemon.stop()?;
    }
    Ok(())
}

/// Lost, repeated and overtaken packets on both wires.
#[test]
fn loss_each_way_changes_no_byte() -> Result<()> {
    need!(Need::Root);
    const LOSSY: &str = "table inet lossy {\n chain in {\n  type filter hook input priority 0\n  \
                         meta l4proto tcp numgen random mod 100 < 2 drop\n }\n}\n";
    for place in [Place::Elsewhere, Place::Loopback] {
        let three = Three::new()?;
        let setting = Setting::new(&three, Family::V4, place, "")?;
        let flows = (0..8).map(|_| setting.flow()).collect::<Result<Vec<_>>>()?;
        three.client.nft(LOSSY)?;
        three.server.nft(LOSSY)?;
        thread::scope(|scope| {
            let all: Vec<_> = flows
                .iter()
                .map(|(client, server)| {
                    scope.spawn(|| exchange((client, UP, MIB), (server, DOWN, MIB)))
                })
                .collect();
            all.into_iter().try_for_each(|flow| join(flow, "a flow"))
        })?;
        for (client, _) in &flows {
            setting.finished(client, MIB, MIB)?;
        }
        setting.daemon.stop()?;
    }
    Ok(())
}

/// What each of the two has agreed on with mux must be what they would have agreed on.
#[test]
fn two_that_differ_are_not_for_it_and_the_line_says_why() -> Result<()> {
    need!(Need::Root);
    for (sysctl, why) in [("net/ipv4/tcp_timestamps", "timestamps"), ("net/ipv4/tcp_sack", "SACK")]
    {
        let three = Three::new()?;
        three.server.sysctl(sysctl, "0")?;
        let setting = Setting::new(&three, Family::V4, Place::Elsewhere, "")?;
        let (client, server) = setting.flow()?;
        exchange((&client, UP, MIB), (&server, DOWN, MIB))?;
        let access = setting.daemon.access_of(client.local()?)?;
        ensure!(access.relay() != "packet" && access.note().contains(why), "{access:?}");
        setting.daemon.stop()?;
        // Both without: alike again.
        three.client.sysctl(sysctl, "0")?;
        let setting = Setting::new(&three, Family::V4, Place::Elsewhere, "")?;
        let (client, server) = setting.flow()?;
        exchange((&client, UP, MIB), (&server, DOWN, MIB))?;
        setting.finished(&client, MIB, MIB)?;
        setting.daemon.stop()?;
    }
    Ok(())
}

/// Window scales may differ: they are translated.
#[test]
fn window_scales_and_small_windows_are_translated() -> Result<()> {
    need!(Need::Root);
    for (namespace, sysctl, value) in [
        ("client", "net/ipv4/tcp_window_scaling", "0"),
        ("server", "net/ipv4/tcp_window_scaling", "0"),
        ("server", "net/ipv4/tcp_rmem", "4096 8192 16384"),
        ("client", "net/ipv4/tcp_rmem", "4096 8192 16384"),
    ] {
        let around = || format!("{namespace}: {sysctl} = {value}");
        let three = Three::new()?;
        let place = if namespace == "client" { &three.client } else { &three.server };
        place.sysctl(sysctl, value)?;
        let setting = Setting::new(&three, Family::V4, Place::Elsewhere, "")?;
        let (client, server) = setting.flow().with_context(around)?;
        exchange((&client, UP, MIB), (&server, DOWN, MIB)).with_context(around)?;
        setting.finished(&client, MIB, MIB).with_context(around)?;
        setting.daemon.stop()?;
    }
    Ok(())
}

/// A reader that stops: the window closes end to end, and its probes keep the flow alive.
#[test]
fn a_closed_window_opens_again() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    let setting = Setting::new(&three, Family::V4, Place::Elsewhere, "")?;
    let (client, server) = setting.flow()?;
    let sent = server.send_until_stuck(Duration::from_millis(300))?;
    ensure!(sent > 0 && sent < 256 * MIB, "{sent} bytes for nobody");
    let mut left = sent;
    while left > 0 {
        let some = left.min(65_536);
        client.bytes(usize::try_from(some)?)?;
        left -= some;
    }
    drop(server);
    client.expect_end()?;
    client.finish()?;
    setting.finished(&client, 0, sent)?;
    setting.daemon.stop()?;
    Ok(())
}

/// The upstream sends no longer segments than the client's path takes, and a client that may send
/// longer ones than the upstream's path takes is not for it.
#[test]
fn paths_of_different_lengths() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    for namespace in [&three.client, &three.mux] {
        namespace.ip("link set down0 mtu 1300")?;
    }
    let setting = Setting::new(&three, Family::V4, Place::Elsewhere, "")?;
    let (client, server) = setting.flow()?;
    exchange((&client, UP, LENGTH), (&server, DOWN, LENGTH))?;
    setting.finished(&client, LENGTH, LENGTH)?;
    setting.daemon.stop()?;
    for namespace in [&three.client, &three.mux] {
        namespace.ip("link set down0 mtu 4000")?;
    }
    let setting = Setting::new(&three, Family::V4, Place::Elsewhere, "")?;
    let (client, server) = setting.flow()?;
    exchange((&client, UP, MIB), (&server, DOWN, MIB))?;
    let access = setting.daemon.access_of(client.local()?)?;
    ensure!(access.relay() != "packet" && access.note().contains("longer packets"), "{access:?}");
    setting.daemon.stop()?;
    Ok(())
}

/// The same client port again and again, at once after each end.
#[test]
fn a_port_that_is_used_again_at_once() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    let setting = Setting::new(&three, Family::V4, Place::Elsewhere, "")?;
    let source = Family::V4.client();
    let mut port = None;
    for round in 0..20_u64 {
        let around = || format!("round {round}, port {port:?}");
        let from = SocketAddr::new(source, port.unwrap_or(0));
        let client = three
            .client
            .within(|| Conn::tcp_between(from, setting.daemon.address()))?
            .with_context(around)?;
        let (client, server) = setting.greet(client).with_context(around)?;
        port = Some(client.local()?.port());
        // The server ends first, so that the client's port is not in TIME_WAIT.
        server.finish()?;
        client.expect_end()?;
        client.finish()?;
        server.expect_end()?;
        drop((client, server));
    }
    setting.daemon.stop()?;
    Ok(())
}

#[test]
fn strict_connection_tracking_is_found_and_liberal_is_no_hindrance() -> Result<()> {
    need!(Need::Root);
    const TRACK: &str = "table inet track {\n chain in {\n  type filter hook input priority 0\n  \
                         ct state invalid drop\n }\n}\n";
    let three = Three::new()?;
    three.mux.nft(TRACK)?;
    let auto = "[kernel]\npacket = \"auto\"\n";
    // Something is tracked once something was said.
    let setting = Setting::new(&three, Family::V4, Place::Loopback, auto)?;
    let (client, server) = setting.flow()?;
    drop((client, server));
    setting.daemon.stop()?;
    let setting = Setting::new(&three, Family::V4, Place::Loopback, auto)?;
    setting.daemon.wait_log("nf_conntrack_tcp_be_liberal=1")?;
    setting.daemon.stop()?;
    three.mux.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1")?;
    let setting = Setting::new(&three, Family::V4, Place::Loopback, auto)?;
    let (client, server) = setting.flow()?;
    exchange((&client, UP, LENGTH), (&server, DOWN, LENGTH))?;
    setting.finished(&client, LENGTH, LENGTH)?;
    setting.daemon.stop()?;
    Ok(())
}

/// Many flows at once, all talking: each comes to be translated, none hangs, every byte is right.
#[test]
fn two_hundred_flows_under_load() -> Result<()> {
    need!(Need::Root);
    const FLOWS: usize = 200;
    let three = Three::new()?;
    let setting = Setting::new(&three, Family::V4, Place::Elsewhere, "")?;
    let flows = (0..FLOWS)
        .map(|_| {
            let client = three.client.within(|| Conn::tcp(setting.daemon.address()))??;
            Ok((client, setting.upstream.accept()?))
        })
        .collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let threads: Vec<_> = flows
            .chunks(FLOWS / 8)
            .map(|flows| {
                scope.spawn(move || -> Result<()> {
                    for round in 0..50_u64 {
                        for (client, server) in flows {
                            client.send_pattern(UP, round * 100, 100)?;
                            server.expect_pattern(UP, round * 100, 100)?;
                            server.send_pattern(DOWN, round * 1000, 1000)?;
                            client.expect_pattern(DOWN, round * 1000, 1000)?;
                        }
                    }
                    for (client, server) in flows {
                        client.finish()?;
                        server.expect_end()?;
                        server.finish()?;
                        client.expect_end()?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|handle| join(handle, "some flows"))
    })?;
    for (client, _) in &flows {
        let access = setting.access(client.local()?)?;
        ensure!(access.close() == "finished" && access.bytes() == (5000, 50_000), "{access:?}");
    }
    setting.daemon.stop()?;
    Ok(())
}
