//! SSH: the client's identification string (RFC 4253 4.2).

use super::{
    Details, Protocol,
    verdict::{Verdict, starts_with},
};

/// Versions that exist: 2.0, and 1.x of before the RFC (1.99 is "2.0, and 1.x too", RFC 4253 5.1).
const V2: &[u8] = b"SSH-2.0-";
const V1: &[u8] = b"SSH-1.";

/// The identification string has at most 255 bytes with its CR LF (RFC 4253 4.2).
const MAX_LINE: usize = 255;

/// Sure of itself at `SSH-2.0-` or `SSH-1.`.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "ssh", shortest: V1.len(), members: &[], examine, details };

/// Matches at `SSH-2.0-` or `SSH-1.`; the rest of the line only adds details.
///
/// The lines of text that RFC 4253 4.2 allows before the identification are the server's
/// privilege, so a client's first byte is `S`.
fn examine(bytes: &[u8]) -> Verdict<()> {
    starts_with(bytes, V2).or_else(|| starts_with(bytes, V1))
}

/// `version` (protoversion) and `software` (softwareversion, without the comments after it)
/// of `SSH-protoversion-softwareversion SP comments CR LF`, where the whole line is there.
fn details(bytes: &[u8]) -> Details {
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
        return Details::new();
    };
    let mut fields = line[b"SSH-".len()..end].splitn(2, |&byte| byte == b'-');
    let version = fields.next();
    let software =
        fields.next().and_then(|rest| rest.split(|&byte| matches!(byte, b' ' | b'\r')).next());
    Details::new().with_some("version", version).with_some("software", software)
}
