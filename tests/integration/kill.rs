//! The daemon is killed (SIGKILL) while flows are in the kernel.

use anyhow::{Result, ensure};
use mux_tests::{Conn, Daemon, Need, Relay, Upstream, bpf::Objects, eventually_true, need};

const FLOWS: usize = 100;

/// Whether a peer of the killed daemon has been told: the end of its stream, or a reset.
fn is_told(conn: &Conn) -> Result<()> {
    let mut byte = [0];
    match conn.read(&mut byte) {
        Ok(0) => Ok(()),
        Ok(_) => anyhow::bail!("a byte that nobody sent"),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn killing_the_daemon_ends_its_spliced_flows_and_leaves_nothing() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let rules = Relay::Sockmap.rule(&upstream.name());
    let daemon = Daemon::start(&rules, &[])?;
    let objects = Objects::of(&daemon)?;
    let mut flows = Vec::new();
    for _ in 0..FLOWS {
        let (client, server) = daemon.flow(&upstream)?;
        flows.push((client, server));
    }
    let kept = daemon.kill();
    for (client, server) in &flows {
        is_told(client)?;
        is_told(server)?;
    }
    // Closing sockets takes psocks and maps apart in the background.
    eventually_true("programs and maps are gone", || {
        objects.loaded().is_ok_and(|left| left.is_empty())
    })?;
    drop(kept);

    let again = Daemon::start(&rules, &[])?;
    let client = again.connect()?;
    let server = upstream.accept()?;
    client.send("hello")?;
    server.expect("hello")?;
    // Only with the answer is it certain that the flow has gone to the kernel before it ends.
    server.send("olleh")?;
    client.expect("olleh")?;
    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()?;
    ensure!(again.access_of(client.local()?)?.relay() == "sockmap");
    again.stop()?;
    Ok(())
}
