//! Flows that leave the kernel relay alive, by order or by new rules, and come back (L6 in
//! `relay/LIFECYCLE.md`).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Conn, Daemon, Need, Pattern, Relay, Upstream, admin::AdminSocket, eventually_true, join, need,
};

const UP: Pattern = Pattern::new(51);
const DOWN: Pattern = Pattern::new(52);
/// Bytes each way between two moments at which nothing is on its way.
const BURST: u64 = 1 << 20;
const BURSTS: u64 = 32;

/// What both directions have delivered.
type Delivered = [AtomicU64; 2];

/// Sends [`BURSTS`] bursts and the end, each when both directions have delivered the one before.
fn send(conn: &Conn, pattern: Pattern, delivered: &Delivered) -> Result<()> {
    for burst in 0..BURSTS {
        let at = burst * BURST;
        eventually_true("the burst before is delivered both ways", || {
            delivered.iter().all(|count| count.load(Ordering::Acquire) >= at)
        })?;
        conn.send_pattern(pattern, at, BURST)?;
    }
    conn.finish()
}

fn receive(conn: &Conn, pattern: Pattern, delivered: &AtomicU64) -> Result<()> {
    for burst in 0..BURSTS {
        conn.expect_pattern(pattern, burst * BURST, BURST)?;
        delivered.store((burst + 1) * BURST, Ordering::Release);
    }
    conn.expect_end()
}

/// Has bytes stream both ways, and `flip` be called all the while; returns how often it was.
fn stream(client: &Conn, server: &Conn, mut flip: impl FnMut() -> Result<()>) -> Result<usize> {
    let delivered = Delivered::default();
    thread::scope(|scope| {
        let [up, down] = &delivered;
        let ends = [
            (scope.spawn(|| send(client, UP, &delivered)), "the client sending"),
            (scope.spawn(|| receive(server, UP, up)), "the server receiving"),
            (scope.spawn(|| send(server, DOWN, &delivered)), "the server sending"),
            (scope.spawn(|| receive(client, DOWN, down)), "the client receiving"),
        ];
        let mut flips = 0;
        let mut flipped = Ok(());
        while flipped.is_ok() && !ends.iter().all(|(end, _)| end.is_finished()) {
            flipped = flip();
            flips += 1;
        }
        for (end, who) in ends {
            join(end, who)?;
        }
        flipped.map(|()| flips)
    })
}

/// The flow's line of the access log: exact, and it has left the kernel as often as it is counted.
fn ended(daemon: &Daemon, client: &Conn) -> Result<()> {
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "finished", "{access:?}");
    ensure!(access.bytes() == (BURSTS * BURST + 5, BURSTS * BURST + 5), "{access:?}");
    let [promotions, demotions, carried] =
        ["promotions", "demotions", "carried"].map(|name| access.number(name));
    println!("{promotions} promotions, {demotions} demotions, {carried} bytes carried meanwhile");
    ensure!(demotions > 0 && promotions >= demotions, "{access:?}");
    Ok(())
}

#[test]
fn the_relay_is_switched_while_bytes_stream_both_ways() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let socket = AdminSocket::new()?;
    let rules = format!("{}{}", Relay::Sockmap.rule(&upstream.name()), socket.rules());
    let daemon = Daemon::start(&rules, &[])?;
    let (client, server) = daemon.flow(&upstream)?;
    let mut off = false;
    let flips = stream(&client, &server, || {
        off = !off;
        let word = if off { "off" } else { "auto" };
        ensure!(socket.post("/relay", word)?.status == 200, "{word}");
        Ok(())
    })?;
    ensure!(flips >= 4, "switched {flips} times only");
    ended(&daemon, &client)?;
    let demoted = socket.metric("mux_demotions_total")?;
    ensure!(demoted > Some(0.0), "{demoted:?}");
    daemon.stop()?;
    Ok(())
}

/// The kill switch in the rules: off, and on again, by reloads.
#[test]
fn sockmap_off_in_the_rules_takes_live_flows_out_at_a_reload() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let socket = AdminSocket::new()?;
    let rule = format!("{}{}", Relay::Sockmap.rule(&upstream.name()), socket.rules());
    let with = |mode: &str| format!("{rule}[kernel]\nsockmap = \"{mode}\"\n");
    let on = std::env::var("MUX_TEST_SOCKMAP").unwrap_or_else(|_| "auto".into());
    let daemon = Daemon::start(&with(&on), &[])?;
    let switch = || -> Result<_> { Ok(socket.json("/status")?["relay"]["switch"].clone()) };
    ensure!(switch()? == "auto", "{:?}", switch());

    let (client, server) = daemon.flow(&upstream)?;
    let mut off = false;
    stream(&client, &server, || {
        off = !off;
        daemon.reload_ok(&with(if off { "off" } else { &on })).map(drop)
    })?;
    ended(&daemon, &client)?;

    daemon.reload_ok(&with("off"))?;
    ensure!(switch()? == "off-by-rules", "{:?}", switch());
    ensure!(socket.metric("mux_kernel_relay")? == Some(0.0), "flows cannot go to the kernel");
    let said = socket.mux_ok(&["relay", "auto"])?;
    ensure!(said.contains("sockmap = \"off\""), "{said}");
    let (client, server) = daemon.flow(&upstream)?;
    let flows = socket.json("/flows")?;
    let note = &flows["flows"][0]["relay_note"];
    ensure!(note == "[kernel] sockmap = \"off\" since a reload", "{flows}");
    daemon.reload_ok(&with(&on))?;
    ensure!(switch()? == "auto", "{:?}", switch());
    eventually_true("the flow goes to the kernel after all", || {
        client.send("x").and_then(|()| server.expect("x")).is_ok()
            && socket.json("/flows").is_ok_and(|page| page["flows"][0]["relay"] == "sockmap")
    })?;
    ensure!(daemon.log_count("stays as it was until mux is restarted") == 0, "it follows");
    client.finish()?;
    server.expect_end()?;
    server.finish()?;
    client.expect_end()?;
    daemon.stop()?;
    Ok(())
}

/// A stream may end in the microseconds in which its flow is under no verdict. Whatever happens then,
/// it is not the client's error, and a stream that is cut short is reset.
#[test]
fn streams_that_end_while_their_flow_leaves_are_no_errors_of_the_client() -> Result<()> {
    need!(Need::Root);
    const FLOWS: u64 = 400;
    let upstream = Upstream::tcp()?;
    let socket = AdminSocket::new()?;
    let rules = format!("{}{}", Relay::Sockmap.rule(&upstream.name()), socket.rules());
    let daemon = Daemon::start(&rules, &[])?;
    let done = AtomicU64::new(0);
    thread::scope(|scope| -> Result<()> {
        let flips = scope.spawn(|| -> Result<u64> {
            let mut flips = 0;
            while done.load(Ordering::Acquire) == 0 {
                for word in ["off", "auto"] {
                    ensure!(socket.post("/relay", word)?.status == 200, "{word}");
                    flips += 1;
                }
            }
            Ok(flips)
        });
        let outcome = (0..FLOWS).try_for_each(|round| {
            one_that_ends(&daemon, &upstream, round).with_context(|| format!("flow {round}"))
        });
        done.store(1, Ordering::Release);
        println!("{} flips", join(flips, "the switch")?);
        outcome
    })?;
    daemon.stop()?;
    Ok(())
}

fn one_that_ends(daemon: &Daemon, upstream: &Upstream, round: u64) -> Result<()> {
    let (client, server) = daemon.flow(upstream)?;
    let length = 1 + (round * 7919) % 200_000;
    let end = |conn: &Conn, ours, theirs| -> Result<bool> {
        // A reset that comes while it sends is told here.
        let sent = conn.send_pattern(ours, 0, length).and_then(|()| conn.finish());
        let (received, failure) = conn.receive_pattern(theirs, 0)?;
        ensure!(failure.is_some() || received == length, "an end after {received} of {length}");
        Ok(sent.is_ok() && failure.is_none())
    };
    let finished = thread::scope(|scope| -> Result<bool> {
        let other = scope.spawn(|| end(&server, DOWN, UP));
        let ours = end(&client, UP, DOWN)?;
        Ok(join(other, "the server")? && ours)
    })?;
    let access = daemon.access_of(client.local()?)?;
    let expected = if finished { "finished" } else { "relay-torn" };
    ensure!(access.close() == expected, "{access:?}");
    Ok(())
}
