//! HTTP/2 with prior knowledge: the connection preface (RFC 9113 3.4).

use std::fmt;

use serde::Serialize;

use super::verdict::{Verdict, starts_with};

/// The client's connection preface (RFC 9113 3.4), before its SETTINGS frame.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The preface is a constant: there is nothing to tell of it but the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Preface {
    /// `2`.
    pub version: u8,
}

impl fmt::Display for Preface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version } = self;
        write!(f, "version={version}")
    }
}

/// Matches the 24 bytes of the preface.
pub(super) fn examine(bytes: &[u8]) -> Verdict<Preface> {
    starts_with(bytes, PREFACE).map(|()| Preface { version: 2 })
}
