//! SOCKS4 and SOCKS4a: the client's request.
//!
//! Neither has an RFC: "SOCKS: A protocol for TCP proxy across firewalls" (Ying-Da Lee)
//! and "SOCKS 4A: A Simple Extension to SOCKS 4 Protocol" (the same) define them.

use std::{fmt, net::Ipv4Addr};

use serde::Serialize;

use super::{
    text::{Pairs, PeerText},
    verdict::Verdict,
};

/// VN.
const VERSION: u8 = 0x04;
/// CD of a CONNECT request.
const CONNECT: u8 = 0x01;
/// CD of a BIND request.
const BIND: u8 = 0x02;
/// VN, CD, DSTPORT and DSTIP, before USERID.
const HEADER: usize = 8;
/// Longest USERID and longest host name, without their NUL.
const MAX_TEXT: usize = 255;
/// The header and an empty USERID's NUL.
pub(super) const SHORTEST: usize = HEADER + 1;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Request {
    /// What the client asks for.
    pub command: Command,
    /// DSTPORT.
    pub port: u16,
    /// DSTIP, or in SOCKS4a the host name.
    pub host: PeerText,
    /// USERID, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<PeerText>,
}

/// CD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// 0x01.
    Connect,
    /// 0x02.
    Bind,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Bind => "bind",
        })
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, port, host, user } = self;
        let mut pairs = Pairs::new(f);
        pairs.pair("command", command)?;
        pairs.pair("host", host)?;
        pairs.pair("port", port)?;
        pairs.optional("user", user.as_ref())
    }
}

/// Matches once USERID and, in SOCKS4a, the host name have ended.
pub(super) fn examine(bytes: &[u8]) -> Verdict<Request> {
    let command = match bytes {
        [] | [VERSION] => return Verdict::NeedMore(bytes.len() + 1),
        [VERSION, CONNECT, ..] => Command::Connect,
        [VERSION, BIND, ..] => Command::Bind,
        [..] => return Verdict::NoMatch,
    };
    let Some((&[_, _, port_high, port_low, a, b, c, d], rest)) =
        bytes.split_first_chunk::<HEADER>()
    else {
        return Verdict::NeedMore(SHORTEST);
    };

    let (user, rest) = match until_nul(rest) {
        Text::Complete { text, rest } => (text, rest),
        Text::Partial => return Verdict::NeedMore(bytes.len() + 1),
        Text::TooLong => return Verdict::NoMatch,
    };
    // SOCKS4a: 0.0.0.x with x not 0 says that a host name follows USERID.
    let host = if [a, b, c] == [0, 0, 0] && d != 0 {
        match until_nul(rest) {
            Text::Complete { text: [], rest: _ } | Text::TooLong => return Verdict::NoMatch,
            Text::Complete { text, rest: _ } => PeerText::new(text),
            Text::Partial => return Verdict::NeedMore(bytes.len() + 1),
        }
    } else {
        PeerText::new(Ipv4Addr::new(a, b, c, d).to_string().as_bytes())
    };
    Verdict::Match(Request {
        command,
        port: u16::from_be_bytes([port_high, port_low]),
        host,
        user: (!user.is_empty()).then(|| PeerText::new(user)),
    })
}

/// A text that ends in NUL, as far as it has arrived.
enum Text<'a> {
    Complete { text: &'a [u8], rest: &'a [u8] },
    Partial,
    TooLong,
}

fn until_nul(bytes: &[u8]) -> Text<'_> {
    match bytes.iter().take(MAX_TEXT + 1).position(|&byte| byte == 0) {
        Some(end) => Text::Complete { text: &bytes[..end], rest: &bytes[end + 1..] },
        None if bytes.len() > MAX_TEXT => Text::TooLong,
        None => Text::Partial,
    }
}
