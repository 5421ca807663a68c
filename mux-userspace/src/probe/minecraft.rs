//! Minecraft, Java edition: the client's handshake ("Java Edition protocol", Handshaking, and
//! Server List Ping for what clients before 1.7 send; both community documentation).

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// Packet identifier of the handshake, and of the only packet that can be first.
const HANDSHAKE: u8 = 0x00;
/// Most bytes of an address; what Forge and proxies append to it counts.
const MAX_ADDRESS: u32 = 255;
/// Identifier, version of one byte, address of one character, port, state.
const MIN_LENGTH: u32 = 1 + 1 + 2 + 2 + 1;
/// The same with a version of five bytes and the longest address.
const MAX_LENGTH: u32 = 1 + 5 + 2 + MAX_ADDRESS + 2 + 1;
/// Port and state.
const AFTER_ADDRESS: u32 = 2 + 1;
/// What only asks for the status says -1 if it has no version.
const NO_VERSION: u32 = 0xffff_ffff;
/// Snapshots have this bit and a number of their own; releases have numbers below 2^16.
const SNAPSHOT: u32 = 0x4000_0000;
/// Server List Ping of 1.4 to 1.6: identifier and payload.
const LEGACY_PING: [u8; 2] = [0xfe, 0x01];

/// Matches a handshake at its end, and the ping of before 1.7 at its two bytes, because
/// clients of 1.4 and 1.5 send nothing more.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "minecraft", shortest: LEGACY_PING.len(), members: &[], examine, details };

enum Hello<'a> {
    Handshake { version: u32, address: &'a [u8], state: &'static str },
    LegacyPing,
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    hello(bytes).map(|_| ()).into()
}

/// `host` (the address up to the first NUL, behind which others append theirs), `version`
/// (of the protocol, a number; `legacy` of the ping of before 1.7) and `state`: status, login
/// or transfer.
fn details(bytes: &[u8]) -> Details {
    match hello(bytes) {
        Ok(Hello::Handshake { version, address, state }) => {
            let host = address.split(|&byte| byte == 0).next();
            let details = Details::new().with_some("host", host);
            match version {
                NO_VERSION => details.with("version", "-1"),
                number => details.with("version", number),
            }
            .with("state", state)
        }
        Ok(Hello::LegacyPing) => Details::new().with("version", "legacy").with("state", "status"),
        Err(_) => Details::new(),
    }
}

fn hello(bytes: &[u8]) -> Result<Hello<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    if bytes.first() == LEGACY_PING.first() {
        scan.literal(&LEGACY_PING)?;
        return Ok(Hello::LegacyPing);
    }
    let length = scan.varint::<2>()?;
    if !(MIN_LENGTH..=MAX_LENGTH).contains(&length) {
        return Err(Stop::Contradiction);
    }
    let end = scan.position() + length as usize;
    scan.limit(end);
    handshake(scan, end)
}

fn handshake(mut packet: Scan<'_>, end: usize) -> Result<Hello<'_>, Stop> {
    packet.literal(&[HANDSHAKE])?;
    let version = packet.varint::<5>()?;
    if version != NO_VERSION && version & !SNAPSHOT > 0xffff {
        return Err(Stop::Contradiction);
    }
    let length = packet.varint::<2>()?;
    // Nothing is between the state and the end of the packet.
    if length == 0
        || packet.position() + (length + AFTER_ADDRESS) as usize != end
        || packet.peek()? == 0
    {
        return Err(Stop::Contradiction);
    }
    let address = packet.each(length as usize, |byte| byte == 0 || !byte.is_ascii_control())?;
    packet.take(2)?; // port
    let state = packet.choose(&[(&[1], "status"), (&[2], "login"), (&[3], "transfer")])?;
    Ok(Hello::Handshake { version, address, state })
}
