//! Matchers and routing, against fixtures and against naive models of themselves.

mod explain;
mod fixtures;
mod http;
mod matchers;
mod properties;
mod regexes;
mod routing;
mod tls;

use super::{
    Group, MaskedBytes, Matcher, Networks, Phase, Predicate, Prefix, Regex, Sniffed,
    table::{Found, find_naively},
};
use crate::probe::{Probe, Verdict};

const PHASES: [Phase; 4] = [Phase::Open, Phase::Ended, Phase::Full, Phase::TimedOut];

fn prefix(bytes: &[u8]) -> Matcher {
    Matcher::Prefix(Prefix::new(bytes).expect("not empty"))
}

fn regex(pattern: &str) -> Matcher {
    Matcher::Regex(Regex::new(pattern).expect(pattern))
}

fn masked(offset: usize, value: &[u8], mask: Option<&[u8]>) -> Matcher {
    Matcher::Bytes(MaskedBytes::new(offset, value, mask).expect("comparable"))
}

fn client(networks: &[&str]) -> Matcher {
    let networks: Vec<_> = networks.iter().map(|text| text.parse().expect(text)).collect();
    Matcher::Client(Networks::new(networks).expect("not empty"))
}

fn probe(name: &str) -> Matcher {
    Matcher::Probe(Probe::from_name(name).expect(name))
}

fn all_of(members: Vec<Matcher>) -> Matcher {
    Matcher::All(Group::new(members).expect("not empty"))
}

fn any_of(members: Vec<Matcher>) -> Matcher {
    Matcher::Any(Group::new(members).expect("not empty"))
}

fn not(inner: Matcher) -> Matcher {
    Matcher::Not(Box::new(inner))
}

/// The verdict without its details.
fn verdict(matcher: &Matcher, bytes: &[u8], phase: Phase) -> Verdict<()> {
    let client = Some([10, 0, 0, 1].into());
    matcher.evaluate(&Sniffed { bytes, client, phase })
}

/// The shortest prefix of which the matcher is sure, and what it is sure of.
fn decided(matcher: &Matcher, bytes: &[u8]) -> Option<(usize, bool)> {
    (0..=bytes.len()).find_map(|len| match verdict(matcher, &bytes[..len], Phase::Open) {
        Verdict::Match(()) => Some((len, true)),
        Verdict::NoMatch => Some((len, false)),
        Verdict::NeedMore(_) => None,
    })
}

/// Every kind of matcher once.
fn one_of_each() -> Vec<Matcher> {
    vec![
        Matcher::Always,
        prefix(b"GET "),
        regex("^GE"),
        masked(1, b"E", None),
        probe("http1"),
        tls::sni(&["a.example"]),
        http::http(http::hosts(&["a.example"])),
        client(&["10.0.0.0/8"]),
        all_of(vec![prefix(b"G"), regex("E")]),
        any_of(vec![prefix(b"G"), regex("E")]),
        not(prefix(b"G")),
    ]
}
