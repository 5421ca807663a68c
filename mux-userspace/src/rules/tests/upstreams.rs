//! `[[upstream]]` and `on_no_upstream`: every key, and everything that can be wrong with one.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::rules::config::{
    Balance, EjectConfig, Expect, HalfClosed, Otherwise, QueueConfig, RuleId, UpstreamConfig,
};

/// A file with an `[[upstream]]` of these keys.
fn group(keys: &str) -> String {
    format!("{LISTEN}{RULE}[[upstream]]\nname = 'g'\n{keys}\n")
}

/// The `[[upstream]]` of these keys, as it is compiled.
fn upstream(keys: &str) -> Arc<UpstreamConfig> {
    let text = format!("{LISTEN}[[rule]]\nupstream = \"g\"\n[[upstream]]\nname = \"g\"\n{keys}\n");
    config(&text).upstreams[0].clone()
}

#[test]
fn every_key_of_an_endpoint() {
    let group = upstream(
        r#"
endpoints = [
    80,
    { address = "10.0.0.6:443", weight = 65535, max_connections = 9 },
    { address = "db.internal:1", backup = true, connect_timeout = "100ms" },
    { address = 81, backup = false, weight = 0x10 },
]
connect_timeout = "3s"
"#,
    );
    let weights: Vec<u32> = group.endpoints.iter().map(|endpoint| endpoint.weight).collect();
    assert_eq!(weights, [1, 65_535, 1, 16]);
    let backups: Vec<bool> = group.endpoints.iter().map(|endpoint| endpoint.backup).collect();
    assert_eq!(backups, [false, false, true, false]);
    let timeouts: Vec<u128> =
        group.endpoints.iter().map(|endpoint| endpoint.connect_timeout.as_millis()).collect();
    assert_eq!(timeouts, [3000, 3000, 100, 3000]);
    assert_eq!(group.endpoints[1].max_connections.map(u32::from), Some(9));
    assert_eq!(group.endpoints[0].max_connections, None);
}

#[test]
fn every_balance() {
    for (word, balance) in [
        ("round-robin", Balance::RoundRobin),
        ("least-connections", Balance::LeastConnections),
        ("random-two", Balance::RandomTwo),
        ("source-hash", Balance::SourceHash),
        ("first", Balance::First),
    ] {
        let group = upstream(&format!("endpoints = [80]\nbalance = \"{word}\""));
        assert_eq!(group.balance, balance, "{word}");
    }
}

#[test]
fn every_key_of_a_queue() {
    let queue = |keys: &str| {
        upstream(&format!("endpoints = [80]\nmax_connections = 1\nqueue = {keys}")).queue
    };
    let length = 5;
    let (timeout, half_closed) = (Duration::from_secs(1), HalfClosed::Leaves);
    assert_eq!(queue("{ length = 5 }"), Some(QueueConfig { length, timeout, half_closed }));
    let (timeout, half_closed) = (Duration::from_millis(50), HalfClosed::Waits);
    assert_eq!(
        queue("{ length = 5, timeout = '50ms', half_closed = 'waits' }"),
        Some(QueueConfig { length, timeout, half_closed })
    );
    // A limit of an endpoint will do.
    let group = upstream("endpoints = [{ address = 80, max_connections = 1 }]\nqueue.length = 2");
    assert_eq!(group.queue.map(|queue| queue.length), Some(2));
}

#[test]
fn every_key_of_health() {
    let health = |keys: &str| {
        upstream(&format!("endpoints = [80]\nhealth = {keys}"))
            .health
            .clone()
            .expect("there is one")
    };
    let defaults = health("{}");
    assert_eq!(defaults.interval, Duration::from_secs(2));
    assert_eq!(defaults.timeout, Duration::from_secs(1));
    assert_eq!((defaults.rise, defaults.fall), (2, 3));
    assert!(defaults.send.is_empty() && matches!(defaults.expect, Expect::Connection));

    let all = health(
        r#"{ interval = "100ms", timeout = "50ms", rise = 1, fall = 9, send = "PING\r\n", expect = "+PONG" }"#,
    );
    assert_eq!(all.interval, Duration::from_millis(100));
    assert_eq!(all.timeout, Duration::from_millis(50));
    assert_eq!((all.rise, all.fall), (1, 9));
    assert_eq!(&*all.send, b"PING\r\n");
    let Expect::Contains(text) = &all.expect else { panic!("{:?}", all.expect) };
    assert_eq!(&**text, b"+PONG");

    let raw = health("{ send_hex = '00 ff', expect_hex = '80FE' }");
    assert_eq!(&*raw.send, b"\x00\xff");
    assert!(matches!(&raw.expect, Expect::Contains(bytes) if **bytes == *b"\x80\xfe"));

    let Expect::Regex(regex) = health(r"{ expect_regex = '^\xff.' }").expect else { panic!() };
    assert!(regex.is_match(b"\xff\xfe") && !regex.is_match("\u{ff}a".as_bytes()));
    assert!(matches!(health("{ send = '', expect = '' }").expect, Expect::Connection));
}

#[test]
fn ejection_is_on_where_there_is_somewhere_else_to_go() {
    let eject = |keys: &str| upstream(keys).eject;
    let default =
        EjectConfig { failures: 3, backoff: Duration::from_secs(1), max: Duration::from_secs(60) };
    assert_eq!(eject("endpoints = [80]"), None);
    assert_eq!(eject("endpoints = [80, 80]"), None);
    assert_eq!(eject("endpoints = [80, 81]"), Some(default));
    assert_eq!(eject("endpoints = [80]\neject = true"), Some(default));
    assert_eq!(eject("endpoints = [80]\neject = {}"), Some(default));
    assert_eq!(eject("endpoints = [80, 81]\neject = false"), None);
    let (backoff, max) = (Duration::from_millis(100), Duration::from_secs(5));
    assert_eq!(
        eject("endpoints = [80]\neject = { failures = 1, backoff = '100ms', max = '5s' }"),
        Some(EjectConfig { failures: 1, backoff, max })
    );
}

#[test]
fn names_can_be_looked_up_more_often() {
    assert_eq!(upstream("endpoints = ['a:1']\nresolve = '5s'").resolve, Duration::from_secs(5));
}

#[test]
fn what_stands_in_for_an_upstream() {
    let config = config(
        "listen = '127.0.0.1:0'\n\
         [[rule]]\nname = 'a'\nmatch = 'ssh'\nupstream = 1\non_no_upstream = 'b'\n\
         [[rule]]\nname = 'b'\nmatch = 'tls'\nupstream = 2\non_no_upstream = 'sorry'\n\
         [[rule]]\nname = 'c'\nmatch = 'http'\nupstream = 3\non_no_upstream = 'close'\n\
         [[rule]]\nname = 'd'\nupstream = 4\non_no_upstream = 'reset'\n\
         [[rule]]\nname = 'sorry'\nupstream = 5\n",
    );
    let all: Vec<Otherwise> = config.rules.iter().map(|rule| rule.on_no_upstream).collect();
    let rule = |index| Otherwise::Rule(RuleId(index));
    assert_eq!(all, [rule(1), rule(4), Otherwise::Close, Otherwise::Reset, Otherwise::Reset]);
}

#[test]
fn unknown_keys() {
    for (keys, key, place) in [
        ("endpoints = [{ address = 80, wieght = 2 }]", "wieght", "an endpoint"),
        ("endpoints = [80]\nhealth = { rize = 2 }", "rize", "`health`"),
        ("endpoints = [80]\neject = { failure = 2 }", "failure", "`eject`"),
        (
            "endpoints = [80]\nmax_connections = 1\nqueue = { length = 1, size = 2 }",
            "size",
            "`queue`",
        ),
    ] {
        refused(&group(keys), key, &format!("unknown key `{key}` in {place}"), "");
    }
}

#[test]
fn endpoints() {
    let endpoint = |keys: &str| group(&format!("endpoints = [{{ address = 81, {keys} }}]"));
    refused(
        &endpoint("weight = 0"),
        "0 }",
        "an endpoint of weight 0 would never get a connection",
        "leave the endpoint out, or make it a reserve with `backup = true`",
    );
    for weight in ["65536", "-1"] {
        let report = report(&endpoint(&format!("weight = {weight}")));
        assert!(report.contains("not from 1 to 65535"), "{report}");
    }
    for (keys, message) in [
        ("weight = '2'", "expected an integer, found a string"),
        ("backup = 1", "expected `true` or `false`, found an integer"),
        ("connect_timeout = 2", "a duration needs a unit"),
        ("connect_timeout = '0s'", "this duration cannot be zero"),
        ("max_connections = 0", "this number is out of range"),
    ] {
        let report = report(&endpoint(keys));
        assert!(report.starts_with(&format!("error: {message}")), "{report}");
    }
    refused(
        &group("endpoints = [{ weight = 2 }]"),
        "{ weight",
        "`address` is missing in an endpoint",
        "add `address = ",
    );
    refused(
        &endpoint("backup = true"),
        "[{",
        "every endpoint is a backup, and none has a backup",
        "leave `backup = true` out of at least one",
    );
    refused(
        &group("endpoints = [81, { address = '127.0.0.1:81', backup = true }]"),
        "{ address",
        "`127.0.0.1:81` stands twice, with different settings",
        "write it once; `weight` sets its share",
    );
}

#[test]
fn groups() {
    let one = |keys: &str| group(&format!("endpoints = [81]\n{keys}"));
    refused(
        &one("balance = 'least-connection'"),
        "'least-connection'",
        "unknown value `least-connection`",
        "did you mean `least-connections`?",
    );
    refused(&one("resolve = '0s'"), "'0s'", "this duration cannot be zero", "write how long");
    refused(&one("resolve = 30"), "30", "a duration needs a unit", "write \"30s\"");
    let report = report(&one("retries = 101"));
    assert!(report.contains("not from 0 to 100"), "{report}");
}

#[test]
fn queues() {
    let queue =
        |keys: &str| group(&format!("endpoints = [81]\nmax_connections = 1\nqueue = {keys}"));
    refused(&queue("{}"), "{}", "`length` is missing in `queue`", "add `length = 100`");
    refused(
        &queue("{ length = 1, half_closed = 'leave' }"),
        "'leave'",
        "unknown value `leave`",
        "did you mean `leaves`?",
    );
    refused(
        &group("endpoints = [81]\nqueue = { length = 1 }"),
        "{ length",
        "nobody can ever wait in this queue",
        "add `max_connections`, to the upstream or to its endpoints",
    );
    for (keys, message) in [
        ("5", "expected a table, found an integer"),
        ("{ length = 0 }", "this number is out of range"),
        ("{ length = 65537 }", "this number is out of range"),
        ("{ length = 1, timeout = '0s' }", "this duration cannot be zero"),
    ] {
        let report = report(&queue(keys));
        assert!(report.starts_with(&format!("error: {message}")), "{report}");
    }
}

#[test]
fn health() {
    let health = |keys: &str| group(&format!("endpoints = [81]\nhealth = {keys}"));
    refused(
        &health("{ expect = 'a', expect_regex = 'b' }"),
        "'b'",
        "`expect` and `expect_regex` exclude each other",
        "leave one of them out",
    );
    refused(
        &health("{ expect_regex = '(a' }"),
        "'(a'",
        "this regular expression does not compile",
        "the syntax is that of",
    );
    refused(
        &health("{ expect_regex = 'a{9999999}' }"),
        "'a{",
        "this regular expression does not compile",
        "use smaller counts",
    );
    refused(
        &health(r#"{ send = "\u0081" }"#),
        "\"\\u0081",
        "in TOML, ",
        "write raw bytes as `send_hex` or `expect_hex`",
    );
    refused(
        &health("{ expect_hex = '0g' }"),
        "'0g'",
        "this is not hexadecimal",
        "two digits a byte",
    );
    for (keys, at, names) in [
        ("{ send = 'a', send_hex = '62' }", "'62'", "`send` and `send_hex`"),
        ("{ expect = 'a', expect_hex = '62' }", "'62'", "`expect` and `expect_hex`"),
        ("{ expect_hex = '61', expect_regex = 'b' }", "'b'", "`expect_hex` and `expect_regex`"),
    ] {
        refused(&health(keys), at, &format!("{names} exclude each other"), "leave one");
    }
    let long = report(&health(&format!("{{ expect_hex = '{}' }}", "00".repeat(4097))));
    assert!(long.contains("4097 bytes, of at most 4096"), "{long}");
    let long = report(&health(&format!("{{ send = '{}' }}", "x".repeat(4097))));
    assert!(long.contains("4097 bytes, of at most 4096"), "{long}");
    for (keys, message) in [
        ("true", "expected a table, found a boolean"),
        ("{ interval = '0s' }", "this duration cannot be zero"),
        ("{ timeout = 1 }", "a duration needs a unit"),
        ("{ rise = 0 }", "this number is out of range"),
        ("{ fall = 1001 }", "this number is out of range"),
        ("{ send = 1 }", "expected a string, found an integer"),
    ] {
        let report = report(&health(keys));
        assert!(report.starts_with(&format!("error: {message}")), "{report}");
    }
}

#[test]
fn ejection() {
    let eject = |keys: &str| group(&format!("endpoints = [81, 82]\neject = {keys}"));
    refused(
        &eject("{ backoff = '2m' }"),
        "'2m'",
        "`backoff` is longer than `max`",
        "lower `backoff`, or raise `max`",
    );
    refused(
        &eject("{ backoff = '2s', max = '1s' }"),
        "'1s'",
        "`backoff` is longer than `max`",
        "lower `backoff`, or raise `max`",
    );
    for (keys, message) in [
        ("'no'", "expected a table, found a string"),
        ("{ failures = 0 }", "this number is out of range"),
        ("{ backoff = '0s' }", "this duration cannot be zero"),
    ] {
        let report = report(&eject(keys));
        assert!(report.starts_with(&format!("error: {message}")), "{report}");
    }
}

#[test]
fn what_stands_in() {
    let rule = |name: &str, condition: &str, stand_in: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nmatch = '{condition}'\nupstream = 80\non_no_upstream = '{stand_in}'\n"
        )
    };
    refused(
        &format!("{LISTEN}{}", rule("a", "ssh", "sorry")),
        "'sorry'",
        "unknown rule `sorry`",
        "`close`, `reset` or a rule: `a`",
    );
    refused(
        &format!("{LISTEN}{}", rule("a", "ssh", "a")),
        "'a'",
        "`on_no_upstream` goes in a circle: `a` → `a`",
        "let one of these rules `close` or `reset`",
    );
    // The rule that leads into the circle is not part of it.
    let three = [rule("x", "http", "a"), rule("a", "ssh", "b"), rule("b", "tls", "a")].concat();
    refused(
        &format!("{LISTEN}{three}"),
        "'b'",
        "`on_no_upstream` goes in a circle: `a` → `b` → `a`",
        "let one of these rules `close` or `reset`",
    );
}
