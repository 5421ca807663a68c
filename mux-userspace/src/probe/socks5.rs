//! SOCKS5: the client's greeting (RFC 1928 3).

use super::{
    Details, Protocol, Value,
    verdict::{Verdict, starts_with},
};

/// VER (RFC 1928 3).
const VERSION: u8 = 0x05;
/// VER and NMETHODS.
const HEADER: usize = 2;

/// Matches once all the methods are there. Zero methods are refused: RFC 1928 3 gives the
/// field 1 to 255 bytes, and two bytes are little to be sure of.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "socks5", shortest: HEADER + 1, members: &[], examine, details };

fn examine(bytes: &[u8]) -> Verdict<()> {
    greeting(bytes).map(|_| ())
}

/// METHODS: 0x00 none, 0x01 GSSAPI, 0x02 user name and password (RFC 1928 3).
fn details(bytes: &[u8]) -> Details {
    match greeting(bytes) {
        Verdict::Match(methods) => Details::new().with("methods", Value::Codes(methods.into())),
        Verdict::NoMatch | Verdict::NeedMore(_) => Details::new(),
    }
}

/// METHODS.
fn greeting(bytes: &[u8]) -> Verdict<&[u8]> {
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
    bytes.get(HEADER..end).map_or(Verdict::NeedMore(end), Verdict::Match)
}
