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
        postgres_server, socks_server, tls_client_with,
    },
    run_ok,
};

#[test]
fn twelve_rules_and_a_client_of_each_kind_at_once() -> Result<()> {
    let certificate = Certificate::new()?;
    // Servers of the same protocol differ in what they answer.
    let [nginx, browser, other] =
        ["first", "browser's", "other"].map(|name| Nginx::named(name, &certificate));
    let (nginx, browser, other) = (nginx?, browser?, other?);
    let tls = TlsServer::start(&certificate)?;
    let (ssh, socks) = (SshServer::start()?, socks_server()?);
    let (postgres, mysql) = (postgres_server("from postgres")?, mysql_server()?);
    let (redis, mosquitto) = (Broker::redis()?, Broker::mosquitto()?);
    let scratch = Scratch::new()?;
    let input = scratch.write("input", "to ssh\n")?;

    // Name, condition, upstream, and the fewest connections that it is to have.
    let rules: [(&str, &str, String, usize); 12] = [
        ("ssh", "\"ssh\"", ssh.name().to_string(), 1),
        ("browser", "{ tls = { sni = [\"browser.test\"] } }", browser.https.to_string(), 1),
        (
            "named",
            "{ tls = { sni = [\"*.test\"], alpn = [\"acme/1\"], version = [\"1.3\"] } }",
            tls.address.to_string(),
            1,
        ),
        ("other-tls", "{ tls = { alpn = [\"http/1.1\"] } }", other.https.to_string(), 1),
        ("h2", "\"http2\"", nginx.h2c.to_string(), 1),
        ("web", "{ http = { path_prefix = \"/\" } }", nginx.http.to_string(), 1),
        ("socks", "\"socks5\"", socks.name().to_string(), 1),
        ("postgres", "\"postgres\"", postgres.name().to_string(), 1),
        ("redis", "\"redis\"", redis.address.to_string(), 1),
        ("mqtt", "\"mqtt\"", mosquitto.address.to_string(), 1),
        (
            "inside",
            "{ all = [{ client = [\"192.0.2.0/24\"] }, \"smb\"] }",
            "builtin:discard".into(),
            0,
        ),
        ("mysql", "\"mysql\"", mysql.name().to_string(), 1),
    ];
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\non_timeout = \"mysql\"\nsniff_timeout = \"500ms\"\n";
    let text = rules.iter().map(|(name, condition, upstream, _)| {
        format!("[[rule]]\nname = \"{name}\"\nmatch = {condition}\nupstream = \"{upstream}\"\n")
    });
    let text = listener.to_owned() + &text.collect::<String>();
    let daemon = Daemon::start(&text, &[])?;
    let (address, port) = (daemon.address(), daemon.port().to_string());
    let url = format!("http://127.0.0.1:{port}/");

    thread::scope(|scope| {
        let clients = [
            ("curl, HTTP/1", scope.spawn(|| is(&curl(&[&url])?, "first plain"))),
            (
                "curl, HTTP/2",
                scope.spawn(|| is(&curl(&["--http2-prior-knowledge", &url])?, "first h2c")),
            ),
            (
                "curl, TLS without a name",
                scope.spawn(|| {
                    let url = format!("https://127.0.0.1:{port}/");
                    is(&curl(&["--insecure", "--http1.1", &url])?, "other tls")
                }),
            ),
            (
                "openssl s_client, with SNI and ALPN",
                scope.spawn(|| {
                    let offer = ["-alpn", "acme/1"];
                    let authority = &certificate.certificate;
                    let answers = tls_client_with(&offer, address, authority, &["hello"])?;
                    is(&answers.concat(), "olleh")
                }),
            ),
            (
                "chromium",
                scope.spawn(|| {
                    let page = chromium("browser.test", address)?;
                    ensure!(page.contains(">browser's tls<"), "{page}");
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

    for (rule, _, _, least) in &rules {
        eventually_true("the access-log lines are there", || {
            daemon.access().is_ok_and(|lines| {
                lines.iter().filter(|access| access.rule() == *rule).count() >= *least
            })
        })
        .context(*rule)?;
    }
    for access in daemon.access()? {
        let rule = rules.iter().find(|(rule, ..)| access.rule() == *rule);
        let (rule, _, upstream, least) = rule.with_context(|| format!("{access:?}"))?;
        // Who waits for a greeting says nothing that could match.
        let why = if *rule == "mysql" { "on_timeout" } else { "matched" };
        ensure!(access.why() == why && access.endpoint() == upstream && *least > 0, "{access:?}");
    }
    daemon.stop()?;
    Ok(())
}

fn is(answer: &str, expected: &str) -> Result<()> {
    ensure!(answer == expected, "{answer:?}, not {expected:?}");
    Ok(())
}
