//! Endpoints that go down and come back: real servers are killed, stopped and started again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Conn, Daemon, Scratch, Server, Upstream, admin::AdminSocket, eventually, eventually_true,
    peers::Web,
};
use rustix::process::Signal;

/// One rule for everything that is said, to a group of these endpoints.
fn group(endpoints: &[&str], keys: &str) -> String {
    let list: Vec<String> = endpoints
        .iter()
        .map(|endpoint| {
            if endpoint.starts_with('{') {
                (*endpoint).to_owned()
            } else {
                format!("\"{endpoint}\"")
            }
        })
        .collect();
    format!(
        "[[rule]]\nmatch = {{ regex = '^[A-Z]' }}\nupstream = \"web\"\n\
         [[upstream]]\nname = \"web\"\nendpoints = [{}]\n{keys}\n",
        list.join(", ")
    )
}

/// What a web server answers through the daemon.
fn ask(daemon: &Daemon) -> Result<String> {
    let client = daemon.connect()?;
    client.send("GET / HTTP/1.0\r\n\r\n")?;
    let answer = String::from_utf8(client.to_end()?)?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    Ok(answer.rsplit("\r\n").next().context("a body")?.to_owned())
}

/// Who answers so many requests; all have to be answered.
fn ask_all(daemon: &Daemon, count: usize) -> Result<Vec<String>> {
    let mut answers =
        (0..count).map(|_| ask(daemon)).collect::<Result<Vec<_>>>().context("a failed request")?;
    answers.sort_unstable();
    answers.dedup();
    Ok(answers)
}

/// With retries no client ever notices; without them, only the first few do.
#[test]
fn a_killed_endpoint_is_ejected_and_comes_back() -> Result<()> {
    let (mut a, b) = (Web::start("a")?, Web::start("b")?);
    let daemon = Daemon::user_space(&group(
        &[&a.address(), &b.address()],
        "eject = { failures = 2, backoff = \"100ms\", max = \"1s\" }",
    ))?;
    ensure!(ask_all(&daemon, 4)? == ["a", "b"]);
    a.kill();
    eventually("the ejection", || match ask(&daemon) {
        Ok(answer) if answer == "b" => {
            (daemon.log_count("endpoint is ejected") > 0).then_some(Ok(()))
        }
        other => Some(Err(anyhow::anyhow!("not answered by b: {other:?}"))),
    })??;
    ensure!(ask_all(&daemon, 100)? == ["b"]);
    a.restart()?;
    eventually("a serves again", || match ask(&daemon) {
        Ok(answer) => (answer == "a").then_some(Ok(())),
        Err(error) => Some(Err(error)),
    })??;
    daemon.wait_log("endpoint is up")?;
    ensure!(ask_all(&daemon, 4)? == ["a", "b"]);
    let stopped = daemon.stop()?;
    ensure!(stopped.counter("upstream_ejections") >= 1);
    ensure!(stopped.counter("upstream_returns") == 1);
    ensure!(stopped.counter("upstream_retries") == stopped.counter("connect_failed"));
    // One outage is one line, however often the endpoint was tried in between.
    let said = stopped.log.iter().filter(|line| line.contains("endpoint is ejected")).count();
    ensure!(said == 1, "said {said} times");
    Ok(())
}

#[test]
fn after_the_ejection_no_request_fails_even_without_retries() -> Result<()> {
    let (mut a, b) = (Web::start("a")?, Web::start("b")?);
    let daemon = Daemon::user_space(&group(
        &[&a.address(), &b.address()],
        "retries = 0\neject = { failures = 3, backoff = \"1h\", max = \"1h\" }",
    ))?;
    a.kill();
    let failed = (0..6).filter(|_| ask(&daemon).is_err()).count();
    ensure!(failed == 3, "{failed} of six failed; three make the ejection");
    ensure!(ask_all(&daemon, 100)? == ["b"]);
    // Ejected for an hour, and it is the only one that is left: better than nothing.
    drop(b);
    eventually_true("b is ejected, too", || {
        ask(&daemon).is_err() && daemon.log_count("no endpoint is up") > 0
    })?;
    a.restart()?;
    eventually_true("a serves again", || ask(&daemon).is_ok_and(|answer| answer == "a"))?;
    ensure!(ask_all(&daemon, 20)? == ["a"]);
    Ok(())
}

const QUICK: &str = "interval = \"50ms\", timeout = \"1s\", rise = 2, fall = 2";

/// Without a single client: the checks see it.
#[test]
fn a_check_takes_a_killed_endpoint_down_and_brings_it_back() -> Result<()> {
    let (mut a, b) = (Web::start("a")?, Web::start("b")?);
    let daemon = Daemon::user_space(&group(
        &[&a.address(), &b.address()],
        &format!("retries = 0\neject = false\nhealth = {{ {QUICK} }}"),
    ))?;
    ensure!(ask_all(&daemon, 4)? == ["a", "b"], "up from the beginning");
    a.kill();
    let line = daemon.wait_log("endpoint is down")?;
    ensure!(line.contains(&a.address()) && line.contains("refused"), "{line}");
    ensure!(ask_all(&daemon, 50)? == ["b"]);
    a.restart()?;
    daemon.wait_log("endpoint is up")?;
    ensure!(ask_all(&daemon, 4)? == ["a", "b"]);
    let stopped = daemon.stop()?;
    ensure!(stopped.counter("upstream_down") == 1 && stopped.counter("upstream_up") == 1);
    ensure!(stopped.counter("upstream_checks_failed") >= 2);
    ensure!(stopped.counter("connect_failed") == 0, "no client was sent to it");
    Ok(())
}

/// A stopped process accepts connections, by way of its backlog: only an answer tells.
#[test]
fn a_check_that_asks_sees_a_server_that_hangs() -> Result<()> {
    let (a, b) = (Web::start("a")?, Web::start("b")?);
    let daemon = Daemon::user_space(&group(
        &[&a.address(), &b.address()],
        "health = { interval = \"50ms\", timeout = \"200ms\", rise = 2, fall = 2, \
         send = \"GET / HTTP/1.0\\r\\n\\r\\n\", expect_regex = '^HTTP/1\\.[01] 200 ' }",
    ))?;
    a.signal(Signal::STOP)?;
    let line = daemon.wait_log("endpoint is down")?;
    ensure!(line.contains(&a.address()) && line.contains("timed out"), "{line}");
    ensure!(ask_all(&daemon, 20)? == ["b"]);
    a.signal(Signal::CONT)?;
    daemon.wait_log("endpoint is up")?;
    ensure!(ask_all(&daemon, 4)? == ["a", "b"]);
    Ok(())
}

/// A server that greets, well or not so well.
fn greeter(well: &Arc<AtomicBool>) -> Result<Server> {
    let well = Arc::clone(well);
    Upstream::tcp()?.serve(move |conn: Conn| {
        let greeting = if well.load(Ordering::Acquire) { "220 ready\r\n" } else { "421 busy\r\n" };
        // The check may have gone before it is told.
        let _ = conn.send(greeting).and_then(|()| conn.finish());
        let _ = conn.to_end();
        Ok(())
    })
}

#[test]
fn a_check_looks_at_what_it_is_told() -> Result<()> {
    let well = Arc::new(AtomicBool::new(true));
    let server = greeter(&well)?;
    let daemon = Daemon::user_space(&group(
        &[server.name()],
        &format!("health = {{ {QUICK}, expect = \"220 \" }}"),
    ))?;
    let greeted = || -> Result<Vec<u8>> {
        let client = daemon.connect()?;
        client.send("EHLO")?;
        client.to_end()
    };
    ensure!(greeted()? == b"220 ready\r\n");
    well.store(false, Ordering::Release);
    let line = daemon.wait_log("endpoint is down")?;
    ensure!(line.contains("a wrong answer: 421"), "{line}");
    let client = daemon.connect()?;
    client.send("EHLO")?;
    ensure!(client.expect_reset()? == 0);
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "no-upstream", "{access:?}");
    ensure!(access.error().contains("down: a wrong answer: 421"), "{access:?}");
    well.store(true, Ordering::Release);
    daemon.wait_log("endpoint is up")?;
    ensure!(greeted()? == b"220 ready\r\n");
    let stopped = daemon.stop()?;
    ensure!(stopped.counter("no_upstream") == 1);
    Ok(())
}

#[test]
fn checks_work_over_unix_sockets() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut a = Web::start_unix(&scratch.join("a.sock"), "a")?;
    let b = Web::start_unix(&scratch.join("b.sock"), "b")?;
    let daemon = Daemon::user_space(&group(
        &[&a.address(), &b.address()],
        &format!(
            // `GET / HTTP/1.0`, and an answer that contains it.
            "retries = 0\nhealth = {{ {QUICK}, send_hex = \"474554202f20485454502f312e30 0d0a0d0a\", expect = \"200 OK\" }}"
        ),
    ))?;
    ensure!(ask_all(&daemon, 4)? == ["a", "b"]);
    a.kill();
    daemon.wait_log("endpoint is down")?;
    ensure!(ask_all(&daemon, 20)? == ["b"]);
    a.restart()?;
    daemon.wait_log("endpoint is up")?;
    ensure!(ask_all(&daemon, 4)? == ["a", "b"]);
    Ok(())
}

#[test]
fn a_backup_serves_only_while_it_is_needed() -> Result<()> {
    let mut primaries = [Web::start("a")?, Web::start("b")?];
    let backup = Web::start("backup")?;
    let daemon = Daemon::user_space(&group(
        &[
            &primaries[0].address(),
            &primaries[1].address(),
            &format!("{{ address = \"{}\", backup = true }}", backup.address()),
        ],
        &format!("eject = false\nhealth = {{ {QUICK} }}"),
    ))?;
    ensure!(ask_all(&daemon, 20)? == ["a", "b"]);
    primaries[0].kill();
    eventually_true("one is down", || daemon.log_count("endpoint is down") == 1)?;
    ensure!(ask_all(&daemon, 20)? == ["b"]);
    primaries[1].kill();
    eventually_true("both are down", || daemon.log_count("endpoint is down") == 2)?;
    ensure!(ask_all(&daemon, 20)? == ["backup"]);
    primaries[1].restart()?;
    daemon.wait_log("endpoint is up")?;
    ensure!(ask_all(&daemon, 20)? == ["b"]);
    ensure!(daemon.log_count("no endpoint is up") == 0);
    Ok(())
}

/// One line when the last one goes, one when the first one is back, however many clients come.
#[test]
fn a_group_without_endpoints_says_so_once() -> Result<()> {
    let (mut a, mut b) = (Web::start("a")?, Web::start("b")?);
    let daemon = Daemon::user_space(&group(
        &[&a.address(), &b.address()],
        &format!("health = {{ {QUICK} }}"),
    ))?;
    ensure!(ask_all(&daemon, 4)? == ["a", "b"]);
    a.kill();
    b.kill();
    daemon.wait_log("no endpoint is up")?;
    eventually_true("both are down", || daemon.log_count("endpoint is down") == 2)?;
    for _ in 0..50 {
        let client = daemon.connect()?;
        client.send("GET / HTTP/1.0\r\n\r\n")?;
        client.expect_reset()?;
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.close() == "no-upstream", "{access:?}");
        ensure!(access.error().matches(": down: ").count() == 2, "{access:?}");
    }
    a.restart()?;
    daemon.wait_log("an endpoint is up again")?;
    ensure!(ask_all(&daemon, 5)? == ["a"]);
    ensure!(daemon.log_count("no endpoint is up") == 1);
    Ok(())
}

/// Whoever looks at `/metrics` sees which upstream fails, why, and what brought it back.
#[test]
fn what_became_of_an_endpoint_is_in_the_metrics() -> Result<()> {
    for (keys, by) in [
        ("eject = { failures = 2, backoff = \"100ms\", max = \"1s\" }", "attempt"),
        (
            // Its checks never take it down, and the ejection does not end by itself.
            "eject = { failures = 2, backoff = \"1h\", max = \"1h\" }\n\
             health = { interval = \"50ms\", fall = 1000 }",
            "check",
        ),
    ] {
        let (mut a, b) = (Web::start("a")?, Web::start("b")?);
        let admin = AdminSocket::new()?;
        let rules = format!("{}{}", group(&[&a.address(), &b.address()], keys), admin.rules());
        let daemon = Daemon::user_space(&rules)?;
        let count = |series: &str| -> Result<f64> {
            admin.metric(series)?.with_context(|| format!("no {series}"))
        };
        let state = |state: &str| {
            format!(
                "mux_endpoint_state{{upstream=\"web\",endpoint=\"{}\",state=\"{state}\"}}",
                a.address()
            )
        };
        let [up, ejected, down] = ["up", "ejected", "down"].map(state);
        ensure!(count(&up)? == 1.0 && count(&ejected)? == 0.0 && count(&down)? == 0.0);
        a.kill();
        eventually_true("the ejection", || {
            ask(&daemon).is_ok() && count(&ejected).is_ok_and(|value| value == 1.0)
        })?;
        ensure!(count(&up)? == 0.0 && count(&down)? == 0.0);
        let refused = "{upstream=\"web\",reason=\"refused\"}";
        let failures = count(&format!("mux_connect_failures_total{refused}"))?;
        ensure!(failures >= 2.0, "{failures}");
        ensure!(count(&format!("mux_upstream_retries_total{refused}"))? >= 2.0);
        ensure!(count(&format!("mux_upstream_ejections_total{refused}"))? >= 1.0);
        let other = "{upstream=\"web\",reason=\"timed_out\"}";
        ensure!(count(&format!("mux_connect_failures_total{other}"))? == 0.0);
        a.restart()?;
        eventually_true("it is back", || {
            ask(&daemon).is_ok() && count(&up).is_ok_and(|value| value == 1.0)
        })?;
        for way in ["attempt", "check"] {
            let returns = format!("mux_upstream_returns_total{{upstream=\"web\",by=\"{way}\"}}");
            let expected = if way == by { 1.0 } else { 0.0 };
            ensure!(count(&returns)? == expected, "{by}: {way}");
        }
    }
    Ok(())
}

/// One upstream for each reason, each tried once.
#[test]
fn each_reason_of_a_failed_attempt_has_its_series() -> Result<()> {
    let gone = Upstream::tcp()?.name();
    let silent = Upstream::at("127.0.0.1:0".parse()?, 0)?;
    let _filler = Conn::tcp(silent.address())?;
    let silent = silent.name();
    let scratch = Scratch::new()?;
    let missing = scratch.join("missing.sock").display().to_string();
    let cases = [
        ("A", gone.as_str(), "", "refused"),
        ("B", silent.as_str(), "", "timed_out"),
        ("C", "nowhere.invalid:80", "", "resolve"),
        ("D", "127.0.0.1:9", "source = \"192.0.2.1\"", "local"),
        ("E", missing.as_str(), "", "refused"),
    ];
    let admin = AdminSocket::new()?;
    let mut rules = admin.rules();
    for (letter, endpoint, keys, _) in cases {
        rules += &format!(
            "[[rule]]\nmatch = {{ prefix = \"{letter}\" }}\nupstream = \"up-{letter}\"\n\
             [[upstream]]\nname = \"up-{letter}\"\nendpoints = [\"{endpoint}\"]\nretries = 0\n\
             connect_timeout = \"300ms\"\n{keys}\n"
        );
    }
    let daemon = Daemon::user_space(&rules)?;
    for (letter, _, _, reason) in cases {
        let client = daemon.connect()?;
        client.send(letter)?;
        client.expect_reset()?;
        let series = |reason: &str| {
            format!("mux_connect_failures_total{{upstream=\"up-{letter}\",reason=\"{reason}\"}}")
        };
        admin.wait_metric(&series(reason), 1.0).context(letter)?;
        ensure!(admin.metric(&series("other"))? == Some(0.0));
        // Though nothing is ejected or checked, and no group reports it.
        let line = daemon.wait_log(&format!("no endpoint can be had upstream=up-{letter} "))?;
        ensure!(line.contains(" WARN "), "{line}");
    }
    Ok(())
}
