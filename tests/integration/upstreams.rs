//! Endpoints: the next one when one fails, all addresses of a name, nothing lost on the way.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use mux_tests::{Conn, Daemon, Server, Upstream};

/// An address of 127.0.0.1 where nobody listens.
fn refusing() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Ends our stream, and receives theirs.
fn to_end(client: &Conn) -> Result<Vec<u8>> {
    client.finish()?;
    client.to_end()
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
fn turns_follow_the_weights() -> Result<()> {
    let servers = [Server::tagged("a")?, Server::tagged("b")?];
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nupstream = \"group\"\n[[upstream]]\nname = \"group\"\n\
         endpoints = [{{ address = \"{}\", weight = 3 }}, \"{}\"]\n",
        servers[0].name(),
        servers[1].name()
    ))?;
    for _ in 0..12 {
        to_end(&daemon.connect()?)?;
    }
    let served: Vec<usize> = servers.iter().map(Server::served).collect();
    ensure!(served == [9, 3], "{served:?}");
    Ok(())
}

/// Flows that stay: the next one goes to the endpoint that has fewer.
#[test]
fn the_endpoint_with_fewer_flows_is_next() -> Result<()> {
    let upstreams = [Upstream::tcp()?, Upstream::tcp()?];
    let names = [upstreams[0].name(), upstreams[1].name()];
    let daemon =
        Daemon::user_space(&group(&[&names[0], &names[1]], "balance = \"least-connections\""))?;
    let ask = || -> Result<Conn> {
        let client = daemon.connect()?;
        client.send("ask")?;
        Ok(client)
    };
    let mut flows = vec![(ask()?, upstreams[0].accept()?), (ask()?, upstreams[1].accept()?)];
    flows.push((ask()?, upstreams[0].accept()?));
    flows.push((ask()?, upstreams[1].accept()?));
    // Two flows of the second one end: the next two are its.
    for index in [3, 1] {
        let (client, server) = flows.remove(index);
        let address = client.local()?;
        drop((client, server));
        daemon.access_of(address)?;
    }
    flows.push((ask()?, upstreams[1].accept()?));
    flows.push((ask()?, upstreams[1].accept()?));
    ensure!(!upstreams[0].has_connection()?);
    Ok(())
}

/// One client, however often it comes, has one endpoint; many clients have all.
#[test]
fn a_source_hash_keeps_clients_where_they_are() -> Result<()> {
    let servers = [Server::tagged("a")?, Server::tagged("b")?, Server::tagged("c")?];
    let names: Vec<&str> = servers.iter().map(Server::name).collect();
    let daemon = Daemon::user_space(&group(&names, "balance = \"source-hash\""))?;
    let ask = |source: u8| -> Result<Vec<u8>> {
        let client = Conn::tcp_from([127, 0, 0, source].into(), daemon.address())?;
        client.send("ask")?;
        to_end(&client)
    };
    let mut all = Vec::new();
    for source in 1..40 {
        let endpoint = ask(source)?;
        ensure!(ask(source)? == endpoint && ask(source)? == endpoint, "127.0.0.{source} moved");
        all.push(endpoint);
    }
    all.sort();
    all.dedup();
    ensure!(all.len() == 3, "39 clients, endpoints {all:?}");
    Ok(())
}

/// Rules that stand in for one another, the last of which says what else.
fn stand_ins(first: &str, last: &str) -> Result<Daemon> {
    Daemon::user_space(&format!(
        "[[rule]]\nname = \"first\"\nmatch = {{ prefix = \"ask\" }}\nupstream = \"{}\"\n\
         on_no_upstream = \"second\"\n\
         [[rule]]\nname = \"second\"\nmatch = {{ prefix = \"never\" }}\nupstream = \"{first}\"\n\
         on_no_upstream = \"{last}\"\n",
        refusing()?
    ))
}

#[test]
fn another_rules_upstream_stands_in() -> Result<()> {
    let server = Server::echo()?;
    let daemon = stand_ins(server.name(), "reset")?;
    let client = daemon.connect()?;
    client.send("ask")?;
    client.expect("ask")?;
    client.finish()?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.rule() == "first" && access.close() == "finished", "{access:?}");
    ensure!(access.upstream() == server.name() && access.endpoint() == server.name(), "{access:?}");
    ensure!(daemon.stop()?.counter("upstream_fallbacks") == 1);
    server.stop()
}

#[test]
fn what_the_last_one_says_is_done() -> Result<()> {
    for last in ["close", "reset"] {
        let second = refusing()?;
        let daemon = stand_ins(&second, last)?;
        let client = daemon.connect()?;
        client.send("ask")?;
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.close() == "unreachable" && access.rule() == "first", "{access:?}");
        // What both upstreams said.
        ensure!(access.error().matches("refused").count() == 2, "{access:?}");
        ensure!(access.error().contains(&second), "{access:?}");
        match last {
            // All that was sent has been read, so that closing is no reset.
            "close" => client.expect_end()?,
            _ => ensure!(client.expect_reset()? == 0),
        }
    }
    Ok(())
}

/// What is behind a rule's access list stays behind it.
#[test]
fn an_access_list_goes_for_those_who_come_by_another_rule() -> Result<()> {
    let server = Server::echo()?;
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nname = \"first\"\nmatch = {{ prefix = \"ask\" }}\nupstream = \"{}\"\n\
         on_no_upstream = \"second\"\n\
         [[rule]]\nname = \"second\"\nupstream = \"{}\"\ndeny = [\"127.0.0.0/8\"]\n",
        refusing()?,
        server.name()
    ))?;
    let client = daemon.connect()?;
    client.send("ask")?;
    ensure!(client.expect_reset()? == 0);
    ensure!(daemon.access_of(client.local()?)?.close() == "unreachable");
    ensure!(server.served() == 0);
    server.stop()
}

/// A service that is just being restarted: its only endpoint is tried again.
#[test]
fn the_only_endpoint_is_tried_again() -> Result<()> {
    let address = refusing()?;
    let daemon = Daemon::user_space(&group(&[&address], "retries = 1"))?;
    let client = daemon.connect()?;
    client.send("ask")?;
    ensure!(client.expect_reset()? == 0);
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.error().matches("refused").count() == 2, "{access:?}");
    ensure!(daemon.stop()?.counter("upstream_retries") == 1);
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
