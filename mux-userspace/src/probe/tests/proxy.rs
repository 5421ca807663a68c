//! PROXY headers, against `ppp`.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::see;
use crate::probe::{Details, Value, Verdict};

/// What `ppp` reads of a whole header: its version, and the source of TCP.
fn oracle(bytes: &[u8]) -> Option<(u8, Option<SocketAddr>)> {
    if let Ok(header) = ppp::v1::Header::try_from(bytes) {
        let source = match header.addresses {
            ppp::v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
            ppp::v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
            ppp::v1::Addresses::Unknown => None,
        };
        return Some((1, source));
    }
    let header = ppp::v2::Header::try_from(bytes).ok()?;
    let told =
        header.command == ppp::v2::Command::Proxy && header.protocol == ppp::v2::Protocol::Stream;
    let source = match header.addresses {
        ppp::v2::Addresses::IPv4(ip) if told => Some((ip.source_address, ip.source_port).into()),
        ppp::v2::Addresses::IPv6(ip) if told => Some((ip.source_address, ip.source_port).into()),
        _ => None,
    };
    Some((2, source))
}

/// What the probe should tell of that.
fn told((version, source): (u8, Option<SocketAddr>)) -> Details {
    Details::new()
        .with("version", version)
        .with_some("source", source.map(|source| Value::from(source.to_string())))
}

/// Addresses as text, many of them wrong.
fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<IpAddr>().prop_map(|address| address.to_string()),
        "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}",
        "[0-9a-fA-F:.]{1,12}",
    ]
}

fn v1() -> impl Strategy<Value = Vec<u8>> {
    let family = prop::sample::select(vec!["TCP4", "TCP6", "TCP4", "TCP6", "UNKNOWN", "TCP5"]);
    let port = prop_oneof!["0|[1-9][0-9]{0,4}", "[0-9]{1,6}"];
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n", "x\r\n", "\r\r\n"]);
    (family, address(), address(), port.clone(), port, end).prop_map(|(family, a, b, c, d, end)| {
        format!("PROXY {family} {a} {b} {c} {d}{end}").into_bytes()
    })
}

/// Version 2 of the families and commands that exist, with TLVs, and now and then too short.
fn v2() -> impl Strategy<Value = Vec<u8>> {
    let command = prop::sample::select(vec![0x20_u8, 0x21, 0x21, 0x21, 0x22, 0x11]);
    let families = vec![
        (0x00_u8, 0_usize),
        (0x11, 12),
        (0x12, 12),
        (0x21, 36),
        (0x22, 36),
        (0x31, 216),
        (0x32, 216),
        (0x41, 12),
    ];
    let block = proptest::collection::vec(any::<u8>(), 216);
    let tlv = proptest::collection::vec(any::<u8>(), 0..20);
    let cut = prop::sample::select(vec![0_usize, 0, 0, 1]);
    (command, prop::sample::select(families), block, tlv, cut).prop_map(
        |(command, (family, size), block, value, cut)| {
            // ppp wants the addresses of LOCAL too, which 2.2 says to discard.
            let cut = if command == 0x20 { 0 } else { cut };
            let mut block = block[..size.saturating_sub(cut)].to_vec();
            if cut == 0 {
                // PP2_TYPE_NOOP (2.2.4).
                block.extend([0x04, 0x00, value.len() as u8]);
                block.extend(value);
            }
            let length = (block.len() as u16).to_be_bytes();
            let start = b"\r\n\r\n\0\r\nQUIT\n";
            [&start[..], &[command, family], &length, &block].concat()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Both take the same lines, and read the same addresses.
    #[test]
    fn version_1_agrees_with_ppp(bytes in v1()) {
        match see("proxy", &bytes) {
            Verdict::Match(details) => prop_assert_eq!(Some(details), oracle(&bytes).map(told)),
            Verdict::NoMatch => prop_assert_eq!(oracle(&bytes), None),
            Verdict::NeedMore(_) => prop_assert!(false, "a whole line"),
        }
    }

    /// The same of version 2, and with more after the header.
    #[test]
    fn version_2_agrees_with_ppp(bytes in v2(), more in any::<Vec<u8>>()) {
        let all = [&bytes[..], &more].concat();
        match see("proxy", &all) {
            Verdict::Match(details) => prop_assert_eq!(Some(details), oracle(&all).map(told)),
            Verdict::NoMatch => prop_assert_eq!(oracle(&all), None),
            Verdict::NeedMore(_) => prop_assert!(false, "a whole header"),
        }
    }
}
