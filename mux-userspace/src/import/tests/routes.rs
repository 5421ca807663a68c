//! Connections go where sslh sends them: against a model of sslh's own choice (probe.c,
//! `probe_buffer` and `timeout_protocol`).

use proptest::prelude::*;

use super::{import, with_protocols};
use crate::{
    route::{Outcome, Phase, Progress, Sniffed, route},
    rules::config::Config,
};

/// A protocol of the model: its settings, and what sslh says to a long first packet.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    settings: &'static str,
    matches: fn(&[u8]) -> bool,
}

fn contains(packet: &[u8], text: &[u8]) -> bool {
    packet.windows(text.len()).any(|window| window == text)
}

const KINDS: [Kind; 10] = [
    Kind { name: "ssh", settings: "", matches: |packet| packet.starts_with(b"SSH-") },
    Kind { name: "http", settings: "", matches: |packet| contains(packet, b"HTTP") },
    Kind { name: "tls", settings: "", matches: |packet| packet.starts_with(b"\x16\x03") },
    Kind {
        name: "regex",
        settings: r#"regex_patterns: [ "^MINE ", "^\\xff" ];"#,
        matches: |packet| packet.starts_with(b"MINE ") || packet[0] == 0xff,
    },
    Kind {
        name: "regex",
        settings: r#"regex_patterns: [ "jabber" ];"#,
        matches: |packet| contains(packet, b"jabber"),
    },
    Kind {
        name: "regex",
        settings: r#"regex_patterns: [ "^(?=SSH)" ];"#,
        matches: |packet| packet.starts_with(b"SSH"),
    },
    Kind { name: "regex", settings: r#"regex_patterns: [ "" ];"#, matches: |_| true },
    Kind { name: "teamspeak", settings: "", matches: |packet| packet.starts_with(b"TS3INIT1") },
    Kind { name: "anyprot", settings: "", matches: |_| true },
    Kind { name: "timeout", settings: "", matches: |_| true },
];

/// Which protocol sslh connects to, by index; no packet: the client is silent.
fn sslh(protocols: &[Kind], on_timeout: &str, packet: Option<&[u8]>) -> usize {
    match packet {
        None => protocols.iter().position(|kind| kind.name == on_timeout).unwrap_or(0),
        Some(packet) => {
            let matching = protocols.iter().position(|kind| (kind.matches)(packet));
            matching.unwrap_or(protocols.len() - 1)
        }
    }
}

/// Which one mux connects to: every protocol has its own port.
fn mux(config: &Config, bytes: &[u8]) -> Option<usize> {
    let listener = config.listeners.first()?;
    let (mut phase, mut progress) = (Phase::Open, Progress::default());
    loop {
        match route(listener, &Sniffed { bytes, client: None, phase }, &mut progress) {
            Outcome::Routed(decision) => {
                let rule = config.rules.get(decision.rule.0)?;
                let upstream = config.upstreams.get(rule.upstream.0)?.name.to_string();
                return upstream.rsplit_once(':')?.1.parse::<usize>().ok()?.checked_sub(1000);
            }
            // The client has said all that it says before it hears something.
            Outcome::NeedMore(_) if phase.is_open() => phase = Phase::TimedOut,
            Outcome::NeedMore(_) | Outcome::Close | Outcome::Reset => return None,
        }
    }
}

/// Long enough for sslh to be sure, and of whole lines.
fn packets() -> Vec<Vec<u8>> {
    let padded = |text: &str| format!("{text}\r\n{}\r\n", "x".repeat(64)).into_bytes();
    vec![
        padded("SSH-2.0-OpenSSH_9.2"),
        padded("GET / HTTP/1.1\r\nHost: a.example\r\n"),
        padded("MINE 1"),
        padded("hello jabber"),
        padded("TS3INIT1"),
        padded("QUIT"),
        [&b"\xff\x00"[..], &[b'x'; 64]].concat(),
        [&b"\x00\x0e"[..], &[b'\n'; 64]].concat(),
        hello(),
    ]
}

/// A ClientHello (RFC 8446 4.1.2) that offers TLS 1.3.
fn hello() -> Vec<u8> {
    let versions = [0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04];
    let body = [
        &[0x03, 0x03][..],
        &[0x55; 32],
        &[0x00],
        &[0x00, 0x02, 0x13, 0x01],
        &[0x01, 0x00],
        &[0x00, versions.len() as u8],
        &versions,
    ]
    .concat();
    let handshake = [&[0x01, 0x00, 0x00, body.len() as u8][..], &body].concat();
    [&[0x16, 0x03, 0x01, 0x00, handshake.len() as u8][..], &handshake].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn connections_go_where_sslh_sends_them(
        protocols in proptest::collection::vec(proptest::sample::select(&KINDS[..]), 1..7),
        on_timeout in proptest::sample::select(vec!["ssh", "http", "timeout", "nosuch", "regex"]),
    ) {
        let text: Vec<String> = protocols
            .iter()
            .enumerate()
            .map(|(index, Kind { name, settings, .. })| {
                let port = 1000 + index;
                format!("{{ name: \"{name}\"; host: \"127.0.0.1\"; port: \"{port}\"; {settings} }}")
            })
            .collect();
        let text = with_protocols(&text.join(",\n"));
        let (imported, config) = import(&format!("on-timeout: \"{on_timeout}\";\n{text}"));
        prop_assert_eq!(
            mux(&config, b""),
            Some(sslh(&protocols, on_timeout, None)),
            "silent\n{}\n{}", text, imported.rules
        );
        for packet in packets() {
            // What cannot be said in mux is left out, which the import warns of.
            let lost = |kind: &Kind| kind.settings.contains("(?=") && (kind.matches)(&packet);
            let expected = sslh(&protocols, on_timeout, Some(&packet));
            if lost(&protocols[expected]) && expected + 1 < protocols.len() {
                continue;
            }
            prop_assert_eq!(
                mux(&config, &packet), Some(expected),
                "{}\n{}\n{}", packet.escape_ascii(), text, imported.rules
            );
        }
    }
}
