//! The books of a flow in the kernel are compared with TCP's own counters when it ends, however that
//! is. A byte that the books do not know of is what a bug would look like: here a test writes it.

use std::{io::Write as _, mem::offset_of, net::TcpStream};

use anyhow::{Context, Result, ensure};
use mux_common::{KernelBook, MAP_BOOKS};
use mux_tests::{
    Conn, Daemon, Need, Relay, Upstream,
    admin::AdminSocket,
    bpf::{self, Objects},
    need,
};

/// How the flow ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Both streams do.
    Streams,
    /// The client resets.
    Reset,
    /// `mux kill`.
    Killed,
    /// It is ordered out of the kernel, alive.
    Left,
}

/// A flow into which somebody has written a byte to the daemon's upstream socket, besides the daemon.
fn with_a_stray_byte(end: End) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let socket = AdminSocket::new()?;
    let rules = format!("{}{}", Relay::Sockmap.rule(&upstream.name()), socket.rules());
    let daemon = Daemon::start(&rules, &[])?;
    let (client, server) = daemon.flow(&upstream)?;
    let theirs = daemon.proc().socket(server.peer()?, server.local()?)?;
    TcpStream::from(theirs).write_all(b"!")?;
    server.expect("!")?;
    let local = client.local()?;
    finish(client, &server, &socket, end)?;

    let access = daemon.access_of(local)?;
    ensure!(access.close() == "imbalance", "{end:?}: {access:?}");
    ensure!(access.error().starts_with("up: the books hold"), "{end:?}: {access:?}");
    ensure!(socket.metric("mux_relay_imbalance_total")? == Some(1.0), "{end:?}: it is counted");
    let line = daemon.wait_log("please report this")?;
    // What a report needs: ledgers, the kernel's books, TCP's counters, the kernel, the object.
    let known = ["Ledger {", "KernelBook {", "TcpCounters {", "SIOCOUTQ", "kernel=", "object="];
    for word in known {
        ensure!(line.contains(word), "no {word} in {line}");
    }
    // Its log has an error in it, which is what was to be shown.
    drop(daemon.kill());
    Ok(())
}

fn finish(client: Conn, server: &Conn, socket: &AdminSocket, end: End) -> Result<()> {
    match end {
        End::Streams => {
            client.finish()?;
            server.expect_end()?;
            server.finish()?;
            // The books are found wrong after the end was passed on.
            let _ = client.to_end();
        }
        End::Reset => client.reset()?,
        End::Killed => {
            let page = socket.json("/flows")?;
            let id = page["flows"][0]["id"].as_str().context("an id")?;
            socket.mux_ok(&["kill", id])?;
            client.expect_reset()?;
        }
        End::Left => {
            ensure!(socket.post("/relay", "off")?.status == 200, "relay off");
            client.expect_reset()?;
        }
    }
    Ok(())
}

#[test]
fn a_byte_too_many_is_found_when_both_streams_have_ended() -> Result<()> {
    need!(Need::Root);
    with_a_stray_byte(End::Streams)
}

#[test]
fn a_byte_too_many_is_found_when_the_flow_is_reset() -> Result<()> {
    need!(Need::Root);
    with_a_stray_byte(End::Reset)
}

#[test]
fn a_byte_too_many_is_found_when_the_flow_is_killed() -> Result<()> {
    need!(Need::Root);
    with_a_stray_byte(End::Killed)
}

#[test]
fn a_byte_too_many_is_found_when_the_flow_leaves_the_kernel() -> Result<()> {
    need!(Need::Root);
    with_a_stray_byte(End::Left)
}

/// A message that does not follow the last one that the kernel's books know of: both ends are reset, and not a byte
/// more goes either way (L9 in `relay/LIFECYCLE.md`).
#[test]
fn a_gap_in_the_sequence_resets_both_ends_and_gives_nothing_on() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let socket = AdminSocket::new()?;
    let rules = Relay::Sockmap.rule(&upstream.name());
    let rules = format!("{rules}[kernel]\nflows = 1\n{}", socket.rules());
    let daemon = Daemon::start(&rules, &["--threads", "1"])?;
    let (client, server) = daemon.flow(&upstream)?;
    let local = client.local()?;
    // What came before may have been user space's; from here on the verdict knows what comes next.
    client.send("more")?;
    server.expect("more")?;
    // The only pair's first slot is its way up.
    bpf::change(Objects::of(&daemon)?.map(MAP_BOOKS)?, 0, |book| {
        let at = offset_of!(KernelBook, next_seq);
        let next = u32::from_ne_bytes(book[at..at + 4].try_into().expect("four bytes"));
        book[at..at + 4].copy_from_slice(&next.wrapping_sub(100).to_ne_bytes());
    })?;
    client.send("lost, all of it")?;
    let received = server.expect_reset()?;
    ensure!(received == 0, "{received} bytes came after the gap");
    client.expect_reset()?;
    let access = daemon.access_of(local)?;
    ensure!(access.close() == "broken", "{access:?}");
    ensure!(access.bytes() == (9, 5), "{access:?}");
    ensure!(socket.metric("mux_relay_broken_total")? == Some(1.0), "it is counted");
    daemon.wait_log("please report this")?;
    drop(daemon.kill());
    Ok(())
}
