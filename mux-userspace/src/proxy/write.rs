//! From an [`Origin`] to bytes.

use std::net::{IpAddr, SocketAddr};

use super::{
    Extras, Origin, Version,
    binary::{FIXED, LOCAL, PROXY, SIGNATURE, TCP4, TCP6, UNIX_STREAM, VERSION},
    tlv,
};

/// The header of a flow: version 1 says UNKNOWN of what is not TCP, version 2 has the extras and
/// a checksum.
#[must_use]
pub fn header(version: Version, origin: &Origin, extras: &Extras) -> Vec<u8> {
    match version {
        Version::V1 => v1(origin),
        Version::V2 => v2(origin, extras),
    }
}

/// The header of a connection of mux's own, such as a health check, from `local` to `remote`.
///
/// Version 2 says LOCAL. Version 1 has no such word, and its UNKNOWN is refused by some receivers,
/// so that it says what is true (2.1).
#[must_use]
pub fn own(version: Version, local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    match version {
        Version::V1 => v1(&Origin::tcp(local, remote)),
        Version::V2 => v2(&Origin::Own, &Extras::default()),
    }
}

fn v1(origin: &Origin) -> Vec<u8> {
    let Origin::Tcp { source, destination } = origin else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source_ip, destination_ip) = (source.ip(), destination.ip());
    let (source_port, destination_port) = (source.port(), destination.port());
    format!("PROXY {family} {source_ip} {destination_ip} {source_port} {destination_port}\r\n")
        .into_bytes()
}

fn v2(origin: &Origin, extras: &Extras) -> Vec<u8> {
    let (command, family) = match origin {
        Origin::Own => (LOCAL, 0),
        Origin::Tcp { source, .. } if source.is_ipv4() => (PROXY, TCP4),
        Origin::Tcp { .. } => (PROXY, TCP6),
        Origin::Unix(_) => (PROXY, UNIX_STREAM),
    };
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[VERSION | command, family, 0, 0]);
    let mut checksum = None;
    match origin {
        // It should have no block.
        Origin::Own => {}
        Origin::Tcp { source, destination } => {
            for address in [source, destination] {
                match address.ip() {
                    IpAddr::V4(ip) => header.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => header.extend_from_slice(&ip.octets()),
                }
            }
            header.extend_from_slice(&source.port().to_be_bytes());
            header.extend_from_slice(&destination.port().to_be_bytes());
        }
        Origin::Unix(pair) => {
            header.extend_from_slice(&pair.source);
            header.extend_from_slice(&pair.destination);
        }
    }
    if *origin != Origin::Own {
        tlv::write(&mut header, extras);
        checksum = Some(tlv::reserve_checksum(&mut header));
    }
    // Three extras of at most `MAX_BLOCK` each: it fits.
    let length = u16::try_from(header.len() - FIXED).unwrap_or(u16::MAX);
    if let Some(place) = header.get_mut(FIXED - 2..FIXED) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    if let Some(at) = checksum {
        tlv::seal(&mut header, at);
    }
    header
}
