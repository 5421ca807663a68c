//! Real clients and servers of four protocols through one port at once.

use std::thread;

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Daemon, Relay, Scratch, join, on_each_relay,
    peers::{Certificate, Nginx, SshServer, TlsServer, curl, socks_server, tls_client},
};

on_each_relay!(http_tls_ssh_and_socks_through_one_port_at_once);

/// Clients of each protocol.
const CLIENTS: usize = 4;

fn http_tls_ssh_and_socks_through_one_port_at_once(relay: Relay) -> Result<()> {
    let certificate = Certificate::new()?;
    let nginx = Nginx::start(&certificate)?;
    let tls = TlsServer::start(&certificate)?;
    let ssh = SshServer::start()?;
    let socks = socks_server()?;
    let scratch = Scratch::new()?;
    let text: String = (0..20_000).map(|line| format!("line {line}\n")).collect();
    let input = scratch.write("input", &text)?;

    let rule = |name: &str, upstream: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nmatch = \"{name}\"\nupstream = \"{upstream}\"\nrelay = \"{}\"\n",
            relay.name()
        )
    };
    let daemon = Daemon::start(
        &[
            rule("ssh", ssh.name()),
            rule("tls", &tls.address.to_string()),
            rule("socks5", socks.name()),
            rule("http", &nginx.http.to_string()),
        ]
        .concat(),
        &[],
    )?;
    let address = daemon.address();
    let port = daemon.port();

    thread::scope(|scope| {
        let by_http = scope.spawn(|| {
            for _ in 0..CLIENTS {
                // Two requests on one connection.
                let url = format!("http://127.0.0.1:{port}/");
                let answer = curl(&[&url, &url])?;
                ensure!(answer == "plainplain", "{answer}");
            }
            Ok(())
        });
        let by_tls = scope.spawn(|| {
            for _ in 0..CLIENTS {
                // s_server serves one connection at a time.
                let lines = ["hello mux", "once more"];
                let answers = tls_client(address, &certificate.certificate, &lines)?;
                ensure!(answers == ["xum olleh", "erom ecno"], "{answers:?}");
            }
            Ok(())
        });
        let by_ssh = scope.spawn(|| {
            let answer = ssh.run(address, "cat; echo done by ssh", &input)?;
            ensure!(answer == format!("{text}done by ssh\n"), "{} bytes", answer.len());
            Ok(())
        });
        let by_socks = scope.spawn(|| {
            for _ in 0..CLIENTS {
                let answer = curl(&[
                    "--socks5-hostname",
                    &format!("127.0.0.1:{port}"),
                    "http://behind.mux.test:8080/",
                ])?;
                ensure!(answer == "socks to behind.mux.test:8080", "{answer}");
            }
            Ok(())
        });
        let results = [
            join(by_http, "curl, HTTP"),
            join(by_tls, "openssl s_client"),
            join(by_ssh, "ssh"),
            join(by_socks, "curl, SOCKS5"),
        ];
        results.into_iter().collect::<Result<()>>()
    })?;

    for (rule, count) in [("http", CLIENTS), ("tls", CLIENTS), ("ssh", 1), ("socks5", CLIENTS)] {
        mux_tests::eventually_true("all access-log lines are there", || {
            daemon.access().is_ok_and(|lines| {
                lines.iter().filter(|access| access.rule() == rule).count() == count
            })
        })
        .context(rule)?;
    }
    for access in daemon.access()? {
        ensure!(relay.may_be(access.relay()), "another relay: {access:?}");
    }
    daemon.stop()?;
    Ok(())
}
