//! From which address upstreams are connected to: mux's choice, or the client's own, between
//! network namespaces; and the kernel's timers.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Conn, Daemon, Family, Need, Pattern, Relay, Scratch, Starter, Three, Upstream, exchange, mux,
    need, on_each_relay, on_each_relay_but_packet, proxy::line, run, run_ok,
};

on_each_relay!(an_upstream_sees_the_clients_address);

const UP: Pattern = Pattern::new(51);
const DOWN: Pattern = Pattern::new(52);
const LENGTH: u64 = 4 << 20;

/// A rule with this relay to a group with this `source`.
fn group(relay: Relay, endpoint: &str, settings: &str) -> String {
    format!(
        "{}[[upstream]]\nname = \"web\"\nendpoints = [\"{endpoint}\"]\n{settings}\n",
        relay.rule("web")
    )
}

fn listen(family: Family) -> String {
    format!("listen = \"{}\"\n", SocketAddr::new(family.mux(), 0))
}

/// A server in its namespace, a daemon in its, and a client's connection from its to the daemon.
struct Setting {
    client: Conn,
    upstream: Upstream,
    daemon: Daemon,
}

fn setting(
    three: &Three,
    family: Family,
    rules: impl Fn(&str) -> String + Sync,
) -> Result<Setting> {
    let at = SocketAddr::new(family.server(), 0);
    let upstream = three.server.within(|| Upstream::at(at, 64))??;
    let rules = format!("{}{}", listen(family), rules(&upstream.name()));
    let daemon = three.mux.within(|| Daemon::start(&rules, &[]))??;
    let client = three.client.within(|| Conn::tcp(daemon.address()))??;
    Ok(Setting { client, upstream, daemon })
}

fn an_upstream_sees_the_clients_address(relay: Relay) -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    three.route_replies()?;
    for family in Family::ALL {
        let Setting { client, upstream, daemon } =
            setting(&three, family, |endpoint| group(relay, endpoint, "source = \"transparent\""))?;
        let server = upstream.accept()?;
        ensure!(server.peer()?.ip() == family.client(), "{:?}", server.peer());
        relay.greet(&client, &server)?;
        exchange((&client, UP, LENGTH), (&server, DOWN, LENGTH))?;
        let access = daemon.access_of(client.local()?)?;
        // Packets of the client's address are not the packet relay's.
        let is_right = access.relay() == relay.name() || relay == Relay::Packet;
        ensure!(is_right && access.close() == "finished", "{access:?}");
        let bytes = LENGTH + relay.hello();
        ensure!(access.bytes() == (bytes, bytes), "{access:?}");
        daemon.stop()?;
    }
    Ok(())
}

/// The address of a client that a proxy vouches for, and that no wire leads to.
#[test]
fn an_upstream_sees_the_claimed_clients_address() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    three.route_replies()?;
    let at = SocketAddr::new(Family::V4.server(), 0);
    let upstream = three.server.within(|| Upstream::at(at, 64))??;
    let rules = format!(
        "[[listener]]\naddress = \"{}\"\naccept_proxy_protocol = [\"{}\"]\n{}",
        SocketAddr::new(Family::V4.mux(), 0),
        Family::V4.client(),
        group(Relay::Copy, &upstream.name(), "source = \"transparent\"")
    );
    let daemon = three.mux.within(|| Daemon::user_space(&rules))??;
    let client = three.client.within(|| Conn::tcp(daemon.address()))??;
    client.send(line("203.0.113.9:7".parse()?, "203.0.113.1:443".parse()?))?;
    let server = upstream.accept()?;
    ensure!(server.peer()?.ip().to_string() == "203.0.113.9", "{:?}", server.peer());
    exchange((&client, UP, LENGTH), (&server, DOWN, LENGTH))?;
    daemon.stop()?;
    Ok(())
}

/// On one machine, without a wire: the other recipe of docs/guide.md.
#[test]
fn an_upstream_on_the_same_machine_sees_the_clients_address() -> Result<()> {
    need!(Need::Root);
    let three = Three::new()?;
    three.mux.ip("-4 rule add from 127.0.0.0/8 iif lo lookup 100")?;
    three.mux.ip("-4 route add local default dev lo table 100")?;
    three.mux.ip("-6 rule add from ::1 iif lo lookup 100")?;
    three.mux.ip("-6 route add local default dev lo table 100")?;
    for (family, at) in [(Family::V4, "127.0.0.1:0"), (Family::V6, "[::1]:0")] {
        let at: SocketAddr = at.parse()?;
        let upstream = three.mux.within(|| Upstream::at(at, 64))??;
        let rules = format!(
            "{}{}",
            listen(family),
            group(Relay::Copy, &upstream.name(), "source = \"transparent\"")
        );
        let daemon = three.mux.within(|| Daemon::user_space(&rules))??;
        let client = three.client.within(|| Conn::tcp(daemon.address()))??;
        let server = upstream.accept()?;
        ensure!(server.peer()?.ip() == family.client(), "{:?}", server.peer());
        exchange((&client, UP, LENGTH), (&server, DOWN, LENGTH))?;
        daemon.stop()?;
    }
    Ok(())
}

/// mux's own address could be one that the upstream trusts.
#[test]
fn a_client_of_another_family_is_refused() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp6()?;
    let settings = "source = \"transparent\"";
    let daemon = Daemon::user_space(&group(Relay::Copy, &upstream.name(), settings))?;
    let client = daemon.connect()?;
    client.expect_reset()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "unreachable", "{access:?}");
    ensure!(access.error().contains("`source` has no IPv6 address"), "{access:?}");
    ensure!(!upstream.has_connection()?);
    let log = daemon.stop()?.log;
    let counted = log.iter().any(|line| line.contains(" source_mismatch="));
    ensure!(counted, "{log:#?}");
    Ok(())
}

#[test]
fn an_address_of_ones_own_is_used() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = group(Relay::Copy, &upstream.name(), "source = [\"::1\", \"127.0.0.77\"]");
    let daemon = Daemon::user_space(&rules)?;
    let mut ports = Vec::new();
    for _ in 0..3 {
        let client = daemon.connect()?;
        let server = upstream.accept()?;
        ensure!(server.peer()?.ip().to_string() == "127.0.0.77", "{:?}", server.peer());
        ports.push(server.peer()?.port());
        exchange((&client, UP, LENGTH), (&server, DOWN, LENGTH))?;
    }
    ensure!(!ports.contains(&0));
    daemon.stop()?;
    Ok(())
}

#[test]
fn an_address_that_is_not_ones_own_is_an_error_of_the_attempt() -> Result<()> {
    let rules = group(Relay::Copy, "127.0.0.1:9", "source = \"192.0.2.1\"");
    let daemon = Daemon::user_space(&rules)?;
    let client = daemon.connect()?;
    client.expect_reset()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.error().contains("cannot connect from 192.0.2.1"), "{access:?}");
    daemon.stop()?;
    Ok(())
}

const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

/// One capability is kept, and it is the lesser one where both are there.
#[test]
fn the_one_capability_that_is_needed_is_kept() -> Result<()> {
    need!(Need::Root);
    let rules = group(Relay::Copy, "127.0.0.1:9", "source = \"transparent\"");
    for (starter, expected, name) in [
        (Starter::new(&rules), NET_RAW, "CAP_NET_RAW"),
        (Starter::new(&rules).nobody(&["net_raw", "net_admin"]), NET_RAW, "CAP_NET_RAW"),
        (Starter::new(&rules).nobody(&["net_admin"]), NET_ADMIN, "CAP_NET_ADMIN"),
    ] {
        let daemon = starter.user_space().start()?;
        for set in ["CapPrm", "CapEff"] {
            let value = u64::from_str_radix(&daemon.proc().status(set)?, 16)?;
            ensure!(value == expected, "{set}: {value:x}");
        }
        for set in ["CapInh", "CapAmb"] {
            ensure!(u64::from_str_radix(&daemon.proc().status(set)?, 16)? == 0, "{set}");
        }
        let line = daemon.wait_log("privileges dropped")?;
        ensure!(line.contains(&format!("capabilities=\"{name}\"")), "{line}");
        daemon.stop()?;
    }
    let output = Starter::new(&rules).nobody(&[]).user_space().fail()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(77), "{}: {text}", output.status);
    for part in ["[[upstream]] web", "transparent", "CAP_NET_RAW", "hint:"] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

/// `mux doctor` says which routes are missing, with the interface that leads to the server, and finds
/// them when they are there, of both families; a mark that nobody sets is none.
#[test]
fn the_doctor_knows_the_routes() -> Result<()> {
    need!(Need::Root);
    for family in Family::ALL {
        the_doctor_knows_the_routes_of(family).with_context(|| format!("{family:?}"))?;
    }
    Ok(())
}

fn the_doctor_knows_the_routes_of(family: Family) -> Result<()> {
    let three = Three::new()?;
    let scratch = Scratch::new()?;
    let endpoint = SocketAddr::new(family.server(), 80);
    let text = format!(
        "listen = \"127.0.0.1:0\"\n[kernel]\nsockmap = \"off\"\n{}",
        group(Relay::Copy, &endpoint.to_string(), "source = \"transparent\"")
    );
    let rules = scratch.write("rules.toml", text)?;
    let (name, other, option) = match family {
        Family::V4 => ("reply route, IPv4", "reply route, IPv6", "-4"),
        Family::V6 => ("reply route, IPv6", "reply route, IPv4", "-6"),
    };
    let doctor = || {
        three.mux.within(|| {
            let mut command = Command::new(mux()?);
            let output = run(command.args(["doctor", "--json", "--rules"]).arg(&rules))?;
            let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            let checks = report["checks"].as_array().context("no checks")?.clone();
            let of = |name: &str| checks.iter().find(|check| check["name"] == name).cloned();
            ensure!(of("transparent source").is_some_and(|check| check["status"] == "ok"));
            ensure!(of(other).is_none(), "no endpoint needs it: {report}");
            of(name).with_context(|| report.to_string())
        })?
    };
    let before = doctor()?;
    ensure!(before["status"] == "problem", "{before}");
    let remedy = before["remedy"].as_str().unwrap_or_default();
    for command in ["rule add iif up0 lookup 100", "route add local default dev lo table 100"] {
        ensure!(remedy.contains(&format!("ip {option} {command}")), "{before}");
    }
    // Another interface's rule takes nothing of the server's.
    three.mux.ip(&format!("{option} rule add iif down0 lookup 100"))?;
    three.mux.ip(&format!("{option} route add local default dev lo table 100"))?;
    let elsewhere = doctor()?;
    ensure!(elsewhere["status"] == "problem", "{elsewhere}");
    three.mux.ip(&format!("{option} rule add fwmark 1 lookup 100"))?;
    let unmarked = doctor()?;
    ensure!(unmarked["status"] == "warning", "{unmarked}");
    three.mux.ip(&format!("{option} rule del fwmark 1 lookup 100"))?;
    three.mux.ip(&format!("{option} route del local default dev lo table 100"))?;
    three.route_replies()?;
    let after = doctor()?;
    ensure!(after["status"] == "ok" && after["found"] == "fwmark 0x1 lookup 100", "{after}");
    Ok(())
}

/// The timers of the sockets at a port, as ss(8) prints them, both ends of each connection.
fn timers(port: u16) -> Result<Vec<String>> {
    let filter = format!("sport = :{port} or dport = :{port}");
    let text = run_ok(Command::new("ss").args(["-tnoH", "state", "established", &filter]))?;
    Ok(text.lines().map(ToOwned::to_owned).collect())
}

#[test]
fn keepalive_is_on_where_it_is_asked_for() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let endpoint = upstream.name();
    let end = "[timeouts]\nkeepalive = \"1h\"\n";
    for (settings, upstreams) in [("", 1), ("keepalive = \"0s\"", 0)] {
        let rules = format!("{}{end}", group(Relay::Copy, &endpoint, settings));
        let daemon = Daemon::user_space(&rules)?;
        let (_client, _server) = daemon.flow(&upstream)?;
        let on = |port: u16| -> Result<usize> {
            Ok(timers(port)?.iter().filter(|line| line.contains("timer:(keepalive")).count())
        };
        // Of the two ends of each connection, mux's.
        ensure!(on(daemon.port())? == 1, "{:?}", timers(daemon.port()));
        let upstream_port = upstream.address().port();
        ensure!(on(upstream_port)? == upstreams, "{settings}: {:?}", timers(upstream_port));
    }
    Ok(())
}

/// A flow whose packets are translated has the client's own time-out.
mod silence {
    use super::*;

    on_each_relay_but_packet!(a_dead_upstream_is_given_up_after_user_timeout);

    /// Without the setting the kernel would try for a quarter of an hour (tcp_retries2).
    fn a_dead_upstream_is_given_up_after_user_timeout(relay: Relay) -> Result<()> {
        need!(Need::Root);
        let three = Three::new()?;
        let Setting { client, upstream, daemon } = setting(&three, Family::V4, |endpoint| {
            group(relay, endpoint, "user_timeout = \"500ms\"")
        })?;
        let server = upstream.accept()?;
        relay.greet(&client, &server)?;
        three.silence_server()?;
        client.send("is anybody there?")?;
        client.expect_reset()?;
        let access = daemon.access_of(client.local()?)?;
        let is_right = access.relay() == relay.name() && access.close() == "upstream-error";
        ensure!(is_right, "{access:?}");
        ensure!(access.error().contains("timed out"), "{access:?}");
        daemon.stop()?;
        Ok(())
    }
}
