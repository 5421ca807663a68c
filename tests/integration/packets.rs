//! The packet relay over wires of the tests' own: client, mux and server in network namespaces.

use std::{
    io,
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Access, Conn, Daemon, Family, Need, Pattern, Relay, Starter, Three, Upstream,
    admin::AdminSocket,
    deadline, eventually_true, exchange, join, need,
    netns::{self, Netns},
};
use rustix::process::Signal;

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
        Self::with(three, family, upstream, rest, |starter| starter)
    }

    /// With this upstream, and a daemon that is started so.
    fn with(
        three: &'a Three,
        family: Family,
        upstream: Upstream,
        rest: &str,
        started: impl FnOnce(Starter) -> Starter + Send,
    ) -> Result<Self> {
        let rules = format!(
            "listen = \"{}\"\n{}{rest}",
            SocketAddr::new(family.mux(), 0),
            Relay::Packet.rule(&upstream.name())
        );
        let daemon = three.mux.within(|| started(Starter::new(&rules)).start())??;
        Ok(Self { three, upstream, daemon })
    }

    /// A flow whose packets are translated.
    fn flow(&self) -> Result<(Conn, Conn)> {
        let client = self.three.client.within(|| Conn::tcp(self.daemon.address()))??;
        self.greet(client)
    }

    fn greet(&self, client: Conn) -> Result<(Conn, Conn)> {
        let server = self.upstream.accept()?;
        Relay::Packet.greet(&client, &server)?;
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

/// A flow of which a packet has become too long is reset at both ends, and the line says why.
fn ends_where_the_path_is_shorter(
    setting: &Setting<'_>,
    shorten: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (client, server) = setting.flow()?;
    exchange_some(&client, &server)?;
    shorten()?;
    let end = Instant::now() + deadline();
    let mut at = 0;
    loop {
        ensure!(Instant::now() < end, "it goes on");
        let (sent, received) = thread::scope(|scope| {
            let sending = scope.spawn(|| client.send_pattern(UP, at, MIB));
            let received = server.expect_pattern(UP, at, MIB);
            (join(sending, "the client"), received)
        });
        if sent.is_ok() && received.is_ok() {
            at += MIB;
            continue;
        }
        for (end, result) in [(&client, sent), (&server, received)] {
            match result {
                // What it has sent waits to be acknowledged, or to be sent.
                Ok(()) => {
                    end.expect_reset()?;
                }
                Err(error) => {
                    let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
                    ensure!(kind == Some(io::ErrorKind::ConnectionReset), "{error:#}");
                }
            }
        }
        break;
    }
    let access = setting.access(client.local()?)?;
    ensure!(access.close() == "upstream-error", "{access:?}");
    Ok(())
}

/// Full packets each way.
fn exchange_some(client: &Conn, server: &Conn) -> Result<()> {
    carry(client, server, UP)?;
    carry(server, client, DOWN)
}

/// Of an interface, or of a route, on mux's machine: our sockets, which send nothing, do not notice.
#[test]
fn a_path_that_becomes_shorter_here_ends_a_flow_that_needs_more() -> Result<()> {
    need!(Need::Root);
    for family in Family::ALL {
        let three = Three::new()?;
        let setting = Setting::new(&three, family, Place::Elsewhere, "")?;
        ends_where_the_path_is_shorter(&setting, || three.mux.ip("link set up0 mtu 1300"))
            .with_context(|| format!("{family:?}, interface"))?;
        // One that begins with it goes on.
        let (client, server) = setting.flow()?;
        exchange_some(&client, &server)?;
        drop(server);
        client.expect_end()?;
        drop(client);
        setting.daemon.stop()?;

        let three = Three::new()?;
        let setting = Setting::new(&three, family, Place::Elsewhere, "")?;
        let route = if family == Family::V4 { "10.42.0.0/24" } else { "fd00:42::/64" };
        ends_where_the_path_is_shorter(&setting, || {
            three.mux.ip(&format!("route add {} dev up0 mtu 1290", longer(route)))
        })
        .with_context(|| format!("{family:?}, route"))?;
        setting.daemon.stop()?;
    }
    Ok(())
}

/// A part of a network, which goes before it: the server's half.
fn longer(network: &str) -> String {
    network.replace("/24", "/25").replace("/64", "/65")
}

/// Behind mux's next router, which says so to mux: it is the program that listens.
#[test]
fn a_path_that_becomes_shorter_far_away_ends_a_flow_that_needs_more() -> Result<()> {
    need!(Need::Root);
    let far_of = |family| -> std::net::IpAddr {
        match family {
            Family::V4 => [10, 43, 0, 2].into(),
            Family::V6 => [0xfd00, 0x43, 0, 0, 0, 0, 0, 2].into(),
        }
    };
    for family in Family::ALL {
        let three = Three::new()?;
        let (router, far) = (&three.server, Netns::new("far")?);
        router.ip(&format!("link add far0 type veth peer name far0 netns {}", far.name()))?;
        let (network, length, default) = match family {
            Family::V4 => ("10.43.0", "/24", "10.43.0.1"),
            Family::V6 => ("fd00:43:", "/64 nodad", "fd00:43::1"),
        };
        let separator = if family == Family::V4 { "." } else { ":" };
        for (namespace, host) in [(router, 1), (&far, 2)] {
            for conf in ["all", "far0"] {
                namespace.sysctl(&format!("net/ipv6/conf/{conf}/accept_dad"), "0")?;
            }
            let (prefix, options) = length.split_once(' ').unwrap_or((length, ""));
            namespace.ip(&format!(
                "address add {network}{separator}{host}{prefix} dev far0 {options}"
            ))?;
            namespace.ip("link set far0 up")?;
        }
        router.sysctl("net/ipv4/ip_forward", "1")?;
        router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        far.ip(&format!("route add default via {default}"))?;
        let (prefix, _) = length.split_once(' ').unwrap_or((length, ""));
        three.mux.ip(&format!(
            "route add {network}{separator}{}{prefix} via {}",
            if family == Family::V4 { "0" } else { "" },
            family.server()
        ))?;

        let at = SocketAddr::new(far_of(family), 0);
        let upstream = far.within(|| Upstream::at(at, 16))??;
        let setting = Setting::with(&three, family, upstream, "", |starter| starter)?;
        ends_where_the_path_is_shorter(&setting, || router.ip("link set far0 mtu 1300"))
            .with_context(|| format!("{family:?}"))?;
        setting.daemon.stop()?;
    }
    Ok(())
}

/// A client whose machine is off: nobody resets anything until the flow has been idle for too long.
#[test]
fn a_flow_whose_client_is_gone_is_idle_and_reset_at_the_other_end() -> Result<()> {
    need!(Need::Root);
    for family in Family::ALL {
        for place in [Place::Elsewhere, Place::Loopback] {
            let around = || format!("{family:?}, {place:?}");
            let three = Three::new()?;
            let rest = "[timeouts]\nidle = \"1s\"\n";
            let setting = Setting::new(&three, family, place, rest).with_context(around)?;
            let (client, server) = setting.flow().with_context(around)?;
            three.client.ip("link set down0 down")?;
            server.expect_reset().with_context(around)?;
            ensure!(setting.access(client.local()?)?.close() == "idle-timeout", "{}", around());
            setting.daemon.stop()?;
        }
    }
    Ok(())
}

/// Our socket is bound to the link then, and the kernel's half looks for sockets that are not.
#[test]
fn a_flow_over_link_local_addresses_is_not_for_it_and_the_line_says_why() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    for (namespace, address) in [(&three.mux, "fe80::1:1"), (&three.client, "fe80::1:2")] {
        namespace.ip(&format!("address add {address}/64 dev down0 nodad"))?;
    }
    let upstream =
        three.server.within(|| Upstream::at(Place::Elsewhere.address(Family::V6), 16))??;
    let rules = format!(
        "listen = \"[::]:0\"\n{}[kernel]\npacket = \"force\"\n",
        Relay::Packet.rule(&upstream.name())
    );
    let daemon = three.mux.within(|| Daemon::start(&rules, &[]))??;
    let scope = three.client.device("down0")?;
    let to = std::net::SocketAddrV6::new("fe80::1:1".parse()?, daemon.port(), 0, scope);
    let client = three.client.within(|| Conn::tcp(to.into()))??;
    let server = upstream.accept()?;
    Relay::Packet.greet(&client, &server)?;
    exchange((&client, UP, MIB), (&server, DOWN, MIB))?;
    let access = daemon.wait_access(|_| true)?;
    ensure!(access.relay() != "packet" && access.note().contains("link-local"), "{access:?}");
    daemon.stop()?;
    Ok(())
}

/// What `tc` shows on mux's devices.
fn on_devices(three: &Three) -> Result<String> {
    let mut text = String::new();
    for device in ["lo", "down0", "up0"] {
        for what in [["qdisc", "show"], ["filter", "show"]] {
            for way in [&["ingress"][..], &["egress"]] {
                let way = if what[0] == "filter" { way } else { &[] };
                let mut tc = Command::new("tc");
                tc.args(["-n", three.mux.name()]).args(what).args(["dev", device]).args(way);
                text.push_str(&String::from_utf8_lossy(&netns::run(&mut tc)?.stdout));
            }
        }
    }
    Ok(text)
}

/// Before Linux 6.6 the programs stay on devices when the daemon is gone: the keeper takes them off, of
/// a successor as well, and what an upgrade has left.
#[test]
fn filters_of_a_daemon_that_is_killed_are_taken_off() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    let before = on_devices(&three)?;
    let start = || -> Result<Setting<'_>> {
        let at = Place::Elsewhere.address(Family::V4);
        let upstream = three.server.within(|| Upstream::at(at, 16))??;
        let by_clsact = |starter: Starter| starter.environment("MUX_PACKET_MECHANISM", "clsact");
        let setting = Setting::with(&three, Family::V4, upstream, "", by_clsact)?;
        let during = on_devices(&three)?;
        let filters = during.lines().filter(|line| line.contains("mux_packet"));
        ensure!(filters.count() == 3, "{during}");
        Ok(setting)
    };
    let is_clean = || {
        eventually_true("the devices are as they were", || {
            on_devices(&three).is_ok_and(|now| now == before)
        })
    };

    let setting = start()?;
    let (client, server) = setting.flow()?;
    exchange_some(&client, &server)?;
    let kept = setting.daemon.kill();
    client.expect_reset().context("the client")?;
    server.expect_reset().context("the server")?;
    is_clean().context("killed")?;
    drop(kept);

    let setting = start()?;
    setting.daemon.stop()?;
    is_clean().context("stopped")?;

    let setting = start()?;
    setting.daemon.signal(Signal::USR2)?;
    let successor = setting.daemon.successor(0)?;
    let (client, server) = setting.flow()?;
    exchange_some(&client, &server)?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(successor)?).context("a process")?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    client.expect_reset().context("the successor's client")?;
    is_clean().context("the successor was killed")?;
    Ok(())
}

/// Many flows at once, all talking: each comes to be translated, none hangs, every byte is right.
#[test]
fn two_thousand_flows_under_load() -> Result<()> {
    need!(Need::Root);
    const FLOWS: usize = 2000;
    const ROUNDS: u64 = 10;
    let three = Three::new()?;
    let setting = Setting::new(&three, Family::V4, Place::Elsewhere, "")?;
    // All on one thread that is in the client's namespace: both ends are 4000 descriptors here.
    let open = || -> Result<Vec<_>> {
        let open = |_| Ok((Conn::tcp(setting.daemon.address())?, setting.upstream.accept()?));
        (0..FLOWS).map(open).collect()
    };
    let flows = three.client.within(open)??;
    thread::scope(|scope| {
        let threads: Vec<_> = flows
            .chunks(FLOWS / 8)
            .map(|flows| {
                scope.spawn(move || -> Result<()> {
                    for round in 0..ROUNDS {
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
        ensure!(
            access.close() == "finished" && access.bytes() == (100 * ROUNDS, 1000 * ROUNDS),
            "{access:?}"
        );
    }
    setting.daemon.stop()?;
    Ok(())
}
