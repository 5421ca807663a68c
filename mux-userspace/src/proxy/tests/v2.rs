//! Binary headers.

use super::{super::tlv::MAX_UNIQUE_ID, *};

/// A header of this command and family with this block.
fn packet(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a block that fits").to_be_bytes();
    [&binary::SIGNATURE[..], &[command, family], &length, block].concat()
}

/// 192.0.2.1:4660 to 192.0.2.2:443.
const ADDRESSES: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 0x01, 0xbb];

/// TCP over IPv4 with these TLVs.
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    packet(0x21, 0x11, &[ADDRESSES, tlvs].concat())
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a value that fits").to_be_bytes();
    [&[kind], &length[..], value].concat()
}

#[test]
fn tcp_of_either_family() {
    let header = whole(&packet(0x21, 0x11, ADDRESSES));
    assert_eq!(header.version, Version::V2);
    assert_eq!(header.origin, tcp("192.0.2.1:4660", "192.0.2.2:443"));
    assert_eq!(header.extras, Extras::default());
    let mut block = vec![0; 36];
    block[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    block[15] = 1;
    block[31] = 1;
    block[33] = 7;
    block[35] = 80;
    let header = whole(&packet(0x21, 0x21, &block));
    assert_eq!(header.origin, tcp("[2001:db8::1]:7", "[::1]:80"));
}

#[test]
fn unix_sockets() {
    let mut block = vec![0; 216];
    block[..7].copy_from_slice(b"/run/up");
    block[108..117].copy_from_slice(b"/run/down");
    let header = whole(&packet(0x21, 0x31, &block));
    let Origin::Unix(pair) = &header.origin else { panic!("{header:?}") };
    assert!(pair.source.starts_with(b"/run/up\0") && pair.destination.starts_with(b"/run/down\0"));
    let peer = Peer::from_ip("10.0.0.1:1".parse().unwrap());
    assert_eq!(header.client(peer), Peer::Unix);
    assert_eq!(write::header(Version::V1, &header.origin, &header.extras), b"PROXY UNKNOWN\r\n");
}

#[test]
fn what_names_no_client_leaves_the_peer() {
    for header in [
        // LOCAL, with nothing, and with what is to be skipped, whatever it is.
        packet(0x20, 0x00, b""),
        packet(0x20, 0x11, ADDRESSES),
        packet(0x20, 0xff, b"\x03\x00\x04\0\0\0\0"),
        // No family, no transport, datagrams.
        packet(0x21, 0x00, b""),
        packet(0x21, 0x00, b"\xff\xff\xff"),
        packet(0x21, 0x01, b""),
        packet(0x21, 0x10, ADDRESSES),
        packet(0x21, 0x12, ADDRESSES),
        packet(0x21, 0x32, &[0; 216]),
    ] {
        let found = whole(&header);
        assert_eq!((found.origin, found.extras), (Origin::Own, Extras::default()));
    }
}

#[test]
fn extras_are_kept_and_others_passed_over() {
    let tlvs = [
        field(0x04, &[0; 5]),
        field(0x01, b"h2"),
        field(0x02, b"a.example"),
        field(0x20, b"\x01\0\0\0\0"),
        field(0x05, &[0xff; MAX_UNIQUE_ID]),
        field(0x02, b"b.example"),
        field(0xee, b""),
    ];
    let header = whole(&with_tlvs(&tlvs.concat()));
    let Extras { authority, alpn, unique_id } = &header.extras;
    assert_eq!(authority.as_deref(), Some(&b"a.example"[..]));
    assert_eq!(alpn.as_deref(), Some(&b"h2"[..]));
    assert_eq!(unique_id.as_deref(), Some(&[0xff; MAX_UNIQUE_ID][..]));
    let details = header.details().to_json();
    assert_eq!((&details["version"], &details["authority"]), (&2.into(), &"a.example".into()));
    let long = field(0x05, &[0; MAX_UNIQUE_ID + 1]);
    refused(&with_tlvs(&long), Refusal::Malformed("a unique id of more than 128 bytes"));
}

#[test]
fn the_checksum_of_another_implementation_is_right() {
    let header = hex(HAPROXY);
    let found = whole(&header);
    assert_eq!(found.origin, tcp("127.0.0.1:48254", "127.0.0.1:20111"));
    assert_eq!(found.extras.unique_id.as_deref(), Some(&b"uniq-9938-1"[..]));
    // The first byte after the addresses makes the field another one, and what is left unchecked.
    for index in (binary::FIXED..header.len()).filter(|index| *index != 28) {
        let mut wrong = header.clone();
        wrong[index] ^= 1;
        assert!(examine(&wrong).is_err(), "bit 0 of byte {index}");
    }
    let mut wrong = header;
    *wrong.last_mut().unwrap() ^= 0x80;
    refused(&wrong, Refusal::Checksum);
    refused(
        &with_tlvs(&field(0x03, b"\0\0\0")),
        Refusal::Malformed("a CRC32C that is not 4 bytes"),
    );
}

/// HAProxy 2.6's, with `proxy-v2-options crc32c,unique-id`.
const HAPROXY: &str = "\
    0d0a0d0a000d0a515549540a 21 11 0021 7f000001 7f000001 bc7e 4e8f\
    03 0004 9320d5ca 05 000b 756e69712d393933382d31";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn what_is_no_binary_header() {
    refused(b"\r\n\r\n\0\r\nQUIX", Refusal::Missing);
    refused(b"\r\n\r\n\0\r\nQUIT\r", Refusal::Missing);
    refused(&packet(0x11, 0x11, b"")[..13], Refusal::Malformed("an unknown version"));
    refused(&packet(0x31, 0x11, ADDRESSES), Refusal::Malformed("an unknown version"));
    refused(&packet(0x22, 0x11, b"")[..13], Refusal::Malformed("an unknown command"));
    for family in [0x41, 0x13, 0xf0, 0x0f] {
        let wrong = Refusal::Malformed("an unknown address family or transport");
        refused(&packet(0x21, family, ADDRESSES), wrong);
    }
    let cut = Refusal::Malformed("the addresses are cut off");
    refused(&packet(0x21, 0x11, &ADDRESSES[..11]), cut);
    refused(&packet(0x21, 0x21, &[0; 35]), cut);
    refused(&packet(0x21, 0x31, &[0; 215]), cut);
    for tlvs in [&b"\x02"[..], b"\x02\0", b"\x02\0\x01", b"\x04\0\0\x02\x01\0"] {
        refused(&with_tlvs(tlvs), Refusal::Malformed("a TLV is cut off"));
    }
}

#[test]
fn a_header_that_would_be_too_long_is_not_waited_for() {
    let longest = with_tlvs(&field(0x04, &vec![0; MAX_BLOCK - ADDRESSES.len() - 3]));
    assert_eq!(longest.len(), MAX_HEADER);
    assert_eq!(whole(&longest).length, MAX_HEADER);
    refused(&packet(0x21, 0x11, &vec![0; MAX_BLOCK + 1])[..16], Refusal::TooLong);
    refused(&packet(0x20, 0x00, &vec![0; 65_535])[..16], Refusal::TooLong);
}

#[test]
fn headers_are_written_as_they_are_read() {
    let mut unix = UnixPair { source: [0; SUN_PATH], destination: [0; SUN_PATH] };
    unix.destination[..8].copy_from_slice(b"/run/mux");
    let extras = Extras {
        authority: Some(b"a.example".as_slice().into()),
        alpn: Some(b"h2".as_slice().into()),
        unique_id: Some(b"0123456789abcdef".as_slice().into()),
    };
    for origin in [
        tcp("192.0.2.1:1", "192.0.2.2:80"),
        tcp("[2001:db8::1]:65535", "[::1]:0"),
        Origin::Unix(Box::new(unix)),
    ] {
        for extras in [&Extras::default(), &extras] {
            let written = write::header(Version::V2, &origin, extras);
            let header = whole(&written);
            assert_eq!((&header.origin, &header.extras), (&origin, extras));
            // The checksum is there.
            let mut wrong = written.clone();
            *wrong.last_mut().unwrap() ^= 1;
            refused(&wrong, Refusal::Checksum);
        }
    }
}

#[test]
fn connections_of_our_own_say_so() {
    let [local, remote] = ["192.0.2.1:7", "192.0.2.2:80"].map(|text| text.parse().unwrap());
    let line = write::own(Version::V1, local, remote);
    assert_eq!(line, b"PROXY TCP4 192.0.2.1 192.0.2.2 7 80\r\n");
    let binary = write::own(Version::V2, local, remote);
    assert_eq!(binary, [&binary::SIGNATURE[..], &[0x20, 0, 0, 0]].concat());
    assert_eq!(whole(&binary).origin, Origin::Own);
}
