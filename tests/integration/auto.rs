//! `relay = "auto"`: by evidence.

use std::thread;

use anyhow::{Result, ensure};
use mux_tests::{Conn, Daemon, Pattern, Relay, Upstream, join, need};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;

fn flow() -> Result<(Daemon, Conn, Conn)> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&format!("[[rule]]\nupstream = \"{}\"\n", upstream.name()), &[])?;
    let client = daemon.connect()?;
    let server = upstream.accept()?;
    Ok((daemon, client, server))
}

fn round_trips(client: &Conn, server: &Conn, rounds: usize) -> Result<()> {
    for round in 0..rounds {
        let (question, answer) = (format!("question {round}"), format!("the answer to {round}"));
        client.send(&question)?;
        server.expect(&question)?;
        server.send(&answer)?;
        client.expect(&answer)?;
    }
    Ok(())
}

fn end(client: &Conn, server: Conn) -> Result<()> {
    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()
}

#[test]
fn a_short_flow_is_copied() -> Result<()> {
    let (daemon, client, server) = flow()?;
    round_trips(&client, &server, 3)?;
    end(&client, server)?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.relay() == "copy" && !access.note().is_empty(), "{access:?}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_conversation_goes_to_the_kernel() -> Result<()> {
    need!(Relay::Sockmap);
    let (daemon, client, server) = flow()?;
    round_trips(&client, &server, 200)?;
    end(&client, server)?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.relay() == "sockmap" && access.note().is_empty(), "{access:?}");
    daemon.stop()?;
    Ok(())
}

/// Each byte of a message is a segment, and the daemon reads the message at once: the kernel relay would carry
/// every byte by itself.
#[test]
fn small_writes_that_are_read_many_at_once_stay_in_user_space() -> Result<()> {
    /// More turns than a conversation goes to the kernel after.
    const ROUNDS: usize = 60;
    const MESSAGE: &str = "sixteen of them.";

    need!(Relay::Sockmap);
    let (daemon, client, server) = flow()?;
    client.send("begin")?;
    server.expect("begin")?;
    for _ in 0..ROUNDS {
        for (from, to) in [(&client, &server), (&server, &client)] {
            daemon.signal(Signal::STOP)?;
            MESSAGE.bytes().try_for_each(|byte| from.send([byte]))?;
            daemon.signal(Signal::CONT)?;
            to.expect(MESSAGE)?;
        }
    }
    end(&client, server)?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.relay() == "copy" && access.number("promotions") == 0, "{access:?}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_bulk_transfer_is_spliced_and_exact() -> Result<()> {
    let (daemon, client, server) = flow()?;
    let length = 32 * MIB;
    let pattern = Pattern::new(4);
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            server.send_pattern(pattern, 0, length)?;
            server.finish()
        });
        client.send("get")?;
        client.expect_pattern(pattern, 0, length)?;
        client.expect_end()?;
        join(sending, "the server sending")
    })?;
    client.finish()?;
    server.expect("get")?;
    server.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.relay() == "splice", "{access:?}");
    ensure!(access.bytes() == (3, length), "{access:?}");
    daemon.stop()?;
    Ok(())
}

/// Every change of relay in one flow: copied, spliced, talked over.
#[test]
fn a_flow_that_changes_its_ways_stays_exact() -> Result<()> {
    let (daemon, client, server) = flow()?;
    let (up, down) = (Pattern::new(5), Pattern::new(6));
    let mut at = [0, 0];
    for round in 0..60_u64 {
        let lengths = if round % 20 == 19 { [2 * MIB, 3 * MIB] } else { [100 + round, 2000] };
        let [a, b] = at;
        thread::scope(|scope| {
            let sends = scope.spawn(|| client.send_pattern(up, a, lengths[0]));
            let answers = scope.spawn(|| server.send_pattern(down, b, lengths[1]));
            let receives = scope.spawn(|| server.expect_pattern(up, a, lengths[0]));
            client.expect_pattern(down, b, lengths[1])?;
            join(receives, "the server receiving")?;
            join(sends, "the client sending")?;
            join(answers, "the server sending")
        })?;
        at = [at[0] + lengths[0], at[1] + lengths[1]];
    }
    end(&client, server)?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.bytes() == (at[0], at[1]) && access.close() == "finished", "{access:?}");
    daemon.stop()?;
    Ok(())
}
