//! Sniffing allocates nothing on the common path: no probe to recognise, no rule to be found. What
//! the winning rule tells of the bytes is allocated, once.

use std::{fs, path::Path};

use allocation_counter::measure;
use mux::{
    Probe,
    route::{Outcome, Phase, Progress, Sniffed, route},
    rules::{self, Config},
};

/// How often something allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    measure(work).count_total
}

/// The bytes of every fixture, with the probe and the line that it is of.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/probes");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("text");
        let file: toml::Table = text.parse().expect("TOML");
        for fixture in file["fixture"].as_array().expect("a list") {
            let name = fixture.get("name").or(fixture.get("from")).and_then(toml::Value::as_str);
            let name = format!("{}: {}", path.display(), name.expect("`name` or `from`"));
            let text = |key| fixture.get(key).and_then(toml::Value::as_str);
            let bytes = match text("text") {
                Some(text) => text.as_bytes().to_vec(),
                None => from_hex(text("hex").expect("`text` or `hex`")),
            };
            all.push((name, bytes));
        }
    }
    all
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|it| it as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1_u8; 100]))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn no_probe_allocates_to_recognise() {
    let fixtures = fixtures();
    assert!(fixtures.len() > 300, "{}", fixtures.len());
    for (name, bytes) in &fixtures {
        for probe in Probe::all() {
            // The whole, and half of it.
            for bytes in [&bytes[..], &bytes[..bytes.len() / 2]] {
                let count = allocations(|| _ = probe.examine(bytes));
                assert_eq!(count, 0, "{probe} on {} bytes of {name}", bytes.len());
            }
        }
    }
}

/// Rules of the kinds that are to cost nothing. What is searched for by a regular expression among
/// many, and heads over HTTP/2 or in several records, are not among them.
const RULES: &str = r#"
listen = "127.0.0.1:0"
[[rule]]
name = "prefix"
match = { prefix = "HELO " }
upstream = 1
[[rule]]
name = "regex"
match = { regex = '^(?:POST|PUT) /upload' }
upstream = 1
[[rule]]
name = "shape"
match = { regex = '^[0-9]{3} ' }
upstream = 1
[[rule]]
name = "masked"
match = { bytes = { offset = 1, hex = "80", mask = "80" } }
upstream = 1
[[rule]]
name = "client"
match = { all = [{ client = ["192.0.2.0/24"] }, { prefix = "SSH" }] }
upstream = 1
[[rule]]
name = "sni"
match = { tls = { sni = ["pq.example.com", "*.example.org"], alpn = ["h2"] } }
upstream = 1
[[rule]]
name = "host"
match = { http = { host = ["app.example", "*.app.example"] } }
upstream = 1
[[rule]]
name = "path"
match = { http = { path_prefix = "/api/", method = ["GET"] } }
upstream = 1
[[rule]]
name = "ssh"
match = "ssh"
upstream = 1
[[rule]]
name = "tls"
match = "tls"
upstream = 1
[[rule]]
name = "postgres"
match = "postgres"
upstream = 1
"#;

fn config(text: &str) -> Config {
    rules::parse("rules.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

/// Routes a first chunk; the rule's name, if one takes it, and how often that allocates.
fn routed(config: &Config, bytes: &[u8]) -> (Option<String>, u64) {
    let mut outcome = None;
    let client = Some([127, 0, 0, 1].into());
    let sniffed = Sniffed { bytes, client, phase: Phase::Open };
    let count = allocations(|| {
        outcome = Some(route(&config.listeners[0], &sniffed, &mut Progress::default()));
    });
    let rule = match outcome {
        Some(Outcome::Routed(decision)) => Some(config.rules[decision.rule.0].name.to_string()),
        _ => None,
    };
    (rule, count)
}

/// The first fixture of a probe whose name begins so.
fn fixture(start: &str) -> Vec<u8> {
    let is_it =
        |name: &str| name.split_once("probes/").is_some_and(|(_, it)| it.starts_with(start));
    let found = fixtures().into_iter().find(|(name, _)| is_it(name));
    found.unwrap_or_else(|| panic!("no {start}")).1
}

#[test]
fn routing_allocates_for_what_the_rule_tells_only() {
    let config = config(RULES);
    let get = |path: &str, host: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
    };
    for (bytes, rule, probe) in [
        (b"HELO x\r\n".to_vec(), "prefix", None),
        (b"PUT /upload/x HTTP/1.1\r\n".to_vec(), "regex", None),
        (b"220 hello\r\n".to_vec(), "shape", None),
        (b"a\xffb".to_vec(), "masked", None),
        (fixture("tls.toml: openssl s_client 3.5"), "sni", Some("tls")),
        (fixture("tls.toml: openssl s_client 3.0 -servername"), "tls", Some("tls")),
        (get("/", "app.example"), "host", Some("http1")),
        (get("/", "a.App.example:80"), "host", Some("http1")),
        (get("/api/x", "b.example"), "path", Some("http1")),
        (fixture("ssh.toml: OpenSSH"), "ssh", Some("ssh")),
        (fixture("postgres.toml: psql"), "postgres", Some("postgres")),
    ] {
        let (found, count) = routed(&config, &bytes);
        assert_eq!(found.as_deref(), Some(rule), "{}", bytes.escape_ascii());
        let told = probe.map_or(0, |probe| {
            let probe = Probe::from_name(probe).expect(probe);
            allocations(|| drop(probe.details(&bytes)))
        });
        assert_eq!(count, told, "{rule}: what it tells takes {told}");
    }
    // Undecided, and no match.
    for bytes in
        [&b""[..], b"G", b"GET /x HTT", b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03", b"zzz"]
    {
        assert_eq!(routed(&config, bytes), (None, 0), "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_exceptions_are_these() {
    // A ClientHello in several records is put together; a head over HTTP/2 is decoded.
    let several = [
        b"\x16\x03\x01\x00\x20\x01\x00\x00\x43".as_slice(),
        &[3; 28],
        b"\x16\x03\x01\x00\x27",
        &[0; 39],
    ]
    .concat();
    let sni = config(
        "listen = \"127.0.0.1:0\"\n[[rule]]\nmatch = { tls = { sni = [\"a\"] } }\nupstream = 1\n",
    );
    assert_eq!(routed(&sni, &several), (None, 1));
    let http2 = config(
        "listen = \"127.0.0.1:0\"\n[[rule]]\nmatch = { http = { host = [\"a\"] } }\nupstream = 1\n",
    );
    let (rule, count) = routed(&http2, &fixture("http2.toml: curl"));
    assert!(rule.is_none() && (1..=16).contains(&count), "{count}");
}
