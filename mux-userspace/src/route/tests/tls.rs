//! `tls = { … }`: what holds of which hello, and what is visible of it without one.

use super::*;
use crate::{
    probe::TlsVersion,
    route::{EmptyMatcher, NamePattern, Names, Sni, TlsMatcher},
};

/// A list of names as rules write them; `/…/` is a regular expression.
pub(super) fn names(patterns: &[&str]) -> Names {
    let pattern = |text: &&str| match text.strip_prefix('/').and_then(|it| it.strip_suffix('/')) {
        Some(regex) => NamePattern::Regex(Regex::new(regex).expect(regex)),
        None => NamePattern::host(text).expect(text),
    };
    Names::new(patterns.iter().map(pattern).collect::<Vec<_>>()).expect("not empty")
}

pub(super) fn sni(patterns: &[&str]) -> Matcher {
    let sni = if patterns.is_empty() { Sni::Absent } else { Sni::Names(names(patterns)) };
    Matcher::Tls(TlsMatcher::new(Some(sni), None, None).expect("a condition"))
}

pub(super) fn alpn(protocols: &[&str]) -> Matcher {
    let protocols = protocols.iter().map(|name| name.as_bytes().into()).collect();
    Matcher::Tls(TlsMatcher::new(None, Some(protocols), None).expect("a condition"))
}

pub(super) fn version(versions: &[TlsVersion]) -> Matcher {
    Matcher::Tls(TlsMatcher::new(None, None, Some(versions.to_vec())).expect("a condition"))
}

/// A ClientHello in one record.
pub(super) fn hello(name: Option<&str>, protocols: &[&str], versions: &[u16]) -> Vec<u8> {
    let vector = |width: usize, data: &[u8]| {
        [&data.len().to_be_bytes()[size_of::<usize>() - width..], data].concat()
    };
    let extension =
        |kind: u16, data: &[u8]| [&kind.to_be_bytes(), vector(2, data).as_slice()].concat();
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let entry = [&[0x00], vector(2, name.as_bytes()).as_slice()].concat();
        extensions.extend(extension(0x0000, &vector(2, &entry)));
    }
    if !protocols.is_empty() {
        let list: Vec<u8> = protocols.iter().flat_map(|name| vector(1, name.as_bytes())).collect();
        extensions.extend(extension(0x0010, &vector(2, &list)));
    }
    if !versions.is_empty() {
        let list: Vec<u8> = versions.iter().flat_map(|version| version.to_be_bytes()).collect();
        extensions.extend(extension(0x002b, &vector(1, &list)));
    }
    let body = [
        &[0x03, 0x03][..],
        &[0x55; 32],
        &[0x00],
        &vector(2, &[0x13, 0x01]),
        &[0x01, 0x00],
        &vector(2, &extensions),
    ]
    .concat();
    let handshake = [&[0x01], vector(3, &body).as_slice()].concat();
    [&[0x16, 0x03, 0x01], vector(2, &handshake).as_slice()].concat()
}

fn matches(matcher: &Matcher, bytes: &[u8]) -> bool {
    let decided = decided(matcher, bytes);
    assert_eq!(decided.map(|(at, _)| at), Some(bytes.len()), "{matcher:?}");
    decided.is_some_and(|(_, matches)| matches)
}

#[test]
fn names_of_every_kind() {
    for (pattern, name, expected) in [
        ("a.example", "a.example", true),
        ("A.example.", "a.EXAMPLE", true),
        ("a.example", "A.Example.", true),
        ("a.example", "a.example..", false),
        ("a.example", "xa.example", false),
        ("a.example", "a.example.org", false),
        ("*.b.example", "x.b.example", true),
        ("*.b.example", "y.x.B.example.", true),
        ("*.b.example", "b.example", false),
        ("*.b.example", ".b.example", false),
        ("*.b.example", "xb.example", false),
        ("*.b.example", "x.b.example.org", false),
        (r"/^c[0-9]\.example$/", "C7.Example.", true),
        (r"/^c[0-9]\.example$/", "c77.example", false),
    ] {
        assert_eq!(
            matches(&sni(&[pattern]), &hello(Some(name), &[], &[])),
            expected,
            "{pattern} {name}"
        );
        assert!(!matches(&sni(&[pattern]), &hello(None, &[], &[])), "{pattern}");
    }
    let long = "x".repeat(256);
    assert!(!matches(&sni(&["/x/"]), &hello(Some(&long), &[], &[])));
    assert!(matches(&sni(&["/x/"]), &hello(Some(&long[..255]), &[], &[])));
    assert!(matches(&sni(&["a.example", "*.example"]), &hello(Some("b.example"), &[], &[])));
}

#[test]
fn no_name_sent() {
    assert!(matches(&sni(&[]), &hello(None, &["h2"], &[])));
    assert!(!matches(&sni(&[]), &hello(Some("a.example"), &[], &[])));
}

#[test]
fn protocols_and_versions_are_any_of_those_offered() {
    let bytes = hello(None, &["h2", "http/1.1"], &[0x0a0a, 0x0304, 0x0303]);
    assert!(matches(&alpn(&["spdy", "http/1.1"]), &bytes));
    assert!(!matches(&alpn(&["H2", "http/1"]), &bytes));
    assert!(matches(&version(&[TlsVersion::Tls12]), &bytes));
    assert!(matches(&version(&[TlsVersion::Tls10, TlsVersion::Tls13]), &bytes));
    assert!(!matches(&version(&[TlsVersion::Tls11, TlsVersion::Ssl3]), &bytes));
    assert!(matches(&version(&[TlsVersion::Tls12]), &hello(None, &[], &[])));
    assert!(!matches(&alpn(&["h2"]), &hello(None, &[], &[])));
}

#[test]
fn all_keys_have_to_hold() {
    let matcher = TlsMatcher::new(
        Some(Sni::Names(names(&["a.example"]))),
        Some(vec![(*b"h2").into()]),
        Some(vec![TlsVersion::Tls13]),
    );
    let matcher = Matcher::Tls(matcher.expect("conditions"));
    assert!(matches(&matcher, &hello(Some("a.example"), &["h2"], &[0x0304])));
    assert!(!matches(&matcher, &hello(Some("b.example"), &["h2"], &[0x0304])));
    assert!(!matches(&matcher, &hello(Some("a.example"), &["h3"], &[0x0304])));
    assert!(!matches(&matcher, &hello(Some("a.example"), &["h2"], &[0x0303])));
}

#[test]
fn what_cannot_be_read_matches_nothing() {
    // A whole message, whose body ends in the random.
    let unreadable = b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03";
    assert!(matches(&probe("tls"), unreadable));
    assert!(!matches(&sni(&[]), unreadable));
    assert_eq!(decided(&sni(&[]), b"GET / HTTP/1.1"), Some((1, false)));
}

#[test]
fn no_condition_is_none() {
    assert_eq!(TlsMatcher::new(None, None, None), Err(EmptyMatcher));
    assert_eq!(TlsMatcher::new(None, Some(vec![]), None), Err(EmptyMatcher));
    assert_eq!(TlsMatcher::new(None, None, Some(vec![])), Err(EmptyMatcher));
    assert_eq!(Names::new([]), Err(EmptyMatcher));
}

#[test]
fn it_tells_what_the_probe_does() {
    let bytes = hello(Some("a.example"), &["h2"], &[0x0304]);
    let sniffed = Sniffed { bytes: &bytes, client: None, phase: Phase::Open };
    let seen = sni(&["*.example"]).seen(&sniffed).expect("it matches");
    assert_eq!(seen.probe.name(), "tls");
    assert_eq!(seen.details.to_string(), "sni=a.example alpn=h2 version=1.3");
}

#[test]
fn covering() {
    for (mine, theirs, expected) in [
        (sni(&["*.example"]), sni(&["a.example", "*.b.example"]), true),
        (sni(&["*.example"]), sni(&["example"]), false),
        (sni(&["*.b.example"]), sni(&["*.example"]), false),
        (sni(&["*.b.example", "a.example"]), sni(&["A.example", "*.B.example"]), true),
        (sni(&["/^[a-z]+[.]example$/"]), sni(&["a.example"]), true),
        (sni(&["/^[a-z]+[.]example$/"]), sni(&["a1.example"]), false),
        (sni(&["/a/", "/b/"]), sni(&["/b/"]), true),
        (sni(&["/a/"]), sni(&["/b/"]), false),
        (sni(&["/a/"]), sni(&["*.a.example"]), false),
        (sni(&[]), sni(&[]), true),
        (sni(&[]), sni(&["a.example"]), false),
        (sni(&["a.example"]), alpn(&["h2"]), false),
        (alpn(&["h2", "http/1.1"]), alpn(&["http/1.1"]), true),
        (alpn(&["h2"]), alpn(&["h2", "http/1.1"]), false),
        (version(&[TlsVersion::Tls13, TlsVersion::Tls12]), version(&[TlsVersion::Tls13]), true),
        (version(&[TlsVersion::Tls13]), version(&[TlsVersion::Tls12]), false),
        (probe("tls"), sni(&["a.example"]), true),
        (probe("http"), sni(&["a.example"]), false),
        (sni(&["a.example"]), probe("tls"), false),
    ] {
        assert_eq!(mine.covers(&theirs), expected, "{mine:?} {theirs:?}");
    }
}

#[test]
fn shortest_matches() {
    let shortest = hello(Some("a.example"), &[], &[]);
    // The shortest has no cipher suites and no compression methods.
    assert_eq!(sni(&["a.example", "bb.example"]).shortest_match(), Some(shortest.len() - 3));
    assert_eq!(sni(&["*.example"]).shortest_match(), Some(shortest.len() - 3));
    assert!(!sni(&["a.example"]).is_certain() && !sni(&["a.example"]).is_tentative());
}
