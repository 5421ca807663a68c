//! tinc: the ID request that begins a meta connection ("tinc manual", The meta-protocol).

use super::{
    Details, Protocol, Verdict,
    reader::{Reader, Stop},
};

/// Number of the request ID, and the space behind it.
const ID: &[u8] = b"0 ";
/// What stands in front of a throw-away key, where somebody joins by an invitation.
const INVITATION: u8 = b'?';
/// Characters of an Ed25519 key in base 64.
const KEY: usize = 43;
/// Longest name of a node.
const MAX_NAME: usize = 255;
/// Major version of the protocol, of tinc 1.0 and 1.1.
const MAJOR: &[u8] = b"17";
/// Most digits of the minor version, which only 1.1 has.
const MAX_MINOR: usize = 3;

/// Matches the whole line.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "tinc",
    // A name of one character, and a line feed.
    shortest: ID.len() + 2 + MAJOR.len() + 1,
    members: &[],
    examine,
    details,
};

struct Id<'a> {
    /// None where somebody joins by an invitation.
    name: Option<&'a [u8]>,
    /// `17` or `17.minor`.
    version: &'a [u8],
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    id(bytes).map(|_| ()).into()
}

/// `name` of the node, if it has one already, and `version` of the protocol.
fn details(bytes: &[u8]) -> Details {
    let Ok(Id { name, version }) = id(bytes) else { return Details::new() };
    Details::new().with_some("name", name).with("version", version)
}

/// `0 NAME 17[.MINOR] LF`, or `0 ?KEY 17.MINOR LF`.
fn id(bytes: &[u8]) -> Result<Id<'_>, Stop> {
    let mut reader = Reader::new(bytes);
    reader.constant(ID)?;
    let name = if reader.rest().first() == Some(&INVITATION) {
        reader.take(1)?;
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
        reader.until(b' ', KEY..=KEY, is_base64)?;
        None
    } else {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        Some(reader.until(b' ', 1..=MAX_NAME, is_name)?)
    };
    let start = reader.position();
    reader.constant(MAJOR)?;
    if reader.byte(|byte| matches!(byte, b'.' | b'\n'))? == b'.' {
        reader.until(b'\n', 1..=MAX_MINOR, |byte| byte.is_ascii_digit())?;
    }
    let version = bytes.get(start..reader.position() - 1).unwrap_or_default();
    Ok(Id { name, version })
}
