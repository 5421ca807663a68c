//! `http = { … }`: what holds of which request, how early, and what is visible without one.

use super::*;
use crate::{
    probe::HttpVersion,
    route::{EmptyMatcher, FieldName, HttpConditions, HttpMatcher},
};

/// A matcher of these conditions.
pub(super) fn http(conditions: HttpConditions) -> Matcher {
    Matcher::Http(HttpMatcher::new(conditions).expect("a condition"))
}

fn texts(list: &[&str]) -> Option<Vec<Box<str>>> {
    Some(list.iter().map(|text| (*text).into()).collect())
}

pub(super) fn methods(list: &[&str]) -> HttpConditions {
    HttpConditions { methods: texts(list), ..HttpConditions::default() }
}

pub(super) fn hosts(list: &[&str]) -> HttpConditions {
    HttpConditions { hosts: Some(tls::names(list)), ..HttpConditions::default() }
}

pub(super) fn paths(list: &[&str]) -> HttpConditions {
    HttpConditions { paths: texts(list), ..HttpConditions::default() }
}

pub(super) fn prefixes(list: &[&str]) -> HttpConditions {
    HttpConditions { path_prefixes: texts(list), ..HttpConditions::default() }
}

pub(super) fn path_regexes(list: &[&str]) -> HttpConditions {
    let regexes = list.iter().map(|pattern| Regex::new(pattern).expect(pattern)).collect();
    HttpConditions { path_regexes: Some(regexes), ..HttpConditions::default() }
}

pub(super) fn versions(list: &[HttpVersion]) -> HttpConditions {
    HttpConditions { versions: Some(list.to_vec()), ..HttpConditions::default() }
}

pub(super) fn headers(list: &[(&str, &str)]) -> HttpConditions {
    let header = |(name, pattern): &(&str, &str)| {
        (FieldName::new(name).expect(name), Regex::new(pattern).expect(pattern))
    };
    HttpConditions { headers: list.iter().map(header).collect(), ..HttpConditions::default() }
}

/// An HTTP/2 connection's first bytes: preface, SETTINGS, and HEADERS of literals.
pub(super) fn http2(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let block: Vec<u8> = fields
        .iter()
        .flat_map(|(name, value)| [&[0x00], &text(name)[..], &text(value)].concat())
        .collect();
    let length = [0, (block.len() >> 8) as u8, block.len() as u8];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    [&preface[..], &length, b"\x01\x05\0\0\0\x01", &block].concat()
}

#[test]
fn each_condition_is_decided_as_early_as_it_can_be() {
    let bytes = b"GET /a/b?c HTTP/1.1\r\nX: y\r\nHost: A.example:80\r\nX: z\r\n\r\nbody";
    let (line, x, host, z, end) = (21, 27, 47, 53, 55);
    // A second `Host` line may come before the end.
    for (conditions, at, expected) in [
        (methods(&["GET", "HEAD"]), line, true),
        (methods(&["POST", "get"]), line, false),
        (versions(&[HttpVersion::Http11]), line, true),
        (versions(&[HttpVersion::Http10]), line, false),
        (versions(&[HttpVersion::Http2]), 1, false),
        (paths(&["/a/b"]), line, true),
        (paths(&["/a", "/a/b?c"]), line, false),
        (prefixes(&["/x", "/a/"]), line, true),
        (prefixes(&["/a/b/"]), line, false),
        (path_regexes(&["^/a", "x"]), line, true),
        (path_regexes(&["/b$"]), line, true),
        (path_regexes(&["c"]), line, false),
        (hosts(&["a.example"]), end, true),
        (hosts(&["*.example"]), end, true),
        (hosts(&["/^a[.]/"]), end, true),
        (hosts(&["b.example"]), host, false),
        (headers(&[("x", "^y$")]), x, true),
        (headers(&[("X", "z")]), z, true),
        (headers(&[("x", "w")]), end, false),
        (headers(&[("y", "")]), end, false),
        (headers(&[("x", "y"), ("host", ":80$")]), host, true),
        (HttpConditions { methods: texts(&["PUT"]), ..hosts(&["a.example"]) }, line, false),
        (HttpConditions { methods: texts(&["GET"]), ..hosts(&["a.example"]) }, end, true),
        (HttpConditions { hosts: Some(tls::names(&["b"])), ..headers(&[("z", "")]) }, host, false),
    ] {
        let matcher = http(conditions);
        assert_eq!(decided(&matcher, bytes), Some((at, expected)), "{matcher:?}");
    }
}

#[test]
fn the_same_of_http2() {
    let bytes = http2(&[
        (":method", "GET"),
        (":path", "/a/b?c"),
        (":authority", "A.example:80"),
        ("x", "y"),
        ("x", "z"),
    ]);
    for (conditions, expected) in [
        (methods(&["GET", "HEAD"]), true),
        (methods(&["POST"]), false),
        (paths(&["/a/b"]), true),
        (prefixes(&["/a/b/"]), false),
        (path_regexes(&["/b$"]), true),
        (hosts(&["a.example"]), true),
        (hosts(&["b.example"]), false),
        (headers(&[("X", "z")]), true),
        (headers(&[("x", "w")]), false),
        (HttpConditions { methods: texts(&["GET"]), ..hosts(&["a.example"]) }, true),
    ] {
        let matcher = http(conditions);
        assert_eq!(decided(&matcher, &bytes), Some((bytes.len(), expected)), "{matcher:?}");
    }
    assert_eq!(decided(&http(versions(&[HttpVersion::Http11])), &bytes), Some((12, false)));
    // The version is known with the preface.
    let both = [HttpVersion::Http11, HttpVersion::Http2];
    assert_eq!(decided(&http(versions(&both)), &bytes), Some((24, true)));
    let no_host = http2(&[(":method", "GET"), (":path", "/")]);
    assert_eq!(decided(&http(hosts(&["a"])), &no_host), Some((no_host.len(), false)));
}

#[test]
fn a_second_host_line_is_no_host_at_all() {
    let of = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes();
    let twice = of("Host: a\r\nHost: b\r\n");
    assert_eq!(decided(&http(hosts(&["a"])), &twice), Some((34, false)));
    assert_eq!(decided(&http(hosts(&["b"])), &twice), Some((25, false)));
    assert_eq!(decided(&http(hosts(&["a"])), &of("Host: a\r\nhost: a\r\n")), Some((34, false)));
    assert_eq!(decided(&http(hosts(&["a"])), &of("Host: a\r\n")), Some((27, true)));
    // As a field it has both values.
    assert_eq!(decided(&http(headers(&[("host", "b")])), &twice), Some((34, true)));
    let twice = http2(&[(":method", "GET"), (":path", "/"), ("host", "a"), ("host", "b")]);
    assert_eq!(decided(&http(hosts(&["a"])), &twice), Some((twice.len(), false)));
}

#[test]
fn a_malformed_header_ends_it() {
    let bytes = b"GET / HTTP/1.1\r\nHost : a\r\nHost: a\r\n\r\n";
    assert_eq!(decided(&http(hosts(&["a"])), bytes), Some((26, false)));
    assert_eq!(decided(&http(headers(&[("host", "a")])), bytes), Some((26, false)));
    assert_eq!(decided(&http(methods(&["GET"])), bytes), Some((16, true)));
}

#[test]
fn what_is_not_there_in_the_end_does_not_hold() {
    let matcher = http(hosts(&["a"]));
    for phase in PHASES {
        let expected = match phase {
            Phase::Open => Verdict::NeedMore(17),
            Phase::Ended | Phase::Full | Phase::TimedOut => Verdict::NoMatch,
        };
        assert_eq!(verdict(&matcher, b"GET / HTTP/1.1\r\n", phase), expected);
    }
}

#[test]
fn no_condition_is_none() {
    for conditions in [
        HttpConditions::default(),
        HttpConditions { methods: Some(vec![]), ..HttpConditions::default() },
        HttpConditions { versions: Some(vec![]), ..HttpConditions::default() },
        HttpConditions { paths: Some(vec![]), ..HttpConditions::default() },
        HttpConditions { path_prefixes: Some(vec![]), ..HttpConditions::default() },
        HttpConditions { path_regexes: Some(vec![]), ..HttpConditions::default() },
    ] {
        assert_eq!(HttpMatcher::new(conditions), Err(EmptyMatcher));
    }
    for name in ["", "a b", "a:", "ä"] {
        assert_eq!(FieldName::new(name), None, "{name}");
    }
}

#[test]
fn it_tells_what_the_probe_does() {
    let seen = |bytes: &[u8]| {
        let sniffed = Sniffed { bytes, client: None, phase: Phase::Open };
        let seen = http(methods(&["GET"])).seen(&sniffed).expect("it matches");
        (seen.probe.name().to_owned(), seen.details.to_string())
    };
    let details = "method=GET path=/ version=1.1".to_owned();
    assert_eq!(seen(b"GET / HTTP/1.1\r\n"), ("http1".to_owned(), details));
    let details = "method=GET path=/ version=2 host=a".to_owned();
    let bytes = http2(&[(":method", "GET"), (":path", "/"), (":authority", "a")]);
    assert_eq!(seen(&bytes), ("http2".to_owned(), details));
}

#[test]
fn covering() {
    let both = |first: HttpConditions, methods: &[&str]| HttpConditions {
        methods: texts(methods),
        ..first
    };
    for (mine, theirs, expected) in [
        (hosts(&["*.example"]), hosts(&["a.example"]), true),
        (hosts(&["a.example"]), both(hosts(&["a.example"]), &["GET"]), true),
        (both(hosts(&["a.example"]), &["GET"]), hosts(&["a.example"]), false),
        (methods(&["GET", "PUT"]), methods(&["PUT"]), true),
        (methods(&["GET"]), methods(&["PUT"]), false),
        (prefixes(&["/"]), prefixes(&["/a", "/b"]), true),
        (prefixes(&["/a"]), prefixes(&["/a", "/b"]), false),
        (prefixes(&["/a"]), paths(&["/a", "/ab"]), true),
        (prefixes(&["/a"]), path_regexes(&["^/a"]), false),
        (paths(&["/a", "/b"]), paths(&["/b"]), true),
        (paths(&["/a"]), prefixes(&["/a"]), false),
        (path_regexes(&["a", "b"]), path_regexes(&["b"]), true),
        (headers(&[("x", "y")]), headers(&[("z", ""), ("X", "y")]), true),
        (headers(&[("x", "y"), ("z", "")]), headers(&[("x", "y")]), false),
        (
            versions(&[HttpVersion::Http11, HttpVersion::Http2]),
            versions(&[HttpVersion::Http2]),
            true,
        ),
        (versions(&[HttpVersion::Http11]), methods(&["GET"]), false),
    ] {
        let (mine, theirs) = (http(mine), http(theirs));
        assert_eq!(mine.covers(&theirs), expected, "{mine:?} {theirs:?}");
    }
    let any = http(methods(&["GET"]));
    assert!(probe("http").covers(&any) && !probe("http1").covers(&any));
    assert!(probe("http1").covers(&http(versions(&[HttpVersion::Http10]))));
    assert!(probe("http2").covers(&http(versions(&[HttpVersion::Http2]))));
    assert!(http(methods(&["GET"])).covers(&prefix(b"GET / HTTP/1.1\r\n")));
    assert!(!http(methods(&["GET"])).covers(&prefix(b"GET / HTTP/1.1")));
}

#[test]
fn shortest_matches() {
    let request = b"POST /abc HTTP/1.1\n";
    let post = HttpConditions { methods: texts(&["POST"]), ..paths(&["/abc"]) };
    assert_eq!(http(post.clone()).shortest_match(), Some(request.len()));
    assert_eq!(decided(&http(post), request), Some((request.len(), true)));
    assert_eq!(http(versions(&[HttpVersion::Http2])).shortest_match(), Some(24));
    let post = HttpConditions { methods: texts(&["POST"]), ..versions(&[HttpVersion::Http2]) };
    assert_eq!(http(post).shortest_match(), Some(44));
    assert!(!http(methods(&["GET"])).is_certain() && !http(methods(&["GET"])).is_tentative());
}
