//! Configurations that say anything at all: what comes of them loads, or they are refused.

use proptest::prelude::*;

use super::{ImportError, try_import};
use crate::rules;

/// Settings of every place, and one of none.
const NAMES: [&str; 30] = [
    "name",
    "host",
    "port",
    "probe",
    "service",
    "is_udp",
    "is_unix",
    "fork",
    "tfo_ok",
    "transparent",
    "resolve_on_forward",
    "log_level",
    "keepalive",
    "max_connections",
    "sni_hostnames",
    "alpn_protocols",
    "regex_patterns",
    "minlength",
    "proxyprotocol",
    "udp_timeout",
    "timeout",
    "on-timeout",
    "verbose",
    "verbose-connections",
    "logfile",
    "user",
    "inetd",
    "numeric",
    "chroot",
    "weight",
];

/// Strings as they stand in the file, quotes and all.
const STRINGS: [&str; 32] = [
    r#""ssh""#,
    r#""tls""#,
    r#""http""#,
    r#""regex""#,
    r#""anyprot""#,
    r#""timeout""#,
    r#""teamspeak""#,
    r#""xmpp""#,
    r#""close""#,
    r#""reset""#,
    r#""""#,
    r#""22""#,
    r#""0""#,
    r#""99999""#,
    r#""localhost""#,
    r#""::""#,
    r#""0.0.0.0""#,
    r#""[::1]""#,
    r#""/run/x.sock""#,
    r#""unix:/x""#,
    r#""builtin:echo""#,
    r#""a b""#,
    r#""a:b""#,
    r#""*""#,
    r#""*.x.example""#,
    r#""10.0.0.1""#,
    r#""(""#,
    r#""^a$""#,
    r#""a.*b""#,
    r#""\\x00\\xff[""#,
    r#""\x00\xff\n""#,
    "\"\u{202e}\u{7f}#\t\u{85}'''\\\"\"",
];

fn string() -> impl Strategy<Value = String> {
    let strings = proptest::sample::select(&STRINGS[..]).prop_map(str::to_owned);
    let others = r#"[^\\"\x00]{0,12}"#.prop_map(|text| format!("\"{text}\""));
    prop_oneof![8 => strings, 1 => others]
}

fn value() -> impl Strategy<Value = String> {
    let number = proptest::sample::select(vec![
        "0",
        "1",
        "2",
        "-1",
        "60",
        "65536",
        "4294967296",
        "9223372036854775807",
        "1.5",
    ]);
    let members = proptest::collection::vec(string(), 0..4);
    prop_oneof![
        6 => string(),
        2 => proptest::sample::select(vec!["true", "false"]).prop_map(str::to_owned),
        2 => number.prop_map(str::to_owned),
        3 => members.prop_map(|members| format!("[ {} ]", members.join(", "))),
        1 => Just("( { a: 1; } )".to_owned()),
    ]
}

/// One of the usual values mostly, else any.
fn mostly(usual: &'static [&'static str]) -> impl Strategy<Value = String> {
    let usual = proptest::sample::select(usual).prop_map(|text| format!("\"{text}\""));
    prop_oneof![5 => usual, 1 => string()]
}

/// A group with these settings, and some more.
fn group(needed: Vec<(&'static str, BoxedStrategy<String>)>) -> impl Strategy<Value = String> {
    let some = proptest::collection::btree_map(proptest::sample::select(&NAMES[..]), value(), 0..5);
    let (names, values): (Vec<_>, Vec<_>) = needed.into_iter().unzip();
    (some, values).prop_map(move |(some, values)| {
        let needed = names.iter().copied().zip(values);
        let others = some.into_iter().filter(|(name, _)| !names.contains(name));
        needed.chain(others).map(|(name, value)| format!("{name}: {value}; ")).collect()
    })
}

fn configuration() -> impl Strategy<Value = String> {
    let list = |groups: Vec<String>| {
        let groups: Vec<String> = groups.iter().map(|group| format!("{{ {group} }}")).collect();
        groups.join(",\n")
    };
    let listen = group(vec![
        ("host", mostly(&["127.0.0.1", "::", "localhost"]).boxed()),
        ("port", mostly(&["1", "2", "443", "https"]).boxed()),
    ]);
    let protocol = group(vec![
        ("name", mostly(&["ssh", "tls", "http", "regex", "anyprot", "timeout"]).boxed()),
        ("host", mostly(&["localhost", "10.0.0.1"]).boxed()),
        ("port", mostly(&["22", "443", "ssh"]).boxed()),
    ]);
    let listen = proptest::collection::vec(listen, 1..4).prop_map(list);
    let protocols = proptest::collection::vec(protocol, 1..7).prop_map(list);
    (group(Vec::new()), listen, protocols).prop_map(|(globals, listen, protocols)| {
        format!("{globals}\nlisten: ( {listen} );\nprotocols: (\n{protocols}\n);\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_loads(text in configuration()) {
        match try_import(&text) {
            Ok(imported) => {
                let loaded = rules::parse("rules.toml", &imported.rules);
                prop_assert!(loaded.is_ok(), "{}\n{}", text, imported.rules);
                let is_plain = |c: char| c == '\n' || !c.is_control();
                prop_assert!(imported.rules.chars().all(is_plain), "{}", imported.rules);
                for warning in imported.warnings {
                    let line = warning.to_string();
                    prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
                }
            }
            Err(ImportError::Invalid(_)) => {}
            Err(error) => prop_assert!(false, "{}\n{}", error, text),
        }
    }
}
