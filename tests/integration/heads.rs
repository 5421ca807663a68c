//! Rules by what a client's first message says: names in TLS, hosts and paths in HTTP.

use std::thread;

use anyhow::{Context, Result, ensure};
use mux_tests::{Daemon, Server, Upstream, join, peers::curl, repository};

/// The first bytes of a probe's fixture.
fn fixture(probe: &str, name: &str) -> Result<Vec<u8>> {
    let path = repository().join(format!("mux-userspace/fixtures/probes/{probe}.toml"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (_, rest) = text.split_once(&format!("from = \"{name}")).context("no such fixture")?;
    let (_, rest) = rest.split_once("hex = \"").context("no bytes")?;
    let (hex, _) = rest.split_once('"').context("no end")?;
    let byte = |at: usize| Ok(u8::from_str_radix(hex.get(at..at + 2).context("half a byte")?, 16)?);
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// With ML-KEM a ClientHello takes more than one segment, and so more than one read.
#[test]
fn post_quantum_hellos_in_pieces_are_routed_by_name() -> Result<()> {
    let (other, wanted) = (Server::tagged("other")?, Upstream::tcp()?);
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nname = \"other\"\nmatch = {{ tls = {{ sni = [\"example.com\", \"*.org\"] }} }}\n\
         upstream = \"{}\"\n\
         [[rule]]\nname = \"wanted\"\nmatch = {{ tls = {{ sni = [\"*.example.com\", \"chromium.example\"], alpn = [\"h2\"] }} }}\n\
         upstream = \"{}\"\n",
        other.name(),
        wanted.name()
    ))?;
    for name in ["openssl s_client 3.5", "Chromium"] {
        let hello = fixture("tls", name)?;
        ensure!(hello.len() > 1460, "{name}: {} bytes", hello.len());
        for size in [1, 100, 1460] {
            let client = daemon.connect()?;
            for (number, piece) in hello.chunks(size).enumerate() {
                client.send(piece)?;
                // So that pieces are not read together. To wait for each byte takes seconds.
                if number < 40 {
                    client.wait_read()?;
                }
            }
            let server = wanted.accept()?;
            server.expect(&hello)?;
            client.finish()?;
            server.expect_end()?;
            server.finish()?;
            client.expect_end()?;
            let access = daemon.access_of(client.local()?)?;
            ensure!(access.rule() == "wanted" && access.why() == "matched", "{access:?}");
            ensure!(access.bytes().0 == hello.len() as u64, "{access:?}");
        }
    }
    ensure!(other.served() == 0);
    Ok(())
}

#[test]
fn hosts_and_paths_of_http1_route() -> Result<()> {
    let (api, site) = (Server::tagged("api")?, Server::tagged("site")?);
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nname = \"api\"\nmatch = {{ http = {{ host = [\"*.example\"], path_prefix = \"/api/\" }} }}\n\
         upstream = \"{}\"\n\
         [[rule]]\nname = \"site\"\nmatch = {{ http = {{ host = [\"a.example\"] }} }}\nupstream = \"{}\"\n",
        api.name(),
        site.name()
    ))?;
    for (request, tag) in [
        ("GET /api/x HTTP/1.1\r\nHost: A.example:80\r\n\r\n", "api"),
        ("GET /x HTTP/1.1\r\nUser-Agent: x\r\nHost: a.example\r\n\r\n", "site"),
        ("GET http://b.example/api/ HTTP/1.1\r\n", "api"),
    ] {
        let client = daemon.connect()?;
        client.send_one_by_one(request)?;
        client.expect(tag)?;
    }
    let client = daemon.connect()?;
    client.send("GET /x HTTP/1.1\r\nHost: b.example\r\n")?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "no-match", "{access:?}");
    // A second host may be the one that the server believes.
    let client = daemon.connect()?;
    client.send("GET /x HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n")?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "no-match", "{access:?}");
    Ok(())
}

/// SETTINGS, `:status: 200`, and a body, on the client's first stream (RFC 9113 6).
fn http2_response(body: &str) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    [
        b"\0\0\0\x04\0\0\0\0\0".as_slice(),
        b"\0\0\x01\x01\x04\0\0\0\x01\x88",
        &[0, 0, length, 0, 1, 0, 0, 0, 1],
        body.as_bytes(),
    ]
    .concat()
}

#[test]
fn curl_with_prior_knowledge_is_routed_by_host_and_path() -> Result<()> {
    let (api, site) = (Upstream::tcp()?, Upstream::tcp()?);
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nname = \"api\"\nmatch = {{ http = {{ version = [\"2\"], path_prefix = \"/api/\" }} }}\n\
         upstream = \"{}\"\n\
         [[rule]]\nname = \"site\"\nmatch = {{ http = {{ host = [\"a.example\"] }} }}\nupstream = \"{}\"\n",
        api.name(),
        site.name()
    ))?;
    let port = daemon.port();
    for (upstream, path, rule) in [(&api, "/api/x?y", "api"), (&site, "/", "site")] {
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                let resolve = format!("a.example:{port}:127.0.0.1");
                let url = format!("http://a.example:{port}{path}");
                let answer = curl(&["--http2-prior-knowledge", "--resolve", &resolve, &url])?;
                ensure!(answer == rule, "{answer}");
                Ok(())
            });
            let server = upstream.accept()?;
            server.send(http2_response(rule))?;
            join(client, "curl")
        })?;
        let access = daemon.wait_access(|access| access.rule() == rule)?;
        ensure!(access.why() == "matched", "{access:?}");
    }
    Ok(())
}
