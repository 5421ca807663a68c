//! What never ends is refused, after a bounded count of bytes.

use super::{probe, refuses_at};
use crate::probe::Verdict;

/// Checks that a probe gives up at `at` bytes of `start` and endless `filler`. Not all prefixes:
/// some have 32 KiB.
#[track_caller]
fn gives_up_at(name: &str, start: &str, filler: &str, at: usize) {
    let mut bytes = start.as_bytes().to_vec();
    while bytes.len() <= at {
        bytes.extend_from_slice(filler.as_bytes());
    }
    let examine = |len: usize| probe(name).examine(&bytes[..len]);
    assert_eq!(examine(at - 1), Verdict::NeedMore(at), "{name}");
    assert_eq!(examine(at), Verdict::NoMatch, "{name}");
    assert_eq!(examine(bytes.len()), Verdict::NoMatch, "{name}");
}

#[test]
fn lines() {
    gives_up_at("smtp", "EHLO ", "a", 5 + 256);
    gives_up_at("rsync", "@RSYNCD: 31.0 ", "md5 ", 255);
    gives_up_at("proxy", "PROXY UNKNOWN ", "x", 107);
    gives_up_at("proxy", "PROXY TCP6 ", "1", 11 + 46);
    gives_up_at("syslog", "", "1", 7);
    for name in ["rtsp", "sip"] {
        gives_up_at(name, "", "m", 33);
        gives_up_at(name, "OPTIONS ", "u", 8 + 2049);
    }
}

#[test]
fn names_and_numbers() {
    gives_up_at("tinc", "0 ", "n", 2 + 256);
    gives_up_at("tinc", "0 n 17.", "1", 7 + 4);
    gives_up_at("redis", "*1", "0", 9);
    gives_up_at("redis", "*1\r\n$1", "0", 8);
    let login = ["\0\u{4}\0\u{1}", "\u{1}\u{2}\0\0", &"\0".repeat(28)].concat();
    gives_up_at("mysql", &login, "u", 36 + 513);
}

#[test]
fn xmpp_headers() {
    gives_up_at("xmpp", "<?xml ", "x", 6 + 129);
    gives_up_at("xmpp", "<stream:stream", " ", 2048);
    gives_up_at("xmpp", "<stream:stream to='", "x", 2048);
    gives_up_at("xmpp", "<stream:stream", " a='b'", 2048);
    gives_up_at("xmpp", "<stream:stream ", "n", 15 + 65);
}

#[test]
fn git_paths_and_hosts() {
    gives_up_at("git", "0100git-upload-pack /", "p", 0x100);
    gives_up_at("git", "2000git-upload-pack /", "p", 21 + 4097);
    gives_up_at("git", "2000git-upload-pack /\0host=", "h", 27 + 262);
}

#[test]
fn websocket_heads() {
    gives_up_at("websocket", "GET /", "x", 32 << 10);
    gives_up_at("websocket", "GET / HTTP/1.1\r\n", "A: b\r\n", 32 << 10);
}

#[test]
fn dns_names() {
    let label = "?aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    assert_eq!(label.len(), 64);
    // Three labels of 63 and one of 61 make 254 bytes, and the root's is the 255th.
    let start = "\0\u{7f}ab\0\0\0\u{1}\0\0\0\0\0\0";
    let three = [start, label, label, label].concat();
    gives_up_at("dns", &three.replace("\0\u{7f}", "\u{7f}\0"), "?", 14 + 192 + 1);
    let longest = [&three.replace("\0\u{7f}", "\u{7f}\0"), "\u{3d}"].concat();
    let longest = [longest.as_bytes(), &[b'a'; 61], &[0, 0, 1, 0, 1]].concat();
    // It fits, and what is refused is the length, which says more than there is.
    refuses_at("dns", &longest, 14 + 255 + 4);
}
