//! The body of a ClientHello (RFC 8446 4.1.2): a view of it that allocates nothing.

use super::TlsVersion;

/// Version, random, and three vectors that are empty.
pub(super) const SHORTEST_BODY: usize = 2 + 32 + 1 + 2 + 1;

/// `server_name` (RFC 6066 3).
const EXT_SERVER_NAME: u16 = 0x0000;
/// `NameType.host_name` (RFC 6066 3).
const NAME_TYPE_HOST: u8 = 0x00;
/// `application_layer_protocol_negotiation` (RFC 7301 3.1).
const EXT_ALPN: u16 = 0x0010;
/// `supported_versions` (RFC 8446 4.2.1).
const EXT_SUPPORTED_VERSIONS: u16 = 0x002b;
/// `encrypted_client_hello` (RFC 9849 5).
const EXT_ECH: u16 = 0xfe0d;

/// What a client offers, checked once to be well-formed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClientHello<'a> {
    legacy_version: u16,
    /// Never empty.
    server_name: Option<&'a [u8]>,
    /// Names, each with a byte of its length before it.
    protocols: Option<&'a [u8]>,
    /// Codes of two bytes each.
    supported_versions: Option<&'a [u8]>,
    ech: Option<Ech>,
}

/// What an Encrypted Client Hello extension says of the hello that it is in (RFC 9849 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ech {
    /// The names are those of the server that can decrypt; the true ones are encrypted.
    /// Browsers also send this with nothing in it (GREASE, RFC 9849 6.2), and nobody on the
    /// way can tell.
    Outer,
    /// This hello was in another one; a server in front has decrypted it.
    Inner,
}

impl Ech {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Outer => "outer",
            Self::Inner => "inner",
        }
    }
}

impl<'a> ClientHello<'a> {
    /// Reads a body. `None`: it is malformed, in a way that every server refuses.
    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut body = Reader(body);
        let mut hello = Self { legacy_version: body.u16()?, ..Self::default() };
        body.take(32)?; // random
        body.vector8()?; // legacy_session_id
        body.vector16()?; // cipher_suites
        body.vector8()?; // legacy_compression_methods
        if body.is_empty() {
            // Before TLS 1.2 there need be no extensions at all (RFC 5246 7.4.1.2).
            return Some(hello);
        }
        let mut extensions = body.vector16()?;
        while !extensions.is_empty() {
            let kind = extensions.u16()?;
            hello.take_extension(kind, extensions.vector16()?)?;
        }
        body.is_empty().then_some(hello)
    }

    fn take_extension(&mut self, kind: u16, data: Reader<'a>) -> Option<()> {
        match kind {
            EXT_SERVER_NAME => put(&mut self.server_name, server_name(data)?),
            EXT_ALPN => put(&mut self.protocols, protocols(data)?),
            EXT_SUPPORTED_VERSIONS => put(&mut self.supported_versions, versions(data)?),
            EXT_ECH => {
                self.ech = match data.0.first() {
                    Some(0) => Some(Ech::Outer),
                    Some(1) => Some(Ech::Inner),
                    Some(_) | None => None,
                };
                Some(())
            }
            // GREASE (RFC 8701) and everything that no rule asks about.
            _ => Some(()),
        }
    }

    /// The host name asked for, without the dot that may end it.
    pub(crate) fn server_name(&self) -> Option<&'a [u8]> {
        self.server_name.map(|name| name.strip_suffix(b".").unwrap_or(name))
    }

    /// The host name exactly as it was sent.
    pub(super) const fn raw_server_name(&self) -> Option<&'a [u8]> {
        self.server_name
    }

    /// The application protocols offered (RFC 7301), in the client's order, GREASE and all.
    pub(crate) fn protocols(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut list = Reader(self.protocols.unwrap_or_default());
        std::iter::from_fn(move || list.vector8().map(|name| name.0))
    }

    /// The versions offered that exist. Where the client has no `supported_versions`, that
    /// is the highest one it speaks, which the older way of negotiation offers alone; 1.3
    /// cannot be had in that way (RFC 8446 4.2.1).
    pub(crate) fn versions(&self) -> impl Iterator<Item = TlsVersion> {
        let legacy = match self.supported_versions {
            Some(_) => None,
            None => TlsVersion::from_code(self.legacy_version).map(|it| it.min(TlsVersion::Tls12)),
        };
        let mut codes = Reader(self.supported_versions.unwrap_or_default());
        let listed = std::iter::from_fn(move || codes.u16()).filter_map(TlsVersion::from_code);
        legacy.into_iter().chain(listed)
    }

    /// What it says of Encrypted Client Hello.
    pub(super) const fn ech(&self) -> Option<Ech> {
        self.ech
    }
}

/// Sets what must not be there twice (RFC 8446 4.2): were the first of two believed here
/// and the last by the server, a client could name one host to each.
fn put<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// `ServerNameList` (RFC 6066 3): its one host name. Names of other types, of which there are
/// none yet, are passed over.
fn server_name(mut data: Reader<'_>) -> Option<&[u8]> {
    let mut list = data.vector16()?;
    let mut host = None;
    while !list.is_empty() {
        let kind = list.u8()?;
        let name = list.vector16()?.0;
        if kind == NAME_TYPE_HOST {
            put(&mut host, name)?;
        }
    }
    host.filter(|name| !name.is_empty() && data.is_empty())
}

/// `ProtocolNameList` (RFC 7301 3.1): names, none of them empty.
fn protocols(mut data: Reader<'_>) -> Option<&[u8]> {
    let list = data.vector16()?;
    let mut names = list;
    while !names.is_empty() {
        names.vector8().filter(|name| !name.is_empty())?;
    }
    data.is_empty().then_some(list.0)
}

/// `SupportedVersions` of a client (RFC 8446 4.2.1): codes.
fn versions(mut data: Reader<'_>) -> Option<&[u8]> {
    let list = data.vector8()?;
    (data.is_empty() && list.0.len() % 2 == 0).then_some(list.0)
}

/// Whether an ALPN name is one of the reserved 0x0a0a, 0x1a1a, …, 0xfafa (RFC 8701 2).
pub(super) fn is_grease(name: &[u8]) -> bool {
    matches!(name, [a, b] if a == b && a & 0x0f == 0x0a)
}

/// Reads big-endian numbers and length-prefixed vectors off the front (RFC 8446 3).
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        let (&value, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(value)
    }

    fn u16(&mut self) -> Option<u16> {
        let (&value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(value))
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length.into()).map(Reader)
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into()).map(Reader)
    }
}
