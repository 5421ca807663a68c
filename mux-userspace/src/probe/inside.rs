//! The parsers inside the probes, each by itself: what the fuzz targets call. No part of the
//! interface, and without promises.

use super::{
    http1::{End, Fields},
    http2::hpack,
    tls::{ClientHello, TlsVersion},
};

/// Names and values.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a ClientHello says.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// The host name, without a dot at its end.
    pub name: Option<Vec<u8>>,
    /// The application protocols.
    pub protocols: Vec<Vec<u8>>,
    /// The versions that exist.
    pub versions: Vec<TlsVersion>,
}

/// Reads a ClientHello's body.
#[must_use]
pub fn hello(body: &[u8]) -> Option<Hello> {
    let hello = ClientHello::parse(body)?;
    Some(Hello {
        name: hello.server_name().map(<[u8]>::to_vec),
        protocols: hello.protocols().map(<[u8]>::to_vec).collect(),
        versions: hello.versions().collect(),
    })
}

/// Reads HTTP/1 field lines; with them, whether the empty line came after them (`None`: neither
/// that nor a malformed one).
#[must_use]
pub fn field_lines(bytes: &[u8]) -> (Pairs, Option<bool>) {
    let mut fields = Fields::new(bytes);
    let pairs = fields.by_ref().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let end = match fields.end() {
        End::Open => None,
        End::Complete => Some(true),
        End::Malformed => Some(false),
    };
    (pairs, end)
}

/// Decodes a connection's first HPACK field block.
#[must_use]
pub fn field_block(block: &[u8]) -> Option<Pairs> {
    let fields = hpack::decode(block)?;
    Some(fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect())
}
