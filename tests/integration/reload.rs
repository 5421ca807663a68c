//! Reload: new rules in the same process. Flows go on as they began, the next connection is served
//! by the new rules, and what is wrong changes nothing.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Access, Conn, Daemon, NOBODY, Need, Relay, Server, Upstream, eventually, eventually_true, join,
    need, on_each_relay,
};
use rustix::process::Signal;

/// One rule for everything.
fn all_to(upstream: &str) -> String {
    format!("[[rule]]\nname = \"all\"\nupstream = \"{upstream}\"\n")
}

fn echoes(client: &Conn, text: &str) -> Result<()> {
    client.send(text)?;
    client.expect(text)
}

fn goes_on(client: &Conn, server: &Conn) -> Result<()> {
    client.send("ping")?;
    server.expect("ping")?;
    server.send("pong")?;
    client.expect("pong")
}

/// A flow of a client that has to say something before a rule takes it.
fn flow_by_hello(daemon: &Daemon, upstream: &Upstream) -> Result<(Conn, Conn)> {
    let client = daemon.connect()?;
    client.send("hello")?;
    let server = upstream.accept()?;
    server.expect("hello")?;
    Ok((client, server))
}

/// A connection of its own from the first byte to the end.
fn echo_once(daemon: &Daemon) -> Result<()> {
    let client = daemon.connect()?;
    echoes(&client, "load: echo?")?;
    client.finish()?;
    client.expect_end()
}

const RELOADS: usize = 20;
const CLIENTS: usize = 4;

/// Rules that differ in each round, but for what serves the long flow.
fn round(number: usize, relay: Relay, live: &str, servers: [&str; 2]) -> String {
    let max_connections = 100 + number;
    format!(
        "[[rule]]\nname = \"other-{number}\"\nmatch = {{ prefix = \"other\" }}\nupstream = 1\n\
         [[rule]]\nname = \"live\"\nmatch = {{ prefix = \"hello\" }}\nupstream = \"{live}\"\nrelay = \"{}\"\n\
         [[rule]]\nname = \"load\"\nmatch = {{ prefix = \"load\" }}\nupstream = \"{}\"\nmax_connections = {max_connections}\n\
         [limits]\nmax_connections = {max_connections}\n",
        relay.name(),
        servers[number % 2],
    )
}

fn reloads_under_load_fail_nobody(relay: Relay) -> Result<()> {
    let servers = [Server::echo()?, Server::echo()?];
    let names = [servers[0].name(), servers[1].name()];
    let upstream = Upstream::tcp()?;
    let live = upstream.name();
    let daemon = match relay {
        Relay::Sockmap | Relay::Packet => {
            Daemon::start(&round(0, relay, &live, names), &["--threads", "2"])?
        }
        Relay::Copy | Relay::Splice => Daemon::start(
            &round(0, relay, &live, names),
            &["--threads", "2", "--relay", relay.name()],
        )?,
    };
    let (client, server) = flow_by_hello(&daemon, &upstream)?;
    goes_on(&client, &server)?;
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while !stop.load(Ordering::Acquire) {
                        echo_once(&daemon)?;
                        served.fetch_add(1, Ordering::AcqRel);
                    }
                    Ok(())
                })
            })
            .collect();
        let reloads = || -> Result<()> {
            for number in 1..=RELOADS {
                let before = served.load(Ordering::Acquire);
                let summary = daemon.reload_ok(&round(number, relay, &live, names))?;
                ensure!(
                    summary.contains("rules: 1 added, 1 removed, 1 changed")
                        && summary.contains(&format!("generation {}", number + 1)),
                    "{summary}"
                );
                goes_on(&client, &server)?;
                // Under load, on each of the rules.
                eventually_true("connections are served", || {
                    served.load(Ordering::Acquire) >= before + 2 * CLIENTS
                        || clients.iter().any(thread::ScopedJoinHandle::is_finished)
                })?;
            }
            Ok(())
        };
        let reloaded = reloads();
        stop.store(true, Ordering::Release);
        clients.into_iter().try_for_each(|client| join(client, "a client"))?;
        reloaded
    })?;
    // Nobody connected anew: it is the connection that it was at the beginning.
    ensure!(!upstream.has_connection()?);
    goes_on(&client, &server)?;
    let local = client.local()?;
    client.finish()?;
    server.expect_end()?;
    server.finish()?;
    client.expect_end()?;
    let access = daemon.access_of(local)?;
    ensure!(access.relay() == relay.name() && access.close() == "finished", "{access:?}");
    let stopped = daemon.stop()?;
    ensure!(
        stopped.counter("reloads") == RELOADS as u64 && stopped.counter("reload_failures") == 0
    );
    let bad = stopped.access.iter().find(|access| access.close() != "finished");
    ensure!(bad.is_none(), "{bad:?}");
    servers.into_iter().try_for_each(Server::stop)
}

on_each_relay!(reloads_under_load_fail_nobody);

#[test]
fn new_rules_are_for_the_next_connection() -> Result<()> {
    let (old, new) = (Upstream::tcp()?, Upstream::tcp()?);
    let daemon = Daemon::user_space(&all_to(&old.name()))?;
    let (client, server) = daemon.flow(&old)?;
    let summary = daemon.reload_ok(&all_to(&new.name()))?;
    ensure!(summary == "rules: 1 changed (generation 2)", "{summary}");
    daemon.wait_log(&format!("rule all: changed: upstream {} → {}", old.name(), new.name()))?;
    let (next, next_server) = daemon.flow(&new)?;
    goes_on(&next, &next_server)?;
    goes_on(&client, &server)?;
    let local = client.local()?;
    drop((client, server));
    let access = daemon.access_of(local)?;
    ensure!(access.endpoint() == old.name(), "{access:?}");
    Ok(())
}

/// A connection that is being sniffed when the rules change is decided by those that it came under.
#[test]
fn a_connection_is_decided_by_the_rules_that_it_came_under() -> Result<()> {
    let (old, new) = (Upstream::tcp()?, Upstream::tcp()?);
    let rules = |upstream: &Upstream| {
        format!("[[rule]]\nmatch = {{ prefix = \"hello\" }}\nupstream = \"{}\"\n", upstream.name())
    };
    let daemon = Daemon::user_space(&rules(&old))?;
    let client = daemon.connect()?;
    client.send("he")?;
    client.wait_read()?;
    daemon.reload_ok(&rules(&new))?;
    client.send("llo")?;
    old.accept()?.expect("hello")?;
    flow_by_hello(&daemon, &new).map(drop)
}

#[test]
fn a_file_that_is_the_same_changes_nothing() -> Result<()> {
    let daemon = Daemon::user_space(&all_to("builtin:echo"))?;
    let outcome = daemon.hang_up()?;
    ensure!(outcome.contains("reloaded: nothing has changed (generation 2)"), "{outcome}");
    echoes(&daemon.connect()?, "still")
}

#[test]
fn a_bad_file_changes_nothing_and_says_where() -> Result<()> {
    let daemon = Daemon::user_space(&all_to("builtin:echo"))?;
    let live = daemon.connect()?;
    echoes(&live, "before")?;
    let file = daemon.path("rules.toml");
    let outcome = daemon.reload("[[rule]]\nupstream = \"builtin:discard\"\nupstraem = 1\n")?;
    let said = format!("{}:4:1: ", file.display());
    ensure!(outcome.contains(&said) && outcome.contains("upstraem"), "{outcome}");
    ensure!(outcome.contains(" ERROR ") && outcome.contains("SIGHUP"), "{outcome}");
    ensure!(daemon.log_count("upstraem") == 1, "told once");
    echoes(&live, "after")?;
    echoes(&daemon.connect()?, "a new one")?;
    // Gone altogether.
    fs::rename(&file, daemon.path("gone"))?;
    let outcome = daemon.hang_up()?;
    ensure!(outcome.contains("cannot read") && outcome.contains("No such file"), "{outcome}");
    echoes(&daemon.connect()?, "a new one")?;
    fs::rename(daemon.path("gone"), &file)?;
    daemon.reload_ok(&all_to("builtin:discard"))?;
    drop(live);
    let stopped = daemon.stop()?;
    ensure!(stopped.counter("reload_failures") == 2 && stopped.counter("reloads") == 1);
    Ok(())
}

#[test]
fn an_address_in_use_changes_nothing() -> Result<()> {
    let other = TcpListener::bind("127.0.0.1:0")?;
    let daemon = Daemon::user_space(&(all_to("builtin:echo") + ANY_DIRECTORY))?;
    let socket = daemon.path("free.sock");
    let rules = format!(
        "listen = [\"127.0.0.1:0\", \"unix:{}\", \"{}\"]\n{}",
        socket.display(),
        other.local_addr()?,
        all_to("builtin:discard")
    );
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o777))?;
    let outcome = daemon.reload(&rules)?;
    ensure!(outcome.contains(&other.local_addr()?.to_string()), "{outcome}");
    ensure!(!socket.exists(), "the other listener was not bound, or is cleared up");
    echoes(&daemon.connect()?, "the old rules")?;
    daemon.wait_log("hint: another process listens there")?;
    Ok(())
}

/// A reload may bring files in directories that the rules did not name at start.
const ANY_DIRECTORY: &str = "[security]\nlandlock = \"off\"\n";

/// With Landlock it may not, and says so.
#[test]
fn a_file_in_another_directory_is_refused_and_changes_nothing() -> Result<()> {
    let daemon = Daemon::user_space(&all_to("builtin:echo"))?;
    let directory = daemon.path("elsewhere");
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
    let path = directory.join("s");
    let with = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]\n", path.display());
    let outcome = daemon.reload(&(with + &all_to("builtin:discard")))?;
    ensure!(outcome.contains("Permission denied"), "{outcome}");
    daemon.wait_log("in a directory that the rules did not name at start")?;
    echoes(&daemon.connect()?, "the old rules")
}

/// Two listeners of these names.
fn listeners(names: &[&str], upstream: &str) -> String {
    let listeners: Vec<String> = names
        .iter()
        .map(|name| format!("[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n"))
        .collect();
    listeners.concat() + &all_to(upstream)
}

fn connect(address: &str) -> Result<Conn> {
    Conn::tcp(address.parse()?)
}

#[test]
fn listeners_come_stay_and_go() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let name = upstream.name();
    let daemon = Daemon::user_space(&listeners(&["a"], &name))?;
    let (client, server) = daemon.flow(&upstream)?;

    let summary = daemon.reload_ok(&listeners(&["a", "b"], &name))?;
    ensure!(summary.contains("listeners: 1 added"), "{summary}");
    let b = daemon.added("b")?;
    ensure!(daemon.added("a")? == daemon.listener("a"), "it was kept");
    let on_b = connect(&b)?;
    let server_of_b = upstream.accept()?;
    goes_on(&on_b, &server_of_b)?;

    let summary = daemon.reload_ok(&listeners(&["a"], "builtin:echo"))?;
    ensure!(summary.contains("listeners: 1 removed"), "{summary}");
    daemon.wait_log(&format!("no longer listening listener=b address={b}"))?;
    ensure!(connect(&b).is_err(), "it is closed when the outcome is there");
    // Its flows go on, as those of the one that is kept.
    goes_on(&on_b, &server_of_b)?;
    goes_on(&client, &server)?;
    echoes(&daemon.connect()?, "a, by the new rules")?;

    // The other one alone: found by its name, where addresses do not tell.
    daemon.reload_ok(&listeners(&["c", "a"], &name))?;
    ensure!(daemon.added("a")? == daemon.listener("a"));
    let on_c = connect(&daemon.added("c")?)?;
    goes_on(&on_c, &upstream.accept()?)?;
    let local = on_b.local()?;
    drop((on_b, server_of_b));
    let access = daemon.access_of(local)?;
    ensure!(access.rule() == "all" && access.endpoint() == name, "{access:?}");
    Ok(())
}

/// The settings of a listener that stays are the new ones for its next connection.
#[test]
fn a_listener_that_stays_has_its_new_settings() -> Result<()> {
    let server = Server::tagged("speaks first")?;
    let rules = |keys: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{keys}\n\
             [[rule]]\nname = \"late\"\nmatch = \"tls\"\nupstream = \"{}\"\n",
            server.name()
        )
    };
    let arguments = ["--relay", "copy", "--threads", "1"];
    let daemon = Daemon::start(&rules("sniff_timeout = \"1h\""), &arguments)?;
    let before = daemon.connect()?;
    // One core takes them in their order: when this one is through, the other has begun.
    let next = daemon.connect()?;
    next.send("no TLS")?;
    next.expect_end()?;
    daemon.reload_ok(&rules("sniff_timeout = \"50ms\"\non_timeout = \"late\""))?;
    // A silent client goes where `on_timeout` says; the one before waits on.
    daemon.connect()?.expect("speaks first")?;
    ensure!(server.served() == 1);
    before.finish()?;
    before.expect_end()
}

#[test]
fn a_unix_listener_comes_and_goes_with_its_file() -> Result<()> {
    let daemon = Daemon::user_space(&(all_to("builtin:echo") + ANY_DIRECTORY))?;
    let directory = daemon.path("sockets");
    fs::create_dir(&directory)?;
    // The daemon may have become nobody.
    fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
    let path = directory.join("s");
    let with = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]\n", path.display());
    daemon.reload_ok(&(with.clone() + &all_to("builtin:echo")))?;
    fs::set_permissions(&path, Permissions::from_mode(0o777))?;
    let client = Conn::unix(&path)?;
    echoes(&client, "over the file")?;
    daemon.reload_ok(&all_to("builtin:echo"))?;
    ensure!(!path.exists());
    echoes(&client, "it lives on")?;
    // Again, and to the end this time.
    daemon.reload_ok(&(with + &all_to("builtin:echo")))?;
    ensure!(path.exists());
    drop(client);
    daemon.stop()?;
    ensure!(!path.exists());
    Ok(())
}

/// Whoever is in the backlog when a listener is removed has a connection by TCP's rules, and gets
/// served.
#[test]
fn who_is_in_the_queue_of_a_listener_that_goes_is_served() -> Result<()> {
    let daemon = Daemon::user_space(&listeners(&["a", "b"], "builtin:echo"))?;
    let b = daemon.listener("b").to_owned();
    daemon.signal(Signal::STOP)?;
    let clients = (0..10).map(|_| connect(&b)).collect::<Result<Vec<_>>>()?;
    let new = daemon.path("rules.new");
    let text = fs::read_to_string(daemon.path("rules.toml"))?;
    let only_a = text.split("[[listener]]\nname = \"b\"").next().context("the first listener")?;
    fs::write(&new, format!("{only_a}{}[log]\naccess = \"json\"\n", all_to("builtin:echo")))?;
    fs::rename(&new, daemon.path("rules.toml"))?;
    daemon.signal(Signal::HUP)?;
    daemon.signal(Signal::CONT)?;
    daemon.wait_log("no longer listening listener=b")?;
    for client in &clients {
        echoes(client, "served")?;
    }
    ensure!(connect(&b).is_err());
    Ok(())
}

fn is_refused(daemon: &Daemon, close: &str) -> Result<()> {
    let client = daemon.connect()?;
    let local = client.local()?;
    let access = daemon.access_of(local)?;
    ensure!(access.close() == close, "{access:?}");
    Ok(())
}

#[test]
fn a_rules_limit_counts_the_flows_from_before() -> Result<()> {
    let server = Server::echo()?;
    let rules = |most: u32| all_to(server.name()) + &format!("max_connections = {most}\n");
    let daemon = Daemon::user_space(&rules(2))?;
    let flow = || -> Result<Conn> {
        let client = daemon.connect()?;
        echoes(&client, "in")?;
        Ok(client)
    };
    let (first, second) = (flow()?, flow()?);
    is_refused(&daemon, "rule-limit")?;
    daemon.reload_ok(&rules(1))?;
    is_refused(&daemon, "rule-limit")?;
    let local = first.local()?;
    drop(first);
    daemon.access_of(local)?;
    // One of one is taken.
    is_refused(&daemon, "rule-limit")?;
    daemon.reload_ok(&rules(2))?;
    let third = flow()?;
    is_refused(&daemon, "rule-limit")?;
    drop((second, third));
    Ok(())
}

/// Who waits for a place gets it when there are more, and there are no more than that.
#[test]
fn who_waits_for_a_place_gets_one_of_a_higher_limit() -> Result<()> {
    for keys in [
        "listen = \"127.0.0.1:0\"\n[limits]\nmax_connections = MOST\n",
        "[[listener]]\naddress = \"127.0.0.1:0\"\nmax_connections = MOST\n",
    ] {
        let upstream = Upstream::tcp()?;
        let rules = |most: &str| keys.replace("MOST", most) + &all_to(&upstream.name());
        let daemon = Daemon::start(&rules("1"), &["--relay", "copy", "--threads", "1"])?;
        let clients = (0..3).map(|_| daemon.connect()).collect::<Result<Vec<_>>>()?;
        let mut servers = vec![upstream.accept()?];
        ensure!(!upstream.has_connection()?);
        daemon.reload_ok(&rules("2"))?;
        servers.push(upstream.accept()?);
        ensure!(!upstream.has_connection()?);
        // Lower: one that ends makes no place, two do.
        daemon.reload_ok(&rules("1"))?;
        let mut clients = clients.into_iter();
        for ends in 0..2 {
            ensure!(!upstream.has_connection()?, "a place after {ends} of 2 have ended");
            let client = clients.next().context("a client")?;
            let local = client.local()?;
            client.finish()?;
            let server = servers.remove(0);
            server.expect_end()?;
            server.finish()?;
            client.expect_end()?;
            daemon.access_of(local)?;
        }
        let last = upstream.accept()?;
        goes_on(&clients.next().context("the last client")?, &last)?;
    }
    Ok(())
}

#[test]
fn a_sources_limit_counts_the_connections_from_before() -> Result<()> {
    let server = Server::echo()?;
    let rules = |most: u32| {
        all_to(server.name()) + &format!("[limits]\nper_source = {{ connections = {most} }}\n")
    };
    let daemon = Daemon::user_space(&rules(1))?;
    let first = daemon.connect()?;
    echoes(&first, "in")?;
    daemon.reload_ok(&rules(2))?;
    let second = daemon.connect()?;
    echoes(&second, "in")?;
    let refused = Conn::reset_from([127, 0, 0, 1].into(), daemon.address())?;
    ensure!(daemon.access_of(refused)?.close() == "source-limit");
    daemon.reload_ok(&rules(1))?;
    let local = first.local()?;
    drop(first);
    daemon.access_of(local)?;
    let refused = Conn::reset_from([127, 0, 0, 1].into(), daemon.address())?;
    ensure!(daemon.access_of(refused)?.close() == "source-limit");
    Ok(())
}

fn group(endpoints: &[&str], keys: &str) -> String {
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "[[rule]]\nmatch = {{ prefix = \"ask\" }}\nupstream = \"group\"\n\
         [[upstream]]\nname = \"group\"\nendpoints = [{}]\n{keys}\n",
        list.join(", ")
    )
}

#[test]
fn an_ejected_endpoint_stays_ejected_and_flows_stay_counted() -> Result<()> {
    let refusing = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let server = Server::echo()?;
    let rules = |keys: &str| {
        group(
            &[&refusing, server.name()],
            &format!(
                "balance = \"first\"\neject = {{ failures = 1, backoff = \"1h\", max = \"1h\" }}\n{keys}"
            ),
        )
    };
    let daemon = Daemon::user_space(&rules(""))?;
    let first = daemon.connect()?;
    echoes(&first, "ask")?;
    daemon.wait_log("endpoint is ejected")?;
    daemon.reload_ok(&rules("max_connections = 2"))?;
    let second = daemon.connect()?;
    echoes(&second, "ask")?;
    let third = daemon.connect()?;
    third.send("ask")?;
    let access = daemon.access_of(third.local()?)?;
    ensure!(access.close() == "upstream-limit", "{access:?}");
    drop((first, second, third));
    let stopped = daemon.stop()?;
    ensure!(stopped.counter("connect_failed") == 1, "it was tried again");
    // What has been said is not said again.
    let said = stopped.log.iter().filter(|line| line.contains("endpoint is ejected")).count();
    ensure!(said == 1, "said {said} times");
    Ok(())
}

/// Checks of an endpoint that is gone stop, those of a new one begin; without checks nothing stays
/// down for ever.
#[test]
fn health_checks_follow_the_rules() -> Result<()> {
    const CHECKS: &str = "health = { interval = \"20ms\", timeout = \"5s\", rise = 1, fall = 1 }";
    let (old, new) = (Upstream::tcp()?, Server::echo()?);
    let refusing = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let daemon = Daemon::user_space(&group(&[&old.name()], "eject = false"))?;
    daemon.reload_ok(&group(&[&old.name()], CHECKS))?;
    for _ in 0..3 {
        old.accept().context("a check")?;
    }
    daemon.reload_ok(&group(&[new.name(), &refusing], CHECKS))?;
    let checks = |more: usize| {
        let before = new.served();
        eventually_true("checks of the new endpoint", || new.served() >= before + more)
    };
    checks(2)?;
    while old.has_connection()? {
        old.accept()?;
    }
    checks(5)?;
    ensure!(!old.has_connection()?, "the old endpoint is still checked");
    let line = daemon.wait_log("endpoint is down")?;
    ensure!(line.contains(&refusing), "{line}");
    daemon.reload_ok(&group(&[new.name(), &refusing], "eject = false"))?;
    daemon.wait_log("endpoint is up")?;
    Ok(())
}

#[test]
fn files_of_networks_follow_the_rules() -> Result<()> {
    let daemon = Daemon::user_space(&all_to("builtin:echo"))?;
    let list = daemon.path("deny");
    let write = |text: &str| -> Result<()> {
        let new = daemon.path("deny.new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &list)?)
    };
    write("127.0.0.2\n")?;
    let rules = all_to("builtin:echo") + "deny = [\"file:deny\"]\n";
    // A relative path is the rules file's neighbour, wherever the daemon works.
    daemon.reload_ok(&rules)?;
    let is_served = |last: u8| {
        let client = Conn::tcp_from([127, 0, 0, last].into(), daemon.address());
        client.is_ok_and(|client| echoes(&client, "served").is_ok())
    };
    ensure!(is_served(1) && !is_served(2));
    write("127.0.0.1\n")?;
    eventually_true("the new list is in force", || is_served(2) && !is_served(1))?;
    // One that is gone refuses the rules that name it.
    fs::remove_file(&list)?;
    let outcome = daemon.reload(&rules)?;
    ensure!(outcome.contains("reload failed") && outcome.contains("deny"), "{outcome}");
    ensure!(is_served(2) && !is_served(1));
    Ok(())
}

#[test]
fn timeouts_are_for_flows_that_there_are() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let rules = |idle: &str| all_to(&upstream.name()) + &format!("[timeouts]\nidle = \"{idle}\"\n");
    let daemon = Daemon::user_space(&rules("1h"))?;
    let (client, server) = daemon.flow(&upstream)?;
    daemon.reload_ok(&rules("100ms"))?;
    client.expect_reset()?;
    server.expect_reset()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "idle-timeout", "{access:?}");
    Ok(())
}

#[test]
fn what_needs_a_restart_is_said() -> Result<()> {
    let rules = all_to("builtin:echo");
    let daemon = Daemon::user_space(&(rules.clone() + "[kernel]\nsockmap = \"off\"\n"))?;
    daemon.reload_ok(&(rules + "[kernel]\nsockmap = \"off\"\nflows = 77\n"))?;
    daemon.wait_log("[kernel] flows has changed, and stays as it was until mux is restarted")?;
    Ok(())
}

#[test]
fn the_level_of_the_log_follows_the_rules() -> Result<()> {
    let rules = |level: &str| {
        all_to("builtin:echo") + &format!("[log]\naccess = \"off\"\nlevel = \"{level}\"\n")
    };
    let daemon = Daemon::user_space(&rules("info"))?;
    daemon.reload_ok(&rules("warn"))?;
    // Errors are said at this level; that it succeeds is not.
    let broken = daemon.reload("[[rule]]\n")?;
    ensure!(broken.contains(" ERROR "), "{broken}");
    fs::write(daemon.path("rules.toml"), format!("listen = \"127.0.0.1:0\"\n{}", rules("info")))?;
    daemon.signal(Signal::HUP)?;
    let sees = |count: usize| daemon.log_count(" reloaded: ") >= count;
    eventually_true("the level is back", || daemon.signal(Signal::HUP).is_ok() && sees(2))
}

fn lines(path: &Path) -> Result<Vec<Access>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines().map(Access::parse).collect()
}

/// As logrotate does it: rename, then SIGHUP.
#[test]
fn the_access_log_is_rotated_and_no_line_is_lost() -> Result<()> {
    let daemon = Daemon::user_space(&(all_to("builtin:echo") + ANY_DIRECTORY))?;
    let directory = daemon.path("log");
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
    let (log, rotated) = (directory.join("access.log"), directory.join("access.log.1"));
    let rules = |file: &Path| {
        let log = format!("[log]\naccess = \"json\"\naccess_file = \"{}\"\n", file.display());
        all_to("builtin:echo") + &log
    };
    let connections = |count: usize| (0..count).try_for_each(|_| echo_once(&daemon));
    daemon.reload_ok(&rules(&log))?;
    ensure!(log.exists(), "a file that is asked for later is opened, too");
    connections(10)?;
    eventually("10 lines", || lines(&log).ok().filter(|lines| lines.len() == 10))?;
    fs::rename(&log, &rotated)?;
    connections(5)?;
    let outcome = daemon.hang_up()?;
    ensure!(outcome.contains("nothing has changed"), "{outcome}");
    connections(7)?;
    eventually_true("22 lines in both files", || {
        let count = |path| lines(path).map_or(0, |lines| lines.len());
        count(&rotated) + count(&log) == 22 && count(&rotated) >= 10
    })?;
    ensure!(lines(&log)?.len() >= 7, "the last ones are in the new file");
    // By rules that are wrong it is opened again all the same.
    fs::rename(&log, directory.join("access.log.2"))?;
    let broken = daemon.reload(&(rules(&log) + "[nothing]\n"))?;
    ensure!(broken.contains("reload failed"), "{broken}");
    ensure!(log.exists());
    // A file that cannot be opened: lines go where they went.
    let outcome = daemon.reload_ok(&rules(&directory.join("no/such/access.log")))?;
    ensure!(outcome.contains("settings: 1 changed"), "{outcome}");
    daemon.wait_log("cannot open the access log")?;
    connections(3)?;
    eventually("3 lines", || lines(&log).ok().filter(|lines| lines.len() == 3))?;
    Ok(())
}

/// What is made while the daemon is root is to be opened again when it is not.
#[test]
fn an_access_log_that_is_made_at_start_is_the_users() -> Result<()> {
    need!(Need::Root);
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let log = directory.path().join("access.log");
    let rules = all_to("builtin:echo")
        + &format!("[log]\naccess = \"json\"\naccess_file = \"{}\"\n", log.display());
    let daemon = Daemon::user_space(&rules)?;
    ensure!(fs::metadata(&log)?.uid() == NOBODY);
    // The directory is not the user's, but there is nothing to make in it.
    daemon.hang_up()?;
    ensure!(daemon.log_count("cannot open the access log") == 0);
    fs::rename(&log, directory.path().join("access.log.1"))?;
    daemon.hang_up()?;
    let line = daemon.wait_log("cannot open the access log")?;
    ensure!(line.contains("Permission denied") && !log.exists(), "{line}");
    echo_once(&daemon)?;
    let rotated = directory.path().join("access.log.1");
    eventually("the line", || lines(&rotated).ok().filter(|lines| lines.len() == 1))?;
    Ok(())
}

/// A daemon that has given its rights away cannot take clients' addresses later: the reload says so,
/// and what there was goes on.
#[test]
fn clients_addresses_without_the_right_are_refused() -> Result<()> {
    need!(Need::Root);
    let server = Server::echo()?;
    let before = all_to(server.name());
    let daemon = Daemon::user_space(&before)?;
    let outcome = daemon.reload(&format!(
        "[[rule]]\nname = \"all\"\nupstream = \"web\"\n[[upstream]]\nname = \"web\"\n\
         endpoints = [\"{}\"]\nsource = \"transparent\"\n",
        server.name()
    ))?;
    ensure!(outcome.contains("reload failed, nothing has changed: "), "{outcome}");
    ensure!(outcome.contains("[[upstream]] web: source = \"transparent\""), "{outcome}");
    echo_once(&daemon)?;
    daemon.reload_ok(&before)?;
    daemon.stop()?;
    Ok(())
}
