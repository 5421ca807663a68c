//! PROXY headers as tests send and receive them, by another implementation than the daemon's.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use ppp::{v1, v2};

use crate::Conn;

/// TLVs that mux sends and takes (proxy-protocol.txt, 2.2).
pub mod tlv {
    /// `PP2_TYPE_ALPN`.
    pub const ALPN: u8 = 0x01;
    /// `PP2_TYPE_AUTHORITY`.
    pub const AUTHORITY: u8 = 0x02;
    /// `PP2_TYPE_CRC32C`.
    pub const CRC32C: u8 = 0x03;
    /// `PP2_TYPE_UNIQUE_ID`.
    pub const UNIQUE_ID: u8 = 0x05;
}

/// A header that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// From whom to where; `None`: it does not say (UNKNOWN, LOCAL), or Unix sockets.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// Of version 2: from which Unix socket to which.
    pub unix: Option<(String, String)>,
    /// Of version 2.
    pub tlvs: BTreeMap<u8, Vec<u8>>,
}

/// A line of version 1.
#[must_use]
pub fn line(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    v1::Addresses::from((source, destination)).to_string().into_bytes()
}

/// A header of version 2 for a client.
///
/// # Errors
/// The TLVs are too long.
pub fn binary(
    source: SocketAddr,
    destination: SocketAddr,
    tlvs: &[(u8, &[u8])],
) -> Result<Vec<u8>> {
    let command = v2::Version::Two | v2::Command::Proxy;
    let addresses = (source, destination);
    let mut builder = v2::Builder::with_addresses(command, v2::Protocol::Stream, addresses);
    for (kind, value) in tlvs {
        builder = builder.write_tlv(*kind, value)?;
    }
    Ok(builder.build()?)
}

/// A header of version 2 for a connection of the proxy's own.
///
/// # Errors
/// None so far.
pub fn local() -> Result<Vec<u8>> {
    let command = v2::Version::Two | v2::Command::Local;
    Ok(v2::Builder::new(command, v2::AddressFamily::Unspecified | v2::Protocol::Unspecified)
        .build()?)
}

impl ProxyHeader {
    /// Receives a header, of either version, and not a byte more.
    ///
    /// # Errors
    /// Something else comes, or nothing.
    pub fn receive(conn: &Conn) -> Result<Self> {
        let mut bytes = conn.bytes(8)?;
        if bytes.starts_with(b"PROXY ") {
            while !bytes.ends_with(b"\r\n") {
                ensure!(bytes.len() < 107, "too long: {}", bytes.escape_ascii());
                bytes.extend(conn.bytes(1)?);
            }
            return Self::from_line(&bytes);
        }
        bytes.extend(conn.bytes(8)?);
        let length = u16::from_be_bytes([bytes[14], bytes[15]]);
        bytes.extend(conn.bytes(length.into())?);
        Self::from_binary(&bytes)
    }

    fn from_line(bytes: &[u8]) -> Result<Self> {
        let header = v1::Header::try_from(bytes).context("not a line of version 1")?;
        let ends = match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(of) => Some((
                SocketAddr::from((of.source_address, of.source_port)),
                SocketAddr::from((of.destination_address, of.destination_port)),
            )),
            v1::Addresses::Tcp6(of) => Some((
                SocketAddr::from((of.source_address, of.source_port)),
                SocketAddr::from((of.destination_address, of.destination_port)),
            )),
        };
        Ok(Self { ends, unix: None, tlvs: BTreeMap::new() })
    }

    fn from_binary(bytes: &[u8]) -> Result<Self> {
        let header = v2::Header::try_from(bytes).context("not a header of version 2")?;
        let mut tlvs = BTreeMap::new();
        for tlv in header.tlvs() {
            let tlv = tlv.context("a TLV")?;
            if tlvs.insert(tlv.kind, tlv.value.into_owned()).is_some() {
                bail!("TLV {} twice", tlv.kind);
            }
        }
        let (mut ends, mut unix) = (None, None);
        match header.addresses {
            v2::Addresses::Unspecified => {}
            v2::Addresses::IPv4(of) => {
                ends = Some((
                    SocketAddr::from((of.source_address, of.source_port)),
                    SocketAddr::from((of.destination_address, of.destination_port)),
                ));
            }
            v2::Addresses::IPv6(of) => {
                ends = Some((
                    SocketAddr::from((of.source_address, of.source_port)),
                    SocketAddr::from((of.destination_address, of.destination_port)),
                ));
            }
            v2::Addresses::Unix(of) => {
                let text = |path: &[u8]| {
                    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
                    String::from_utf8_lossy(path).into_owned()
                };
                unix = Some((text(&of.source), text(&of.destination)));
            }
        }
        Ok(Self { ends, unix, tlvs })
    }
}
