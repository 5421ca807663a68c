//! The relays, each by the same tests.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Access, Conn, Daemon, Need, Pattern, Relay, Sends, Upstream, eventually_true, exchange, join,
    large_transfer, need, netns::Netns, on_each_relay,
};

on_each_relay!(
    echo,
    large_transfers_both_ways_at_once,
    client_half_closes_first,
    server_half_closes_first,
    client_half_closes_while_the_server_streams,
    server_half_closes_while_the_client_streams,
    both_half_close_at_once,
    replay_is_followed_by_what_came_meanwhile,
    client_reset_arrives_at_the_server,
    server_reset_arrives_at_the_client,
    client_reset_under_load_is_no_clean_end,
    server_reset_under_load_is_no_clean_end,
    client_reset_that_meets_the_servers_end_is_no_imbalance,
    reader_that_stops_and_resumes,
    one_way_goes_on_while_the_other_stands,
    one_way_goes_on_where_little_may_wait_unsent,
    small_writes_arrive_in_order,
    an_answer_that_comes_with_its_end_is_not_held_back,
);

const UP: Pattern = Pattern::new(1);
const DOWN: Pattern = Pattern::new(2);
const MIB: u64 = 1 << 20;

/// A daemon and a flow through it: nothing of the flow has been sent but greetings,
/// so that it is on its relay before the test begins.
struct Flow {
    daemon: Daemon,
    client: Conn,
    server: Conn,
    relay: Relay,
}

impl Flow {
    fn open(relay: Relay) -> Result<Self> {
        let upstream = Upstream::tcp()?;
        let daemon = Daemon::start(&relay.rule(&upstream.name()), &[])?;
        let (client, server) = daemon.flow(&upstream)?;
        Ok(Self { daemon, client, server, relay })
    }

    /// The access-log line, which must say that the relay was in force.
    fn access(&self) -> Result<Access> {
        let access = self.daemon.access_of(self.client.local()?)?;
        ensure!(access.relay() == self.relay.name(), "another relay: {access:?}");
        Ok(access)
    }

    /// The end of a flow that both sides have ended, having counted so many bytes besides `hello`.
    fn finished(self, up: u64, down: u64) -> Result<()> {
        let access = self.access()?;
        ensure!(access.close() == "finished", "{access:?}");
        ensure!(
            access.bytes() == (up + self.relay.hello(), down + self.relay.hello()),
            "counted {up}, {down}: {access:?}"
        );
        self.daemon.stop()?;
        Ok(())
    }
}

fn echo(relay: Relay) -> Result<()> {
    let flow = Flow::open(relay)?;
    for round in 0..1000_u64 {
        let length = 1 + round % 300;
        flow.client.send_pattern(UP, round, length)?;
        flow.server.expect_pattern(UP, round, length)?;
        flow.server.send_pattern(DOWN, round, length)?;
        flow.client.expect_pattern(DOWN, round, length)?;
    }
    flow.client.finish()?;
    flow.server.expect_end()?;
    flow.server.finish()?;
    flow.client.expect_end()?;
    let sum = (0..1000).map(|round| 1 + round % 300).sum();
    flow.finished(sum, sum)
}

fn large_transfers_both_ways_at_once(relay: Relay) -> Result<()> {
    let flow = Flow::open(relay)?;
    let length = large_transfer();
    exchange((&flow.client, UP, length), (&flow.server, DOWN, length))?;
    flow.finished(length, length)
}

/// The end is passed on when the last byte before it has been (L4, L5 in `relay/LIFECYCLE.md`).
fn client_half_closes_first(relay: Relay) -> Result<()> {
    let flow = Flow::open(relay)?;
    let (up, down) = (3 * MIB + 1, 5 * MIB + 7);
    one_after_the_other((&flow.client, UP, up), (&flow.server, DOWN, down))?;
    flow.finished(up, down)
}

fn server_half_closes_first(relay: Relay) -> Result<()> {
    let flow = Flow::open(relay)?;
    let (up, down) = (5 * MIB + 7, 3 * MIB + 1);
    one_after_the_other((&flow.server, DOWN, down), (&flow.client, UP, up))?;
    flow.finished(up, down)
}

/// What is read when the end is known already leaves with the end (`MSG_MORE`), and must not wait for anything else:
/// a probe timer would send it after 200 ms.
fn an_answer_that_comes_with_its_end_is_not_held_back(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&relay.rule(&upstream.name()), &[])?;
    let mut late = 0;
    for length in (1..=60_u64).map(|round| round * round * 37) {
        let (client, server) = daemon.flow(&upstream)?;
        client.send("question")?;
        server.expect("question")?;
        let begun = Instant::now();
        server.send_pattern(DOWN, 0, length)?;
        server.finish()?;
        client.expect_pattern(DOWN, 0, length)?;
        client.expect_end()?;
        late += u32::from(begun.elapsed() > Duration::from_millis(150));
        client.finish()?;
        server.expect_end()?;
    }
    ensure!(late < 6, "{late} of 60 answers were late");
    daemon.stop()?;
    Ok(())
}

/// One end sends and ends its stream; only when that has gone all the way does the other begin.
fn one_after_the_other(first: Sends<'_>, second: Sends<'_>) -> Result<()> {
    for ((from, pattern, length), (to, ..)) in [(first, second), (second, first)] {
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                from.send_pattern(pattern, 0, length)?;
                from.finish()
            });
            to.expect_pattern(pattern, 0, length)?;
            to.expect_end()?;
            join(sending, "the end that sends")
        })?;
    }
    Ok(())
}

/// One way ends in the middle of the other way's stream, which goes on to its end.
fn client_half_closes_while_the_server_streams(relay: Relay) -> Result<()> {
    let flow = Flow::open(relay)?;
    let (up, down) = (3 * MIB + 1, large_transfer());
    exchange((&flow.client, UP, up), (&flow.server, DOWN, down))?;
    flow.finished(up, down)
}

fn server_half_closes_while_the_client_streams(relay: Relay) -> Result<()> {
    let flow = Flow::open(relay)?;
    let (up, down) = (large_transfer(), 3 * MIB + 1);
    exchange((&flow.client, UP, up), (&flow.server, DOWN, down))?;
    flow.finished(up, down)
}

/// The last bytes and both ends at the same time, many times, since it is a matter of order.
fn both_half_close_at_once(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&relay.rule(&upstream.name()), &[])?;
    for round in 0..100_u64 {
        let (client, server) = daemon.flow(&upstream)?;
        let length = (round % 10) * 7_000;
        let ends = [(&client, UP, DOWN), (&server, DOWN, UP)];
        thread::scope(|scope| {
            let threads = ends.map(|(conn, ours, theirs)| {
                scope.spawn(move || {
                    conn.send_pattern(ours, 0, length)?;
                    conn.finish()?;
                    conn.expect_pattern(theirs, 0, length)?;
                    conn.expect_end()
                })
            });
            threads.into_iter().try_for_each(|handle| join(handle, "one end"))
        })
        .with_context(|| format!("round {round}"))?;
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.relay() == relay.name(), "round {round}: {access:?}");
        ensure!(access.close() == "finished", "round {round}: {access:?}");
        ensure!(
            access.bytes() == (length + relay.hello(), length + relay.hello()),
            "round {round}: {access:?}"
        );
    }
    daemon.stop()?;
    Ok(())
}

/// A client that does not wait: prefix, what follows it and the end of the stream may all be there
/// before the upstream is.
fn replay_is_followed_by_what_came_meanwhile(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(
        &format!(
            "[[rule]]\nmatch = {{ prefix_hex = \"{}\" }}\nupstream = \"{}\"\nrelay = \"{}\"\n",
            UP.bytes(0, 3).iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            upstream.name(),
            relay.name()
        ),
        &[],
    )?;
    for length in [3, 4, 1000, 65_536, 65_537, 400_000, 2 * MIB] {
        let client = daemon.connect()?;
        thread::scope(|scope| {
            let sending = scope.spawn(|| client.send_pattern(UP, 0, length));
            let server = upstream.accept()?;
            server.expect_pattern(UP, 0, length)?;
            join(sending, "the client sending")?;
            server.send("done")?;
            client.expect("done")?;
            client.send("more")?;
            server.expect("more")?;
            drop(server);
            client.expect_end()?;
            client.finish()
        })
        .with_context(|| format!("{length} bytes"))?;
        let access = daemon.access_of(client.local()?)?;
        ensure!(relay.may_be(access.relay()), "{length} bytes: {access:?}");
        ensure!(access.bytes() == (length + 4, 4), "{length} bytes: {access:?}");
    }
    daemon.stop()?;
    Ok(())
}

/// After what came before it (L10 in `relay/LIFECYCLE.md`).
fn client_reset_arrives_at_the_server(relay: Relay) -> Result<()> {
    let Flow { daemon, client, server, .. } = Flow::open(relay)?;
    client.send_pattern(UP, 0, 10_000)?;
    server.expect_pattern(UP, 0, 10_000)?;
    let local = client.local()?;
    client.reset()?;
    ensure!(server.expect_reset()? == 0, "bytes out of nowhere");
    let access = daemon.access_of(local)?;
    ensure!(access.relay() == relay.name() && access.close() == "client-reset", "{access:?}");
    ensure!(access.bytes() == (10_000 + relay.hello(), relay.hello()), "{access:?}");
    daemon.stop()?;
    Ok(())
}

fn server_reset_arrives_at_the_client(relay: Relay) -> Result<()> {
    let Flow { daemon, client, server, .. } = Flow::open(relay)?;
    server.send_pattern(DOWN, 0, 10_000)?;
    client.expect_pattern(DOWN, 0, 10_000)?;
    server.reset()?;
    ensure!(client.expect_reset()? == 0, "bytes out of nowhere");
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.relay() == relay.name() && access.close() == "upstream-reset", "{access:?}");
    ensure!(access.bytes() == (relay.hello(), 10_000 + relay.hello()), "{access:?}");
    daemon.stop()?;
    Ok(())
}

fn client_reset_under_load_is_no_clean_end(relay: Relay) -> Result<()> {
    let Flow { daemon, client, server, .. } = Flow::open(relay)?;
    let local = client.local()?;
    reset_under_load(client, &server, [UP, DOWN])?;
    let access = daemon.access_of(local)?;
    ensure!(access.relay() == relay.name() && access.close() == "client-reset", "{access:?}");
    daemon.stop()?;
    Ok(())
}

fn server_reset_under_load_is_no_clean_end(relay: Relay) -> Result<()> {
    let Flow { daemon, client, server, .. } = Flow::open(relay)?;
    let local = client.local()?;
    reset_under_load(server, &client, [DOWN, UP])?;
    let access = daemon.access_of(local)?;
    ensure!(access.relay() == relay.name() && access.close() == "upstream-reset", "{access:?}");
    daemon.stop()?;
    Ok(())
}

/// A client that has ended its stream resets when the server's end is on its way to it, as one does
/// that closes with bytes unread: nobody gets that end. Many times, since it is a matter of order.
fn client_reset_that_meets_the_servers_end_is_no_imbalance(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&relay.rule(&upstream.name()), &[])?;
    for round in 0..200 {
        let (client, server) = daemon.flow(&upstream)?;
        client.finish()?;
        server.expect_end()?;
        let local = client.local()?;
        server.finish()?;
        for _ in 0..round * 50 {
            std::hint::spin_loop();
        }
        client.reset()?;
        let access = daemon.access_of(local)?;
        ensure!(access.relay() == relay.name(), "round {round}: {access:?}");
        let ends = ["finished", "client-reset"];
        ensure!(ends.contains(&access.close()), "round {round}: {access:?}");
        ensure!(access.bytes() == (relay.hello(), relay.hello()), "round {round}: {access:?}");
    }
    daemon.stop()?;
    Ok(())
}

/// Both send without end; in the middle of a large transfer `breaker` resets. Whatever `other` got is right, and it
/// ends with an error, not with a clean end.
fn reset_under_load(breaker: Conn, other: &Conn, [ours, theirs]: [Pattern; 2]) -> Result<()> {
    const ENOUGH: u64 = 1 << 40;
    thread::scope(|scope| {
        let sending = scope.spawn(|| other.send_pattern(theirs, 0, ENOUGH));
        let receiving = scope.spawn(|| other.receive_pattern(ours, 0));
        let half = large_transfer() / 2;
        thread::scope(|scope| {
            let filling = scope.spawn(|| breaker.send_pattern(ours, 0, half));
            breaker.expect_pattern(theirs, 0, half)?;
            join(filling, "the one that resets")
        })?;
        breaker.reset()?;
        let (_, failure) = join(receiving, "receiving")?;
        let sent = join(sending, "sending").err().context("sent a TiB")?;
        // A socket tells its error once, to whoever asks first. After a clean end, it would be
        // EPIPE (tcp_reset, net/ipv4/tcp_input.c).
        let sent = sent.root_cause().downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let reset = Some(std::io::ErrorKind::ConnectionReset);
        let received = failure.as_ref().map(std::io::Error::kind);
        ensure!(sent == reset || received == reset, "no reset: {sent:?}, {received:?}");
        Ok(())
    })
}

/// Each way's reader has stopped, and one goes on: it gets all that was sent to it, though what was sent to the other
/// is in every queue on the way.
fn one_way_goes_on_while_the_other_stands(relay: Relay) -> Result<()> {
    /// For how long nothing may move before that counts as stopped.
    const QUIET: Duration = Duration::from_millis(300);

    let flow = Flow::open(relay)?;
    let Flow { client, server, .. } = &flow;
    let up = client.send_until_stuck(QUIET)?;
    let down = server.send_until_stuck(QUIET)?;
    ensure!(
        client.bytes(down as usize)?.iter().all(|byte| *byte == 0),
        "another byte than was sent"
    );
    ensure!(server.bytes(up as usize)?.iter().all(|byte| *byte == 0), "another byte than was sent");
    client.finish()?;
    server.expect_end()?;
    server.finish()?;
    client.expect_end()?;
    flow.finished(up, down)
}

/// The same where the system keeps sockets from taking more than they can send soon: what the kernel
/// redirects is not taken either, and must not wait ahead of what goes the other way.
fn one_way_goes_on_where_little_may_wait_unsent(relay: Relay) -> Result<()> {
    need!(Need::Root);
    let place = Netns::new("unsent")?;
    place.sysctl("net/ipv4/tcp_notsent_lowat", "16384")?;
    place.within(|| one_way_goes_on_while_the_other_stands(relay))?
}

/// A reader that does not read stops the writer; when it reads again, nothing is missing.
fn reader_that_stops_and_resumes(relay: Relay) -> Result<()> {
    /// More than every buffer on the way can hold.
    const BOUND: u64 = 256 * MIB;
    /// What is sent after the stop.
    const REST: u64 = 8 * MIB;
    /// For how long nothing may move before that counts as stopped.
    const QUIET: Duration = Duration::from_millis(100);

    let flow = Flow::open(relay)?;
    let Flow { client, server, .. } = &flow;
    let (sent, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut at = 0;
            let mut end = BOUND;
            while at < end {
                server.send_pattern(DOWN, at, 65_536)?;
                at += 65_536;
                sent.store(at, Ordering::Release);
                if end == BOUND && stopped.load(Ordering::Acquire) {
                    end = at + REST;
                }
            }
            server.finish()?;
            Ok(at)
        });
        // Meanwhile the other direction works.
        for round in 0..50 {
            client.send_pattern(UP, round * 100, 100)?;
            server.expect_pattern(UP, round * 100, 100)?;
        }
        let mut last = (0, Instant::now());
        eventually_true("the writer is stopped", || {
            let now = sent.load(Ordering::Acquire);
            if now != last.0 {
                last = (now, Instant::now());
            }
            now > 0 && last.1.elapsed() > QUIET
        })?;
        ensure!(!sending.is_finished(), "{BOUND} bytes for nobody: no back-pressure");
        stopped.store(true, Ordering::Release);
        let (received, failure) = client.receive_pattern(DOWN, 0)?;
        ensure!(failure.is_none(), "after {received} bytes: {failure:?}");
        let total = join(sending, "the server sending")?;
        ensure!(received == total, "sent {total}, received {received}");
        Ok(total)
    })?;
    client.finish()?;
    server.expect_end()?;
    flow.finished(5000, total)
}

/// Writes of one to a few bytes, as fast as they go.
fn small_writes_arrive_in_order(relay: Relay) -> Result<()> {
    let flow = Flow::open(relay)?;
    let Flow { client, server, .. } = &flow;
    let writes = 20_000_u64;
    let length = |write: u64| 1 + write % 13;
    let total = (0..writes).map(length).sum::<u64>();
    thread::scope(|scope| {
        let send = |conn: &Conn, pattern: Pattern| {
            let mut at = 0;
            for write in 0..writes {
                conn.send_pattern(pattern, at, length(write))?;
                at += length(write);
            }
            conn.finish()
        };
        let up = scope.spawn(move || send(client, UP));
        let down = scope.spawn(move || send(server, DOWN));
        let receiving = scope.spawn(|| server.expect_pattern(UP, 0, total));
        client.expect_pattern(DOWN, 0, total)?;
        join(receiving, "the server receiving")?;
        join(up, "the client sending")?;
        join(down, "the server sending")?;
        client.expect_end()?;
        server.expect_end()
    })?;
    flow.finished(total, total)
}
