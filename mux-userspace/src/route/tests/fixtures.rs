//! Matchers on every probe's fixtures: every prefix, and every split in two.

use super::*;
use crate::{
    probe::{HttpVersion, TlsVersion, tests::fixtures},
    route::{Outcome, Progress, route},
    rules::config::ListenerConfig,
};

/// Matchers that say something of the fixtures.
fn matchers() -> Vec<Matcher> {
    vec![
        tls::sni(&["pq.example.com", "*.example"]),
        tls::sni(&["/^www[.]/"]),
        tls::sni(&[]),
        tls::alpn(&["h2"]),
        tls::version(&[TlsVersion::Tls12]),
        http::http(http::hosts(&["app.example", "localhost"])),
        http::http(http::hosts(&["/^a[.]/", "127.0.0.1"])),
        http::http(http::methods(&["GET"])),
        http::http(http::paths(&["/api/v1"])),
        http::http(http::prefixes(&["/x", "/api"])),
        http::http(http::headers(&[("user-agent", "^curl"), ("accept", "")])),
        http::http(http::versions(&[HttpVersion::Http2, HttpVersion::Http10])),
    ]
}

/// The matchers, and a rule for every probe.
fn with_probes() -> Vec<Matcher> {
    matchers().into_iter().chain(Probe::all().map(Matcher::Probe)).collect()
}

#[test]
fn every_prefix() {
    let mut matched = vec![0; matchers().len()];
    for (probe, name, bytes) in fixtures::all() {
        for (matcher, matched) in matchers().iter().zip(&mut matched) {
            let mut last = Verdict::NeedMore(0);
            for len in 0..=bytes.len() {
                let now = verdict(matcher, &bytes[..len], Phase::Open);
                let context = || format!("{matcher:?} on {probe}: {name} at {len}");
                match (last, now) {
                    (Verdict::NeedMore(wanted), Verdict::Match(()) | Verdict::NoMatch) => {
                        assert!(len >= wanted, "{}", context());
                    }
                    (Verdict::NeedMore(_), Verdict::NeedMore(total)) => {
                        assert!(total > len, "{}", context());
                    }
                    (Verdict::Match(()) | Verdict::NoMatch, now) => {
                        assert_eq!(now, last, "{}", context());
                    }
                }
                let ended = verdict(matcher, &bytes[..len], Phase::Ended);
                assert_eq!(ended.is_match(), now.is_match(), "{}", context());
                last = now;
            }
            *matched += usize::from(last.is_match());
        }
    }
    // Each says yes of some and no of others.
    let all = fixtures::all().len();
    for (matcher, matched) in matchers().iter().zip(matched) {
        assert!(matched > 0 && matched < all, "{matcher:?} matches {matched} of {all}");
    }
}

#[test]
fn every_split_in_two() {
    let rules = routing::rules(with_probes());
    let order: Vec<usize> = (0..rules.len()).collect();
    let listener = routing::listener(&rules, &order);
    // Of these none comes to a probe that an earlier one takes the bytes from; so each alone, too.
    let alone = Probe::all().map(|probe| routing::rules(vec![Matcher::Probe(probe)]));
    let alone: Vec<_> = alone.map(|rules| routing::listener(&rules, &[0])).collect();
    let all = fixtures::all();
    for (probe, name, bytes) in &all {
        for listener in std::iter::once(&listener).chain(&alone) {
            in_two(listener, &format!("{probe}: {name}"), bytes);
        }
    }
}

/// However the bytes are split, the same rule takes them.
fn in_two(listener: &ListenerConfig, name: &str, bytes: &[u8]) {
    let sniffed = |bytes| Sniffed { bytes, client: None, phase: Phase::Open };
    let rule = |outcome: &Outcome| match outcome {
        Outcome::Routed(decision) => Some(decision.rule),
        Outcome::NeedMore(_) | Outcome::Close | Outcome::Reset => None,
    };
    let at_once = route(listener, &sniffed(bytes), &mut Progress::default());
    for split in 0..=bytes.len() {
        let mut progress = Progress::default();
        let first = route(listener, &sniffed(&bytes[..split]), &mut progress);
        let outcome = match first {
            Outcome::NeedMore(_) => route(listener, &sniffed(bytes), &mut progress),
            decided @ (Outcome::Routed(_) | Outcome::Close | Outcome::Reset) => decided,
        };
        // What a rule has seen depends on how much there was.
        assert_eq!(rule(&outcome), rule(&at_once), "{name} split at {split}");
    }
}
