//! What both kinds of benchmark measure: rules files of many rules, the first bytes that their
//! last rule takes, a first chunk for each probe; and what the relay thinks, without its system calls.
#![allow(dead_code, reason = "each of the two uses a part of it")]

use std::{fs, hint::black_box, path::PathBuf};

use mux::{
    Probe,
    relay::{
        Way,
        demotion::Before,
        evidence::Evidence,
        ledger::{Ledger, Step},
    },
    route::{Outcome, Phase, Progress, Sniffed, route},
    rules::{self, Config},
};
use mux_common::KernelBook;

/// Numbers of rules.
pub(crate) const COUNTS: [usize; 3] = [10, 100, 1000];

/// What rules ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// First bytes.
    Prefix,
    /// A regular expression, anchored, that begins with a literal.
    Regex,
    /// One that begins with classes of bytes, so many of each.
    Class,
    /// One that begins with a class repeated without end.
    Repeat,
    /// A server name of a TLS client.
    Sni,
    /// A regular expression for it.
    SniRegex,
    /// A host of an HTTP request.
    Host,
    /// A regular expression for it.
    HostRegex,
    /// The beginning of an HTTP request's path.
    PathPrefix,
    /// A regular expression for an HTTP field.
    Header,
    /// A client's network.
    Client,
    /// All of these in turn.
    Mixed,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 12] = [
        Self::Prefix,
        Self::Regex,
        Self::Class,
        Self::Repeat,
        Self::Sni,
        Self::SniRegex,
        Self::Host,
        Self::HostRegex,
        Self::PathPrefix,
        Self::Header,
        Self::Client,
        Self::Mixed,
    ];

    /// For labels.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Regex => "regex",
            Self::Class => "class-regex",
            Self::Repeat => "repeat-regex",
            Self::Sni => "sni",
            Self::SniRegex => "sni-regex",
            Self::Host => "host",
            Self::HostRegex => "host-regex",
            Self::PathPrefix => "path-prefix",
            Self::Header => "header-regex",
            Self::Client => "client",
            Self::Mixed => "mixed",
        }
    }

    /// Of a mixture, the kind of rule `index`.
    fn of(self, index: usize) -> Self {
        match self {
            Self::Mixed => Self::ALL[index % (Self::ALL.len() - 1)],
            kind => kind,
        }
    }

    fn condition(self, index: usize) -> String {
        match self.of(index) {
            Self::Prefix | Self::Mixed => format!("{{ prefix = \"SERVICE-{index:04} \" }}"),
            Self::Regex => format!("{{ regex = '^(?:GET|POST)\\s/service-{index:04}/' }}"),
            Self::Class => format!("{{ regex = '^[A-Z]{{4}} [0-9]{{2}}-{index:04} ' }}"),
            Self::Repeat => format!("{{ regex = '^[A-Z]+ \\d+-{index:04} ' }}"),
            Self::Sni => format!("{{ tls = {{ sni = [\"{}\"] }} }}", name(index)),
            Self::SniRegex => {
                format!("{{ tls = {{ sni = [{{ regex = '^h{index:06}[.]example$' }}] }} }}")
            }
            Self::Host => format!("{{ http = {{ host = [\"{}\"] }} }}", name(index)),
            Self::HostRegex => {
                format!("{{ http = {{ host = [{{ regex = '^h{index:06}[.]example$' }}] }} }}")
            }
            Self::PathPrefix => {
                format!("{{ http = {{ path_prefix = \"/service-{index:04}/\" }} }}")
            }
            Self::Header => {
                format!("{{ http = {{ header = {{ x-service = '^service-{index:04}$' }} }} }}")
            }
            Self::Client => format!("{{ client = [\"{}/32\"] }}", client(index)),
        }
    }

    /// First bytes that rule `index` takes.
    pub(crate) fn chunk(self, index: usize) -> Vec<u8> {
        match self.of(index) {
            Self::Prefix | Self::Mixed => format!("SERVICE-{index:04} hello\r\n").into_bytes(),
            Self::Regex => {
                format!("GET /service-{index:04}/x HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
            }
            Self::Class | Self::Repeat => format!("CALL 17-{index:04} hello\r\n").into_bytes(),
            Self::Sni | Self::SniRegex => renamed(&fixture("tls"), "www.example.com", &name(index)),
            Self::Host | Self::HostRegex => {
                let host = name(index);
                format!("GET / HTTP/1.1\r\nAccept: */*\r\nHost: {host}\r\n\r\n").into_bytes()
            }
            Self::PathPrefix => {
                format!("GET /service-{index:04}/x HTTP/1.1\r\nAccept: */*\r\nHost: a\r\n\r\n")
                    .into_bytes()
            }
            Self::Header => format!(
                "GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nX-Service: service-{index:04}\r\n\r\n"
            )
            .into_bytes(),
            Self::Client => b"anything\r\n".to_vec(),
        }
    }
}

/// The client that rule `index` takes, if it asks for one; the others have none such.
fn client(index: usize) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + index as u32)
}

/// As long as the name in the fixture that it replaces.
fn name(index: usize) -> String {
    format!("h{index:06}.example")
}

/// A rules file with so many rules of one kind.
pub(crate) fn rules_file(kind: Kind, count: usize) -> String {
    let rules = (0..count).map(|index| {
        format!(
            "[[rule]]\nmatch = {}\nupstream = \"127.0.0.1:{}\"\n",
            kind.condition(index),
            1 + index
        )
    });
    "listen = \"127.0.0.1:0\"\n".to_owned() + &rules.collect::<String>()
}

/// Parses and compiles.
pub(crate) fn parse(text: &str) -> Config {
    rules::parse("bench.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

/// A connection's first chunk, and its client.
pub(crate) struct First {
    chunk: Vec<u8>,
    client: Option<std::net::IpAddr>,
}

/// Routes it.
pub(crate) fn decide(config: &Config, first: &First) -> Outcome {
    let bytes = black_box(&first.chunk);
    let sniffed = Sniffed { bytes, client: first.client, phase: Phase::Open };
    route(&config.listeners[0], &sniffed, &mut Progress::default())
}

/// A configuration, and a first chunk that its last rule takes: the worst case for whoever tries
/// rules one by one.
pub(crate) fn last_of(kind: Kind, count: usize) -> (Config, First) {
    let config = parse(&rules_file(kind, count));
    let first = First { chunk: kind.chunk(count - 1), client: Some(client(count - 1).into()) };
    match decide(&config, &first) {
        Outcome::Routed(decision) if decision.rule.0 == count - 1 => (config, first),
        other => panic!("{} {count}: {other:?}", kind.name()),
    }
}

/// The evidence of one exchange in user space, and whether the flow should go to the kernel after it.
pub(crate) fn exchange(evidence: &mut Evidence) -> bool {
    for way in Way::BOTH {
        evidence.reads[way.index()].note(black_box(200));
        evidence.moved(way == Way::Up, way == Way::Down);
    }
    evidence.is_conversation(black_box(32))
}

/// What the ledger of a spliced flow has done with a message that the kernel passed.
pub(crate) fn carry(ledger: &mut Ledger, book: &mut KernelBook) -> (u64, u64) {
    book.passed += 200;
    loop {
        match ledger.step(black_box(book)) {
            Step::Read(most) => ledger.was_read(most),
            Step::AskSent => assert!(ledger.sent(u64::MAX, book)),
            Step::Write(from) => ledger.was_written(ledger.held() - from),
            Step::Publish => return ledger.publish(),
            step @ (Step::Rest | Step::Broken(_) | Step::AskReceived | Step::Shutdown) => {
                panic!("{step:?}")
            }
        }
    }
}

/// The timer's look at a spliced flow.
pub(crate) fn look(before: &mut Before, books: &mut [KernelBook; 2]) -> bool {
    books.iter_mut().for_each(|book| book.messages += 1000);
    before.look(*black_box(&*books)).reason.is_some()
}

/// Each probe that is no family of others, which has no fixtures of its own, with the first of
/// those that it matches.
pub(crate) fn probes() -> Vec<(Probe, Vec<u8>)> {
    Probe::all()
        .filter(|probe| path(probe.name()).exists())
        .map(|probe| {
            let chunk = fixture(probe.name());
            (probe, chunk)
        })
        .collect()
}

fn path(probe: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/probes").join(format!("{probe}.toml"))
}

/// The first fixture of a probe that is one of its matches.
fn fixture(probe: &str) -> Vec<u8> {
    let path = path(probe);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: toml::Table = text.parse().unwrap_or_else(|error| panic!("{probe}: {error}"));
    let fixtures = file["fixture"].as_array().unwrap_or_else(|| panic!("{probe}: no fixtures"));
    let first = fixtures.iter().find(|fixture| fixture.get("match").is_some());
    let first = first.unwrap_or_else(|| panic!("{probe}: nothing matches"));
    match (first.get("text"), first.get("hex")) {
        (Some(text), _) => text.as_str().unwrap_or_default().as_bytes().to_vec(),
        (None, Some(hex)) => from_hex(hex.as_str().unwrap_or_default()),
        (None, None) => panic!("{probe}: `text` or `hex`"),
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A ClientHello with another server name of the same length.
fn renamed(hello: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let place = hello.windows(from.len()).position(|window| window == from.as_bytes());
    let place = place.unwrap_or_else(|| panic!("no {from} in the hello"));
    let mut hello = hello.to_vec();
    hello[place..place + to.len()].copy_from_slice(to.as_bytes());
    hello
}
