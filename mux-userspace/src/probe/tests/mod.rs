//! Every prefix of every fixture, and monotonicity on whatever comes.

mod dns;
pub(crate) mod fixtures;
mod http1;
mod http2;
mod ldap;
mod limits;
mod messages;
mod properties;
mod proxy;
mod rustls;
mod tls;

use super::{Details, Probe, Verdict};

fn probe(name: &str) -> Probe {
    Probe::from_name(name).expect(name)
}

/// The verdict, with details.
fn see(name: &str, bytes: &[u8]) -> Verdict<Details> {
    let probe = probe(name);
    probe.examine(bytes).map(|()| probe.details(bytes))
}

/// Checks the verdict on every prefix: `NeedMore` before `at` bytes, and the same kind of
/// verdict from there on. Gives the details at the end, as they print.
fn decides_at(name: &str, bytes: &[u8], at: usize) -> Option<String> {
    for len in 0..=bytes.len() {
        match probe(name).examine(&bytes[..len]) {
            Verdict::NeedMore(total) => {
                assert!(len < at, "{name}: undecided at {len}, to decide at {at}");
                assert!(total > len && total <= at, "{name}: wants {total} at {len}");
            }
            Verdict::Match(_) | Verdict::NoMatch => {
                assert!(len >= at, "{name}: decided at {len} already, to decide at {at}");
            }
        }
    }
    match see(name, bytes) {
        Verdict::Match(details) => Some(details.to_string()),
        Verdict::NoMatch => None,
        Verdict::NeedMore(_) => panic!("{name}: undecided at the end"),
    }
}

/// Checks that a probe matches at exactly `at` bytes and what it says.
#[track_caller]
fn matches_at(name: &str, bytes: &[u8], at: usize, details: &str) {
    assert_eq!(decides_at(name, bytes, at).as_deref(), Some(details), "{}", bytes.escape_ascii());
}

/// Checks that a probe is sure at exactly `at` bytes that it does not match.
#[track_caller]
fn refuses_at(name: &str, bytes: &[u8], at: usize) {
    assert_eq!(decides_at(name, bytes, at), None, "{}", bytes.escape_ascii());
}

#[test]
fn names_are_unique_and_found() {
    for probe in Probe::all() {
        assert_eq!(Probe::from_name(probe.name()), Some(probe.clone()));
        assert_eq!(Probe::from_name(&probe.name().to_uppercase()), None);
    }
}

#[test]
fn what_includes_what() {
    let includes = |a: &str, b: &str| probe(a).includes(&probe(b));
    for (wide, narrow) in
        [("http1", "websocket"), ("http", "websocket"), ("socks4", "socks4a"), ("socks", "socks4a")]
    {
        assert!(includes(wide, narrow) && !includes(narrow, wide), "{wide} {narrow}");
    }
    assert!(!includes("http2", "websocket") && !includes("socks5", "socks4a"));
}

#[test]
fn ssh() {
    let openssh = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n";
    matches_at("ssh", openssh, 8, "version=2.0 software=OpenSSH_9.2p1");
    matches_at("ssh", b"SSH-2.0-libssh-0.10\n", 8, "version=2.0 software=libssh-0.10");
    matches_at("ssh", b"SSH-1.99-x\r\n", 6, "version=1.99 software=x");
    matches_at("ssh", b"SSH-2.0-no end of line", 8, "");
    matches_at("ssh", b"SSH-1.", 6, "");
    matches_at("ssh", b"SSH-1.5\n", 6, "version=1.5");

    refuses_at("ssh", b"SSH-3.0-x\r\n", 5);
    refuses_at("ssh", b"SSH-2.1-x\r\n", 7);
    refuses_at("ssh", b"SSH 2.0-x\r\n", 4);
    refuses_at("ssh", b"ssh-2.0-x\r\n", 1);
    refuses_at("ssh", b" SSH-2.0-x\r\n", 1);
}

#[test]
fn http_is_either() {
    matches_at("http", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, "version=2");
    matches_at("http", b"PUT * HTTP/1.0\r\n", 16, "method=PUT path=* version=1.0");
    refuses_at("http", b"PRI * HTTP/2.1", 14);
    refuses_at("http", b"\x16", 1);
}

#[test]
fn socks4() {
    let ip = b"\x04\x01\x00\x50\x0a\x00\x00\x01bob\0rest";
    matches_at("socks4", ip, 12, "command=connect host=10.0.0.1 port=80 user=bob");
    let bind = b"\x04\x02\x00\x50\x0a\x00\x00\x01\0";
    matches_at("socks4", bind, 9, "command=bind host=10.0.0.1 port=80");
    let name = b"\x04\x01\x01\xbb\x00\x00\x00\x07\0example.com\0";
    matches_at("socks4", name, 21, "command=connect host=example.com port=443");
    // 0.0.0.0 is an address, not the mark of SOCKS4a.
    let zero = b"\x04\x01\x01\xbb\x00\x00\x00\x00\0";
    matches_at("socks4", zero, 9, "command=connect host=0.0.0.0 port=443");

    refuses_at("socks4", b"\x05\x01", 1);
    refuses_at("socks4", b"\x04\x00\x00\x50", 2);
    refuses_at("socks4", b"\x04\x03\x00\x50", 2);
    refuses_at("socks4", b"\x04\x01\x01\xbb\x00\x00\x00\x07\0\0", 10);
    refuses_at("socks4", &[&ip[..8], &[b'u'; 300]].concat(), 8 + 256);
    refuses_at("socks4", &[&name[..9], &[b'h'; 300]].concat(), 9 + 256);
}

#[test]
fn socks5() {
    matches_at("socks5", b"\x05\x01\x00", 3, "methods=0x00");
    matches_at("socks5", b"\x05\x02\x00\x02\x05", 4, "methods=0x00,0x02");
    let all: Vec<u8> = [5, 255].into_iter().chain(0..255).collect();
    assert!(decides_at("socks5", &all, 257).is_some_and(|text| text.ends_with(",0xfe")));

    refuses_at("socks5", b"\x05\x00\x00", 2);
    refuses_at("socks5", b"\x04\x01\x00", 1);
}

#[test]
fn socks_is_either() {
    matches_at("socks", b"\x05\x01\x00", 3, "methods=0x00");
    let bind = b"\x04\x02\x00\x50\x0a\x00\x00\x01\0";
    matches_at("socks", bind, 9, "command=bind host=10.0.0.1 port=80");
    refuses_at("socks", b"\x03", 1);
}

#[test]
fn details_as_json_are_flat_and_escaped() {
    let json = |name: &str, bytes: &[u8]| match see(name, bytes) {
        Verdict::Match(details) => details.to_json().to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        json("http1", b"GET /\xff HTTP/1.1\r\nHost: a\x9b\r\n\r\n"),
        r#"{"host":"a\\x9b","method":"GET","path":"/\\xff","version":"1.1"}"#
    );
    assert_eq!(json("socks5", b"\x05\x01\x02"), r#"{"methods":[2]}"#);
    assert_eq!(
        json("socks4", b"\x04\x02\x00\x50\x0a\x00\x00\x01\0"),
        r#"{"command":"bind","host":"10.0.0.1","port":80}"#
    );
    assert_eq!(json("ssh", b"SSH-2.0-"), "{}");
}
