//! Endpoints: the next one when one fails, all addresses of a name, nothing lost on the way.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use mux_tests::{Conn, Daemon, Server, Upstream};

/// An address of 127.0.0.1 where nobody listens.
fn refusing() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn group(endpoints: &[&str], settings: &str) -> String {
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "[[rule]]\nmatch = {{ prefix = \"ask\" }}\nupstream = \"group\"\n\
         [[upstream]]\nname = \"group\"\nendpoints = [{}]\n{settings}\n",
        list.join(", ")
    )
}

#[test]
fn the_next_endpoint_takes_over_from_one_that_refuses() -> Result<()> {
    let server = Server::echo()?;
    let daemon = Daemon::user_space(&group(&[&refusing()?, server.name()], "balance = \"first\""))?;
    for _ in 0..5 {
        let client = daemon.connect()?;
        client.send("ask once, get it once")?;
        client.expect("ask once, get it once")?;
        client.finish()?;
        client.expect_end()?;
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.endpoint() == server.name(), "{access:?}");
    }
    server.stop()
}

/// An endpoint that does not answer at all: its backlog is full.
#[test]
fn the_next_endpoint_takes_over_from_one_that_is_silent() -> Result<()> {
    let silent = Upstream::at("127.0.0.1:0".parse()?, 0)?;
    let _filler = Conn::tcp(silent.address())?;
    let server = Server::echo()?;
    let daemon = Daemon::user_space(&group(
        &[&silent.name(), server.name()],
        "balance = \"first\"\nconnect_timeout = \"100ms\"",
    ))?;
    let client = daemon.connect()?;
    client.send("ask")?;
    client.send(" and go on asking")?;
    client.expect("ask and go on asking")?;
    client.finish()?;
    client.expect_end()?;
    server.stop()
}

#[test]
fn endpoints_take_turns() -> Result<()> {
    let servers = [Server::tagged("a")?, Server::tagged("b")?, Server::tagged("c")?];
    let names: Vec<&str> = servers.iter().map(Server::name).collect();
    let daemon = Daemon::user_space(&group(&names, ""))?;
    for _ in 0..9 {
        let client = daemon.connect()?;
        client.send("ask")?;
        client.finish()?;
        client.to_end()?;
    }
    let served: Vec<usize> = servers.iter().map(Server::served).collect();
    ensure!(served == [3, 3, 3], "{served:?}");
    Ok(())
}

#[test]
fn a_client_whose_upstream_cannot_be_reached_is_reset() -> Result<()> {
    let daemon = Daemon::user_space(&group(&[&refusing()?, &refusing()?], ""))?;
    let client = daemon.connect()?;
    client.send("ask")?;
    ensure!(client.expect_reset()? == 0);
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "unreachable", "{access:?}");
    ensure!(access.error().matches("refused").count() == 2, "{access:?}");
    Ok(())
}

/// `localhost` is ::1 and 127.0.0.1 in most places; the server listens on one of them.
#[test]
fn every_address_of_a_name_is_tried() -> Result<()> {
    let server = Server::echo()?;
    let (_, port) = server.name().rsplit_once(':').unwrap_or_default();
    let daemon = Daemon::user_space(&group(&[&format!("localhost:{port}")], ""))?;
    let client = daemon.connect()?;
    client.send("ask by name")?;
    client.expect("ask by name")?;
    client.finish()?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.endpoint().contains(server.name()), "{access:?}");
    server.stop()
}
