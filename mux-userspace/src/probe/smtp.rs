//! SMTP and LMTP: a client that does not wait for the server's greeting.
//!
//! RFC 5321 3.1 has the server speak first, and a client that obeys is silent until then:
//! no probe sees it, a listener's `on_timeout` does. This one is for clients that pipeline
//! their first command.

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// `EHLO`, `HELO` (RFC 5321 4.1.1.1), `LHLO` (RFC 2033 4.1); their case does not count
/// (RFC 5321 2.4).
const COMMANDS: &[&[u8]] = &[b"EHLO", b"HELO", b"LHLO"];
/// Longest domain or address literal (RFC 5321 4.5.3.1.2).
const MAX_DOMAIN: usize = 255;

/// Matches once the command's line is complete.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "smtp",
    // `EHLO x` and a line feed.
    shortest: 7,
    members: &[],
    examine,
    details,
};

/// The first command.
struct Hello<'a> {
    command: &'static [u8],
    /// Or an address literal in brackets.
    domain: &'a [u8],
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    hello(bytes).map(|_| ()).into()
}

/// `command`, in upper case, and `domain`.
fn details(bytes: &[u8]) -> Details {
    hello(bytes).map_or_else(
        |_| Details::new(),
        |Hello { command, domain }| Details::new().with("command", command).with("domain", domain),
    )
}

fn hello(bytes: &[u8]) -> Result<Hello<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    let command = scan.one_of_ignore_case(COMMANDS)?;
    scan.literal(b" ")?;
    let domain = scan.word(MAX_DOMAIN, is_domain)?;
    scan.line_end()?;
    Ok(Hello { command, domain })
}

/// Letters, digits, `-` and `.` of a domain, `[`, `:` and `]` of an address literal
/// (RFC 5321 4.1.2, 4.1.3), and the `_` of many a host's name.
const fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'[' | b']' | b':' | b'_')
}
