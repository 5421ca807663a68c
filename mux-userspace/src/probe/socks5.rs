//! SOCKS5: the client's greeting (RFC 1928 3).

use std::fmt;

use serde::Serialize;

use super::verdict::{Verdict, starts_with};

/// VER (RFC 1928 3).
const VERSION: u8 = 0x05;
/// VER and NMETHODS.
const HEADER: usize = 2;
/// VER, NMETHODS and one method.
pub(super) const SHORTEST: usize = HEADER + 1;

/// A greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Greeting {
    /// METHODS: 0x00 none, 0x01 GSSAPI, 0x02 user name and password (RFC 1928 3).
    pub methods: Vec<u8>,
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { methods } = self;
        f.write_str("methods=")?;
        for (index, method) in methods.iter().enumerate() {
            write!(f, "{}0x{method:02x}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Matches once all the methods are there. Zero methods are refused: RFC 1928 3 gives the
/// field 1 to 255 bytes, and two bytes are little to be sure of.
pub(super) fn examine(bytes: &[u8]) -> Verdict<Greeting> {
    match starts_with(bytes, &[VERSION]) {
        Verdict::Match(()) => {}
        Verdict::NoMatch => return Verdict::NoMatch,
        Verdict::NeedMore(total) => return Verdict::NeedMore(total),
    }
    let Some(&count) = bytes.get(1) else { return Verdict::NeedMore(HEADER) };
    if count == 0 {
        return Verdict::NoMatch;
    }
    let end = HEADER + usize::from(count);
    match bytes.get(HEADER..end) {
        Some(methods) => Verdict::Match(Greeting { methods: methods.into() }),
        None => Verdict::NeedMore(end),
    }
}
