//! HTTP/2: frames by hand, and what h2's client says.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use ::http::Request;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::{matches_at, refuses_at, see};
use crate::probe::{Verdict, http, http2};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET / HTTP/2` of `www.example.com` (RFC 7541 C.4.1).
const BLOCK: &[u8] = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
const DETAILS: &str = "method=GET path=/ version=2 host=www.example.com";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = &(payload.len() as u32).to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])
}

/// Preface, SETTINGS, and these frames.
fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &settings(), &frames.concat()].concat()
}

/// What is known of the host at each length: nothing, up to the end.
fn host_at_the_end(bytes: &[u8]) -> Option<Option<Vec<u8>>> {
    let mut last = 0;
    for len in 0..bytes.len() {
        match http::host(&bytes[..len]) {
            Verdict::NeedMore(total) => {
                assert!(total > len && total <= bytes.len() && total >= last, "{total} at {len}");
                last = total;
            }
            other => panic!("{other:?} at {len} of {}", bytes.len()),
        }
    }
    match http::host(bytes) {
        Verdict::Match(host) => Some(host.map(|host| host.into_owned())),
        Verdict::NoMatch => None,
        Verdict::NeedMore(total) => panic!("wants {total} of {}", bytes.len()),
    }
}

fn host(name: &str) -> Option<Option<Vec<u8>>> {
    Some(Some(name.as_bytes().to_vec()))
}

#[test]
fn the_first_request_is_found() {
    let plain = frame(1, 0x05, 1, BLOCK);
    let padded = frame(1, 0x0d, 1, &[&[3], BLOCK, b"\0\0\0"].concat());
    let priority = frame(1, 0x25, 1, &[&[0x80, 0, 0, 0, 15], BLOCK].concat());
    let both = frame(1, 0x2d, 1, &[&[2, 0, 0, 0, 0, 15], BLOCK, b"xx"].concat());
    let cut = [frame(1, 0x01, 7, &BLOCK[..3]), frame(9, 0, 7, &[]), frame(9, 4, 7, &BLOCK[3..])];
    let before = [
        frame(8, 0, 0, &[0, 1, 0, 0]),
        frame(2, 0, 3, &[0, 0, 0, 0, 200]),
        frame(6, 0, 0, &[0; 8]),
        frame(4, 0, 0, &[]),
        frame(0x10, 0, 0, b"\0\0\0\x01u=1"),
        frame(0xfa, 0xff, 0x8000_0000, b"grease"),
    ];
    for frames in [
        vec![plain.clone()],
        vec![padded],
        vec![priority],
        vec![both],
        vec![cut.concat()],
        vec![before.concat(), plain.clone()],
    ] {
        let bytes = connection(&frames);
        assert_eq!(host_at_the_end(&bytes), host("www.example.com"), "{}", bytes.escape_ascii());
        matches_at("http2", &bytes, PREFACE.len(), DETAILS);
        let more = [bytes, frame(0, 1, 1, b"body")].concat();
        assert_eq!(
            see("http2", &more).map(|details| details.to_string()),
            Verdict::Match(DETAILS.to_owned())
        );
    }
}

#[test]
fn what_is_no_request() {
    let headers = frame(1, 0x05, 1, BLOCK);
    for (frames, why) in [
        (frame(0, 1, 1, &[]), "DATA before HEADERS"),
        (frame(3, 0, 1, &[0; 4]), "RST_STREAM"),
        (frame(5, 4, 1, &[0; 4]), "PUSH_PROMISE of a client"),
        (frame(7, 0, 0, &[0; 8]), "GOAWAY"),
        (frame(9, 4, 1, BLOCK), "CONTINUATION of nothing"),
        (frame(1, 5, 0, BLOCK), "HEADERS of no stream"),
        (frame(1, 5, 2, BLOCK), "HEADERS of the server's stream"),
        (frame(1, 0x0d, 1, &[1]), "more padding than there is"),
        (frame(1, 0x0d, 1, &[]), "no length of the padding"),
        (frame(1, 0x25, 1, &[0; 4]), "half a priority"),
        ([frame(1, 1, 1, BLOCK), frame(9, 4, 3, &[])].concat(), "another stream's CONTINUATION"),
        ([frame(1, 1, 1, BLOCK), frame(8, 0, 0, &[0; 4])].concat(), "a frame in between"),
        (frame(1, 5, 1, &[0x80]), "a malformed block"),
        (frame(1, 5, 1, &[0x84]), "no method"),
        (frame(1, 5, 1, &[0x82]), "no path"),
        (frame(1, 5, 1, &[0x82, 0x84, 0x84]), "two paths"),
        (frame(1, 5, 1, &[0x82, 0x84, 0x88]), "a status"),
        (frame(1, 5, 1, b"\x82\x84\x00\x01A\x01b"), "a capital in a name"),
        (frame(1, 5, 1, b"\x82\x84\x00\x01a\x01b\x86"), "a pseudo-header field late"),
        ([vec![0, 0x40, 1, 8, 0, 0, 0, 0, 0], headers.clone()].concat(), "a frame too long"),
    ] {
        let bytes = connection(&[frames]);
        assert_eq!(http::host(&bytes), Verdict::NoMatch, "{why}");
        // It is HTTP/2 for all that.
        matches_at("http2", &bytes, PREFACE.len(), "version=2");
    }
    for (first, why) in [
        (headers.clone(), "HEADERS before SETTINGS"),
        (frame(4, 1, 0, &[]), "an acknowledgement of nothing"),
        (frame(4, 0, 1, &[]), "SETTINGS of a stream"),
        (frame(4, 0, 0, &[0; 5]), "half a setting"),
    ] {
        assert_eq!(http::host(&[PREFACE, &first, &headers].concat()), Verdict::NoMatch, "{why}");
    }
    refuses_at("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r ", 24);
}

#[test]
fn frames_and_blocks_are_bounded() {
    let headers = frame(1, 0x05, 1, BLOCK);
    let pings =
        |count: usize| connection(&[frame(6, 0, 0, &[0; 8]).repeat(count), headers.clone()]);
    assert!(http2::request(&pings(62)).is_match());
    assert!(matches!(http2::request(&pings(63)), Verdict::NoMatch));

    let large = |count: usize| {
        let field = b"\x00\x01a\x00".repeat(4096);
        let first = frame(1, 0, 1, BLOCK);
        connection(&[first, frame(9, 0, 1, &field[..16_000]).repeat(count)])
    };
    assert!(matches!(http2::request(&large(4)), Verdict::NeedMore(_)));
    assert!(matches!(http2::request(&large(5)), Verdict::NoMatch));
}

#[test]
fn hosts() {
    let request = |fields: &[(&str, &str)]| {
        let mut block = vec![0x82, 0x84];
        for (name, value) in fields {
            block.extend([&[0, name.len() as u8], name.as_bytes()].concat());
            block.extend([&[value.len() as u8], value.as_bytes()].concat());
        }
        host_at_the_end(&connection(&[frame(1, 5, 1, &block)]))
    };
    assert_eq!(request(&[]), Some(None));
    assert_eq!(request(&[("host", "A.example.:80")]), host("A.example"));
    assert_eq!(request(&[(":authority", "[::1]:80"), ("host", "a")]), host("[::1]"));
    assert_eq!(request(&[(":authority", "u@a"), ("host", "a")]), Some(None));
}

#[test]
fn connect_has_no_path() {
    let block = b"\x02\x07CONNECT\x01\x05a:443";
    let bytes = connection(&[frame(1, 5, 1, block)]);
    assert_eq!(host_at_the_end(&bytes), host("a"));
    matches_at("http2", &bytes, PREFACE.len(), "method=CONNECT version=2 host=a:443");
}

/// What h2's client sends for a request before it has heard from the server.
fn spoken_by_h2(request: Request<()>) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (client, mut server) = tokio::io::duplex(1 << 17);
        let (mut send, connection) = h2::client::handshake(client).await.expect("a preface");
        let response = send.send_request(request, true).expect("a request");
        {
            let mut connection = pin!(connection);
            for _ in 0..8 {
                let poll = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx).is_pending()));
                assert!(poll.await, "it waits for the server");
            }
        }
        drop((response, send));
        let mut said = Vec::new();
        server.read_to_end(&mut said).await.expect("what was sent");
        said
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn reads_what_h2_writes(
        method in prop::sample::select(vec!["GET", "POST", "PUT", "PROPFIND"]),
        name in "[a-zA-Z0-9.-]{1,40}",
        port in proptest::option::of(1_u16..),
        path in "/[a-z0-9/._~%!$&'()*+,;=:@-]{0,60}",
        query in proptest::option::of("[a-z0-9=&]{0,20}"),
        fields in proptest::collection::vec(("x-[a-z0-9-]{1,20}", "[ -~]{0,80}"), 0..20),
    ) {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let uri = format!("http://{name}{port}{path}{query}");
        let mut request = Request::builder().method(method).uri(&uri);
        for (name, value) in &fields {
            request = request.header(name, value);
        }
        let request = request.body(());
        prop_assume!(request.is_ok());
        let bytes = spoken_by_h2(request.expect("just checked"));

        let Verdict::Match(head) = http2::request(&bytes) else {
            return Err(TestCaseError::fail(bytes.escape_ascii().to_string()));
        };
        use crate::probe::http::{Head, Host};
        prop_assert_eq!(head.method(), method.as_bytes());
        prop_assert_eq!(head.path(), Some(path.as_bytes()));
        let name = name.strip_suffix('.').unwrap_or(&name);
        prop_assert_eq!(head.host(), Host::Known((!name.is_empty()).then_some(name.as_bytes())));
        for (name, value) in &fields {
            let is_there = head.has_field(name, |other| other == value.as_bytes());
            prop_assert!(is_there.is_match(), "{} {}", name, value);
        }
        prop_assert!(!head.has_field("y", |_| true).is_match());
        for len in 0..bytes.len() {
            match http2::request(&bytes[..len]) {
                Verdict::NeedMore(total) => prop_assert!(total > len && total <= bytes.len()),
                Verdict::Match(_) => break,
                Verdict::NoMatch => return Err(TestCaseError::fail(format!("no at {len}"))),
            }
        }
    }
}
