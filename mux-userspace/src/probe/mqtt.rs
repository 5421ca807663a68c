//! MQTT: the client's CONNECT (MQTT 3.1 3.1; MQTT 3.1.1 3.1 and MQTT 5.0 3.1, OASIS).

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// Packet type 1, with no flags (MQTT 5.0 2.1.2, 2.1.3).
const CONNECT: u8 = 0x10;
/// Protocol name since 3.1.1, with its length (MQTT 5.0 3.1.2.1).
const NAME: &[u8] = b"\x00\x04MQTT";
/// Protocol name of 3.1.
const NAME_3_1: &[u8] = b"\x00\x06MQIsdp";
/// What mosquitto adds to the level when it connects as a bridge to another broker.
const BRIDGE: u8 = 0x80;

/// Connect flags (MQTT 5.0 3.1.2.3).
const RESERVED: u8 = 0x01;
const WILL: u8 = 0x04;
/// Three is no quality of service.
const WILL_QOS: u8 = 0x18;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// Matches at the connect flags.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "mqtt",
    // Type, remaining length, name, level and flags.
    shortest: 2 + NAME.len() + 2,
    members: &[],
    examine,
    details,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V3_1,
    V3_1_1,
    V5,
}

impl Version {
    /// Level 3 with the old name, 4 and 5 with the new one; `None`: there is no such thing.
    const fn from_level(old_name: bool, level: u8) -> Option<Self> {
        match (old_name, level) {
            (true, 3) => Some(Self::V3_1),
            (false, 4) => Some(Self::V3_1_1),
            (false, 5) => Some(Self::V5),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::V3_1 => "3.1",
            Self::V3_1_1 => "3.1.1",
            Self::V5 => "5.0",
        }
    }

    /// Fewest bytes after the remaining length: the name, level, flags, keep alive, no
    /// properties, an empty client identifier (3.1 wants a character).
    const fn shortest(self) -> usize {
        match self {
            Self::V3_1 => NAME_3_1.len() + 4 + 3,
            Self::V3_1_1 => NAME.len() + 4 + 2,
            Self::V5 => NAME.len() + 4 + 1 + 2,
        }
    }

    /// Whether a client of this version may set these flags.
    const fn allows(self, flags: u8) -> bool {
        let qos = flags & WILL_QOS;
        let will = flags & WILL != 0 && qos != WILL_QOS;
        let no_will = flags & (WILL | WILL_QOS | WILL_RETAIN) == 0;
        // Since 5.0 a password needs no user name (MQTT 3.1.1 3.1.2.9, MQTT 5.0 3.1.2.9).
        let password = flags & (USER_NAME | PASSWORD) != PASSWORD || matches!(self, Self::V5);
        flags & RESERVED == 0 && (will || no_will) && password
    }
}

/// What is behind the flags, as far as it has arrived.
struct Connect<'a> {
    version: Version,
    rest: &'a [u8],
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    connect(bytes).map(|_| ()).into()
}

/// `version`, and `client`: the client identifier, if it is not empty and has arrived.
fn details(bytes: &[u8]) -> Details {
    let Ok(Connect { version, rest }) = connect(bytes) else { return Details::new() };
    let client = client_identifier(version, rest).filter(|client| !client.is_empty());
    Details::new().with("version", version.name()).with_some("client", client)
}

fn connect(bytes: &[u8]) -> Result<Connect<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    scan.literal(&[CONNECT])?;
    // Three bytes of four: they say up to 2 MiB, more than all that a CONNECT can hold
    // before 5.0, and more than anybody's properties.
    let length = scan.varint::<3>()? as usize;
    if length < Version::V3_1_1.shortest() {
        return Err(Stop::Contradiction);
    }
    let end = scan.position() + length;

    let old_name = scan.choose(&[(NAME, false), (NAME_3_1, true)])?;
    let version = |level| Version::from_level(old_name, level);
    let [level] = scan.array()?;
    let version = version(level)
        // Bridges are older than 5.0.
        .or_else(|| version(level ^ BRIDGE).filter(|version| *version != Version::V5))
        .filter(|version| length >= version.shortest())
        .ok_or(Stop::Contradiction)?;
    scan.one(|flags| version.allows(flags))?;
    let rest = bytes.get(scan.position()..end.min(bytes.len())).unwrap_or_default();
    Ok(Connect { version, rest })
}

/// The first field of the payload (MQTT 5.0 3.1.3.1), behind the keep alive and the properties.
fn client_identifier(version: Version, rest: &[u8]) -> Option<&[u8]> {
    let mut scan = Scan::new(rest);
    scan.take(2).ok()?;
    if version == Version::V5 {
        let properties = scan.varint::<4>().ok()?;
        scan.take(properties as usize).ok()?;
    }
    let length = scan.array().ok()?;
    scan.take(u16::from_be_bytes(length).into()).ok()
}
