//! From accept to the rule: timeouts, limits, order, bytes that come early.

use std::thread;

use anyhow::{Result, ensure};
use mux_tests::{Daemon, Need, Pattern, Server, Upstream, join, need};

/// One listener with these settings, and these rules.
fn listener(settings: &str, rules: &str) -> String {
    format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{settings}\n{rules}")
}

fn prefix_rule(name: &str, prefix: &str, upstream: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\nmatch = {{ prefix = \"{prefix}\" }}\nupstream = \"{upstream}\"\n"
    )
}

#[test]
fn a_silent_client_gets_the_server_that_speaks_first() -> Result<()> {
    let (http, smtp) = (Server::tagged("http")?, Server::tagged("220 mail\r\n")?);
    let daemon = Daemon::user_space(&listener(
        "sniff_timeout = \"50ms\"\non_timeout = \"mail\"",
        &[prefix_rule("web", "GET ", http.name()), prefix_rule("mail", "EHLO ", smtp.name())]
            .concat(),
    ))?;
    let client = daemon.connect()?;
    client.expect("220 mail\r\n")?;
    client.finish()?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.rule() == "mail" && access.why() != "matched", "{access:?}");
    ensure!(http.served() == 0);
    smtp.stop()
}

#[test]
fn half_a_prefix_counts_as_silence_and_is_replayed() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&listener(
        "sniff_timeout = \"100ms\"\non_timeout = \"other\"",
        &[
            prefix_rule("web", "GET ", "builtin:discard"),
            prefix_rule("other", "other", &upstream.name()),
        ]
        .concat(),
    ))?;
    let client = daemon.connect()?;
    client.send("GE")?;
    let server = upstream.accept()?;
    server.expect("GE")?;
    client.send("T and more")?;
    server.expect("T and more")
}

#[test]
fn no_match_is_closed() -> Result<()> {
    let daemon = Daemon::user_space(&listener("", &prefix_rule("web", "GET ", "builtin:echo")))?;
    let client = daemon.connect()?;
    client.send("PUT")?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "no-match" && access.rule().is_empty(), "{access:?}");
    Ok(())
}

#[test]
fn no_match_is_reset_where_that_is_asked_for() -> Result<()> {
    let daemon = Daemon::user_space(&listener(
        "on_no_match = \"reset\"",
        &prefix_rule("web", "GET ", "builtin:echo"),
    ))?;
    let client = daemon.connect()?;
    client.send("PUT")?;
    ensure!(client.expect_reset()? == 0);
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "no-match-reset", "{access:?}");
    Ok(())
}

#[test]
fn no_match_is_routed_where_that_is_asked_for() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&listener(
        "on_no_match = \"fallback\"",
        &[
            prefix_rule("web", "GET ", "builtin:discard"),
            prefix_rule("fallback", "never", &upstream.name()),
        ]
        .concat(),
    ))?;
    let client = daemon.connect()?;
    client.send("what is this?")?;
    upstream.accept()?.expect("what is this?")
}

#[test]
fn the_sniff_limit_ends_indecision() -> Result<()> {
    let daemon = Daemon::user_space(&listener(
        "sniff_limit = \"8B\"",
        "[[rule]]\nmatch = { regex = '^a*b' }\nupstream = \"builtin:echo\"\n",
    ))?;
    let client = daemon.connect()?;
    client.send("aaaaaaab")?;
    client.expect("aaaaaaab")?;
    let endless = daemon.connect()?;
    endless.send_one_by_one("aaaaaaa")?;
    endless.send("a")?;
    endless.expect_end()?;
    let access = daemon.access_of(endless.local()?)?;
    ensure!(access.close() == "no-match", "{access:?}");
    Ok(())
}

#[test]
fn bytes_beyond_the_sniff_limit_are_no_less_delivered() -> Result<()> {
    let daemon = Daemon::user_space(&listener(
        "sniff_limit = \"8B\"",
        &prefix_rule("echo", "echo", "builtin:echo"),
    ))?;
    let text = format!("echo {}", "0123456789".repeat(10_000));
    let client = daemon.connect()?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| client.send(&text));
        client.expect(&text)?;
        join(sending, "sending")
    })
}

#[test]
fn a_rule_that_needs_more_holds_back_those_after_it() -> Result<()> {
    let (long, short) = (Server::tagged("long")?, Server::tagged("short")?);
    let daemon = Daemon::user_space(
        &[
            prefix_rule("long", "GET /long", long.name()),
            prefix_rule("short", "GET ", short.name()),
        ]
        .concat(),
    )?;
    for (text, tag) in [("GET /long", "long"), ("GET /lo ", "short"), ("GET /x", "short")] {
        let client = daemon.connect()?;
        client.send_one_by_one(text)?;
        client.expect(tag)?;
    }
    Ok(())
}

#[test]
fn a_client_that_ends_before_a_rule_is_sure_is_closed() -> Result<()> {
    let daemon = Daemon::user_space(&prefix_rule("web", "GET ", "builtin:echo"))?;
    let client = daemon.connect()?;
    client.send("GE")?;
    client.finish()?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "no-match", "{access:?}");
    Ok(())
}

#[test]
fn a_client_that_resets_while_it_is_sniffed_is_counted_and_no_more() -> Result<()> {
    let daemon = Daemon::user_space(&prefix_rule("web", "GET ", "builtin:echo"))?;
    let client = daemon.connect()?;
    client.send_one_by_one("G")?;
    let local = client.local()?;
    client.reset()?;
    let access = daemon.access_of(local)?;
    ensure!(access.close() == "client-reset", "{access:?}");
    daemon.stop()?;
    Ok(())
}

/// No match at all: the server may speak first, and nothing waits for a byte.
#[test]
fn a_rule_without_a_match_waits_for_nothing() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&format!("[[rule]]\nupstream = \"{}\"\n", upstream.name()))?;
    let client = daemon.connect()?;
    let server = upstream.accept()?;
    server.send("I speak first")?;
    client.expect("I speak first")
}

#[test]
fn each_listener_has_its_own_rules() -> Result<()> {
    let (one, two) = (Server::tagged("one")?, Server::tagged("two")?);
    let daemon = Daemon::user_space(&format!(
        "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\nrules = [\"first\"]\n\
         [[listener]]\nname = \"b\"\naddress = \"127.0.0.1:0\"\nrules = [\"second\"]\n\
         [[rule]]\nname = \"first\"\nupstream = \"{}\"\n[[rule]]\nname = \"second\"\nupstream = \"{}\"\n",
        one.name(),
        two.name()
    ))?;
    for (listener, tag) in [("a", "one"), ("b", "two")] {
        mux_tests::Conn::tcp(daemon.listener(listener).parse()?)?.expect(tag)?;
    }
    Ok(())
}

#[test]
fn an_ipv6_listener_listens() -> Result<()> {
    need!(Need::Ipv6);
    let daemon =
        Daemon::user_space("listen = \"[::1]:0\"\n[[rule]]\nupstream = \"builtin:echo\"\n")?;
    let client = daemon.connect()?;
    client.send("six")?;
    client.expect("six")?;
    client.finish()?;
    client.expect_end()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.client().starts_with("[::1]:"), "{access:?}");
    Ok(())
}

/// The upstream's backlog is full when the client's bytes come; the connection is made when there
/// is room. What comes in between is neither lost nor out of order.
#[test]
fn bytes_that_come_while_the_upstream_is_connected_to_are_not_lost() -> Result<()> {
    let upstream = Upstream::at("127.0.0.1:0".parse()?, 0)?;
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nmatch = {{ prefix_hex = \"{:02x}\" }}\nupstream = \"slow\"\n\
         [[upstream]]\nname = \"slow\"\nendpoints = [\"{}\"]\nconnect_timeout = \"1m\"\n",
        Pattern::new(9).bytes(0, 1)[0],
        upstream.name()
    ))?;
    // A backlog of 0 holds one; a second SYN finds no room, and is sent again after a second.
    let filler = mux_tests::Conn::tcp(upstream.address())?;
    let client = daemon.connect()?;
    let pattern = Pattern::new(9);
    let length = 1 << 20;
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for at in 0..100 {
                client.send_pattern(pattern, at, 1)?;
            }
            client.send_pattern(pattern, 100, length - 100)?;
            client.finish()
        });
        mux_tests::eventually_true("the daemon asks for a connection", || {
            mux_tests::procfs::syn_sent_to(upstream.address())
        })?;
        upstream.accept()?;
        drop(filler);
        let server = upstream.accept()?;
        server.expect_pattern(pattern, 0, length)?;
        server.expect_end()?;
        server.send("all there")?;
        drop(server);
        join(sending, "the client sending")
    })?;
    client.expect("all there")?;
    client.expect_end()
}
