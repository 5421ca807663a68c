//! tinc: the ID request that begins a meta connection ("tinc manual", The meta-protocol).

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
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
    let mut scan = Scan::new(bytes);
    scan.literal(ID)?;
    let name = if scan.peek()? == INVITATION {
        scan.take(1)?;
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
        scan.each(KEY, is_base64)?;
        None
    } else {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        Some(scan.word(MAX_NAME, is_name)?)
    };
    scan.literal(b" ")?;
    let start = scan.position();
    scan.literal(MAJOR)?;
    if scan.peek()? == b'.' {
        scan.take(1)?;
        scan.word(MAX_MINOR, |byte| byte.is_ascii_digit())?;
    }
    let version = scan.since(start);
    scan.literal(b"\n")?;
    Ok(Id { name, version })
}
