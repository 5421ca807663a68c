//! The kernel carries a spliced flow's bytes, and user space sleeps.

use std::thread;

use anyhow::{Result, ensure};
use mux_common::{MAP_SLOTS, MAP_SOCKS, MAP_STATS};
use mux_tests::{
    Conn, Daemon, Need, Pattern, Relay, Starter, Upstream,
    bpf::{self, Objects, Stats},
    eventually_true, need,
    procfs::Usage,
};

const ROUNDS: u64 = 4000;
const QUESTION: &str = "a question of some length";
const ANSWER: &str = "an answer";
/// Where the counter stands in a value of [`MAP_STATS`].
const REDIRECTED_BYTES: usize = std::mem::offset_of!(mux_common::Stats, redirected_bytes);
/// Nanoseconds: less than half of what four system calls, a round trip's, take on any machine.
const COPYING: u64 = 1000;

struct Flow {
    daemon: Daemon,
    client: Conn,
    server: Conn,
}

fn flow(relay: Relay) -> Result<Flow> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&relay.rule(&upstream.name()), &["--threads", "1"])?;
    let client = daemon.connect()?;
    let server = upstream.accept()?;
    round_trips(&client, &server, 10)?;
    Ok(Flow { daemon, client, server })
}

fn round_trips(client: &Conn, server: &Conn, rounds: u64) -> Result<()> {
    for _ in 0..rounds {
        client.send(QUESTION)?;
        server.expect(QUESTION)?;
        server.send(ANSWER)?;
        client.expect(ANSWER)?;
    }
    Ok(())
}

/// What user space did for [`ROUNDS`] round trips.
fn cost(flow: &Flow) -> Result<Usage> {
    let before = flow.daemon.proc().usage()?;
    round_trips(&flow.client, &flow.server, ROUNDS)?;
    let after = flow.daemon.proc().usage()?;
    Ok(Usage {
        ticks: after.ticks - before.ticks,
        switches: after.switches - before.switches,
        nanos: after.nanos - before.nanos,
    })
}

fn end(flow: Flow, relay: Relay) -> Result<()> {
    let Flow { daemon, client, server } = flow;
    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.relay() == relay.name(), "{access:?}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn the_program_runs_for_each_message_and_user_space_does_not() -> Result<()> {
    need!(Need::Root);
    let _stats = Stats::enable()?;
    let flow = flow(Relay::Sockmap)?;
    let objects = Objects::of(&flow.daemon)?;
    let (program, stats) = (objects.program()?, objects.map(MAP_STATS)?);
    let ((before, time), bytes) = (bpf::runs(program)?, bpf::sum_of(stats, REDIRECTED_BYTES)?);
    let cost = cost(&flow)?;
    let (after, now) = bpf::runs(program)?;
    let runs = after - before;
    println!("{} ns a run of the program, with its books and counters", (now - time) / runs.max(1));
    let carried = bpf::sum_of(stats, REDIRECTED_BYTES)? - bytes;
    let said = ROUNDS * (QUESTION.len() + ANSWER.len()) as u64;
    ensure!(carried == said, "the kernel carried {carried} bytes of {said}");
    ensure!(runs >= 2 * ROUNDS, "the program ran {runs} times for {} messages", 2 * ROUNDS);
    // The sweep of the timers, once a second, and some slack for a loaded machine.
    ensure!(cost.switches < ROUNDS / 20, "user space woke {} times", cost.switches);
    ensure!(cost.nanos < ROUNDS * COPYING, "user space ran for {} ns", cost.nanos);
    end(flow, Relay::Sockmap)
}

/// Its own log lines are compiled in on demand; otherwise the verifier removes them.
#[test]
fn the_program_speaks_when_it_is_told_to_and_else_has_no_words() -> Result<()> {
    need!(Need::Root);
    let rules = |upstream: &Upstream| Relay::Sockmap.rule(&upstream.name());
    let upstream = Upstream::tcp()?;
    let silent = Daemon::start(&rules(&upstream), &[])?;
    let size = |daemon: &Daemon| bpf::translated_size(Objects::of(daemon)?.program()?);
    let without = size(&silent)?;
    silent.stop()?;
    let talks = Starter::new(&rules(&upstream))
        .environment("MUX_PROGRAM_LOG", "trace")
        .environment("RUST_LOG", "info,mux=trace,mux_ebpf=trace")
        .start()?;
    let (client, server) = talks.flow(&upstream)?;
    round_trips(&client, &server, 10)?;
    talks.wait_log("bytes redirected")?;
    let with = size(&talks)?;
    ensure!(without < with, "{without} bytes without its log lines, {with} with");
    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()?;
    talks.stop()?;
    Ok(())
}

/// A spliced socket is watched for its end and its errors, and for nothing that each message is.
#[test]
fn spliced_sockets_are_watched_for_their_end_only() -> Result<()> {
    need!(Need::Root);
    /// include/uapi/linux/eventpoll.h.
    const EPOLLIN: u32 = 0x1;
    const EPOLLOUT: u32 = 0x4;
    const EPOLLRDHUP: u32 = 0x2000;
    let flow = flow(Relay::Sockmap)?;
    let masks = flow.daemon.proc().epoll_masks()?;
    let spliced = |mask: u32| mask & (EPOLLIN | EPOLLOUT) == 0 && mask & EPOLLRDHUP != 0;
    ensure!(masks.iter().filter(|(_, mask)| spliced(*mask)).count() == 2, "{masks:x?}");
    end(flow, Relay::Sockmap)
}

/// Were the measure above blind, it would show nothing here either. The times that user space woke
/// say nothing: on a loaded machine the next message is there before it can go to sleep.
#[test]
fn when_user_space_copies_it_is_seen() -> Result<()> {
    let flow = flow(Relay::Copy)?;
    let cost = cost(&flow)?;
    ensure!(cost.nanos > 2 * ROUNDS * COPYING, "user space ran for {} ns only", cost.nanos);
    end(flow, Relay::Copy)
}

#[test]
fn a_flow_has_two_entries_in_each_map_while_it_lasts() -> Result<()> {
    need!(Need::Root);
    let first = flow(Relay::Sockmap)?;
    let objects = Objects::of(&first.daemon)?;
    let (socks, slots) = (objects.map(MAP_SOCKS)?, objects.map(MAP_SLOTS)?);
    // An array's keys are all there, so it is the slots that are counted.
    let info = bpf::bpftool(&["map", "show", "id", &socks.to_string()])?;
    ensure!(info["type"] == "sockmap", "{info}");
    ensure!(bpf::entries(slots)? == 2, "{} entries", bpf::entries(slots)?);
    let Flow { daemon, client, server } = first;
    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()?;
    eventually_true("the entries are gone", || bpf::entries(slots).is_ok_and(|count| count == 0))?;
    daemon.stop()?;
    Ok(())
}

/// The pair of records of a flow that ends in the middle of everything is the next one's. What the sockets of the first
/// still receive must not get into the books of the second (L7 in `relay/LIFECYCLE.md`).
#[test]
fn a_pair_of_records_is_used_again_when_nobody_writes_to_it_any_more() -> Result<()> {
    const FLOWS: u64 = 60;
    const LENGTH: u64 = 60_000;

    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let rules = format!("{}[kernel]\nflows = 1\n", Relay::Sockmap.rule(&upstream.name()));
    let daemon = Daemon::start(&rules, &["--threads", "1"])?;
    let slots = Objects::of(&daemon)?.map(MAP_SLOTS)?;
    for number in 0..FLOWS {
        let (client, server) = daemon.flow(&upstream)?;
        let (up, down) = (Pattern::new(2 * number), Pattern::new(2 * number + 1));
        for (from, to, pattern) in [(&client, &server, up), (&server, &client, down)] {
            from.send_pattern(pattern, 0, LENGTH)?;
            to.expect_pattern(pattern, 0, LENGTH)?;
        }
        let local = client.local()?;
        thread::scope(|scope| {
            // Until it is told that the flow is over.
            scope.spawn(|| while server.send_pattern(down, LENGTH, LENGTH).is_ok() {});
            client.reset()
        })?;
        let access = daemon.access_of(local)?;
        ensure!((access.relay(), access.close()) == ("sockmap", "client-reset"), "{access:?}");
        eventually_true("the pair is free", || bpf::entries(slots).is_ok_and(|count| count == 0))?;
    }
    daemon.stop()?;
    Ok(())
}
