//! The PROXY protocol's header, version 1 or 2: a proxy that tells whose connection it
//! passes on (HAProxy's doc/proxy-protocol.txt).
//!
//! As a probe it recognises the header and believes nothing of it; the header stays in
//! front of the bytes that are passed on.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// Version 1 (section 2.1).
const V1: &[u8] = b"PROXY ";
/// Its transports.
const V1_FAMILIES: &[&[u8]] = &[TCP4, TCP6, UNKNOWN];
const TCP4: &[u8] = b"TCP4";
const TCP6: &[u8] = b"TCP6";
const UNKNOWN: &[u8] = b"UNKNOWN";
/// Its longest line, with CR LF.
const V1_MAX: usize = 107;
/// Longest addresses as text; an IPv6 address may end in an IPv4 one (RFC 4291 2.2).
const IPV4_TEXT: usize = 15;
const IPV6_TEXT: usize = 45;
/// Most digits of a port.
const PORT_DIGITS: usize = 5;
/// `PROXY UNKNOWN` and CR LF.
const V1_SHORTEST: usize = 15;

/// Version 2 (section 2.2).
const V2: &[u8] = &[0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
/// Version and command: the proxy's own connection, a health check for instance, or a
/// client's.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// Address families and transports, and how many bytes their addresses and ports have.
const V2_FAMILIES: &[(u8, u16)] = &[
    (0x00, 0), // unspecified
    (TCP_V4, 12),
    (0x12, 12), // UDP over IPv4
    (TCP_V6, 36),
    (0x22, 36),  // UDP over IPv6
    (0x31, 216), // Unix stream
    (0x32, 216), // Unix datagram
];
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;

/// Matches once the line of version 1, or the addresses of version 2, are complete. TLVs
/// after them are not waited for.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "proxy", shortest: V1_SHORTEST, members: &[], examine, details };

/// A header.
struct Header {
    version: u8,
    /// Of TCP over IPv4 and IPv6.
    source: Option<SocketAddr>,
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    header(bytes).map(|_| ())
}

/// `version` and, where the header has one, `source`: the client's address and port.
fn details(bytes: &[u8]) -> Details {
    let Verdict::Match(Header { version, source }) = header(bytes) else {
        return Details::new();
    };
    Details::new()
        .with("version", version)
        .with_some("source", source.map(|source| source.to_string()))
}

fn header(bytes: &[u8]) -> Verdict<Header> {
    Verdict::from(v1(bytes)).or_else(|| v2(bytes).into())
}

/// `PROXY TCP4 source destination source-port destination-port CR LF`, or `PROXY UNKNOWN` and
/// anything.
fn v1(bytes: &[u8]) -> Result<Header, Stop> {
    let mut scan = Scan::new(bytes);
    scan.limit(V1_MAX);
    scan.literal(V1)?;
    let source = match scan.one_of(V1_FAMILIES)? {
        TCP4 => Some(v1_addresses(&mut scan, |scan| v1_address::<Ipv4Addr>(scan, IPV4_TEXT))?),
        TCP6 => Some(v1_addresses(&mut scan, |scan| v1_address::<Ipv6Addr>(scan, IPV6_TEXT))?),
        _ => {
            if scan.peek()? == b' ' {
                scan.run(V1_MAX, |byte| byte == b' ' || byte.is_ascii_graphic())?;
            }
            None
        }
    };
    scan.literal(b"\r\n")?;
    Ok(Header { version: 1, source })
}

/// Two addresses and two ports, with a space before each; gives the source's.
fn v1_addresses(
    scan: &mut Scan<'_>,
    address: impl Fn(&mut Scan<'_>) -> Result<IpAddr, Stop>,
) -> Result<SocketAddr, Stop> {
    let source = address(scan)?;
    address(scan)?;
    let port = v1_port(scan)?;
    v1_port(scan)?;
    Ok(SocketAddr::new(source, port))
}

/// A space, and an address as text.
fn v1_address<A: FromStr + Into<IpAddr>>(scan: &mut Scan<'_>, max: usize) -> Result<IpAddr, Stop> {
    scan.literal(b" ")?;
    let text = scan.word(max, |byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':'))?;
    let address = str::from_utf8(text).ok().and_then(|text| text.parse::<A>().ok());
    address.map(Into::into).ok_or(Stop::Contradiction)
}

/// A space, and a port.
fn v1_port(scan: &mut Scan<'_>) -> Result<u16, Stop> {
    scan.literal(b" ")?;
    scan.decimal(PORT_DIGITS)?.try_into().map_err(|_| Stop::Contradiction)
}

fn v2(bytes: &[u8]) -> Result<Header, Stop> {
    let mut scan = Scan::new(bytes);
    scan.literal(V2)?;
    let command = scan.one(|byte| matches!(byte, LOCAL | PROXY))?;
    let family = scan.one(|byte| V2_FAMILIES.iter().any(|(family, _)| *family == byte))?;
    let addresses = V2_FAMILIES.iter().find(|(known, _)| *known == family);
    let addresses = addresses.map_or(0, |(_, size)| *size);
    let length = scan.u16()?;
    if command == LOCAL {
        // Whatever addresses it has are to be ignored.
        return Ok(Header { version: 2, source: None });
    }
    if length < addresses {
        return Err(Stop::Contradiction);
    }
    let addresses = scan.take(addresses.into())?;
    let source = match family {
        TCP_V4 => v2_source::<4>(addresses),
        TCP_V6 => v2_source::<16>(addresses),
        _ => None,
    };
    Ok(Header { version: 2, source })
}

/// The first of source address, destination address, source port, destination port.
fn v2_source<const SIZE: usize>(addresses: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; SIZE]>,
{
    let (source, rest) = addresses.split_first_chunk::<SIZE>()?;
    let (_destination, ports) = rest.split_first_chunk::<SIZE>()?;
    let port = ports.first_chunk()?;
    Some(SocketAddr::new((*source).into(), u16::from_be_bytes(*port)))
}
