//! SMB over TCP: a client's first message ([MS-SMB2] 2.1, [MS-CIFS] 2.2.4.52; NetBIOS
//! session service, RFC 1002 4.3).

use std::ops::RangeInclusive;

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// Session message (RFC 1002 4.3.1), which over port 445 is the zero before a length
/// ([MS-SMB2] 2.1).
const MESSAGE: u8 = 0x00;
/// Session request (RFC 1002 4.3.2), no flags, and the length of two names without scopes.
const SESSION_REQUEST: [u8; 4] = [0x81, 0x00, 0x00, 0x44];
/// Length of a name's only label: sixteen characters, each as two letters (RFC 1001 14.1).
const LABEL: u8 = 0x20;
/// Length of a message: a header of SMB 1 and one dialect at least. The longest negotiations
/// of today's clients are some hundred bytes long.
const LENGTH: RangeInclusive<u32> = 32 + 3 + 2..=0xffff;

/// Protocol identifiers: SMB 1 ([MS-CIFS] 2.2.3.1), SMB 2 and 3, and what is encrypted
/// ([MS-SMB2] 2.2.1, 2.2.41).
const SMB1: &[u8] = b"\xffSMB";
const SMB2: &[u8] = b"\xfeSMB";
const ENCRYPTED: &[u8] = b"\xfdSMB";

/// `SMB_COM_NEGOTIATE`, and `Status`, which is 0 in requests.
const SMB1_NEGOTIATE: [u8; 5] = [0x72, 0x00, 0x00, 0x00, 0x00];
/// `SMB_FLAGS_REPLY`.
const SMB1_REPLY: u8 = 0x80;
/// `StructureSize` of an SMB 2 header.
const SMB2_HEADER_SIZE: [u8; 2] = [0x40, 0x00];
/// `ChannelSequence` and `Reserved`, and the command: NEGOTIATE.
const SMB2_NEGOTIATE: [u8; 6] = [0x00; 6];
/// `SMB2_FLAGS_SERVER_TO_REDIR`.
const SMB2_REPLY: u8 = 0x01;
/// `Reserved` of a TRANSFORM_HEADER, and `Flags`: encrypted ([MS-SMB2] 2.2.41).
const TRANSFORM: [u8; 4] = [0x00, 0x00, 0x01, 0x00];

/// Dialects ([MS-SMB2] 2.2.3), of which a later one is a higher number.
const DIALECTS: [(u16, &str); 5] =
    [(0x0202, "2.0.2"), (0x0210, "2.1"), (0x0300, "3.0"), (0x0302, "3.0.2"), (0x0311, "3.1.1")];
/// Most dialects looked at.
const MAX_DIALECTS: usize = 16;

/// Matches a negotiation at its flags, and a session request once it is complete.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "smb",
    // Length, identifier, command, status and flags of SMB 1.
    shortest: 4 + 4 + 1 + 4 + 1,
    members: &[],
    examine,
    details,
};

enum Message<'a> {
    /// Of the name of a server, encoded.
    SessionRequest {
        called: &'a [u8],
    },
    Smb1,
    /// What is behind the flags of its header.
    Smb2 {
        rest: &'a [u8],
    },
    Encrypted,
}

/// Reads the rest of one kind.
type Read = for<'a> fn(Scan<'a>) -> Result<Message<'a>, Stop>;

fn examine(bytes: &[u8]) -> Verdict<()> {
    message(bytes).map(|_| ()).into()
}

/// `version`: 1, or the highest dialect offered; of a session request `called`, the
/// server's name.
fn details(bytes: &[u8]) -> Details {
    match message(bytes) {
        Ok(Message::SessionRequest { called }) => Details::new().with("called", &*decoded(called)),
        Ok(Message::Smb1) => Details::new().with("version", "1"),
        Ok(Message::Smb2 { rest }) => {
            Details::new().with("version", highest_dialect(rest).unwrap_or("2"))
        }
        Ok(Message::Encrypted) => Details::new().with("version", "3"),
        Err(_) => Details::new(),
    }
}

fn message(bytes: &[u8]) -> Result<Message<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    if bytes.first() == SESSION_REQUEST.first() {
        return session_request(scan);
    }
    scan.literal(&[MESSAGE])?;
    let length = scan.big_endian::<3>(LENGTH)?;
    scan.within(length as usize)?;
    negotiation(scan)
}

fn session_request(mut scan: Scan<'_>) -> Result<Message<'_>, Stop> {
    scan.literal(&SESSION_REQUEST)?;
    let called = name(&mut scan)?;
    name(&mut scan)?; // calling
    Ok(Message::SessionRequest { called })
}

/// A name in its encoded form (RFC 1001 14.1), without a scope.
fn name<'a>(scan: &mut Scan<'a>) -> Result<&'a [u8], Stop> {
    scan.literal(&[LABEL])?;
    let letters = scan.each(LABEL.into(), |byte| matches!(byte, b'A'..=b'P'))?;
    scan.literal(&[0])?;
    Ok(letters)
}

fn negotiation(mut scan: Scan<'_>) -> Result<Message<'_>, Stop> {
    let read = scan.choose::<Read>(&[(SMB1, smb1), (SMB2, smb2), (ENCRYPTED, encrypted)])?;
    read(scan)
}

fn smb1(mut scan: Scan<'_>) -> Result<Message<'_>, Stop> {
    scan.literal(&SMB1_NEGOTIATE)?;
    scan.one(|flags| flags & SMB1_REPLY == 0)?;
    Ok(Message::Smb1)
}

fn smb2(mut scan: Scan<'_>) -> Result<Message<'_>, Stop> {
    scan.literal(&SMB2_HEADER_SIZE)?;
    scan.take(2)?; // CreditCharge
    scan.literal(&SMB2_NEGOTIATE)?;
    scan.take(2)?; // CreditRequest
    scan.one(|flags| flags & SMB2_REPLY == 0)?;
    Ok(Message::Smb2 { rest: scan.arrived() })
}

fn encrypted(mut scan: Scan<'_>) -> Result<Message<'_>, Stop> {
    scan.take(16 + 16 + 4)?; // Signature, Nonce, OriginalMessageSize
    scan.literal(&TRANSFORM)?;
    Ok(Message::Encrypted)
}

/// Of a NEGOTIATE request ([MS-SMB2] 2.2.3), behind the first byte of the header's flags.
/// `None`: the dialects have not all arrived, or none is known.
fn highest_dialect(rest: &[u8]) -> Option<&'static str> {
    let mut scan = Scan::new(rest);
    // NextCommand to Signature, and StructureSize of the body.
    scan.take(3 + 44 + 2).ok()?;
    let count = u16::from_le_bytes(scan.array().ok()?);
    // SecurityMode to NegotiateContextOffset, or what was there before 3.1.1.
    scan.take(32).ok()?;
    let offered = scan.take(2 * usize::from(count).min(MAX_DIALECTS)).ok()?;
    let offers = |dialect: u16| offered.chunks(2).any(|code| code == dialect.to_le_bytes());
    DIALECTS.iter().rev().find(|(code, _)| offers(*code)).map(|(_, name)| *name)
}

/// The name that two letters each encode (RFC 1001 14.1), without the spaces that fill it and
/// the type that ends it.
fn decoded(letters: &[u8]) -> Vec<u8> {
    let nibble = |letter: &u8| letter.wrapping_sub(b'A') & 0x0f;
    let mut name: Vec<u8> = letters
        .chunks(2)
        .take(15)
        .map(|pair| pair.iter().fold(0, |byte, letter| byte << 4 | nibble(letter)))
        .collect();
    name.truncate(name.trim_ascii_end().len());
    name
}
