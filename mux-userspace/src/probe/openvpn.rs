//! OpenVPN over TCP: the client's hard reset ("OpenVPN Protocol", draft-openvpn-wire-protocol;
//! tls-crypt-v2.txt of its source).
//!
//! The packet has no magic number. What it has is a length that only a few settings of the
//! server's and client's can make, and counters that begin at fixed values.

use std::ops::RangeInclusive;

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// `P_CONTROL_HARD_RESET_CLIENT_V1` (1), `_V2` (7) and `_V3` (10) in the high five bits of
/// the opcode byte, key 0 in the low three.
const RESET_V1: u8 = 0x01 << 3;
const RESET_V2: u8 = 0x07 << 3;
const RESET_V3: u8 = 0x0a << 3;
/// Length of what follows, before each packet over TCP.
const LENGTH: usize = 2;
/// Opcode and session.
const HEADER: u32 = 1 + 8;
/// No acknowledgements (a count of 0), and message packet 0.
const BODY: [u8; 5] = [0; 5];
/// Packet counter and time, in front of each wrapped packet.
const REPLAY: u32 = 8;
/// Of a packet that nothing wraps.
const PLAIN: u32 = HEADER + BODY.len() as u32;
/// HMACs of tls-auth: MD5, SHA-1, SHA-224, SHA-256, SHA-384, SHA-512, and what is as long.
const HMACS: [u32; 6] = [16, 20, 28, 32, 48, 64];
/// Tag of tls-crypt: HMAC-SHA-256.
const TAG: u32 = 32;
/// Of a packet that tls-crypt wraps.
const TLS_CRYPT: u32 = PLAIN + REPLAY + TAG;
/// Length of a client's wrapped key, which tls-crypt-v2 adds: tag, key and its length, and
/// metadata (`TLS_CRYPT_V2_MAX_WKC_LEN`).
const WRAPPED_KEY: RangeInclusive<u32> = 32 + 256 + 2..=1024;
/// What the counter of a new connection begins with: it is 1, or little more.
const COUNTER: &[u8] = &[0x00, 0x00, 0x00];
/// With tls-crypt-v2 it can be 0x0f00_0001 (`EARLY_NEG_START`), too.
const COUNTER_V2: &[u8] = &[0x0f, 0x00, 0x00];

/// Matches once the packet is complete.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "openvpn", shortest: LENGTH + PLAIN as usize, members: &[], examine, details };

/// How the control channel is protected.
#[derive(Clone, Copy)]
enum Control {
    Plain,
    TlsAuth,
    TlsCrypt,
    TlsCryptV2,
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    reset(bytes).map(|_| ())
}

/// `control`, how the control channel is protected: plain, tls-auth, tls-crypt or tls-crypt-v2.
fn details(bytes: &[u8]) -> Details {
    let control = match reset(bytes) {
        Verdict::Match(Control::Plain) => "plain",
        Verdict::Match(Control::TlsAuth) => "tls-auth",
        Verdict::Match(Control::TlsCrypt) => "tls-crypt",
        Verdict::Match(Control::TlsCryptV2) => "tls-crypt-v2",
        Verdict::NoMatch | Verdict::NeedMore(_) => return Details::new(),
    };
    Details::new().with("control", control)
}

/// By the length first, which tells tls-auth from tls-crypt but where the HMAC is as long
/// as the tag.
fn reset(bytes: &[u8]) -> Verdict<Control> {
    let length = Scan::new(bytes).big_endian::<2>(PLAIN..=TLS_CRYPT + WRAPPED_KEY.end());
    Verdict::from(length).and_then(|length| match length {
        PLAIN => plain(bytes).into(),
        TLS_CRYPT => Verdict::from(tls_crypt(bytes)).or_else(|| tls_auth(bytes, TAG).into()),
        longer => wrapped(bytes, longer).into(),
    })
}

fn wrapped(bytes: &[u8], length: u32) -> Result<Control, Stop> {
    let beyond = |least| length.checked_sub(least);
    if let Some(hmac) = beyond(PLAIN + REPLAY).filter(|hmac| HMACS.contains(hmac)) {
        tls_auth(bytes, hmac)
    } else if let Some(key) = beyond(TLS_CRYPT).filter(|key| WRAPPED_KEY.contains(key)) {
        tls_crypt_v2(bytes, key)
    } else {
        Err(Stop::Contradiction)
    }
}

/// Length, opcode, key, and session, which is random, but not zero.
fn header<'a>(bytes: &'a [u8], opcodes: &[u8]) -> Result<Scan<'a>, Stop> {
    let mut scan = Scan::new(bytes);
    scan.take(LENGTH)?;
    scan.one(|byte| opcodes.contains(&byte))?;
    match scan.array()? {
        [0, 0, 0, 0, 0, 0, 0, 0] => Err(Stop::Contradiction),
        [..] => Ok(scan),
    }
}

fn plain(bytes: &[u8]) -> Result<Control, Stop> {
    let mut scan = header(bytes, &[RESET_V1, RESET_V2])?;
    scan.literal(&BODY)?;
    Ok(Control::Plain)
}

/// `--tls-auth`: HMAC, counter and time between the header and the body.
fn tls_auth(bytes: &[u8], hmac: u32) -> Result<Control, Stop> {
    let mut scan = header(bytes, &[RESET_V1, RESET_V2])?;
    scan.take(hmac as usize)?;
    replay(&mut scan, &[COUNTER])?;
    scan.literal(&BODY)?;
    Ok(Control::TlsAuth)
}

/// `--tls-crypt`: counter, time and tag behind the header; the body is encrypted.
fn tls_crypt(bytes: &[u8]) -> Result<Control, Stop> {
    let mut scan = header(bytes, &[RESET_V2])?;
    replay(&mut scan, &[COUNTER])?;
    scan.take(TAG as usize + BODY.len())?;
    Ok(Control::TlsCrypt)
}

/// `--tls-crypt-v2`: the same, and the wrapped key, which ends with its own length.
fn tls_crypt_v2(bytes: &[u8], key: u32) -> Result<Control, Stop> {
    let mut scan = header(bytes, &[RESET_V3])?;
    replay(&mut scan, &[COUNTER, COUNTER_V2])?;
    scan.take(TAG as usize + BODY.len() + key as usize - 2)?;
    scan.big_endian::<2>(key..=key)?;
    Ok(Control::TlsCryptV2)
}

/// The counter, and the time in seconds, of which nothing can be said without a clock.
fn replay(scan: &mut Scan<'_>, counters: &[&'static [u8]]) -> Result<(), Stop> {
    scan.one_of(counters)?;
    scan.take(1 + 4)?;
    Ok(())
}
