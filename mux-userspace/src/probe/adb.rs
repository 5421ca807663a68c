//! Android Debug Bridge: the first packet to a device over TCP (protocol.txt of adb's source).

use std::ops::RangeInclusive;

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// Commands are constants in little endian, each packet ends its header with the complement.
const CNXN: u32 = 0x4e58_4e43;
/// TLS is next; a device asks for it, and a host answers with the same.
const STLS: u32 = 0x534c_5453;
/// `A_VERSION_MIN`, and `A_VERSION_SKIP_CHECKSUM` of since Android 9.
const VERSIONS: RangeInclusive<u32> = 0x0100_0000..=0x0100_0001;
/// `A_STLS_VERSION`; no second argument, no data, no checksum.
const STLS_FIELDS: [u8; 16] = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Most data that the sender takes at once: `MAX_PAYLOAD_V1` to `MAX_PAYLOAD`.
const MAX_DATA: RangeInclusive<u32> = 4096..=1024 * 1024;
/// Length of the banner, which has to fit into `MAX_PAYLOAD_V1`.
const BANNER: RangeInclusive<u32> = HOST.len() as u32..=4096;
/// What the banner of who connects begins with: its type, an empty serial number.
const HOST: &[u8] = b"host::";
/// Command, two arguments, length, checksum, magic.
const HEADER: usize = 24;

/// Matches CNXN at its banner's first fields, STLS once it is complete.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "adb", shortest: HEADER, members: &[], examine, details };

enum Packet<'a> {
    /// The banner is there if all of it has arrived.
    Cnxn {
        version: u32,
        banner: Option<&'a [u8]>,
    },
    Stls,
}

/// Reads the rest of one kind.
type Read = for<'a> fn(Scan<'a>) -> Result<Packet<'a>, Stop>;

fn examine(bytes: &[u8]) -> Verdict<()> {
    packet(bytes).map(|_| ()).into()
}

/// `command`: CNXN or STLS; of CNXN also `version` in hexadecimal and, where it has arrived,
/// `banner`.
fn details(bytes: &[u8]) -> Details {
    match packet(bytes) {
        Ok(Packet::Cnxn { version, banner }) => Details::new()
            .with("command", "CNXN")
            .with("version", format!("{version:#010x}"))
            .with_some("banner", banner),
        Ok(Packet::Stls) => Details::new().with("command", "STLS"),
        Err(_) => Details::new(),
    }
}

fn packet(bytes: &[u8]) -> Result<Packet<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    let read = scan.choose::<Read>(&[(&CNXN.to_le_bytes(), cnxn), (&STLS.to_le_bytes(), stls)])?;
    read(scan)
}

fn cnxn(mut scan: Scan<'_>) -> Result<Packet<'_>, Stop> {
    let version = scan.little_endian::<4>(VERSIONS)?;
    scan.little_endian::<4>(MAX_DATA)?;
    let length = scan.little_endian::<4>(BANNER)?;
    scan.take(4)?; // checksum, 0 where nobody looks at it
    scan.literal(&(!CNXN).to_le_bytes())?;
    // Some end their banner with a NUL.
    let banner = scan.arrived().get(..length as usize);
    let banner = banner.map(|banner| banner.strip_suffix(b"\0").unwrap_or(banner));
    scan.literal(HOST)?;
    Ok(Packet::Cnxn { version, banner })
}

fn stls(mut scan: Scan<'_>) -> Result<Packet<'_>, Stop> {
    scan.literal(&STLS_FIELDS)?;
    scan.literal(&(!STLS).to_le_bytes())?;
    Ok(Packet::Stls)
}
