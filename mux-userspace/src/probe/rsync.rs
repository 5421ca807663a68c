//! rsync's own protocol (`rsync://`): the client's greeting.
//!
//! Its source defines it: `exchange_protocols` in clientserver.c. The client does not wait
//! for the daemon's greeting, which looks the same.

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// What a greeting begins with. `@RSYNCD: OK`, `EXIT` and `AUTHREQD` are the daemon's alone.
const START: &[u8] = b"@RSYNCD: ";
/// Most digits of a version, before and after its dot. Version 32 is of 2024.
const VERSION_DIGITS: usize = 3;
/// Longest line believed; the names of five digests make 41 bytes.
const MAX_LINE: usize = 255;

/// Matches once the line is complete.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "rsync",
    // A version of one digit and a line feed.
    shortest: START.len() + 2,
    members: &[],
    examine,
    details,
};

fn examine(bytes: &[u8]) -> Verdict<()> {
    version(bytes).map(|_| ()).into()
}

/// `version` of the protocol; of the digests after it nothing.
fn details(bytes: &[u8]) -> Details {
    Details::new().with_some("version", version(bytes).ok())
}

/// Reads `@RSYNCD: VERSION[.SUBVERSION][ DIGEST]… LF`.
fn version(bytes: &[u8]) -> Result<&[u8], Stop> {
    let mut scan = Scan::new(bytes);
    scan.limit(MAX_LINE);
    scan.literal(START)?;
    let start = scan.position();
    scan.decimal(VERSION_DIGITS)?;
    if scan.peek()? == b'.' {
        scan.literal(b".")?;
        scan.decimal(VERSION_DIGITS)?;
    }
    let version = scan.since(start);
    if scan.peek()? == b' ' {
        scan.run(MAX_LINE, |byte| byte == b' ' || byte.is_ascii_graphic())?;
    }
    scan.literal(b"\n")?;
    Ok(version)
}
