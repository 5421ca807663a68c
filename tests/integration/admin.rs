//! The admin socket: what it tells, what it can be told, who may, and that nobody can harm by it.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Conn, Daemon, Need, Pattern, Process, Relay, Scratch, Upstream,
    admin::{self, AdminSocket},
    eventually, mux, need, on_each_relay,
    procfs::Proc,
    repository, run, run_ok,
};
use rustix::process::Signal;
use serde_json::Value;

const UP: Pattern = Pattern::new(41);
const DOWN: Pattern = Pattern::new(42);
const NOT_PERMITTED: i32 = 77;
const CONFIG: i32 = 78;

/// A daemon in user space with an admin socket.
fn user_space(rules: &str) -> Result<(Daemon, AdminSocket)> {
    let socket = AdminSocket::new()?;
    let daemon = Daemon::user_space(&format!("{rules}{}", socket.rules()))?;
    Ok((daemon, socket))
}

/// A daemon and an upstream, with this relay.
fn with_relay(relay: Relay) -> Result<(Daemon, AdminSocket, Upstream)> {
    let upstream = Upstream::tcp()?;
    let socket = AdminSocket::new()?;
    let rules = format!("{}{}", relay.rule(&upstream.name()), socket.rules());
    let daemon = Daemon::start(&rules, &[])?;
    Ok((daemon, socket, upstream))
}

fn flows(socket: &AdminSocket, query: &str) -> Result<Vec<Value>> {
    let page = socket.json(&format!("/flows{query}"))?;
    Ok(page["flows"].as_array().context("a list")?.clone())
}

#[test]
fn status_tells_how_the_daemon_is() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let (daemon, socket) = user_space(&Relay::Copy.rule(&upstream.name()))?;
    let _flow = daemon.flow(&upstream)?;
    let status: Value = serde_json::from_str(&socket.mux_ok(&["status", "--json"])?)?;
    ensure!(status["version"] == env!("CARGO_PKG_VERSION"), "{status}");
    ensure!(status["pid"] == daemon.proc().0, "{status}");
    ensure!(status["state"] == "serving" && status["connections"] == 1, "{status}");
    ensure!(status["flows"]["copy"] == 1 && status["counters"]["accepted"] == 1, "{status}");
    ensure!(status["relay"]["in_force"] == "user space", "{status}");
    ensure!(status["relay"]["why_not"] == "--relay copy", "{status}");
    ensure!(status["listeners"][0]["address"] == daemon.address().to_string(), "{status}");
    let rule = &status["rules"][0];
    ensure!(rule["rule"] == "all" && rule["flows"]["copy"] == 1, "{status}");
    ensure!(rule["bytes"]["up"] == 5 && rule["bytes"]["down"] == 5, "{status}");
    let endpoint = &status["upstreams"][0]["endpoints"][0];
    ensure!(endpoint["state"] == "up" && endpoint["flows"] == 1, "{status}");
    let places = status["limits"][0].clone();
    ensure!(places["name"] == "connections" && places["used"] == 1, "{status}");

    let text = socket.mux_ok(&["status"])?;
    ensure!(text.contains(&format!("process {}, serving", daemon.proc().0)), "{text}");
    ensure!(
        text.contains("relay: user space (--relay copy); packet is not in force: --relay copy\n"),
        "{text}"
    );
    Ok(())
}

#[test]
fn flows_are_listed_and_filtered() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = format!(
        "[[rule]]\nname = \"hello\"\nmatch = {{ prefix = \"hello\" }}\nupstream = \"{}\"\n\
         [[rule]]\nname = \"echo\"\nmatch = {{ prefix = \"e\" }}\nupstream = \"builtin:echo\"\n",
        upstream.name()
    );
    let (daemon, socket) = user_space(&rules)?;
    let client = daemon.connect()?;
    client.send("hello")?;
    let server = upstream.accept()?;
    server.send("olleh")?;
    client.expect("olleh")?;
    let echo = Conn::tcp_from("127.0.0.2".parse()?, daemon.address())?;
    echo.send("echo")?;
    echo.expect("echo")?;
    let silent = daemon.connect()?;
    eventually("three connections", || {
        flows(&socket, "").ok().filter(|flows| flows.len() == 3).map(drop)
    })?;

    let found = flows(&socket, "?rule=hello")?;
    ensure!(found.len() == 1, "{found:?}");
    let flow = &found[0];
    ensure!(flow["client"] == client.local()?.to_string(), "{flow}");
    ensure!(flow["upstream"] == upstream.name() && flow["endpoint"] == upstream.name(), "{flow}");
    ensure!(flow["relay"] == "copy" && flow["relay_note"] == "relay = \"copy\"", "{flow}");
    ensure!(flow["state"] == "relaying", "{flow}");
    ensure!(flow["bytes_up"] == 5 && flow["bytes_down"] == 5, "{flow}");

    let silent = flows(&socket, "")?
        .into_iter()
        .find(|flow| flow["client"] == silent.local().map_or(String::new(), |own| own.to_string()));
    let silent = silent.context("the silent client")?;
    ensure!(silent["state"] == "sniffing" && silent["rule"].is_null(), "{silent}");

    for (query, count) in [
        ("?upstream=builtin:echo", 1),
        ("?client=127.0.0.2", 1),
        ("?client=127.0.0.0/8", 3),
        ("?client=127.0.0.0/8&rule=echo", 1),
        ("?relay=copy", 2),
        ("?relay=sockmap", 0),
        ("?limit=2", 2),
    ] {
        ensure!(flows(&socket, query)?.len() == count, "{query}: {:?}", flows(&socket, query)?);
    }
    ensure!(socket.json("/flows?limit=2")?["truncated"] == true, "there is a third");
    ensure!(socket.json("/flows?limit=3")?["truncated"] == false, "there is no fourth");
    ensure!(socket.get("/flows?rules=x")?.status == 400, "an unknown key");

    let text = socket.mux_ok(&["flows", "--rule", "echo", "--client", "127.0.0.2"])?;
    ensure!(text.lines().count() == 2 && text.contains("builtin:echo"), "{text}");
    let text = socket.mux_ok(&["flows", "--rule", "nobody's"])?;
    ensure!(text == "no flows\n", "{text}");
    Ok(())
}

fn a_flow_is_killed(relay: Relay) -> Result<()> {
    let (daemon, socket, upstream) = with_relay(relay)?;
    let (client, server) = daemon.flow(&upstream)?;
    let (other, other_server) = daemon.flow(&upstream)?;
    let own = client.local()?;
    let all = flows(&socket, "")?;
    let flow = all.iter().find(|flow| flow["client"] == own.to_string()).context("our flow")?;
    let id = flow["id"].as_str().context("an id")?;
    let said = socket.mux_ok(&["kill", id])?;
    ensure!(said == format!("flow {id} is reset\n"), "{said}");
    client.expect_reset()?;
    server.expect_reset()?;
    let access = daemon.access_of(own)?;
    ensure!(access.close() == "killed" && access.id() == id, "{access:?}");
    ensure!(access.bytes() == (relay.hello(), relay.hello()), "{access:?}");
    // The other one has noticed nothing.
    other.send("still here")?;
    other_server.expect("still here")?;

    let again = socket.mux(&["kill", id])?;
    ensure!(again.status.code() == Some(1), "{again:?}");
    let said = String::from_utf8_lossy(&again.stderr);
    ensure!(said == format!("error: there is no flow {id}\n"), "{said}");
    ensure!(socket.mux(&["kill", "web"])?.status.code() == Some(64), "no id");
    socket.wait_metric("mux_closed_total{reason=\"killed\"}", 1.0)
}

fn bytes_are_what_both_ends_counted(relay: Relay) -> Result<()> {
    const LENGTH: u64 = 300_000;
    let (all_up, all_down) = (LENGTH + relay.hello(), 1000 + relay.hello());
    let (daemon, socket, upstream) = with_relay(relay)?;
    let up = "mux_relayed_bytes_total{direction=\"up\"}";
    let down = "mux_relayed_bytes_total{direction=\"down\"}";
    ensure!(socket.metric(up)? == Some(0.0), "nothing yet");
    let (client, server) = daemon.flow(&upstream)?;
    std::thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| client.send_pattern(UP, 0, LENGTH));
        server.expect_pattern(UP, 0, LENGTH)?;
        mux_tests::join(sending, "the client")
    })?;
    server.send_pattern(DOWN, 0, 1000)?;
    client.expect_pattern(DOWN, 0, 1000)?;

    // The flow is alive, and its bytes are in.
    socket.wait_metric(up, all_up as f64)?;
    socket.wait_metric(down, all_down as f64)?;
    let flow = flows(&socket, "")?.pop().context("a flow")?;
    ensure!(flow["bytes_up"] == all_up && flow["bytes_down"] == all_down, "{flow}");
    ensure!(flow["relay"] == relay.name(), "{flow}");
    let alive = format!("mux_flows_alive{{relay=\"{}\"}}", relay.name());
    ensure!(socket.metric(&alive)? == Some(1.0), "{alive}");

    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.bytes() == (all_up, all_down), "{access:?}");
    // It is over, and they are in once.
    socket.wait_metric(&alive, 0.0)?;
    ensure!(socket.metric(up)? == Some(all_up as f64), "counted twice, or not");
    ensure!(socket.metric(down)? == Some(all_down as f64), "counted twice, or not");
    let name = upstream.name();
    let relay = relay.name();
    let ended = format!("mux_flows_total{{rule=\"all\",upstream=\"{name}\",relay=\"{relay}\"}}");
    socket.wait_metric(&ended, 1.0)
}

on_each_relay!(a_flow_is_killed, bytes_are_what_both_ends_counted);

/// Some bytes each way, checked.
fn talk(client: &Conn, server: &Conn, at: &mut u64) -> Result<()> {
    for _ in 0..20 {
        client.send_pattern(UP, *at, 1000)?;
        server.expect_pattern(UP, *at, 1000)?;
        server.send_pattern(DOWN, *at, 1000)?;
        client.expect_pattern(DOWN, *at, 1000)?;
        *at += 1000;
    }
    Ok(())
}

/// Waits until there are so many flows, carried so.
fn wait_relay(socket: &AdminSocket, relay: &str, count: usize) -> Result<()> {
    eventually(&format!("{count} flows on {relay}"), || {
        let found = flows(socket, &format!("?relay={relay}")).ok()?;
        (found.len() == count).then_some(())
    })
}

#[test]
fn the_relay_is_switched_off_and_on_under_live_flows() -> Result<()> {
    need!(Need::Root);
    let (daemon, socket, upstream) = with_relay(Relay::Sockmap)?;
    let (client, server) = daemon.flow(&upstream)?;
    let mut at = 0;
    for round in 1..=3 {
        talk(&client, &server, &mut at)?;
        wait_relay(&socket, "sockmap", 1)?;
        let said = socket.mux_ok(&["relay", "off"])?;
        ensure!(said == "no flow goes to the kernel any more; 1 leave it now\n", "{said}");
        wait_relay(&socket, "copy", 1)?;
        talk(&client, &server, &mut at)?;
        let flow = flows(&socket, "")?.pop().context("a flow")?;
        let note = "the kernel relay is switched off (`mux relay auto` allows it again)";
        ensure!(flow["relay"] == "copy" && flow["relay_note"] == note, "{flow}");
        ensure!(socket.json("/status")?["relay"]["switch"] == "off", "round {round}");
        ensure!(socket.metric("mux_kernel_relay")? == Some(0.0), "round {round}");
        ensure!(socket.metric("mux_demotions_total")? == Some(f64::from(round)), "round {round}");

        // Nor does a new flow go there.
        let (late, late_server) = daemon.flow(&upstream)?;
        let mut late_at = 0;
        talk(&late, &late_server, &mut late_at)?;
        ensure!(flows(&socket, "?relay=sockmap")?.is_empty(), "round {round}");
        drop((late, late_server));

        socket.mux_ok(&["relay", "auto"])?;
        wait_relay(&socket, "sockmap", 1)?;
        ensure!(socket.metric("mux_kernel_relay")? == Some(1.0), "round {round}");
    }
    talk(&client, &server, &mut at)?;
    client.finish()?;
    server.expect_end()?;
    server.finish()?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "finished" && access.relay() == "sockmap", "{access:?}");
    ensure!(access.bytes() == (at + 5, at + 5), "{access:?}, not {at}");
    ensure!((access.number("promotions"), access.number("demotions")) == (4, 3), "{access:?}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_daemon_without_the_kernel_relay_takes_the_switch_and_says_so() -> Result<()> {
    let (_daemon, socket) = user_space("[[rule]]\nupstream = \"builtin:echo\"\n")?;
    let said = socket.mux_ok(&["relay", "off"])?;
    ensure!(said == "noted, but the kernel relay is not in force anyway\n", "{said}");
    ensure!(socket.post("/relay", "on")?.status == 400, "neither off nor auto");
    Ok(())
}

#[test]
fn a_drain_is_ordered_and_watched() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let (daemon, socket) = user_space(&Relay::Copy.rule(&upstream.name()))?;
    let (client, server) = daemon.flow(&upstream)?;
    for (page, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = socket.get(page)?;
        ensure!((answer.status, &*answer.body) == (200, text), "{page}: {answer:?}");
    }
    let said = socket.mux_ok(&["drain"])?;
    ensure!(said == "draining, for at most 30 s\n", "{said}");
    let ready = socket.get("/readyz")?;
    ensure!((ready.status, &*ready.body) == (503, "draining\n"), "{ready:?}");
    ensure!(socket.get("/healthz")?.status == 200, "it is alive");
    let status = socket.json("/status")?;
    ensure!(status["state"] == "draining" && status["connections"] == 1, "{status}");
    ensure!(socket.metric("mux_accepting")? == Some(0.0), "it accepts nothing");
    let again = socket.post("/drain", "")?;
    ensure!(again.status == 409 && again.body.contains("no more orders"), "{again:?}");
    // Cores whose flows are over have ended, and are in the totals all the same.
    ensure!(socket.metric("mux_relayed_bytes_total{direction=\"up\"}")? == Some(5.0), "5 bytes");

    client.finish()?;
    server.expect_end()?;
    drop(server);
    client.expect_end()?;
    let stopped = daemon.wait()?;
    let order = stopped.log.iter().any(|line| line.contains("order: drain by=uid "));
    ensure!(order, "the log says who ordered it: {:?}", stopped.log);
    ensure!(!socket.path().exists(), "the socket's file is left");
    Ok(())
}

#[test]
fn a_reload_is_ordered_and_its_outcome_told() -> Result<()> {
    let socket = AdminSocket::new()?;
    let scratch = Scratch::new()?;
    let rules = |name: &str| {
        let rule = format!("[[rule]]\nname = \"{name}\"\nupstream = \"builtin:echo\"\n");
        format!("listen = \"127.0.0.1:0\"\n{rule}{}", socket.rules())
    };
    let file = scratch.write("rules.toml", rules("before"))?;
    let daemon = Daemon::with_file(&file, &["--relay", "copy"])?;
    ensure!(socket.metric("mux_rules_generation")? == Some(1.0), "at start");

    scratch.write("rules.toml", rules("after"))?;
    let said = socket.mux_ok(&["reload"])?;
    ensure!(said.contains("rules: 1 added, 1 removed"), "{said}");
    let status = socket.json("/status")?;
    ensure!(status["generation"] == 2 && status["rules"][0]["rule"] == "after", "{status}");
    ensure!(status["reload_failure"].is_null(), "{status}");
    ensure!(socket.metric("mux_reloads_total{result=\"ok\"}")? == Some(1.0), "one");
    ensure!(socket.metric("mux_last_reload_ok")? == Some(1.0), "it was");

    scratch.write("rules.toml", "listen = 1\n")?;
    let failed = socket.mux(&["reload"])?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    ensure!(said.starts_with("error: reload: ") && said.contains("rules.toml:1:"), "{said}");
    ensure!(socket.post("/reload", "")?.status == 500, "again");
    let status = socket.json("/status")?;
    ensure!(status["generation"] == 2 && status["rules"][0]["rule"] == "after", "{status}");
    let why = status["reload_failure"].as_str().unwrap_or_default();
    ensure!(why.contains("rules.toml:1:"), "{status}");
    ensure!(socket.metric("mux_reloads_total{result=\"failed\"}")? == Some(2.0), "two");
    ensure!(socket.metric("mux_last_reload_ok")? == Some(0.0), "it was not");
    // The log has the failures as errors, which `Daemon` would take for a bug.
    let _kept = daemon.kill();
    Ok(())
}

#[test]
fn the_log_level_is_changed_while_it_runs() -> Result<()> {
    let (daemon, socket) = user_space("[[rule]]\nupstream = \"builtin:echo\"\n")?;
    ensure!(socket.json("/status")?["log_level"] == "info", "the default");
    let said = socket.mux_ok(&["log-level", "warn"])?;
    ensure!(said == "the log level is warn\n", "{said}");
    ensure!(socket.json("/status")?["log_level"] == "warn", "as ordered");
    let before = daemon.log_count("order: kill");
    ensure!(socket.post("/flows/1/kill", "")?.status == 404, "no such flow");
    socket.mux_ok(&["log-level", "info"])?;
    ensure!(socket.post("/flows/2/kill", "")?.status == 404, "no such flow");
    daemon.wait_log("order: kill \"2\"")?;
    ensure!(daemon.log_count("order: kill") == before + 1, "the one in between is not logged");
    ensure!(socket.post("/log-level", "loud")?.status == 400, "no such level");
    ensure!(socket.mux(&["log-level", "loud"])?.status.code() == Some(64), "no such level");
    Ok(())
}

#[test]
fn over_tcp_it_is_read_only() -> Result<()> {
    let (daemon, socket) = user_space("[[rule]]\nupstream = \"builtin:echo\"\n")?;
    let address = admin::metrics_address(&daemon)?;
    let ask = |method, path| admin::ask(&Conn::tcp(address)?, method, path, "off");
    for page in ["/metrics", "/healthz", "/readyz", "/status", "/flows", "/"] {
        ensure!(ask("GET", page)?.status == 200, "{page}");
    }
    for order in ["/reload", "/drain", "/upgrade", "/log-level", "/relay", "/flows/1/kill"] {
        let answer = ask("POST", order)?;
        ensure!(answer.status == 403, "{order}: {answer:?}");
        ensure!(answer.body.contains("use the Unix socket"), "{order}: {answer:?}");
        // Nor by another method, on either.
        ensure!(ask("GET", order)?.status == 405, "{order}");
        ensure!(socket.get(order)?.status == 405, "{order}");
    }
    for page in ["/metrics", "/status"] {
        ensure!(ask("POST", page)?.status == 405, "{page}");
        ensure!(ask("DELETE", page)?.status == 405, "{page}");
    }
    ensure!(ask("GET", "/nothing")?.status == 404, "no such page");
    ensure!(socket.json("/status")?["relay"]["switch"] == "auto", "nothing has changed");
    // What curl makes of both.
    let path = socket.path().display().to_string();
    let alive = mux_tests::peers::curl(&["--unix-socket", &path, "http://mux/healthz"])?;
    ensure!(alive == "ok", "{alive}");
    ensure!(mux_tests::peers::curl(&[&format!("http://{address}/readyz")])? == "ready", "TCP");
    Ok(())
}

#[test]
fn the_socket_is_for_whom_its_permissions_say() -> Result<()> {
    need!(Need::Root);
    let scratch = Scratch::new()?;
    let path = scratch.join("admin.sock");
    let own = format!(
        "[[rule]]\nupstream = \"builtin:echo\"\n[admin]\nsocket = \"{}\"\n",
        path.display()
    );
    let shown = path.display().to_string();
    let as_nobody = || admin::mux_as_nobody(scratch.path(), &["status", "--socket", &shown]);

    let daemon = Daemon::user_space(&own)?;
    let file = std::fs::metadata(&path)?;
    ensure!((file.mode() & 0o7777, file.uid()) == (0o600, 0), "{file:?}");
    let refused = as_nobody()?;
    ensure!(refused.status.code() == Some(NOT_PERMITTED), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(said.starts_with(&format!("error: you may not connect to {shown}\nhint: ")), "{said}");
    daemon.stop()?;
    ensure!(!path.exists(), "the keeper removes what nobody cannot");

    let group = run_ok(Command::new("id").args(["-gn", "nobody"]))?;
    let group = group.trim();
    let daemon = Daemon::user_space(&format!("{own}mode = \"0660\"\ngroup = \"{group}\"\n"))?;
    ensure!(std::fs::metadata(&path)?.mode() & 0o7777 == 0o660, "as the file says");
    let allowed = as_nobody()?;
    ensure!(allowed.status.success(), "{allowed:?}");
    // Who is killed leaves a file that the next one replaces.
    daemon.signal(Signal::KILL)?;
    let _kept = daemon.kill();
    let daemon = Daemon::user_space(&own)?;
    ensure!(std::fs::metadata(&path)?.mode() & 0o7777 == 0o600, "it is a new one");
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_group_that_is_not_there_ends_the_start() -> Result<()> {
    let socket = AdminSocket::new()?;
    let rules = format!("[[rule]]\nupstream = 1\n{}group = \"no-such-group\"\n", socket.rules());
    let output = mux_tests::Starter::new(&rules).user_space().fail()?;
    ensure!(output.status.code() == Some(CONFIG), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("giving it to the group `no-such-group`: there is no such"), "{said}");
    Ok(())
}

#[test]
fn commands_say_why_nobody_answers() -> Result<()> {
    let scratch = Scratch::new()?;
    let command = |arguments: &[&str]| run(Command::new(mux()?).args(arguments));
    let missing = scratch.join("s").display().to_string();
    let output = command(&["status", "--socket", &missing])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let start = format!("error: no daemon listens on {missing}: No such file");
    ensure!(said.starts_with(&start) && said.contains("\nhint: the daemon's rules file"), "{said}");

    let rules = scratch.write("rules.toml", "listen = '127.0.0.1:0'\n[[rule]]\nupstream = 1\n")?;
    let rules = rules.display().to_string();
    let output = command(&["flows", "--rules", &rules])?;
    ensure!(output.status.code() == Some(CONFIG), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.starts_with(&format!("error: {rules} has no `[admin] socket`\n")), "{said}");

    let output = command(&["status", "--rules", &rules, "--socket", &missing])?;
    ensure!(output.status.code() == Some(64), "one of them: {output:?}");
    let gone = scratch.join("gone.toml").display().to_string();
    for arguments in [&["status", "--rules", &gone][..], &["--rules", &gone]] {
        let output = command(arguments)?;
        ensure!(output.status.code() == Some(CONFIG), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.starts_with(&format!("error: cannot read {gone}: ")), "{said}");
    }
    Ok(())
}

#[test]
fn the_socket_is_found_by_the_rules_file() -> Result<()> {
    let socket = AdminSocket::new()?;
    let scratch = Scratch::new()?;
    let rules = format!("listen = '127.0.0.1:0'\n[[rule]]\nupstream = 1\n{}", socket.rules());
    let rules = scratch.write("rules.toml", rules)?;
    let daemon = Daemon::with_file(&rules, &["--relay", "copy"])?;
    let rules = rules.display().to_string();
    let output = run(Command::new(mux()?).args(["status", "--rules", &rules]))?;
    ensure!(output.status.success(), "{output:?}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn top_shows_the_daemon_and_gives_the_terminal_back() -> Result<()> {
    let (daemon, socket) = user_space("[[rule]]\nname = \"it\"\nupstream = \"builtin:echo\"\n")?;
    // A terminal of its own, whose user has typed ahead.
    let scratch = Scratch::new()?;
    let top = format!(
        "stty rows 24 cols 80; {} top --socket {}; echo ended with $?",
        mux()?.display(),
        socket.path().display()
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--flush", "--command", &top]).arg(scratch.join("typescript"));
    let mut process = Process::start_with(command.stdin(Stdio::piped()))?;
    let mut keyboard = process.input().context("a keyboard")?;
    keyboard.write_all(b"q")?;
    let output = process.output()?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(shown.contains("\u{1b}[?1049h"), "it takes the screen: {shown:?}");
    ensure!(shown.contains(&format!("{}", daemon.proc().0)), "it shows the process: {shown:?}");
    let (_, after) = shown.rsplit_once("\u{1b}[?1049l").context("it gives the screen back")?;
    ensure!(after.trim() == "ended with 0", "{after:?}");
    drop(keyboard);

    // Without a terminal it says what is.
    let output = socket.mux(&["top"])?;
    ensure!(output.status.code() == Some(64), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.starts_with("error: mux top needs a terminal"), "{said}");
    Ok(())
}

#[test]
fn top_gives_the_terminal_back_when_it_is_terminated() -> Result<()> {
    let (_daemon, socket) = user_space("[[rule]]\nupstream = \"builtin:echo\"\n")?;
    let scratch = Scratch::new()?;
    let top = format!(
        "sh -c 'echo process $$; exec {} top --socket {}'; echo ended with $?",
        mux()?.display(),
        socket.path().display()
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--flush", "--command", &top]).arg(scratch.join("typescript"));
    let mut process = Process::start_with(command.stdin(Stdio::piped()))?;
    let _keyboard = process.input().context("a keyboard")?;
    let number: u32 = process
        .wait_out("its number", |line| line.trim().strip_prefix("process ")?.parse().ok())?;
    // From when on it catches SIGTERM, which is before it takes the screen.
    eventually("it catches SIGTERM", || {
        let caught = Proc(number).status("SigCgt").ok()?;
        let caught = u64::from_str_radix(&caught, 16).ok()?;
        (caught & 1 << (Signal::TERM.as_raw() - 1) != 0).then_some(())
    })?;
    let pid = rustix::process::Pid::from_raw(number.cast_signed()).context("a process id")?;
    rustix::process::kill_process(pid, Signal::TERM)?;
    let output = process.output()?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, after) = shown.rsplit_once("\u{1b}[?1049l").context(format!("{shown:?}"))?;
    ensure!(after.trim() == "ended with 0", "{after:?}");
    Ok(())
}

#[test]
fn connections_are_bounded_and_the_next_one_waits() -> Result<()> {
    let (daemon, socket) = user_space("[[rule]]\nupstream = \"builtin:echo\"\n")?;
    // Each in the middle of a request, which is what keeps a place longest.
    let mut held = (0..32)
        .map(|_| {
            let conn = socket.connect()?;
            conn.send("GET /status HT")?;
            Ok(conn)
        })
        .collect::<Result<Vec<_>>>()?;
    let next = socket.connect()?;
    next.send("GET /healthz HTTP/1.1\r\nHost: mux\r\nConnection: close\r\n\r\n")?;
    // The other socket has places of its own, through which the 32 can be seen to be there.
    let address = admin::metrics_address(&daemon)?;
    let descriptors = || {
        let page = admin::ask(&Conn::tcp(address)?, "GET", "/metrics", "")?;
        admin::value(&page.body, "process_open_fds")
    };
    let all = descriptors()?.context("a number")?;
    // One of them gives its place up, and the one that waited is answered.
    drop(held.pop());
    let answer = admin::answer(&next)?;
    ensure!((answer.status, &*answer.body) == (200, "ok\n"), "{answer:?}");
    drop(held);
    eventually("the places are given back", || {
        (descriptors().ok().flatten()? + 30.0 < all).then_some(())
    })?;
    Ok(())
}

#[test]
fn hostile_requests_harm_nobody() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let (daemon, socket) = user_space(&Relay::Copy.rule(&upstream.name()))?;
    let (client, server) = daemon.flow(&upstream)?;
    let long = "x".repeat(100_000);
    let fields: String = (0..1000).map(|number| format!("F{number}: x\r\n")).collect();
    let hostile = [
        format!("GET /{long} HTTP/1.1\r\nHost: mux\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: mux\r\nLong: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{fields}\r\n"),
        format!("POST /relay HTTP/1.1\r\nHost: mux\r\nContent-Length: 100000\r\n\r\n{long}"),
        "POST /relay HTTP/1.1\r\nHost: mux\r\nContent-Length: -1\r\n\r\noff".to_owned(),
        "POST /relay HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        "\0\u{1}\u{2}\r\n\r\n".to_owned(),
        "GET /flows/../relay HTTP/1.1\r\nHost: mux\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /flows?client=%00%ff&limit=-1 HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
            .to_owned(),
        "POST /flows/%2e%2e/kill HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".to_owned(),
    ];
    for request in &hostile {
        for conn in [socket.connect()?, Conn::tcp(admin::metrics_address(&daemon)?)?] {
            // It may be cut off while it sends.
            let _ = conn.send(request);
            let _ = conn.finish();
            let said = conn.to_end().unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let start: String = request.chars().take(60).collect();
            ensure!(!said.contains("HTTP/1.1 200"), "{start:?}: {said}");
        }
    }
    ensure!(socket.json("/status")?["relay"]["switch"] == "auto", "nothing has changed");
    client.send("on it goes")?;
    server.expect("on it goes")?;
    Ok(())
}

/// Families of a page, or of the reference: type and labels by name.
type Families = BTreeMap<String, (String, Vec<String>)>;

/// Those of the page, by a parser that is not ours.
fn parsed(page: &str) -> Result<Families> {
    const SCRIPT: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
out = {}
for family in parse(sys.stdin.read()):
    assert family.documentation, family.name
    for unit in ('seconds', 'bytes'):
        if family.name.endswith('_' + unit): assert family.unit == unit, family.name
    labels = {label for sample in family.samples for label in sample.labels} - {'le'}
    suffix = {'counter': '_total', 'info': '_info'}.get(family.type, '')
    out[family.name + suffix] = (family.type, sorted(labels))
json.dump(out, sys.stdout)
";
    let scratch = Scratch::new()?;
    let file = scratch.write("page", page)?;
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", SCRIPT]).stdin(std::fs::File::open(file)?);
    let output = command.output().context("python3")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the parser refuses the page: {said}\n{page}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Those of the reference.
fn documented() -> Result<Families> {
    let text = std::fs::read_to_string(repository().join("docs/reference/metrics.md"))?;
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    Ok(rows
        .filter(|cells| cells.len() == 6)
        .map(|cells| {
            let plain = |cell: &str| cell.replace('`', "");
            let mut labels: Vec<String> = plain(cells[3])
                .split(", ")
                .filter(|label| !label.is_empty())
                .map(Into::into)
                .collect();
            labels.sort();
            (plain(cells[1]), (cells[2].to_owned(), labels))
        })
        .collect())
}

#[test]
fn the_page_of_metrics_is_what_the_reference_says() -> Result<()> {
    need!(Need::Root);
    let (daemon, socket, upstream) = with_relay(Relay::Sockmap)?;
    let (client, server) = daemon.flow(&upstream)?;
    drop((client, server));
    eventually("the flow is over", || {
        let page = socket.get("/metrics").ok()?.body;
        page.contains("mux_closed_total{").then_some(())
    })?;
    let answer = socket.get("/metrics")?;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    ensure!(answer.head.contains(kind), "{}", answer.head);
    ensure!(answer.body.ends_with("\n# EOF\n"), "it does not say that it is whole");
    let (page, reference) = (parsed(&answer.body)?, documented()?);
    ensure!(reference.len() > 50, "the table is not read: {reference:?}");
    for (name, family) in &reference {
        ensure!(page.get(name) == Some(family), "{name}: {family:?}, not {:?}", page.get(name));
    }
    let unknown: Vec<_> = page.keys().filter(|name| !reference.contains_key(*name)).collect();
    ensure!(unknown.is_empty(), "not in the reference: {unknown:?}");
    Ok(())
}

#[test]
fn names_in_labels_are_escaped_and_the_page_stays_valid() -> Result<()> {
    let (_daemon, socket) =
        user_space("[[rule]]\nname = \"ümläut\"\nupstream = \"unix:/run/a\\\"b\\\\c\"\n")?;
    let page = socket.get("/metrics")?.body;
    ensure!(page.contains(r#"{upstream="unix:/run/a\"b\\c"}"#), "{page}");
    parsed(&page).map(drop)
}
