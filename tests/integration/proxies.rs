//! HAProxy and nginx before and behind mux, by the PROXY protocol: they see the true client.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Conn, Daemon, Relay, on_each_relay,
    peers::{Certificate, Haproxy, NginxProxy, curl},
    proxy::line,
};

on_each_relay!(
    haproxy_behind,
    nginx_behind,
    haproxy_in_front_and_nginx_behind,
    haproxy_behind_is_told_the_name_that_the_client_asks_for,
);

/// An address that curl has and nobody else.
const CLIENT: &str = "127.0.0.61";

/// Asks as [`CLIENT`], twice on one connection; gives the client's address, and what comes after
/// it, in both answers.
fn ask(address: SocketAddr) -> Result<(SocketAddr, String)> {
    let url = format!("http://{address}/");
    let both = curl(&["--interface", CLIENT, &url, &url])?;
    let (one, other) = both.split_at(both.len() / 2);
    ensure!(one == other, "{both}");
    let mut fields = one.trim_end_matches(';').splitn(3, ',');
    let mut next = || fields.next().context(one.to_owned());
    let client: SocketAddr = format!("{}:{}", next()?, next()?).parse()?;
    ensure!(client.ip().to_string() == CLIENT, "{both}");
    Ok((client, next()?.to_owned()))
}

/// A daemon that answers by `whoami`, on a listener that believes proxies on 127.0.0.1.
fn believing() -> Result<Daemon> {
    Daemon::user_space(
        "[[listener]]\naddress = \"127.0.0.1:0\"\naccept_proxy_protocol = [\"127.0.0.1\"]\n\
         [[rule]]\nupstream = \"builtin:whoami\"\n",
    )
}

/// What `whoami` tells through a proxy in front: once, since it closes.
fn seen_through(proxy: SocketAddr) -> Result<String> {
    curl(&["--interface", CLIENT, &format!("http://{proxy}/")])
}

#[test]
fn haproxy_in_front() -> Result<()> {
    let daemon = believing()?;
    for (options, told) in [
        ("send-proxy", ""),
        ("send-proxy-v2", ""),
        ("send-proxy-v2 proxy-v2-options unique-id,crc32c", "from-haproxy"),
    ] {
        let haproxy = Haproxy::in_front_of(daemon.address(), options)?;
        let answer = seen_through(haproxy.address)?;
        let client = answer.lines().find_map(|line| line.strip_prefix("client:   "));
        let client = client.context(answer.clone())?;
        ensure!(client.starts_with(&format!("{CLIENT}:")), "{options}: {answer}");
        ensure!(answer.contains("peer:     127.0.0.1:"), "{options}: {answer}");
        let access = daemon.wait_access(|access| access.client() == client)?;
        let unique_id = access.proxy()["unique_id"].as_str().unwrap_or_default();
        ensure!(unique_id == told && access.peer().starts_with("127.0.0.1:"), "{access:?}");
    }
    forged(&daemon)
}

#[test]
fn nginx_in_front() -> Result<()> {
    let daemon = believing()?;
    let nginx = NginxProxy::in_front_of(daemon.address())?;
    let answer = seen_through(nginx.address)?;
    ensure!(answer.contains(&format!("client:   {CLIENT}:")), "{answer}");
    ensure!(answer.contains("peer:     127.0.0.1:"), "{answer}");
    forged(&daemon)
}

/// One who is not the proxy is not believed.
fn forged(daemon: &Daemon) -> Result<()> {
    let forger = Conn::tcp_from(CLIENT.parse()?, daemon.address())?;
    forger.send(line("192.0.2.1:1".parse()?, "192.0.2.2:2".parse()?))?;
    ensure!(forger.to_end().map_or(true, |bytes| bytes.is_empty()), "it was answered");
    let access = daemon.access_of(forger.local()?)?;
    ensure!(access.close() == "proxy-header", "{access:?}");
    Ok(())
}

/// The whole chain: what HAProxy says of its client is what nginx learns, through mux.
fn haproxy_in_front_and_nginx_behind(relay: Relay) -> Result<()> {
    let nginx = NginxProxy::behind()?;
    let daemon = Daemon::start(
        &format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\naccept_proxy_protocol = [\"127.0.0.1\"]\n\
             {}proxy_protocol = \"v2\"\n",
            relay.rule(&nginx.address.to_string())
        ),
        &[],
    )?;
    let haproxy = Haproxy::in_front_of(daemon.address(), "send-proxy-v2")?;
    let (client, _) = ask(haproxy.address)?;
    let access = daemon.access_of(client)?;
    ensure!(relay.may_be(access.relay()) && access.close() == "finished", "{access:?}");
    ensure!(access.peer().starts_with("127.0.0.1:"), "{access:?}");
    forged(&daemon)?;
    daemon.stop()?;
    Ok(())
}

/// `PP2_TYPE_AUTHORITY`, which HAProxy can print: the SNI of a real client's hello, before TLS that
/// goes on to HAProxy itself.
fn haproxy_behind_is_told_the_name_that_the_client_asks_for(relay: Relay) -> Result<()> {
    let certificate = Certificate::new()?;
    let haproxy = Haproxy::behind_tls(&certificate)?;
    let daemon = Daemon::start(
        &format!(
            "{}match = {{ tls = {{ sni = \"mux.test\" }} }}\nproxy_protocol = \"v2\"\n",
            relay.rule(&haproxy.address.to_string())
        ),
        &[],
    )?;
    let authority = certificate.certificate.display().to_string();
    let port = daemon.port();
    let (place, url) = (format!("mux.test:{port}:127.0.0.1"), format!("https://mux.test:{port}/"));
    let answer = curl(&[
        "--http1.1",
        "--interface",
        CLIENT,
        "--cacert",
        &authority,
        "--resolve",
        &place,
        &url,
    ])?;
    let access = daemon.wait_access(|access| access.rule() == "all")?;
    // It leaves without reading the end of TLS, which may be a reset.
    ensure!(relay.may_be(access.relay()), "{access:?}");
    let expected = format!("{},{},mux.test;", access.client().replace(':', ","), access.id());
    ensure!(answer == expected, "{answer} rather than {expected}");
    daemon.stop()?;
    Ok(())
}

/// A rule to a server that requires a header of this version.
fn announcing(relay: Relay, upstream: SocketAddr, version: &str) -> Result<Daemon> {
    let rule = relay.rule(&upstream.to_string());
    Daemon::start(&format!("{rule}proxy_protocol = \"{version}\"\n"), &[])
}

fn haproxy_behind(relay: Relay) -> Result<()> {
    let haproxy = Haproxy::behind()?;
    for version in ["v1", "v2"] {
        let daemon = announcing(relay, haproxy.address, version)?;
        let (client, told) = ask(daemon.address())?;
        let access = daemon.access_of(client)?;
        ensure!(relay.may_be(access.relay()) && access.close() == "finished", "{access:?}");
        let id = if version == "v1" { "" } else { access.id() };
        ensure!(told == format!("{id},"), "{told}");
        daemon.stop()?;
    }
    Ok(())
}

fn nginx_behind(relay: Relay) -> Result<()> {
    let nginx = NginxProxy::behind()?;
    for version in ["v1", "v2"] {
        let daemon = announcing(relay, nginx.address, version)?;
        let (client, _) = ask(daemon.address())?;
        let access = daemon.access_of(client)?;
        ensure!(relay.may_be(access.relay()) && access.close() == "finished", "{access:?}");
        daemon.stop()?;
    }
    Ok(())
}
