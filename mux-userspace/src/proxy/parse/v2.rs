//! Version 2: binary (2.2).

use std::net::IpAddr;

use super::{
    super::{
        Extras, Header, MAX_BLOCK, Origin, Refusal, SUN_PATH, UnixPair, Version, begins_with,
        binary::{FIXED, LOCAL, PROXY, SIGNATURE, TCP4, TCP6, UNIX_STREAM, VERSION},
        tlv,
    },
    Examined,
};

/// Highest address family and transport there are.
const LAST_FAMILY: u8 = 3;
const LAST_TRANSPORT: u8 = 2;

pub(super) fn examine(bytes: &[u8]) -> Result<Examined, Refusal> {
    match begins_with(bytes, SIGNATURE) {
        Some(true) => {}
        Some(false) => return Err(Refusal::Missing),
        None => return Ok(Examined::NeedMore(bytes.len() + 1)),
    }
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        let after = bytes.get(SIGNATURE.len()..).unwrap_or_default();
        if let Some(command) = after.first() {
            is_proxy(*command)?;
        }
        return Ok(Examined::NeedMore(if after.is_empty() { bytes.len() + 1 } else { FIXED }));
    };
    let [.., command, family, high, low] = *fixed;
    let is_proxy = is_proxy(command)?;
    if is_proxy && (family >> 4 > LAST_FAMILY || family & 0xf > LAST_TRANSPORT) {
        return Err(Refusal::Malformed("an unknown address family or transport"));
    }
    let block = usize::from(u16::from_be_bytes([high, low]));
    if block > MAX_BLOCK {
        return Err(Refusal::TooLong);
    }
    let length = FIXED + block;
    let Some(header) = bytes.get(..length) else { return Ok(Examined::NeedMore(length)) };
    // Of LOCAL, and of what is not described, the block is skipped unread.
    let (origin, extras) =
        if is_proxy { described(header, family)? } else { (Origin::Own, Extras::default()) };
    Ok(Examined::Complete(Header { version: Version::V2, origin, extras, length }))
}

/// Whether the command is PROXY; LOCAL is the only other one.
fn is_proxy(byte: u8) -> Result<bool, Refusal> {
    if byte & 0xf0 != VERSION {
        return Err(Refusal::Malformed("an unknown version"));
    }
    match byte & 0xf {
        LOCAL => Ok(false),
        PROXY => Ok(true),
        _ => Err(Refusal::Malformed("an unknown command")),
    }
}

/// Addresses and TLVs. Datagrams cannot have been accepted, so that they count as not described.
fn described(header: &[u8], family: u8) -> Result<(Origin, Extras), Refusal> {
    let block = header.get(FIXED..).unwrap_or_default();
    let found = match family {
        TCP4 => tcp::<4>(block),
        TCP6 => tcp::<16>(block),
        UNIX_STREAM => unix(block),
        _ => return Ok((Origin::Own, Extras::default())),
    };
    let (origin, rest) = found.ok_or(Refusal::Malformed("the addresses are cut off"))?;
    let extras = tlv::read(header, header.len() - rest.len())?;
    Ok((origin, extras))
}

/// Two addresses, two ports.
fn tcp<const N: usize>(block: &[u8]) -> Option<(Origin, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (&source, rest) = block.split_first_chunk::<N>()?;
    let (&destination, rest) = rest.split_first_chunk::<N>()?;
    let (&source_port, rest) = rest.split_first_chunk::<2>()?;
    let (&destination_port, rest) = rest.split_first_chunk::<2>()?;
    let origin = Origin::tcp(
        (IpAddr::from(source), u16::from_be_bytes(source_port)).into(),
        (IpAddr::from(destination), u16::from_be_bytes(destination_port)).into(),
    );
    Some((origin, rest))
}

fn unix(block: &[u8]) -> Option<(Origin, &[u8])> {
    let (&source, rest) = block.split_first_chunk::<SUN_PATH>()?;
    let (&destination, rest) = rest.split_first_chunk::<SUN_PATH>()?;
    Some((Origin::Unix(Box::new(UnixPair { source, destination })), rest))
}
