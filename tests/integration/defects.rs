//! What node-port-mux, from which mux descends, gets wrong: each a test.

use anyhow::{Result, ensure};
use mux_tests::{Daemon, Need, Server, Upstream, need};

/// It listened for the first chunk only, and what came before the upstream was connected was lost.
#[test]
fn second_chunk_before_the_upstream_is_connected_is_not_lost() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nmatch = {{ prefix = \"one\" }}\nupstream = \"{}\"\n",
        upstream.name()
    ))?;
    let client = daemon.connect()?;
    client.send("one")?;
    client.send("two")?;
    client.finish()?;
    let server = upstream.accept()?;
    server.expect("onetwo")?;
    server.expect_end()
}

/// It matched on decoded text, in which every byte above 0x7f is the same replacement character.
#[test]
fn bytes_from_0x80_on_can_be_matched() -> Result<()> {
    let (wrong, right) = (Server::tagged("wrong")?, Server::tagged("right")?);
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nmatch = {{ regex = '^\\x81' }}\nupstream = \"{}\"\n\
         [[rule]]\nmatch = {{ regex = '^\\x80[\\xfe\\xff]' }}\nupstream = \"{}\"\n",
        wrong.name(),
        right.name()
    ))?;
    let client = daemon.connect()?;
    client.send([0x80, 0xff])?;
    client.expect("right")?;
    client.finish()?;
    client.expect_end()?;
    ensure!(wrong.served() == 0);
    right.stop()
}

/// It decided on the first chunk alone.
#[test]
fn a_prefix_that_comes_byte_by_byte_matches() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nmatch = {{ regex = '^(?:GET|POST|PUT|DELETE)\\s' }}\nupstream = \"{}\"\n",
        upstream.name()
    ))?;
    let client = daemon.connect()?;
    client.send_one_by_one("DELETE")?;
    ensure!(!upstream.has_connection()?, "connected before the rule could be sure");
    client.send(" ")?;
    let server = upstream.accept()?;
    server.expect("DELETE ")?;
    client.send_one_by_one("/ HTTP/1.1\r\n")?;
    server.expect("/ HTTP/1.1\r\n")
}

/// It waited for the first chunk for ever.
#[test]
fn a_silent_client_is_not_held_for_ever() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nsniff_timeout = \"100ms\"\n\
         [[rule]]\nmatch = {{ prefix = \"GET \" }}\nupstream = \"{}\"\n",
        upstream.name()
    ))?;
    let client = daemon.connect()?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "sniff-timeout", "{access:?}");
    ensure!(access.duration_ms() >= 100.0, "{access:?}");
    ensure!(!upstream.has_connection()?);
    Ok(())
}

/// The end of the client's stream ended the connection, and the reply was lost.
#[test]
fn half_close_does_not_lose_the_reply() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nmatch = {{ prefix = \"ask\" }}\nupstream = \"{}\"\n",
        upstream.name()
    ))?;
    let client = daemon.connect()?;
    client.send("ask")?;
    client.finish()?;
    let server = upstream.accept()?;
    server.expect("ask")?;
    server.expect_end()?;
    server.send("reply")?;
    drop(server);
    client.expect("reply")?;
    client.expect_end()
}

/// It could not parse a target such as `[::1]:80`.
#[test]
fn an_ipv6_target_is_connected_to() -> Result<()> {
    need!(Need::Ipv6);
    let server = Upstream::tcp6()?.tagged("six")?;
    let daemon = Daemon::user_space(&format!("[[rule]]\nupstream = \"{}\"\n", server.name()))?;
    let client = daemon.connect()?;
    client.expect("six")?;
    client.finish()?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.endpoint() == server.name(), "{access:?}");
    server.stop()
}
