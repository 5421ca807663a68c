//! BitTorrent: the peer protocol's handshake (BEP 3).
//!
//! Peers that agree on message stream encryption begin with random bytes, which is its
//! purpose: no probe sees them.

use std::fmt::Write as _;

use super::{
    Details, Protocol,
    verdict::{Verdict, starts_with},
};

/// The length of the protocol's name, and the name (BEP 3, "peer protocol").
const PSTR: &[u8; 20] = b"\x13BitTorrent protocol";
/// Reserved bytes after it.
const RESERVED: usize = 8;
/// SHA-1 of the info dictionary; of version 2, SHA-256 cut to this (BEP 52).
const INFO_HASH: usize = 20;

/// Sure of itself at the end of the protocol's name.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "bittorrent", shortest: PSTR.len(), members: &[], examine, details };

fn examine(bytes: &[u8]) -> Verdict<()> {
    starts_with(bytes, PSTR)
}

/// `info_hash`, in hexadecimal, if all of it had arrived.
fn details(bytes: &[u8]) -> Details {
    let start = PSTR.len() + RESERVED;
    let hash = bytes.get(start..start + INFO_HASH).map(|hash| {
        hash.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    });
    Details::new().with_some("info_hash", hash)
}
