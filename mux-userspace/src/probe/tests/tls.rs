//! TLS: a real ClientHello, made ones, and `tls-parser` as an oracle.

use proptest::prelude::*;
use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};

use super::{matches_at, refuses_at, see};
use crate::probe::{Verdict, tls};

/// What OpenSSL 3 sends for `www.example.com` with ALPN `h2` and `http/1.1`.
const OPENSSL: &str = "\
    1603010200010001fc0303efdf76a4e41fb80f690c531246f4c319481025a81a139e1af00af47a81903b822059 \
    c2438be75f4ea211951d789094b1597cd09f8e6e1a6681571078e34851c4ea0024130213031301c02cc030c02b \
    c02fcca9cca8c024c028c023c027009f009e006b006700ff0100018f00000014001200000f7777772e6578616d \
    706c652e636f6d000b000403000102000a00160014001d0017001e001900180100010101020103010400230000 \
    0010000e000c02683208687474702f312e310016000000170000000d002a002804030503060308070808080908 \
    0a080b080408050806040105010601030303010302040205020602002b00050403040303002d00020101003300 \
    260024001d002036ddcad6d6d0fa5ab033c8368c64ce2532fde432649e6c042d2dc6ccb3310a1c001500cc0000 \
    000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 \
    000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 \
    000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 \
    000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 \
    00000000000000000000000000000000000000000000";

const OPENSSL_DETAILS: &str = "sni=www.example.com alpn=h2,http/1.1 version=1.3";

fn openssl() -> Vec<u8> {
    let digits: Vec<u8> = OPENSSL
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .filter_map(|digit| u8::try_from(digit).ok())
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Prefixes a length of `width` bytes.
fn vector(width: usize, data: &[u8]) -> Vec<u8> {
    [&data.len().to_be_bytes()[size_of::<usize>() - width..], data].concat()
}

/// A ClientHello with these extensions (`None`: without the field).
fn handshake(version: u16, extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend([0x55; 32]);
    body.extend(vector(1, &[0x66; 32]));
    body.extend(vector(2, &[0x13, 0x01, 0x0a, 0x0a]));
    body.extend(vector(1, &[0x00]));
    if let Some(extensions) = extensions {
        body.extend(vector(2, extensions));
    }
    [&[0x01], vector(3, &body).as_slice()].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), vector(2, data).as_slice()].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0x0000, &vector(2, &[&[0x00], vector(2, name).as_slice()].concat()))
}

/// Cuts a handshake message into records of at most `size` bytes.
fn records(handshake: &[u8], size: usize) -> Vec<u8> {
    handshake
        .chunks(size)
        .flat_map(|fragment| [&[0x16, 0x03, 0x01], vector(2, fragment).as_slice()].concat())
        .collect()
}

fn details(bytes: &[u8]) -> String {
    match see("tls", bytes) {
        Verdict::Match(details) => details.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn openssl_hello() {
    let bytes = openssl();
    matches_at("tls", &bytes, bytes.len(), OPENSSL_DETAILS);
    let more = [&bytes[..], b"\x14\x03\x03\x00\x01\x01"].concat();
    matches_at("tls", &more, bytes.len(), OPENSSL_DETAILS);
}

#[test]
fn hello_in_records_of_every_size() {
    let handshake = &openssl()[5..];
    for size in handshake.len() / 64..=handshake.len() + 1 {
        let bytes = records(handshake, size);
        matches_at("tls", &bytes, bytes.len(), OPENSSL_DETAILS);
        assert_eq!(tls::sni(&bytes), Verdict::Match(Some(b"www.example.com".into())));
    }
}

#[test]
fn more_than_64_records_are_refused_with_the_64th() {
    let handshake = &openssl()[5..];
    for size in 1..handshake.len() / 64 {
        refuses_at("tls", &records(handshake, size), 64 * (5 + size));
    }
}

#[test]
fn exact_wants() {
    let bytes = openssl();
    for len in 9..bytes.len() {
        assert_eq!(see("tls", &bytes[..len]), Verdict::NeedMore(bytes.len()));
    }
}

#[test]
fn grease_and_old_versions() {
    let grease = [
        extension(0x0a0a, &[]),
        server_name(b"a.example"),
        extension(0x0010, &vector(2, &[vector(1, &[0x1a, 0x1a]), vector(1, b"h2")].concat())),
        extension(0x002b, &vector(1, &[0xfa, 0xfa, 0x7f, 0x1c, 0x03, 0x03, 0x03, 0x04])),
    ]
    .concat();
    let bytes = records(&handshake(0x0303, Some(&grease)), 1 << 14);
    assert_eq!(details(&bytes), "sni=a.example alpn=h2 version=1.3");

    assert_eq!(details(&records(&handshake(0x0300, None), 100)), "version=ssl3");
    assert_eq!(details(&records(&handshake(0x0301, Some(&[])), 100)), "version=1.0");
    assert_eq!(details(&records(&handshake(0x0302, Some(&[])), 100)), "version=1.1");
    assert_eq!(details(&records(&handshake(0x0303, Some(&[])), 100)), "version=1.2");
    // 1.3 and what comes after cannot be offered in the old way (RFC 8446 4.2.1).
    assert_eq!(details(&records(&handshake(0x0304, Some(&[])), 100)), "version=1.2");
    // Where there is the new way, the old one says nothing.
    let unknown = extension(0x002b, &vector(1, &[0x7f, 0x1c]));
    assert_eq!(details(&records(&handshake(0x0303, Some(&unknown)), 100)), "");
}

#[test]
fn encrypted_client_hello() {
    let ech =
        |kind: u8| [server_name(b"public.example"), extension(0xfe0d, &[kind, 0, 1])].concat();
    for (kind, told) in [(0, " ech=outer"), (1, " ech=inner"), (2, "")] {
        let bytes = records(&handshake(0x0303, Some(&ech(kind))), 1 << 14);
        assert_eq!(details(&bytes), format!("sni=public.example version=1.2{told}"));
    }
}

#[test]
fn names_that_are_asked_for() {
    let asked = |extensions: &[u8]| {
        let bytes = records(&handshake(0x0303, Some(extensions)), 1 << 14);
        match tls::sni(&bytes) {
            Verdict::Match(name) => Some(name.map(|name| name.into_owned())),
            Verdict::NoMatch => None,
            Verdict::NeedMore(total) => panic!("wants {total} of {}", bytes.len()),
        }
    };
    assert_eq!(asked(&[]), Some(None));
    assert_eq!(asked(&server_name(b"A.Example.")), Some(Some(b"A.Example".to_vec())));
    // Of two names a server could believe the other one (RFC 8446 4.2, RFC 6066 3).
    let twice = [server_name(b"a.example"), server_name(b"b.example")].concat();
    assert_eq!(asked(&twice), None);
    let name = |name: &[u8]| [&[0x00], vector(2, name).as_slice()].concat();
    let two = extension(0x0000, &vector(2, &[name(b"a.example"), name(b"b.example")].concat()));
    assert_eq!(asked(&two), None);
    let other_type = [&[0x07], vector(2, b"x").as_slice()].concat();
    let list = vector(2, &[other_type, name(b"a.example")].concat());
    assert_eq!(asked(&extension(0x0000, &list)), Some(Some(b"a.example".to_vec())));
    assert_eq!(asked(&extension(0x0000, &[&list[..], b"x"].concat())), None);
    assert_eq!(tls::sni(b"GET / HTTP/1.1\r\n"), Verdict::NoMatch);
    let bytes = openssl();
    for len in 9..bytes.len() {
        assert_eq!(tls::sni(&bytes[..len]), Verdict::NeedMore(bytes.len()));
    }
}

#[test]
fn strange_bodies_are_tls_still() {
    for strange in [
        &[0x00, 0x00, 0x00, 0xff][..],
        &extension(0x0000, &[]),
        &extension(0x0000, &vector(2, &[0x07])),
        &extension(0x0010, &vector(2, &[0x05, b'h'])),
        &extension(0x0010, &vector(2, &[0x00])),
        &extension(0x002b, &vector(1, &[0x03])),
        &extension(0x0010, &[&vector(2, &vector(1, b"h2"))[..], b"x"].concat()),
    ] {
        let bytes = records(&handshake(0x0303, Some(strange)), 1 << 14);
        matches_at("tls", &bytes, bytes.len(), "");
    }
    matches_at("tls", b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", 9, "");
    let hostile = records(&handshake(0x0303, Some(&server_name(b"a b\n\x1b[2J"))), 1 << 14);
    assert_eq!(details(&hostile), "sni=a\\x20b\\x0a\\x1b[2J version=1.2");
    let empty_name = records(&handshake(0x0303, Some(&server_name(b""))), 1 << 14);
    assert_eq!(details(&empty_name), "");
}

#[test]
fn post_quantum_hello_fits() {
    let bytes = records(&handshake(0x0303, Some(&extension(0x0033, &[0x77; 60_000]))), 1 << 14);
    matches_at("tls", &bytes, bytes.len(), "version=1.2");
}

#[test]
fn near_misses() {
    refuses_at("tls", b"GET / HTTP/1.1\r\n", 1);
    refuses_at("tls", b"\x15\x03\x01\x00\x02\x02\x28", 1);
    refuses_at("tls", b"\x16\x02\x01\x00\x04\x01\x00\x00\x00", 2);
    refuses_at("tls", b"\x16\x03\x01\x00\x00\x01\x00\x00\x00", 5);
    refuses_at("tls", b"\x16\x03\x01\x42\x00\x01\x00\x00\x00", 4);
    refuses_at("tls", b"\x16\x03\x01\x41\x01\x01\x00\x00\x00", 5);
    // A ServerHello.
    refuses_at("tls", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", 6);
    // 16 MiB, and one byte more than 64 KiB.
    refuses_at("tls", b"\x16\x03\x01\x40\x00\x01\xff\xff\xff", 7);
    refuses_at("tls", b"\x16\x03\x01\x40\x00\x01\x01\x00\x01", 9);
    // The second record is an alert, is no TLS, is empty.
    let first = b"\x16\x03\x01\x00\x01\x01";
    refuses_at("tls", &[&first[..], b"\x15"].concat(), 7);
    refuses_at("tls", &[&first[..], b"\x16\x04"].concat(), 8);
    refuses_at("tls", &[&first[..], b"\x16\x03\x01\x00\x00"].concat(), 11);
}

/// What a client asks for.
pub(super) struct Offered {
    pub(super) name: Option<Vec<u8>>,
    pub(super) protocols: Vec<Vec<u8>>,
    /// Codes of the versions offered.
    pub(super) versions: Vec<u16>,
}

/// What `tls-parser` reads of the name, the protocols and the versions.
pub(super) fn oracle(handshake: &[u8]) -> Option<Offered> {
    let (_, message) = tls_parser::parse_tls_message_handshake(handshake).ok()?;
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = message else {
        return None;
    };
    let (rest, extensions) =
        tls_parser::parse_tls_client_hello_extensions(hello.ext.unwrap_or_default()).ok()?;
    let (mut name, mut protocols, mut versions) = (None, Vec::new(), vec![hello.version.0]);
    for extension in extensions {
        if let TlsExtension::SNI(names) = &extension {
            name = names.first().map(|(_, name)| name.to_vec());
        }
        if let TlsExtension::ALPN(names) = &extension {
            protocols = names.iter().map(|name| name.to_vec()).collect();
        }
        if let TlsExtension::SupportedVersions(codes) = &extension {
            versions = codes.iter().map(|code| code.0).collect();
        }
    }
    rest.is_empty().then_some(Offered { name, protocols, versions })
}

proptest! {
    /// Both read the same names out of well-formed hellos, in whatever records they come.
    #[test]
    fn agrees_with_tls_parser(
        name in proptest::option::of("[a-z.]{1,40}"),
        protocols in proptest::collection::vec("[a-z0-9/.]{3,9}", 0..5),
        unknown in proptest::collection::vec((0x8000_u16..0xf000, any::<Vec<u8>>()), 0..3),
        size in 40_usize..2000,
    ) {
        let mut extensions: Vec<u8> =
            unknown.iter().flat_map(|(kind, data)| extension(*kind, data)).collect();
        extensions.extend(name.iter().flat_map(|name| server_name(name.as_bytes())));
        if !protocols.is_empty() {
            let list: Vec<u8> =
                protocols.iter().flat_map(|name| vector(1, name.as_bytes())).collect();
            extensions.extend(extension(0x0010, &vector(2, &list)));
        }
        let handshake = handshake(0x0303, Some(&extensions));
        let theirs = oracle(&handshake).expect("well-formed");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("ASCII");
        let name = theirs.name.map(|name| format!("sni={} ", text(name)));
        let mut expected = name.unwrap_or_default();
        if !theirs.protocols.is_empty() {
            let list: Vec<String> = theirs.protocols.into_iter().map(text).collect();
            expected += &format!("alpn={} ", list.join(","));
        }
        prop_assert_eq!(details(&records(&handshake, size)), expected + "version=1.2");
    }
}
