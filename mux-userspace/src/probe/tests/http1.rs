//! HTTP/1, against fixtures and against `httparse`.

use proptest::prelude::*;

use super::{decides_at, matches_at, refuses_at, see};
use crate::probe::{
    Verdict,
    http::{self, Head},
    http1,
};

#[test]
fn request_lines() {
    let get = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
    matches_at("http1", get, 16, "method=GET path=/ version=1.1 host=example.com");
    matches_at("http1", b"GET / HTTP/1.1\r\nHost: exa", 16, "method=GET path=/ version=1.1");
    matches_at("http1", b"G / HTTP/1.0\n", 13, "method=G path=/ version=1.0");
    let connect = b"CONNECT a:443 HTTP/1.1\r\nX: y\r\nhOST:\t a:443 \r\n";
    matches_at("http1", connect, 24, "method=CONNECT path=a:443 version=1.1 host=a:443");
    let options = b"M-SEARCH * HTTP/1.1\r\n\r\nHost: in the body\r\n";
    matches_at("http1", options, 21, "method=M-SEARCH path=* version=1.1");
    let method = [b'm'; 32];
    let longest = [&method[..], b" / HTTP/1.1\r\n"].concat();
    assert!(decides_at("http1", &longest, longest.len()).is_some());
    let utf8 = "GET /ü HTTP/1.1\r\n".as_bytes();
    matches_at("http1", utf8, 18, "method=GET path=/\\xc3\\xbc version=1.1");
}

#[test]
fn near_misses() {
    refuses_at("http1", b"\x16\x03\x01", 1);
    refuses_at("http1", b" GET / HTTP/1.1\r\n", 1);
    refuses_at("http1", b"\r\nGET / HTTP/1.1\r\n", 1);
    refuses_at("http1", b"GET\t/ HTTP/1.1\r\n", 4);
    refuses_at("http1", b"GET  / HTTP/1.1\r\n", 5);
    refuses_at("http1", b"GET /\r\n", 6);
    refuses_at("http1", b"GET / \r\n", 7);
    refuses_at("http1", b"GET / HTTP/2.0\r\n", 12);
    refuses_at("http1", b"GET / http/1.1\r\n", 7);
    refuses_at("http1", b"GET / HTTP/1.x\r\n", 14);
    refuses_at("http1", b"GET / HTTP/1.1 \r\n", 15);
    refuses_at("http1", b"GET / HTTP/1.1\r\r\n", 16);
    refuses_at("http1", b"GET / HTTP/1.10\r\n", 15);
    refuses_at("http1", b"GET /\x7f HTTP/1.1\r\n", 6);
    refuses_at("http1", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", 39);
    refuses_at("http1", &[b'm'; 40], 33);
    refuses_at("http1", b"EHLO mail.example\r\n", 18);
}

/// At how many bytes the host is known, and which.
fn host(bytes: &[u8]) -> (usize, Option<&str>) {
    let known = (0..=bytes.len()).find(|&len| match http::host(&bytes[..len]) {
        Verdict::Match(_) => true,
        Verdict::NoMatch => panic!("no at {len}: {}", bytes.escape_ascii()),
        Verdict::NeedMore(total) => {
            assert_eq!(total, len + 1);
            false
        }
    });
    match http::host(bytes) {
        Verdict::Match(Some(std::borrow::Cow::Borrowed(host))) => {
            (known.expect("it is"), Some(std::str::from_utf8(host).expect("ASCII")))
        }
        Verdict::Match(None) => (known.expect("it is"), None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn hosts_are_known_at_the_end_of_the_header() {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}").into_bytes();
    for (fields, at, expected) in [
        ("Host: a.example\r\n\r\n", 35, Some("a.example")),
        ("X: y\nhOST:A.Example.:80 \n\n", 42, Some("A.Example")),
        ("Host: [::1]:80\r\n\r\n", 34, Some("[::1]")),
        ("Host: [::1]\r\n\r\n", 31, Some("[::1]")),
        ("Host: 10.0.0.1:\r\n\r\n", 35, Some("10.0.0.1")),
        ("X: y\r\n\r\n", 24, None),
        ("Host:\r\n", 23, None),
        ("Host: .\r\n", 25, None),
        ("Host: a b\r\n", 27, None),
        ("Host: a:b\r\n", 27, None),
        ("Host: ::1\r\n", 27, None),
        ("Host: [::1\r\n", 28, None),
        ("Host: [::1]x\r\n", 30, None),
        ("Host: u@a\r\n", 27, None),
        ("Host: a/b\r\n", 27, None),
        // Two are none: a server that took one of them may not take ours (RFC 9112 3.2).
        ("Host: a\r\nHost: b\r\n\r\n", 34, None),
        ("Host: a\r\nX: y\r\nhost: a\r\n", 40, None),
        // A malformed line ends the header.
        ("Host: a\r\n folded\r\n", 34, Some("a")),
        (" folded\r\nHost: a\r\n", 25, None),
        ("Host : a\r\n", 26, None),
        ("no colon\r\nHost: a\r\n", 26, None),
    ] {
        assert_eq!(host(&get(fields)), (at, expected), "{fields:?}");
    }
}

#[test]
fn authorities_of_targets_go_before_the_field() {
    for (line, at, expected) in [
        ("GET http://A.example:80/x HTTP/1.1\r\n", 36, Some("A.example")),
        ("GET HTTPS://a.example HTTP/1.0\n", 31, Some("a.example")),
        ("GET http://a?b/c HTTP/1.1\r\n", 27, Some("a")),
        ("GET http://[::1]:80 HTTP/1.1\r\n", 30, Some("[::1]")),
        ("GET http://user@a/ HTTP/1.1\r\n", 29, None),
        ("GET http:///x HTTP/1.1\r\n", 24, None),
        ("CONNECT a.example:443 HTTP/1.1\r\n", 32, Some("a.example")),
        ("CONNECT /x HTTP/1.1\r\n", 21, None),
        ("GET /http://a/ HTTP/1.1\r\n", 44, Some("in.header")),
        ("GET a:80 HTTP/1.1\r\n", 38, Some("in.header")),
        ("OPTIONS * HTTP/1.1\r\n", 39, Some("in.header")),
    ] {
        let head = format!("{line}Host: in.header\r\n\r\n");
        assert_eq!(host(head.as_bytes()), (at, expected), "{line:?}");
    }
}

#[test]
fn paths_have_no_query() {
    for (line, expected) in [
        ("GET /a/b?c=/d HTTP/1.1\n", Some("/a/b")),
        ("GET / HTTP/1.1\n", Some("/")),
        ("GET http://a/b?c HTTP/1.1\n", Some("/b")),
        ("GET http://a HTTP/1.1\n", Some("/")),
        ("GET http://a?b HTTP/1.1\n", Some("/")),
        ("OPTIONS * HTTP/1.1\n", Some("*")),
        ("CONNECT a:443 HTTP/1.1\n", None),
        ("GET a HTTP/1.1\n", None),
    ] {
        let Verdict::Match(head) = http1::request(line.as_bytes()) else { panic!("{line:?}") };
        assert_eq!(head.path(), expected.map(str::as_bytes), "{line:?}");
    }
}

#[test]
fn what_is_told_of_an_absolute_target() {
    let get = b"GET http://a.example:80/x?y HTTP/1.1\r\nHost: b\r\n\r\n";
    let details = "method=GET path=http://a.example:80/x?y version=1.1 host=a.example:80";
    matches_at("http1", get, 38, details);
}

/// Strings made of the pieces that matter, so that whole requests come up often.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("GET"),
        Just("P~T"),
        Just(" "),
        Just(" "),
        Just("/a?b=c"),
        Just("*"),
        Just("HTTP/1."),
        Just("HTTP/"),
        Just("0"),
        Just("1"),
        Just("\r\n"),
        Just("\n"),
        Just("\r"),
        Just(":"),
        Just("Host: a.example\r\n"),
        Just("\t"),
        Just("("),
    ];
    let line = ("[A-Z]{1,4}", " {1,2}", "[!-~]{1,4}", " {1,2}", "HTTP/1\\.[01]", "\r?\n");
    let line = line.prop_map(|(a, b, c, d, e, f)| [a, b, c, d, e, f].concat());
    let noise = proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    prop_oneof![noise.clone(), (line, noise).prop_map(|(line, noise)| line + &noise)]
        .prop_map(String::into_bytes)
}

proptest! {
    /// On ASCII, and but for what the probe's documentation says it does differently, both
    /// agree about every request line.
    #[test]
    fn agrees_with_httparse(bytes in requests()) {
        let line_end = bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| at + 1);
        let head = [&bytes[..line_end], b"\r\n"].concat();
        let mut headers = [httparse::EMPTY_HEADER; 4];
        let mut theirs = httparse::Request::new(&mut headers);
        // httparse skips empty lines and several spaces, which the probe does not.
        let lenient = head.starts_with(b"\r") || head.starts_with(b"\n") || head.windows(2).any(|pair| pair == b"  ");
        let accepts = line_end > 0
            && bytes[line_end - 1] == b'\n'
            && matches!(theirs.parse(&head), Ok(httparse::Status::Complete(_)))
            && !lenient;
        let ours = see("http1", &bytes);
        prop_assert_eq!(ours.is_match(), accepts, "{}", bytes.escape_ascii());
        if let Verdict::Match(details) = ours {
            let expected = format!(
                "method={} path={}", theirs.method.unwrap_or(""), theirs.path.unwrap_or("")
            );
            let quoted = expected.contains(['"', '\'', ',', '\\']);
            prop_assert!(quoted || details.to_string().starts_with(&expected), "{}", details);
        }
    }
}
