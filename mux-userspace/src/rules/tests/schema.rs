//! Every key, and what it becomes.

use std::{fs, net::SocketAddr, num::NonZeroU32, time::Duration};

use super::*;
use crate::{
    probe::{Probe, Probes},
    route::{Group, MaskedBytes, Matcher, Networks, Prefix, Regex},
    rules::{
        config::{
            AccessFormat, Address, Balance, Builtin, Confinement, EndpointConfig, KeeperMode,
            ListenAddress, Otherwise, PacketMode, RelayChoice, RuleId, SecurityConfig, SockmapMode,
            UpstreamId,
        },
        load,
    },
};

fn tcp(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

fn prefix(bytes: &[u8]) -> Matcher {
    Matcher::Prefix(Prefix::new(bytes).expect("not empty"))
}

fn probe(name: &str) -> Probe {
    Probe::from_name(name).expect(name)
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
    assert_eq!(listener.rules.ids().collect::<Vec<_>>(), [RuleId(0), RuleId(1), RuleId(2)]);

    let names: Vec<&str> = config.rules.iter().map(|rule| &*rule.name).collect();
    assert_eq!(names, ["rule-1", "rule-2", "rule-3"]);
    assert_eq!(config.rules[0].matcher, prefix(b"GET "));
    let tls = Regex::new(r"^\x16\x03[\x00-\x03]").expect("valid");
    assert_eq!(config.rules[1].matcher, Matcher::Regex(tls));
    assert_eq!(config.rules[2].matcher, Matcher::Probe(probe("ssh")));
    let upstreams: Vec<&str> =
        config.rules.iter().map(|rule| &*config.upstreams[rule.upstream.0].name).collect();
    assert_eq!(upstreams, ["127.0.0.1:80", "192.168.1.1:443", "unix:/run/sshd.sock"]);
    assert_eq!(config.rules[0].relay, RelayChoice::Auto);

    assert_eq!(config.timeouts.idle, Some(Duration::from_secs(3600)));
    assert_eq!(config.limits.max_connections, None);
    assert_eq!(&*config.log.level, "info");
    assert_eq!(&*config.security.user, "nobody");
    let SecurityConfig { user: _, landlock, seccomp, keeper } = config.security;
    assert_eq!((landlock, seccomp), (Confinement::Auto, Confinement::Auto));
    assert_eq!(keeper, KeeperMode::Auto);
    assert_eq!(config.kernel.sockmap, SockmapMode::Auto);
    assert_eq!(config.kernel.packet, PacketMode::DEFAULT);
    assert_eq!(config.kernel.interfaces, None);
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
    assert_eq!(edge.rules.ids().collect::<Vec<_>>(), [RuleId(1), RuleId(0)]);

    assert_eq!(&*local.name, "listener-2");
    assert_eq!(local.address, ListenAddress::Unix("/run/mux.sock".into()));
    assert_eq!(local.sniff_limit, 512);
    assert_eq!(local.on_timeout, Otherwise::Reset);
    assert_eq!(local.on_no_match, Otherwise::Rule(RuleId(1)));
    assert_eq!(local.rules.ids().collect::<Vec<_>>(), [RuleId(0), RuleId(1)]);
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
match = "smtp"
upstream = "10.0.0.1:22"
relay = "packet"
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
    let [auto, packet, sockmap, splice, copy] = RelayChoice::ALL;
    assert_eq!(relays, [sockmap, splice, copy, packet, auto]);
    assert_eq!(config.rules[0].max_connections.map(u32::from), Some(1000));
    // Groups first; one upstream for an address that two rules name.
    let targets: Vec<UpstreamId> = config.rules.iter().map(|rule| rule.upstream).collect();
    assert_eq!(
        targets,
        [UpstreamId(0), UpstreamId(2), UpstreamId(2), UpstreamId(2), UpstreamId(1)]
    );

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

#[test]
fn every_matcher() {
    let masked = |offset, value: &[u8], mask: Option<&[u8]>| {
        Matcher::Bytes(MaskedBytes::new(offset, value, mask).expect("comparable"))
    };
    let regex = |pattern| Matcher::Regex(Regex::new(pattern).expect("valid"));
    let group = |members: Vec<Matcher>| Group::new(members).expect("not empty");
    let networks = ["10.0.0.0/8", "::1/128"].map(|text| text.parse().expect(text));
    let client = Matcher::Client(Networks::new(networks).expect("not empty"));
    let tls = Matcher::Probe(probe("tls"));
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
    for probe in Probe::all() {
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
per_source = {{ connections = 7, rate = "50/10s" }}
[log]
level = "debug"
access = "json"
access_file = "/var/log/mux.log"
[security]
user = "mux"
landlock = "off"
seccomp = "off"
keeper = "off"
[kernel]
sockmap = "force"
packet = "auto"
interfaces = ["lo", "eth0"]
send_buffer = "1MiB"
backlog_limit = "512KiB"
flows = 1024
"#
    ));
    assert_eq!(config.timeouts.idle, None);
    assert_eq!(config.timeouts.half_closed, Some(Duration::from_secs(120)));
    assert_eq!(config.timeouts.lifetime, Some(Duration::from_secs(86_400)));
    assert_eq!(config.timeouts.drain, Duration::ZERO);
    assert_eq!(config.limits.max_connections.map(NonZeroU32::get), Some(5));
    assert_eq!(config.limits.per_source.connections.map(NonZeroU32::get), Some(7));
    let rate = config.limits.per_source.rate.map(|rate| (rate.count.get(), rate.period));
    assert_eq!(rate, Some((50, Duration::from_secs(10))));
    assert_eq!(config.limits.max_sniffing.map(NonZeroU32::get), Some(6));
    assert_eq!(&*config.log.level, "debug");
    assert_eq!(config.log.access, AccessFormat::Json);
    assert_eq!(config.log.access_file.as_deref(), Some("/var/log/mux.log".as_ref()));
    assert_eq!(&*config.security.user, "mux");
    let SecurityConfig { user: _, landlock, seccomp, keeper } = config.security;
    assert_eq!((landlock, seccomp), (Confinement::Off, Confinement::Off));
    assert_eq!(keeper, KeeperMode::Off);
    assert_eq!(config.kernel.sockmap, SockmapMode::Force);
    assert_eq!((config.kernel.send_buffer, config.kernel.backlog_limit), (1 << 20, 512 << 10));
    assert_eq!(config.kernel.flows, 1024);
    assert_eq!(config.kernel.packet, PacketMode::Auto);
    let interfaces = config.kernel.interfaces.as_deref().expect("given");
    assert_eq!(interfaces.iter().map(|name| &**name).collect::<Vec<_>>(), ["lo", "eth0"]);
}

#[test]
fn access_can_be_a_table() {
    let read = |access| config(&format!("{LISTEN}{RULE}[log]\naccess = {access}\n")).log;
    assert_eq!(read("'off'").access, AccessFormat::Off);
    assert_eq!(read("'text'").access_file, None);
    let log = read("{ format = 'json', file = 'access.log' }");
    assert_eq!(log.access, AccessFormat::Json);
    assert_eq!(log.access_file.as_deref(), Some("access.log".as_ref()));
    assert_eq!(read("{ file = 'access.log' }").access, AccessFormat::Json);
}

#[test]
fn a_rule_reached_only_by_a_fallback_is_reachable() {
    let config = config(
        "[[listener]]\naddress = '127.0.0.1:0'\nrules = ['a']\non_timeout = 'b'\non_no_match = 'c'\n\
         [[rule]]\nname = 'a'\nmatch = 'ssh'\nupstream = 1\n\
         [[rule]]\nname = 'b'\nupstream = 2\n\
         [[rule]]\nname = 'c'\nmatch = 'ssh'\nupstream = 3\n",
    );
    assert_eq!(config.listeners[0].rules.ids().collect::<Vec<_>>(), [RuleId(0)]);
    assert_eq!(config.listeners[0].on_timeout, Otherwise::Rule(RuleId(1)));
    assert_eq!(config.listeners[0].on_no_match, Otherwise::Rule(RuleId(2)));
}

#[test]
fn access_lists_and_files_of_networks() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("deny.txt"), "10.1.0.0/16 # them\n").expect("it can be written");
    let path = folder.path().join("rules.toml");
    let text = "[[listener]]\naddress = '127.0.0.1:0'\nallow = ['10.0.0.0/8']\n\
                deny = ['file:deny.txt', '10.2.0.0/16']\n\
                [[rule]]\nmatch = { client = ['file:deny.txt'] }\nupstream = 80\n\
                [[rule]]\ndeny = ['10.0.0.1']\nupstream = 80\n";
    fs::write(&path, text).expect("it can be written");
    let config = load(&path, &Probes::default()).unwrap_or_else(|error| panic!("{error}"));
    let permits = |address: &str| config.listeners[0].acl.permits(address.parse().ok());
    for (address, permitted) in [
        ("10.0.0.1", true),
        ("10.1.0.1", false),
        ("10.2.0.1", false),
        ("192.0.2.1", false),
        ("2001:db8::1", false),
        ("a client of a Unix socket, which has no address", false),
    ] {
        assert_eq!(permits(address), permitted, "{address}");
    }
    assert!(config.rules[1].acl.permits(None));
    assert!(!config.rules[1].acl.permits("10.0.0.1".parse().ok()));
    let files: Vec<_> = config.network_files.iter().map(|file| file.path()).collect();
    assert_eq!(files, [folder.path().join("deny.txt")]);
}
