//! Type-length-value fields of version 2 (2.2.1 to 2.2.5).

use super::{Extras, MAX_BLOCK, Refusal};

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
/// Type and length.
const HEAD: usize = 3;
/// Bytes of a checksum.
const CRC_LENGTH: usize = 4;
/// Longest `PP2_TYPE_UNIQUE_ID` (2.2.5).
pub(super) const MAX_UNIQUE_ID: usize = 128;

/// Reads the fields of a whole header, which begin at `start`. Of a field that comes twice the
/// first counts; of other types nothing is kept.
pub(super) fn read(header: &[u8], start: usize) -> Result<Extras, Refusal> {
    let mut extras = Extras::default();
    let mut at = start;
    while at < header.len() {
        let (kind, value) = field(header, at).ok_or(Refusal::Malformed("a TLV is cut off"))?;
        match kind {
            ALPN => keep(&mut extras.alpn, value),
            AUTHORITY => keep(&mut extras.authority, value),
            UNIQUE_ID if value.len() > MAX_UNIQUE_ID => {
                return Err(Refusal::Malformed("a unique id of more than 128 bytes"));
            }
            UNIQUE_ID => keep(&mut extras.unique_id, value),
            CRC32C => check(header, at + HEAD, value)?,
            _ => {}
        }
        at += HEAD + value.len();
    }
    Ok(extras)
}

/// The type and the value of the field at `at`.
fn field(header: &[u8], at: usize) -> Option<(u8, &[u8])> {
    let (&[kind, high, low], rest) = header.get(at..)?.split_first_chunk()?;
    Some((kind, rest.get(..usize::from(u16::from_be_bytes([high, low])))?))
}

fn keep(place: &mut Option<Box<[u8]>>, value: &[u8]) {
    place.get_or_insert_with(|| value.into());
}

/// Compares a checksum, which is that of the header with zeroes in the checksum's place (2.2.3).
fn check(header: &[u8], at: usize, value: &[u8]) -> Result<(), Refusal> {
    let Ok(stated) = <[u8; CRC_LENGTH]>::try_from(value) else {
        return Err(Refusal::Malformed("a CRC32C that is not 4 bytes"));
    };
    if checksum(header, at) == u32::from_be_bytes(stated) { Ok(()) } else { Err(Refusal::Checksum) }
}

/// The checksum of a header whose own place is `at`.
fn checksum(header: &[u8], at: usize) -> u32 {
    let before = header.get(..at).unwrap_or_default();
    let after = header.get(at + CRC_LENGTH..).unwrap_or_default();
    let sum = crc32c::crc32c(before);
    crc32c::crc32c_append(crc32c::crc32c_append(sum, &[0; CRC_LENGTH]), after)
}

/// Adds the fields to a header whose length field is still to be filled in. The checksum is
/// added by [`seal`].
pub(super) fn write(header: &mut Vec<u8>, extras: &Extras) {
    let Extras { authority, alpn, unique_id } = extras;
    for (kind, value) in [(ALPN, alpn), (AUTHORITY, authority), (UNIQUE_ID, unique_id)] {
        if let Some(value) = value {
            push(header, kind, value);
        }
    }
}

/// Adds the place of the checksum; returns where it is.
pub(super) fn reserve_checksum(header: &mut Vec<u8>) -> usize {
    push(header, CRC32C, &[0; CRC_LENGTH]);
    header.len() - CRC_LENGTH
}

/// Fills a finished header's checksum in.
pub(super) fn seal(header: &mut [u8], at: usize) {
    let sum = checksum(header, at);
    if let Some(place) = header.get_mut(at..at + CRC_LENGTH) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Adds a field, unless no receiver would take it.
fn push(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len()) else { return };
    if value.len() > MAX_BLOCK {
        return;
    }
    header.push(kind);
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(value);
}
