//! Against `ppp`, another implementation: on what both call a header they agree.

use std::net::{IpAddr, SocketAddr};

use ppp::{HeaderResult, PartialResult as _, v1, v2};
use proptest::prelude::*;

use super::{super::binary::SIGNATURE, *};

/// Between whom, as `ppp` has it.
fn theirs(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Origin {
    Origin::tcp(source.into(), destination.into())
}

fn theirs_v1(addresses: &v1::Addresses) -> Origin {
    match addresses {
        v1::Addresses::Unknown => Origin::Own,
        v1::Addresses::Tcp4(of) => theirs(
            (of.source_address.into(), of.source_port),
            (of.destination_address.into(), of.destination_port),
        ),
        v1::Addresses::Tcp6(of) => theirs(
            (of.source_address.into(), of.source_port),
            (of.destination_address.into(), of.destination_port),
        ),
    }
}

fn theirs_v2(header: &v2::Header<'_>) -> Origin {
    if header.command == v2::Command::Local || header.protocol != v2::Protocol::Stream {
        return Origin::Own;
    }
    match &header.addresses {
        v2::Addresses::Unspecified => Origin::Own,
        v2::Addresses::IPv4(of) => theirs(
            (of.source_address.into(), of.source_port),
            (of.destination_address.into(), of.destination_port),
        ),
        v2::Addresses::IPv6(of) => theirs(
            (of.source_address.into(), of.source_port),
            (of.destination_address.into(), of.destination_port),
        ),
        v2::Addresses::Unix(of) => {
            Origin::Unix(Box::new(UnixPair { source: of.source, destination: of.destination }))
        }
    }
}

/// The same bytes, and what a header that begins with them needs at least.
fn finished(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Ok(Examined::NeedMore(total)) = examine(&bytes) {
        match bytes.first() {
            Some(b'P') if bytes.last() == Some(&b'\r') => bytes.push(b'\n'),
            Some(b'P') if bytes.len() > 12 => bytes.push(b'\r'),
            Some(b'P') => bytes.push(b' '),
            _ => bytes.resize(total, 0),
        }
    }
    bytes
}

/// Compares what both say of the same bytes.
fn compare(bytes: &[u8]) -> Result<(), TestCaseError> {
    match (examine(bytes), HeaderResult::parse(bytes)) {
        (Ok(Examined::Complete(header)), HeaderResult::V1(Ok(theirs))) => {
            prop_assert_eq!(header.origin, theirs_v1(&theirs.addresses));
            prop_assert_eq!(header.length, theirs.header.len());
        }
        (Ok(Examined::Complete(header)), HeaderResult::V2(Ok(theirs))) => {
            prop_assert_eq!(&header.origin, &theirs_v2(&theirs));
            prop_assert_eq!(header.length, theirs.len());
            if header.origin != Origin::Own {
                let first = |kind: v2::Type| {
                    let of = |tlv: &v2::TypeLengthValue<'_>| tlv.kind == kind as u8;
                    let tlvs = theirs.tlvs().map(|tlv| tlv.expect("readable TLVs"));
                    tlvs.into_iter().find(of).map(|tlv| tlv.value.into_owned().into_boxed_slice())
                };
                prop_assert_eq!(header.extras.authority, first(v2::Type::Authority));
                prop_assert_eq!(header.extras.alpn, first(v2::Type::ALPN));
            }
        }
        // We are stricter: TLVs that cannot be read, checksums, length, what LOCAL says. But not
        // than the specification, which the other tests hold us to.
        (Err(_), _) => {}
        (Ok(Examined::NeedMore(_)), theirs) => {
            // What `ppp` refuses, we at least refuse in the end.
            if theirs.is_complete() {
                let end = examine(&finished(bytes));
                let is_own =
                    |end| matches!(end, Examined::Complete(end) if end.origin == Origin::Own);
                prop_assert!(end.is_err() || end.is_ok_and(is_own), "{theirs:?}");
            }
        }
        (Ok(Examined::Complete(header)), theirs) => {
            // `ppp` refuses a LOCAL whose block is none, and reads an UNKNOWN line at its first
            // CR; both are to be ignored (2.1, 2.2).
            prop_assert_eq!(&header.origin, &Origin::Own, "{:?}", theirs);
        }
    }
    Ok(())
}

/// TCP between two addresses of one family.
fn origins() -> impl Strategy<Value = Origin> {
    let v4 =
        any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(source, sport, destination, dport)| {
            theirs((source.into(), sport), (destination.into(), dport))
        });
    let v6 =
        any::<([u8; 16], u16, [u8; 16], u16)>().prop_map(|(source, sport, destination, dport)| {
            theirs((source.into(), sport), (destination.into(), dport))
        });
    prop_oneof![v4, v6]
}

fn extras() -> impl Strategy<Value = Extras> {
    let value = |most| proptest::option::of(proptest::collection::vec(any::<u8>(), 0..most));
    (value(300), value(20), value(129)).prop_map(|(authority, alpn, unique_id)| Extras {
        authority: authority.map(Into::into),
        alpn: alpn.map(Into::into),
        unique_id: unique_id.map(Into::into),
    })
}

proptest! {
    #[test]
    fn what_we_write_both_read(origin in origins(), extras in extras()) {
        let line = write::header(Version::V1, &origin, &Extras::default());
        prop_assert!(HeaderResult::parse(&line).is_complete());
        prop_assert_eq!(&whole(&line).origin, &origin);
        compare(&line)?;
        let binary = write::header(Version::V2, &origin, &extras);
        let header = whole(&binary);
        prop_assert_eq!((&header.origin, &header.extras), (&origin, &extras));
        compare(&binary)?;
    }

    #[test]
    fn what_they_write_we_read(
        source in any::<([u8; 4], u16)>(),
        destination in any::<([u8; 4], u16)>(),
        name in "[a-z.]{1,40}",
    ) {
        let [source, destination] =
            [source, destination].map(|(ip, port)| SocketAddr::new(ip.into(), port));
        let header = v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            (source, destination),
        )
        .write_tlv(v2::Type::Authority, name.as_bytes())
        .and_then(v2::Builder::build)
        .expect("a header");
        let found = whole(&header);
        prop_assert_eq!(found.origin, Origin::tcp(source, destination));
        prop_assert_eq!(found.extras.authority.as_deref(), Some(name.as_bytes()));
    }

    #[test]
    fn binary_headers_of_all_kinds(
        command in prop_oneof![Just(0x20_u8), Just(0x21), any::<u8>()],
        family in prop_oneof![Just(0x11_u8), Just(0x21), Just(0x31), any::<u8>()],
        block in proptest::collection::vec(any::<u8>(), 0..300),
        lacking in 0_usize..3,
    ) {
        let length = (block.len() + lacking) as u16;
        let bytes = [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), &block].concat();
        compare(&bytes)?;
    }

    #[test]
    fn lines_of_all_kinds(line in "PROXY (TCP4|TCP6|UNKNOWN|TCP)( [0-9a-f:.]{0,12}){0,5}\r?\n?") {
        compare(line.as_bytes())?;
    }

    #[test]
    fn any_bytes_at_all(
        start in prop_oneof![Just(&b"PROXY "[..]), Just(&SIGNATURE[..]), Just(&b""[..])],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, &rest].concat();
        // Once it is decided it stays so.
        let mut decided = None;
        for length in 0..=bytes.len() {
            match (parse(&bytes[..length]), &decided) {
                (Verdict::NeedMore(total), None) => prop_assert!(total > length),
                (verdict, None) => decided = Some(verdict),
                (verdict, Some(before)) => prop_assert_eq!(&verdict, before),
            }
        }
    }
}
