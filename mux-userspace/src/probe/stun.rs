//! STUN and TURN over TCP: the first message (RFC 8489 5).
//!
//! ChannelData (RFC 8656 12.4) cannot be first: a channel is bound by an earlier message.

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// Message types (RFC 8489 5: two zero bits, then method and class interleaved) that can be
/// a TCP connection's first. The other methods of TURN need an allocation, which belongs to
/// the connection that it was made on.
const TYPES: &[([u8; 2], Message)] = &[
    ([0x00, 0x01], Message { method: "binding", class: "request" }), // RFC 8489 18.2
    ([0x00, 0x11], Message { method: "binding", class: "indication" }),
    ([0x00, 0x03], Message { method: "allocate", class: "request" }), // RFC 8656 17
    ([0x00, 0x04], Message { method: "refresh", class: "request" }),  // moved: RFC 8016 3.2
    ([0x00, 0x0b], Message { method: "connection-bind", class: "request" }), // RFC 6062 6.1
];
/// The attributes' length is a multiple of four (RFC 8489 5).
const PADDING: u8 = 0x03;
/// The magic cookie (RFC 8489 5).
const COOKIE: &[u8] = &[0x21, 0x12, 0xa4, 0x42];
/// Type, length and cookie.
const SHORTEST: usize = 8;

/// Sure of itself at the end of the magic cookie.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "stun", shortest: SHORTEST, members: &[], examine, details };

/// What a message type says.
#[derive(Clone, Copy)]
struct Message {
    method: &'static str,
    class: &'static str,
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    message(bytes).map(|_| ()).into()
}

/// `method` and `class`.
fn details(bytes: &[u8]) -> Details {
    message(bytes).map_or_else(
        |_| Details::new(),
        |Message { method, class }| Details::new().with("method", method).with("class", class),
    )
}

fn message(bytes: &[u8]) -> Result<Message, Stop> {
    let mut scan = Scan::new(bytes);
    let high = scan.one(|high| TYPES.iter().any(|([first, _], _)| *first == high))?;
    let low = scan.one(|_| true)?;
    let message = TYPES.iter().find(|(code, _)| *code == [high, low]);
    let Some((_, message)) = message else { return Err(Stop::Contradiction) };
    scan.skip(1)?;
    scan.one(|low| low & PADDING == 0)?;
    scan.literal(COOKIE)?;
    Ok(*message)
}
