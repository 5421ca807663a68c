//! Every key, and what it becomes.

use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::{
    probe::Probe,
    route::{Group, MaskedBytes, Matcher, Networks, Prefix, Regex},
    rules::config::{
        AccessFormat, Address, Balance, Builtin, EjectConfig, EndpointConfig, Expect, HalfClosed,
        ListenAddress, Otherwise, QueueConfig, RelayChoice, RuleId, SockmapMode, UpstreamId,
    },
};

fn tcp(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

fn prefix(bytes: &[u8]) -> Matcher {
    Matcher::Prefix(Prefix::new(bytes).expect("not empty"))
}

#[test]
fn the_smallest_file() {
    let config = config(
        r#"
listen = "0.0.0.0:3000"

[[rule]]
match = { prefix = "GET " }
upstream = 80                       # 127.0.0.1:80

[[rule]]
match = { regex = '^\x16\x03[\x00-\x03]' }   # on raw bytes, never on decoded text
upstream = "192.168.1.1:443"

[[rule]]
match = "ssh"                       # a probe's name
upstream = "unix:/run/sshd.sock"    # a bare absolute path is a Unix socket too
"#,
    );
    let [listener] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!(&*listener.name, "listener-1");
    assert_eq!(listener.address, ListenAddress::Tcp(tcp("0.0.0.0:3000")));
    assert_eq!(listener.sniff_timeout, Duration::from_secs(3));
    assert_eq!(listener.sniff_limit, 65_536);
    assert_eq!(listener.on_timeout, Otherwise::Close);
    assert_eq!(listener.on_no_match, Otherwise::Close);
    assert_eq!(listener.max_connections, None);
    assert_eq!(listener.rules, [RuleId(0), RuleId(1), RuleId(2)]);

    let names: Vec<&str> = config.rules.iter().map(|rule| &*rule.name).collect();
    assert_eq!(names, ["rule-1", "rule-2", "rule-3"]);
    assert_eq!(config.rules[0].matcher, prefix(b"GET "));
    let tls = Regex::new(r"^\x16\x03[\x00-\x03]").expect("valid");
    assert_eq!(config.rules[1].matcher, Matcher::Regex(tls));
    assert_eq!(config.rules[2].matcher, Matcher::Probe(Probe::Ssh));
    let upstreams: Vec<&str> =
        config.rules.iter().map(|rule| &*config.upstreams[rule.upstream.0].name).collect();
    assert_eq!(upstreams, ["127.0.0.1:80", "192.168.1.1:443", "unix:/run/sshd.sock"]);
    assert_eq!(config.rules[0].relay, RelayChoice::Auto);

    assert_eq!(config.timeouts.idle, Some(Duration::from_secs(3600)));
    assert_eq!(config.limits.max_connections.get(), 10_000);
    assert_eq!(&*config.log.level, "info");
    assert_eq!(&*config.security.user, "nobody");
    assert_eq!(config.kernel.sockmap, SockmapMode::Auto);
}

#[test]
fn every_key_of_a_listener() {
    let config = config(
        r#"
[[listener]]
name = "edge"
address = "[::]:443"
sniff_timeout = "150ms"
sniff_limit = "16KiB"
on_timeout = "ssh"
on_no_match = "reset"
max_connections = 10000
rules = ["web", "ssh"]

[[listener]]
address = "/run/mux.sock"
sniff_limit = 512
on_timeout = "reset"
on_no_match = "web"

[[rule]]
name = "ssh"
match = "ssh"
upstream = 22

[[rule]]
name = "web"
match = "http"
upstream = 80
"#,
    );
    let [edge, local] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!(&*edge.name, "edge");
    assert_eq!(edge.address, ListenAddress::Tcp(tcp("[::]:443")));
    assert_eq!(edge.sniff_timeout, Duration::from_millis(150));
    assert_eq!(edge.sniff_limit, 16_384);
    assert_eq!(edge.on_timeout, Otherwise::Rule(RuleId(0)));
    assert_eq!(edge.on_no_match, Otherwise::Reset);
    assert_eq!(edge.max_connections.map(u32::from), Some(10_000));
    assert_eq!(edge.rules, [RuleId(1), RuleId(0)]);

    assert_eq!(&*local.name, "listener-2");
    assert_eq!(local.address, ListenAddress::Unix("/run/mux.sock".into()));
    assert_eq!(local.sniff_limit, 512);
    assert_eq!(local.on_timeout, Otherwise::Reset);
    assert_eq!(local.on_no_match, Otherwise::Rule(RuleId(1)));
    assert_eq!(local.rules, [RuleId(0), RuleId(1)]);
}

#[test]
fn listen_takes_several_addresses_and_stands_beside_listeners() {
    let text = "listen = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"unix:/run/a\"]\n\
                [[listener]]\naddress = \"[::1]:1\"\n";
    let config = config(&format!("{text}{RULE}"));
    let names: Vec<&str> = config.listeners.iter().map(|listener| &*listener.name).collect();
    assert_eq!(names, ["listener-1", "listener-2", "listener-3", "listener-4"]);
    assert_eq!(config.listeners[2].address, ListenAddress::Unix("/run/a".into()));
    assert_eq!(config.listeners[3].address, ListenAddress::Tcp(tcp("[::1]:1")));
}

#[test]
fn listeners_of_the_command_line_replace_the_files() {
    let text = "[[listener]]\nname = \"edge\"\naddress = \"127.0.0.1:1\"\nsniff_limit = 9\n";
    let read = || config(&format!("{text}{RULE}"));
    let new = [ListenAddress::Tcp(tcp("[::1]:2")), ListenAddress::Unix("/run/a".into())];
    let config = read().with_listen(&new);
    let addresses: Vec<_> =
        config.listeners.iter().map(|listener| listener.address.clone()).collect();
    assert_eq!(addresses, new);
    assert_eq!(&*config.listeners[1].name, "listener-2");
    assert!(config.listeners.iter().all(|listener| listener.sniff_limit == 9));
    assert_eq!(&*read().with_listen(&[]).listeners[0].name, "edge");
}

#[test]
fn every_form_of_an_upstream() {
    let forms = [
        ("80", Address::Ip(tcp("127.0.0.1:80"))),
        ("\"80\"", Address::Ip(tcp("127.0.0.1:80"))),
        ("\"10.0.0.5:443\"", Address::Ip(tcp("10.0.0.5:443"))),
        ("\"[::1]:443\"", Address::Ip(tcp("[::1]:443"))),
        ("\"app.internal:1\"", Address::Name { host: "app.internal".into(), port: 1 }),
        ("\"unix:/run/a\"", Address::Unix("/run/a".into())),
        ("\"/run/a\"", Address::Unix("/run/a".into())),
        ("\"builtin:echo\"", Address::Builtin(Builtin::Echo)),
        ("\"builtin:discard\"", Address::Builtin(Builtin::Discard)),
        ("\"builtin:whoami\"", Address::Builtin(Builtin::Whoami)),
    ];
    for (form, address) in forms {
        let rule = config(&format!("{LISTEN}[[rule]]\nupstream = {form}\n"));
        let endpoint = EndpointConfig::new(address);
        assert_eq!(rule.upstreams[0].endpoints, std::slice::from_ref(&endpoint), "{form}");
        let group = format!(
            "{LISTEN}[[rule]]\nupstream = \"g\"\n[[upstream]]\nname = \"g\"\nendpoints = \
             [9, {form}, {{ address = {form} }}]\n"
        );
        // Written twice, it has twice the share.
        let twice = EndpointConfig { weight: 2, ..endpoint };
        assert_eq!(config(&group).upstreams[0].endpoints[1..], [twice], "{form}");
    }
}

#[test]
fn every_key_of_a_rule_and_of_an_upstream() {
    let config = config(
        r#"
listen = "127.0.0.1:0"
[[rule]]
match = "tls"
upstream = "web"
relay = "sockmap"
max_connections = 1000
[[rule]]
match = "ssh"
upstream = "10.0.0.1:22"
relay = "splice"
[[rule]]
match = "http"
upstream = "10.0.0.1:22"
relay = "copy"
[[rule]]
upstream = "plain"
relay = "auto"

[[upstream]]
name = "web"
endpoints = ["10.0.0.5:443", 443]
balance = "first"
connect_timeout = "5s"
retries = 0
max_connections = 7
[[upstream]]
name = "plain"
endpoints = ["10.0.0.5:443"]
balance = "round-robin"
"#,
    );
    let relays: Vec<RelayChoice> = config.rules.iter().map(|rule| rule.relay).collect();
    let [auto, sockmap] = [RelayChoice::Auto, RelayChoice::Sockmap];
    assert_eq!(relays, [sockmap, RelayChoice::Splice, RelayChoice::Copy, auto]);
    assert_eq!(config.rules[0].max_connections.map(u32::from), Some(1000));
    // Groups first; one upstream for an address that two rules name.
    let targets: Vec<UpstreamId> = config.rules.iter().map(|rule| rule.upstream).collect();
    assert_eq!(targets, [UpstreamId(0), UpstreamId(2), UpstreamId(2), UpstreamId(1)]);

    let web = &config.upstreams[0];
    assert_eq!((&*web.name, web.endpoints.len()), ("web", 2));
    assert_eq!((web.balance, web.retries), (Balance::First, 0));
    assert!(web.endpoints.iter().all(|e| e.connect_timeout == Duration::from_secs(5)));
    assert_eq!(web.max_connections.map(u32::from), Some(7));
    let plain = &config.upstreams[1];
    assert_eq!((plain.balance, plain.retries), (Balance::RoundRobin, 2));
    // An address has nowhere else to go.
    assert_eq!(
        (config.upstreams[2].balance, config.upstreams[2].retries),
        (Balance::RoundRobin, 0)
    );
    for defaults in &config.upstreams[1..] {
        assert_eq!(defaults.endpoints[0].connect_timeout, Duration::from_secs(2));
        assert_eq!(defaults.resolve, Duration::from_secs(30));
        assert_eq!(defaults.max_connections, None);
        assert_eq!((defaults.queue, defaults.eject), (None, None));
        assert!(defaults.health.is_none());
    }
}

/// The `[[upstream]]` of these keys, as it is compiled.
fn upstream(keys: &str) -> std::sync::Arc<crate::rules::config::UpstreamConfig> {
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
fn queues() {
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
fn health() {
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
    let Expect::Prefix(prefix) = &all.expect else { panic!("{:?}", all.expect) };
    assert_eq!(&**prefix, b"+PONG");

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
fn every_matcher() {
    let masked = |offset, value: &[u8], mask: Option<&[u8]>| {
        Matcher::Bytes(MaskedBytes::new(offset, value, mask).expect("comparable"))
    };
    let regex = |pattern| Matcher::Regex(Regex::new(pattern).expect("valid"));
    let group = |members: Vec<Matcher>| Group::new(members).expect("not empty");
    let networks = ["10.0.0.0/8", "::1/128"].map(|text| text.parse().expect(text));
    let client = Matcher::Client(Networks::new(networks).expect("not empty"));
    let tls = Matcher::Probe(Probe::Tls);
    for (text, matcher) in [
        ("'tls'", tls.clone()),
        ("{ prefix = 'GET ' }", prefix(b"GET ")),
        (r#"{ prefix = "\u0016\u0003\t" }"#, prefix(b"\x16\x03\t")),
        ("{ prefix = 'é' }", prefix("é".as_bytes())),
        ("{ prefix_hex = '16 03Ff' }", prefix(b"\x16\x03\xff")),
        (r"{ regex = '^\xff' }", regex(r"^\xff")),
        (
            "{ bytes = { offset = 2, hex = '0102', mask = 'ff0f' } }",
            masked(2, b"\x01\x02", Some(b"\xff\x0f")),
        ),
        ("{ bytes = { hex = '01' } }", masked(0, b"\x01", None)),
        ("{ client = ['10.0.0.0/8', '::1'] }", client.clone()),
        (
            "{ all = ['tls', { prefix = 'a' }] }",
            Matcher::All(group(vec![tls.clone(), prefix(b"a")])),
        ),
        (
            "{ any = ['tls', { prefix = 'a' }] }",
            Matcher::Any(group(vec![tls.clone(), prefix(b"a")])),
        ),
        ("{ not = 'tls' }", Matcher::Not(tls.into())),
        (
            "{ regex = 'b', prefix = 'a', client = ['10.0.0.0/8', '::1'] }",
            Matcher::All(group(vec![client, prefix(b"a"), regex("b")])),
        ),
    ] {
        let config = config(&format!("{LISTEN}[[rule]]\nmatch = {text}\nupstream = 80\n"));
        assert_eq!(config.rules[0].matcher, matcher, "{text}");
    }
    assert_eq!(config(&format!("{LISTEN}{RULE}")).rules[0].matcher, Matcher::Always);
    for probe in Probe::ALL {
        let config = config(&format!("{LISTEN}[[rule]]\nmatch = '{probe}'\nupstream = 80\n"));
        assert_eq!(config.rules[0].matcher, Matcher::Probe(probe));
    }
}

#[test]
fn every_setting() {
    let config = config(&format!(
        r#"{LISTEN}{RULE}
[timeouts]
idle = "0s"
half_closed = "2m"
lifetime = "1d"
drain = "0s"
[limits]
max_connections = 5
max_sniffing = 6
[log]
level = "debug"
access = "json"
access_file = "/var/log/mux.log"
[security]
user = "mux"
[kernel]
sockmap = "force"
send_buffer = "1MiB"
backlog_limit = "512KiB"
flows = 1024
"#
    ));
    assert_eq!(config.timeouts.idle, None);
    assert_eq!(config.timeouts.half_closed, Some(Duration::from_secs(120)));
    assert_eq!(config.timeouts.lifetime, Some(Duration::from_secs(86_400)));
    assert_eq!(config.timeouts.drain, Duration::ZERO);
    assert_eq!(config.limits.max_connections.get(), 5);
    assert_eq!(config.limits.max_sniffing.get(), 6);
    assert_eq!(&*config.log.level, "debug");
    assert_eq!(config.log.access, AccessFormat::Json);
    assert_eq!(config.log.access_file.as_deref(), Some("/var/log/mux.log".as_ref()));
    assert_eq!(&*config.security.user, "mux");
    assert_eq!(config.kernel.sockmap, SockmapMode::Force);
    assert_eq!((config.kernel.send_buffer, config.kernel.backlog_limit), (1 << 20, 512 << 10));
    assert_eq!(config.kernel.flows, 1024);
}

#[test]
fn access_can_be_a_table() {
    let read = |access| config(&format!("{LISTEN}{RULE}[log]\naccess = {access}\n")).log;
    assert_eq!(read("'off'").access, AccessFormat::Off);
    assert_eq!(read("'text'").access_file, None);
    let log = read("{ format = 'json', file = 'access.log' }");
    assert_eq!(log.access, AccessFormat::Json);
    assert_eq!(log.access_file.as_deref(), Some("access.log".as_ref()));
    assert_eq!(read("{ file = 'access.log' }").access, AccessFormat::Text);
}

#[test]
fn a_rule_reached_only_by_a_fallback_is_reachable() {
    let config = config(
        "[[listener]]\naddress = '127.0.0.1:0'\nrules = ['a']\non_timeout = 'b'\non_no_match = 'c'\n\
         [[rule]]\nname = 'a'\nmatch = 'ssh'\nupstream = 1\n\
         [[rule]]\nname = 'b'\nupstream = 2\n\
         [[rule]]\nname = 'c'\nmatch = 'ssh'\nupstream = 3\n",
    );
    assert_eq!(config.listeners[0].rules, [RuleId(0)]);
    assert_eq!(config.listeners[0].on_timeout, Otherwise::Rule(RuleId(1)));
    assert_eq!(config.listeners[0].on_no_match, Otherwise::Rule(RuleId(2)));
}
