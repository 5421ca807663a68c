//! HTTP/1, against fixtures and against `httparse`.

use proptest::prelude::*;

use super::{decides_at, matches_at, refuses_at, see};
use crate::probe::Verdict;

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
