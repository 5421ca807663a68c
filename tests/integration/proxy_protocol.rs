//! The PROXY protocol, both ways: who is believed, what upstreams are told, and that headers are in
//! no stream and in no count.

use std::{collections::BTreeMap, net::SocketAddr, thread};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Access, Conn, Daemon, Pattern, ProxyHeader, Relay, Scratch, Stopped, Upstream, join,
    on_each_relay,
    peers::{Certificate, TlsServer, curl, tls_client},
    proxy::{binary, line, local, tlv},
};

on_each_relay!(
    a_header_goes_before_the_stream_and_is_in_no_count,
    a_believed_header_is_not_of_the_stream,
    a_header_that_comes_in_goes_out,
    a_forged_header_is_refused_whenever_it_comes,
    who_is_not_trusted_is_served_all_the_same,
);

const UP: Pattern = Pattern::new(41);
const DOWN: Pattern = Pattern::new(42);
const LENGTH: u64 = 4 << 20;
/// Whom trusted peers claim to come from, and to where.
const CLAIMED: &str = "198.51.100.7:4711";
const DESTINATION: &str = "203.0.113.1:443";

fn address(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

/// A header of version 2 of a claimed client.
fn claim(tlvs: &[(u8, &[u8])]) -> Result<Vec<u8>> {
    binary(address(CLAIMED), address(DESTINATION), tlvs)
}

/// A listener that believes these peers.
fn listener(trusted: &str, rules: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\naccept_proxy_protocol = [\"{trusted}\"]\n{rules}"
    )
}

/// Some bytes each way, one after the other, then a lot each way at once, then the end.
fn exchange(relay: Relay, client: &Conn, server: &Conn) -> Result<()> {
    relay.greet(client, server)?;
    mux_tests::exchange((client, UP, LENGTH), (server, DOWN, LENGTH))
}

/// Checks the line of a flow that has made the [`exchange`] and sent `extra` bytes before it.
fn exact(access: &Access, relay: Relay, extra: u64) -> Result<()> {
    ensure!(access.relay() == relay.name() && access.close() == "finished", "{access:?}");
    ensure!(
        access.bytes() == (LENGTH + relay.hello() + extra, LENGTH + relay.hello()),
        "{access:?}"
    );
    Ok(())
}

/// The counters of the daemon's last message.
fn counters(stopped: &Stopped) -> Result<BTreeMap<String, u64>> {
    let line = stopped.log.iter().find_map(|line| line.split_once("stopped: "));
    let (_, counters) = line.context("no last message")?;
    counters
        .split_whitespace()
        .map(|pair| {
            let (name, value) = pair.split_once('=').context(pair.to_owned())?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}

fn a_header_goes_before_the_stream_and_is_in_no_count(relay: Relay) -> Result<()> {
    for version in ["v1", "v2"] {
        let upstream = Upstream::tcp()?;
        let rules = format!("{}proxy_protocol = \"{version}\"\n", relay.rule(&upstream.name()));
        let daemon = Daemon::start(&rules, &[])?;
        let client = daemon.connect()?;
        let server = upstream.accept()?;
        // Nobody has said anything yet.
        let header = ProxyHeader::receive(&server)?;
        ensure!(header.ends == Some((client.local()?, daemon.address())), "{header:?}");
        server.send("220 ")?;
        client.expect("220 ")?;
        exchange(relay, &client, &server)?;
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.relay() == relay.name() && access.close() == "finished", "{access:?}");
        ensure!(
            access.bytes() == (LENGTH + relay.hello(), LENGTH + relay.hello() + 4),
            "{version}: {access:?}"
        );
        let id = header.tlvs.get(&tlv::UNIQUE_ID).map(|id| String::from_utf8_lossy(id));
        match version {
            "v1" => ensure!(header.tlvs.is_empty()),
            _ => {
                ensure!(id.as_deref() == Some(access.id()) && header.tlvs.len() == 2, "{header:?}")
            }
        }
        daemon.stop()?;
    }
    Ok(())
}

fn a_believed_header_is_not_of_the_stream(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = listener("127.0.0.0/8", &relay.rule(&upstream.name()));
    let daemon = Daemon::start(&rules, &[])?;
    let ends = [address(CLAIMED), address(DESTINATION)];
    let v6 = [address("[2001:db8::7]:1"), address("[2001:db8::1]:2")];
    for (header, claimed) in [
        (line(ends[0], ends[1]), CLAIMED),
        (line(v6[0], v6[1]), "[2001:db8::7]:1"),
        (claim(&[])?, CLAIMED),
        (claim(&[(tlv::AUTHORITY, b"a.example"), (0xe0, &[0; 3000])])?, CLAIMED),
        (binary(v6[0], v6[1], &[])?, "[2001:db8::7]:1"),
    ] {
        // Alone, with the stream's first bytes, and split.
        for at in [0, header.len() / 2, header.len()] {
            let client = daemon.connect()?;
            let (first, second) = header.split_at(at);
            if !first.is_empty() {
                client.send(first)?;
                client.wait_read()?;
            }
            client.send([second, b"with it"].concat())?;
            let server = upstream.accept()?;
            server.expect("with it")?;
            exchange(relay, &client, &server)?;
            let peer = client.local()?.to_string();
            let access = daemon.wait_access(|access| access.peer() == peer)?;
            ensure!(access.client() == claimed, "{access:?}");
            exact(&access, relay, 7)?;
        }
    }
    let counters = counters(&daemon.stop()?)?;
    ensure!(counters["proxy_headers"] == 15, "{counters:?}");
    Ok(())
}

fn a_header_that_comes_in_goes_out(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rule = format!("{}proxy_protocol = \"v2\"\n", relay.rule(&upstream.name()));
    let daemon = Daemon::start(&listener("127.0.0.1", &rule), &[])?;
    let tlvs: [(u8, &[u8]); 3] =
        [(tlv::AUTHORITY, b"a.example"), (tlv::ALPN, b"h2"), (tlv::UNIQUE_ID, b"their id")];
    let client = daemon.connect()?;
    client.send(claim(&tlvs)?)?;
    let server = upstream.accept()?;
    let header = ProxyHeader::receive(&server)?;
    ensure!(header.ends == Some((address(CLAIMED), address(DESTINATION))), "{header:?}");
    for (kind, value) in tlvs {
        ensure!(header.tlvs.get(&kind).is_some_and(|found| found == value), "{header:?}");
    }
    ensure!(header.tlvs.contains_key(&tlv::CRC32C), "{header:?}");
    exchange(relay, &client, &server)?;
    let access = daemon.access_of(address(CLAIMED))?;
    exact(&access, relay, 0)?;
    let told = access.proxy();
    ensure!(told["version"] == 2 && told["unique_id"] == "their\\x20id", "{access:?}");
    daemon.stop()?;
    Ok(())
}

fn a_forged_header_is_refused_whenever_it_comes(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&listener("192.0.2.0/24", &relay.rule(&upstream.name())), &[])?;
    let mut refused = 0;
    for (header, signature) in
        [(line(address(CLAIMED), address(DESTINATION)), 6), (claim(&[])?, 12)]
    {
        for at in [0, 1, 5, 6, 11].into_iter().filter(|at| *at < signature) {
            // The rule takes every connection, without a byte.
            let client = daemon.connect()?;
            let server = upstream.accept()?;
            server.send("220 ")?;
            client.expect("220 ")?;
            let (first, second) = header.split_at(at);
            if at > 0 {
                client.send(first)?;
                client.wait_read()?;
            }
            client.send(second)?;
            client.expect_reset()?;
            refused += 1;
            let access = daemon.access_of(client.local()?)?;
            ensure!(access.close() == "proxy-header", "{access:?}");
            // What got through is no whole signature.
            let mut got = vec![0; 64];
            let read = server.read(&mut got).unwrap_or(0);
            ensure!(read < signature, "{}", got[..read].escape_ascii());
        }
    }
    let counters = counters(&daemon.stop()?)?;
    ensure!(counters["proxy_untrusted"] == refused, "{counters:?}");
    Ok(())
}

fn who_is_not_trusted_is_served_all_the_same(relay: Relay) -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::start(&listener("192.0.2.0/24", &relay.rule(&upstream.name())), &[])?;
    // It could become a header for a while.
    for beginning in ["", "PROXY", "\r\n\r\n", "\r\n"] {
        let client = daemon.connect()?;
        let server = upstream.accept()?;
        client.send(beginning)?;
        server.expect(beginning)?;
        exchange(relay, &client, &server)?;
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.peer().is_empty() && access.proxy().is_null(), "{access:?}");
        exact(&access, relay, beginning.len() as u64)?;
    }
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_forged_header_is_refused_before_it_is_routed() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rule = format!(
        "[[rule]]\nname = \"all\"\nmatch = {{ regex = '(?s)^.{{20}}' }}\nupstream = \"{}\"\n",
        upstream.name()
    );
    let daemon = Daemon::user_space(&listener("192.0.2.0/24", &rule))?;
    for header in [line(address(CLAIMED), address(DESTINATION)), claim(&[])?] {
        let client = daemon.connect()?;
        client.send(&header)?;
        ensure!(client.to_end().map_or(true, |bytes| bytes.is_empty()));
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.close() == "proxy-header" && access.rule().is_empty(), "{access:?}");
        ensure!(access.error().contains("not trusted"), "{access:?}");
    }
    ensure!(!upstream.has_connection()?, "it was connected to");
    Ok(())
}

/// Each way in which a trusted peer's header can be wrong, and what counts it.
#[test]
fn trusted_peers_without_a_right_header_are_refused() -> Result<()> {
    let rules =
        listener("127.0.0.1", "sniff_timeout = \"300ms\"\n[[rule]]\nupstream = \"builtin:echo\"\n");
    let daemon = Daemon::user_space(&rules)?;
    let mut checksum = claim(&[(tlv::CRC32C, &[0; 4])])?;
    checksum.extend(b"hello");
    let long = claim(&[(0xe0, &[0; 5000])])?;
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    let sent: [(&[u8], bool, &str); 9] = [
        (b"GET / HTTP/1.1\r\n\r\n", false, "proxy_missing"),
        (b"", true, "proxy_missing"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n", false, "proxy_malformed"),
        (b"PROXY TCP4 1.2.3.4 ", true, "proxy_malformed"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31", false, "proxy_malformed"),
        (&checksum, false, "proxy_checksum"),
        (&long, false, "proxy_too_long"),
        (endless.as_bytes(), false, "proxy_too_long"),
        (b"PROXY ", false, "proxy_timeout"),
    ];
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for (bytes, finish, counter) in sent {
        *expected.entry(counter).or_default() += 1;
        let client = daemon.connect()?;
        client.send(bytes)?;
        if finish {
            client.finish()?;
        }
        // Nothing of the header comes back.
        ensure!(client.to_end().map_or(true, |answer| answer.is_empty()), "{counter}");
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.close() == "proxy-header" && !access.error().is_empty(), "{access:?}");
        ensure!(access.bytes() == (0, 0), "{access:?}");
    }
    let counters = counters(&daemon.stop()?)?;
    for (counter, count) in expected {
        ensure!(counters.get(counter) == Some(&count), "{counter}: {counters:?}");
    }
    Ok(())
}

/// What asks for the client's address is answered with the claimed one.
#[test]
fn the_claimed_client_is_the_client() -> Result<()> {
    let rules = listener(
        "127.0.0.1",
        "deny = [\"198.51.100.66\"]\n\
         [[rule]]\nname = \"office\"\nmatch = { client = [\"198.51.100.0/24\"] }\n\
         upstream = \"builtin:whoami\"\ndeny = [\"198.51.100.77\"]\n\
         [[rule]]\nname = \"others\"\nupstream = \"builtin:echo\"\n\
         [limits]\nper_source = { connections = 1 }\n",
    );
    let daemon = Daemon::user_space(&rules)?;
    let connect = |claimed: &str| -> Result<Conn> {
        let client = daemon.connect()?;
        client.send(line(address(claimed), address(DESTINATION)))?;
        Ok(client)
    };
    let client = connect(CLAIMED)?;
    client.finish()?;
    let answer = String::from_utf8(client.to_end()?)?;
    ensure!(answer.contains(&format!("client:   {CLAIMED}\n")), "{answer}");
    ensure!(answer.contains(&format!("peer:     {}\n", client.local()?)), "{answer}");
    ensure!(answer.contains("rule:     office (matched)"), "{answer}");

    let other = connect("192.0.2.9:1")?;
    other.send("echo")?;
    other.expect("echo")?;
    // All of them come from the same proxy.
    let second = connect("192.0.2.10:1")?;
    second.send("echo")?;
    second.expect("echo")?;
    for (claimed, close) in [
        ("192.0.2.9:2", "source-limit"),
        ("198.51.100.66:1", "listener-denied"),
        ("198.51.100.77:1", "rule-denied"),
    ] {
        let refused = connect(claimed)?;
        ensure!(refused.expect_reset()? == 0);
        let access = daemon.access_of(address(claimed))?;
        ensure!(access.close() == close, "{access:?}");
    }
    drop((other, second));
    daemon.stop()?;
    Ok(())
}

/// A health check of the proxy itself: nobody else's connection.
#[test]
fn headers_that_name_nobody_leave_the_peer() -> Result<()> {
    let rules = listener("127.0.0.1", "[[rule]]\nupstream = \"builtin:echo\"\n");
    let daemon = Daemon::user_space(&rules)?;
    for header in [local()?, b"PROXY UNKNOWN\r\n".to_vec()] {
        let client = daemon.connect()?;
        client.send([&header[..], b"hello"].concat())?;
        client.expect("hello")?;
        client.finish()?;
        client.expect_end()?;
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.peer().is_empty() && access.bytes() == (5, 5), "{access:?}");
        ensure!(access.proxy()["version"].is_number(), "{access:?}");
    }
    daemon.stop()?;
    Ok(())
}

#[test]
fn unix_sockets_have_headers_too() -> Result<()> {
    let scratch = Scratch::new()?;
    let (trusting, plain) = (scratch.join("trusting.sock"), scratch.join("plain.sock"));
    let upstreams = [Upstream::tcp()?, Upstream::unix(&scratch.join("upstream.sock"))?];
    let rules = format!(
        "[[listener]]\naddress = \"{}\"\naccept_proxy_protocol = [\"unix\"]\n\
         [[listener]]\naddress = \"{}\"\n\
         [[rule]]\nmatch = {{ prefix = \"1\" }}\nproxy_protocol = \"v1\"\nupstream = \"{}\"\n\
         [[rule]]\nproxy_protocol = \"v2\"\nupstream = \"{}\"\n",
        trusting.display(),
        plain.display(),
        upstreams[0].name(),
        upstreams[1].name(),
    );
    let daemon = Daemon::user_space(&rules)?;
    let received = |path, header: &[u8], first: &str, upstream: &Upstream| -> Result<ProxyHeader> {
        let client = Conn::unix(path)?;
        client.send([header, first.as_bytes()].concat())?;
        let server = upstream.accept()?;
        let received = ProxyHeader::receive(&server)?;
        server.expect(first)?;
        Ok(received)
    };
    let claimed = Some((address(CLAIMED), address(DESTINATION)));
    for (first, upstream) in [("1", &upstreams[0]), ("2", &upstreams[1])] {
        let header = received(&trusting, &claim(&[])?, first, upstream)?;
        ensure!(header.ends == claimed, "{header:?}");
    }
    let header = received(&plain, b"", "1", &upstreams[0])?;
    ensure!(header.ends.is_none() && header.unix.is_none(), "{header:?}");
    let header = received(&plain, b"", "2", &upstreams[1])?;
    let path = plain.display().to_string();
    ensure!(header.unix == Some((String::new(), path)), "{header:?}");
    daemon.stop()?;
    Ok(())
}

/// What a client of a TLS server is told is in the header, which the TLS server never sees.
#[test]
fn a_clients_host_name_is_the_authority() -> Result<()> {
    let certificate = Certificate::new()?;
    let tls = TlsServer::start(&certificate)?;
    // Takes the header off, as a server would, and passes the rest on.
    let (headers, received) = std::sync::mpsc::channel();
    let stripper = Upstream::tcp()?.serve(move |conn| {
        headers.send(ProxyHeader::receive(&conn)?)?;
        relay_to(&conn, tls.address)
    })?;
    let rules = format!(
        "[[rule]]\nmatch = \"tls\"\nproxy_protocol = \"v2\"\nupstream = \"{}\"\n",
        stripper.name()
    );
    let daemon = Daemon::user_space(&rules)?;
    let answers = tls_client(daemon.address(), &certificate.certificate, &["hello"])?;
    ensure!(answers == ["olleh"], "{answers:?}");
    let header = received.recv()?;
    let authority = header.tlvs.get(&tlv::AUTHORITY).map(|name| String::from_utf8_lossy(name));
    ensure!(authority.as_deref() == Some("mux.test"), "{header:?}");
    stripper.stop()
}

/// Passes everything on, both ways, until the client ends.
fn relay_to(conn: &Conn, address: SocketAddr) -> Result<()> {
    let server = Conn::tcp(address)?;
    let pass = |from: &Conn, to: &Conn| -> Result<()> {
        let mut bytes = vec![0; 16 * 1024];
        // s_client closes without ceremony.
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            to.send(&bytes[..read])?;
        }
        to.finish().or(Ok(()))
    };
    thread::scope(|scope| {
        let down = scope.spawn(|| pass(&server, conn));
        pass(conn, &server)?;
        join(down, "answers")
    })
}

#[test]
fn curl_speaks_it_to_whoami() -> Result<()> {
    let rules =
        listener("127.0.0.1", "[[rule]]\nmatch = \"http\"\nupstream = \"builtin:whoami\"\n");
    let daemon = Daemon::user_space(&rules)?;
    let url = format!("http://127.0.0.1:{}/", daemon.port());
    let json = curl(&["--haproxy-protocol", "-H", "Accept: application/json", &url])?;
    let about: serde_json::Value = serde_json::from_str(&json).context(json)?;
    // It claims to be itself, which is no news.
    ensure!(about["client"].as_str().is_some_and(|c| c.starts_with("127.0.0.1:")), "{about}");
    ensure!(about.get("peer").is_none() && about["rule"] == "rule-1", "{about}");
    Ok(())
}
