//! The kernel carries a spliced flow's bytes, and user space sleeps.

use anyhow::{Result, ensure};
use mux_common::{MAP_SLOTS, MAP_SOCKS};
use mux_tests::{
    Conn, Daemon, Need, Relay, Upstream,
    bpf::{self, Objects, Stats},
    eventually_true, need,
    procfs::Usage,
};

const ROUNDS: u64 = 4000;
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
        client.send("a question of some length")?;
        server.expect("a question of some length")?;
        server.send("an answer")?;
        client.expect("an answer")?;
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
    let program = Objects::of(&flow.daemon)?.program()?;
    let (before, time) = bpf::runs(program)?;
    let cost = cost(&flow)?;
    let (after, now) = bpf::runs(program)?;
    let runs = after - before;
    println!("{} ns a run of the program, with its books and counters", (now - time) / runs.max(1));
    ensure!(runs >= 2 * ROUNDS, "the program ran {runs} times for {} messages", 2 * ROUNDS);
    // The sweep of the timers, once a second, and some slack for a loaded machine.
    ensure!(cost.switches < ROUNDS / 20, "user space woke {} times", cost.switches);
    ensure!(cost.nanos < ROUNDS * COPYING, "user space ran for {} ns", cost.nanos);
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
