//! Syslog over TCP: the first message's frame and priority (RFC 6587 3.4, RFC 5424 6.2.1).
//!
//! What follows the priority is not looked at. Devices and relays send headers of RFC 3164
//! and many of their own, in both framings.

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// Most digits of MSG-LEN (RFC 6587 3.4.1) believed: 999,999 bytes. RFC 5425 4.3.1 asks
/// receivers for 8192.
const LENGTH_DIGITS: usize = 6;
/// Most digits of PRIVAL, and the greatest one: facility 23, severity 7 (RFC 5424 6.2.1).
const PRIORITY_DIGITS: usize = 3;
const MAX_PRIORITY: u32 = 191;
/// `<0>`.
const SHORTEST: usize = 3;

/// Sure of itself at the `>` of `<PRI>`.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "syslog", shortest: SHORTEST, members: &[], examine, details };

fn examine(bytes: &[u8]) -> Verdict<()> {
    start(bytes).map(|_| ()).into()
}

/// `framing` (RFC 6587 3.4.1 or 3.4.2) and `pri`: eight times the facility, and the severity.
fn details(bytes: &[u8]) -> Details {
    start(bytes).map_or_else(
        |_| Details::new(),
        |Start { framing, priority }| Details::new().with("framing", framing).with("pri", priority),
    )
}

/// What a first message begins with.
struct Start {
    framing: &'static str,
    priority: u32,
}

fn start(bytes: &[u8]) -> Result<Start, Stop> {
    let mut scan = Scan::new(bytes);
    if scan.peek()? == b'<' {
        return Ok(Start { framing: "non-transparent", priority: priority(&mut scan)? });
    }
    // MSG-LEN has no leading zero (RFC 6587 3.4.1).
    if scan.peek()? == b'0' {
        return Err(Stop::Contradiction);
    }
    let length = scan.decimal(LENGTH_DIGITS)?;
    scan.literal(b" ")?;
    let message = scan.position();
    let priority = priority(&mut scan)?;
    // A message is more than its priority.
    if length as usize <= scan.since(message).len() {
        return Err(Stop::Contradiction);
    }
    Ok(Start { framing: "octet-counting", priority })
}

/// `<PRIVAL>` (RFC 5424 6.2.1).
fn priority(scan: &mut Scan<'_>) -> Result<u32, Stop> {
    scan.literal(b"<")?;
    let priority = scan.decimal(PRIORITY_DIGITS)?;
    if priority > MAX_PRIORITY {
        return Err(Stop::Contradiction);
    }
    scan.literal(b">")?;
    Ok(priority)
}
