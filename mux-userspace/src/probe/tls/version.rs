//! The versions of TLS.

/// A protocol version, in order of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// 0x0300 (RFC 6101).
    Ssl3,
    /// 0x0301 (RFC 2246).
    Tls10,
    /// 0x0302 (RFC 4346).
    Tls11,
    /// 0x0303 (RFC 5246).
    Tls12,
    /// 0x0304 (RFC 8446).
    Tls13,
}

impl TlsVersion {
    /// All there are, the oldest first.
    pub const ALL: [Self; 5] = [Self::Ssl3, Self::Tls10, Self::Tls11, Self::Tls12, Self::Tls13];

    /// Its name in rules files and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ssl3 => "ssl3",
            Self::Tls10 => "1.0",
            Self::Tls11 => "1.1",
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }

    /// The version of this code; `None` for GREASE (RFC 8701), drafts and the unknown.
    pub(in crate::probe) const fn from_code(code: u16) -> Option<Self> {
        match code {
            0x0300 => Some(Self::Ssl3),
            0x0301 => Some(Self::Tls10),
            0x0302 => Some(Self::Tls11),
            0x0303 => Some(Self::Tls12),
            0x0304 => Some(Self::Tls13),
            _ => None,
        }
    }
}
