//! Real clients of many protocols through one listener with twelve rules, all at once: each
//! reaches its own upstream.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Daemon, Process, Scratch, eventually_true, join,
    peers::{
        Broker, Certificate, Nginx, SshServer, TlsServer, chromium, curl, mysql_server,
        postgres_server, socks_server, tls_client,
    },
    run_ok,
};

/// The rules' names, each with the number of connections that it is to have at least.
const RULES: [(&str, usize); 12] = [
    ("ssh", 1),
    ("browser", 1),
    ("named", 1),
    ("other-tls", 1),
    ("h2", 1),
    ("web", 1),
    ("socks", 1),
    ("postgres", 1),
    ("redis", 1),
    ("mqtt", 1),
    ("inside", 0),
    ("mysql", 1),
];

#[test]
fn twelve_rules_and_a_client_of_each_kind_at_once() -> Result<()> {
    let certificate = Certificate::new()?;
    // Servers of the same protocol differ in their processes, and rules in the access log.
    let (nginx, browser, other) =
        (Nginx::start(&certificate)?, Nginx::start(&certificate)?, Nginx::start(&certificate)?);
    let tls = TlsServer::start(&certificate)?;
    let (ssh, socks) = (SshServer::start()?, socks_server()?);
    let (postgres, mysql) = (postgres_server("from postgres")?, mysql_server()?);
    let (redis, mosquitto) = (Broker::redis()?, Broker::mosquitto()?);
    let scratch = Scratch::new()?;
    let input = scratch.write("input", "to ssh\n")?;

    let rule = |name: &str, condition: &str, upstream: &str| {
        format!("[[rule]]\nname = \"{name}\"\n{condition}upstream = \"{upstream}\"\n")
    };
    let rules = [
        "[[listener]]\naddress = \"127.0.0.1:0\"\non_timeout = \"mysql\"\nsniff_timeout = \"500ms\"\n".to_owned(),
        rule("ssh", "match = \"ssh\"\n", ssh.name()),
        rule("browser", "match = { tls = { sni = [\"browser.test\"] } }\n", &browser.https.to_string()),
        rule(
            "named",
            "match = { tls = { sni = [\"*.test\"], version = [\"1.3\"] } }\n",
            &tls.address.to_string(),
        ),
        rule("other-tls", "match = { tls = { alpn = [\"http/1.1\"] } }\n", &other.https.to_string()),
        rule("h2", "match = \"http2\"\n", &nginx.h2c.to_string()),
        rule("web", "match = { http = { path_prefix = \"/\" } }\n", &nginx.http.to_string()),
        rule("socks", "match = \"socks5\"\n", socks.name()),
        rule("postgres", "match = \"postgres\"\n", postgres.name()),
        rule("redis", "match = \"redis\"\n", &redis.address.to_string()),
        rule("mqtt", "match = \"mqtt\"\n", &mosquitto.address.to_string()),
        rule("inside", "match = { all = [{ client = [\"192.0.2.0/24\"] }, \"smb\"] }\n", "builtin:discard"),
        rule("mysql", "match = \"mysql\"\n", mysql.name()),
    ];
    let daemon = Daemon::start(&rules.concat(), &[])?;
    let (address, port) = (daemon.address(), daemon.port().to_string());
    let url = format!("http://127.0.0.1:{port}/");

    thread::scope(|scope| {
        let clients = [
            ("curl, HTTP/1", scope.spawn(|| is(&curl(&[&url])?, "plain"))),
            ("curl, HTTP/2", scope.spawn(|| is(&curl(&["--http2-prior-knowledge", &url])?, "h2c"))),
            (
                "curl, TLS without a name",
                scope.spawn(|| {
                    let url = format!("https://127.0.0.1:{port}/");
                    is(&curl(&["--insecure", "--http1.1", &url])?, "tls")
                }),
            ),
            (
                "openssl s_client",
                scope.spawn(|| {
                    let answers = tls_client(address, &certificate.certificate, &["hello"])?;
                    is(&answers.concat(), "olleh")
                }),
            ),
            (
                "chromium",
                scope.spawn(|| {
                    let page = chromium("browser.test", address)?;
                    ensure!(page.contains(">tls<"), "{page}");
                    Ok(())
                }),
            ),
            ("ssh", scope.spawn(|| is(ssh.run(address, "cat", &input)?.trim(), "to ssh"))),
            (
                "curl, SOCKS5",
                scope.spawn(|| {
                    let proxy = format!("127.0.0.1:{port}");
                    let answer = curl(&["--socks5-hostname", &proxy, "http://behind.test:8080/"])?;
                    is(&answer, "socks to behind.test:8080")
                }),
            ),
            (
                "psql",
                scope.spawn(|| {
                    let target = format!("host=127.0.0.1 port={port} user=u dbname=d");
                    let answer = run_ok(Command::new("psql").args([&target, "-XAtc", "select 1"]))?;
                    is(answer.trim(), "from postgres")
                }),
            ),
            (
                "redis-cli",
                scope.spawn(|| {
                    let answer =
                        run_ok(Command::new("redis-cli").args(["-p", &port, "echo", "hi"]))?;
                    is(answer.trim(), "hi")
                }),
            ),
            (
                "mosquitto_pub",
                scope.spawn(|| {
                    let publish = ["-h", "127.0.0.1", "-p", &port, "-t", "t", "-q", "1", "-l"];
                    let mut client = Process::start_with(
                        Command::new("mosquitto_pub").args(publish).stdin(Stdio::piped()),
                    )?;
                    let mut messages = client.input().context("no standard input")?;
                    writeln!(messages, "one")?;
                    drop(messages);
                    let status = client.wait()?;
                    // Quality of service 1: the broker has acknowledged it.
                    ensure!(status.success(), "{status}: {:?}", client.err());
                    Ok(())
                }),
            ),
            (
                "mysql",
                scope.spawn(|| {
                    let host =
                        ["--no-defaults", "-h", "127.0.0.1", "-u", "u", "--skip-ssl", "-e", "do 1"];
                    run_ok(Command::new("mysql").args(host).args(["-P", &port])).map(drop)
                }),
            ),
        ];
        clients.into_iter().try_for_each(|(who, client)| join(client, who))
    })?;

    for (rule, least) in RULES {
        eventually_true("the access-log lines are there", || {
            daemon.access().is_ok_and(|lines| {
                lines.iter().filter(|access| access.rule() == rule).count() >= least
            })
        })
        .context(rule)?;
    }
    ensure!(
        daemon.access()?.iter().all(|access| RULES.iter().any(|(rule, _)| access.rule() == *rule))
    );
    daemon.stop()?;
    Ok(())
}

fn is(answer: &str, expected: &str) -> Result<()> {
    ensure!(answer == expected, "{answer:?}, not {expected:?}");
    Ok(())
}
