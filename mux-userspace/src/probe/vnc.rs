//! VNC: the client's ProtocolVersion message (RFC 6143 7.1.1).
//!
//! The server sends its own first, so that behind a port that says nothing only a client
//! that does not wait is ever seen.

use std::ops::RangeInclusive;

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// What comes before the last digit of the major version.
const RFB: &[u8] = b"RFB 00";
/// RFC 6143 knows 3.3, 3.7 and 3.8; Apple's is 3.889, RealVNC's are 4.1 and 5.0.
const MAJOR: RangeInclusive<u8> = b'3'..=b'5';

/// Matches the whole message, `RFB 003.008` and LF.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "vnc", shortest: 12, members: &[], examine, details };

fn examine(bytes: &[u8]) -> Verdict<()> {
    version(bytes).map(|_| ()).into()
}

/// `version`, without the zeros before its numbers.
fn details(bytes: &[u8]) -> Details {
    let version = version(bytes).ok().map(|(major, minor)| format!("{major}.{minor}"));
    Details::new().with_some("version", version)
}

fn version(bytes: &[u8]) -> Result<(u8, u16), Stop> {
    let mut scan = Scan::new(bytes);
    scan.literal(RFB)?;
    let major = scan.one(|byte| MAJOR.contains(&byte))? - b'0';
    scan.literal(b".")?;
    let minor = scan.each(3, |byte| byte.is_ascii_digit())?;
    scan.literal(b"\n")?;
    Ok((major, minor.iter().fold(0, |number, &digit| number * 10 + u16::from(digit - b'0'))))
}
