//! MongoDB: the header of a client's first message ("MongoDB Wire Protocol", Standard Message
//! Header, OP_MSG, OP_COMPRESSED; OP_QUERY of before MongoDB 6).

use std::ops::RangeInclusive;

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// Length of a message, its header included: that of an `OP_MSG` of an empty document at
/// least, and at most `maxMessageSizeBytes`.
const LENGTH: RangeInclusive<u32> = 26..=48_000_000;
/// `responseTo` of what is no response.
const NO_RESPONSE: [u8; 4] = [0; 4];
/// 2004.
const OP_QUERY: [u8; 4] = [0xd4, 0x07, 0x00, 0x00];
/// 2012.
const OP_COMPRESSED: [u8; 4] = [0xdc, 0x07, 0x00, 0x00];
/// 2013.
const OP_MSG: [u8; 4] = [0xdd, 0x07, 0x00, 0x00];
/// Flag bits of an `OP_MSG` in the first and third byte: `checksumPresent`, `moreToCome`;
/// `exhaustAllowed`. A server refuses others of the lower sixteen.
const MSG_FLAGS: [u8; 2] = [0x03, 0x01];
/// Kinds of section: body, and document sequence.
const SECTION_KINDS: RangeInclusive<u8> = 0x00..=0x01;
/// Bit 0 of an `OP_QUERY`'s flags is reserved, 8 and above too.
const QUERY_FLAGS: u8 = 0xfe;
/// `compressorId`: noop, snappy, zlib, zstd.
const COMPRESSORS: RangeInclusive<u8> = 0x00..=0x03;

/// Matches at the header and the few fixed fields behind it.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "mongodb",
    // A header and the flags of an OP_QUERY.
    shortest: 16 + 4,
    members: &[],
    examine,
    details,
};

#[derive(Clone, Copy)]
enum Opcode {
    Query,
    Compressed,
    Msg,
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    opcode(bytes).map(|_| ()).into()
}

/// `opcode`: by its name.
fn details(bytes: &[u8]) -> Details {
    let name = opcode(bytes).ok().map(|opcode| match opcode {
        Opcode::Query => "OP_QUERY",
        Opcode::Compressed => "OP_COMPRESSED",
        Opcode::Msg => "OP_MSG",
    });
    Details::new().with_some("opcode", name)
}

fn opcode(bytes: &[u8]) -> Result<Opcode, Stop> {
    let mut scan = Scan::new(bytes);
    scan.little_endian::<4>(LENGTH)?;
    scan.take(4)?; // requestID
    scan.literal(&NO_RESPONSE)?;
    let opcode = scan.choose(&[
        (&OP_QUERY, Opcode::Query),
        (&OP_COMPRESSED, Opcode::Compressed),
        (&OP_MSG, Opcode::Msg),
    ])?;
    match opcode {
        Opcode::Query => {
            scan.one(|flags| flags & !QUERY_FLAGS == 0)?;
            scan.literal(&[0; 3])?;
        }
        Opcode::Compressed => {
            scan.choose(&[(&OP_QUERY, ()), (&OP_MSG, ())])?;
            scan.little_endian::<4>(0..=*LENGTH.end())?; // uncompressedSize
            scan.one(|id| COMPRESSORS.contains(&id))?;
        }
        Opcode::Msg => {
            let [first, third] = MSG_FLAGS;
            scan.one(|flags| flags & !first == 0)?;
            scan.literal(&[0])?;
            scan.one(|flags| flags & !third == 0)?;
            scan.literal(&[0])?;
            scan.one(|kind| SECTION_KINDS.contains(&kind))?;
        }
    }
    Ok(opcode)
}
