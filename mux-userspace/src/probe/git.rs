//! Git's own protocol (`git://`): the request for a service (gitprotocol-pack, "Git
//! Transport").

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// A packet's length: four hexadecimal digits, which it counts itself (gitprotocol-common,
/// "pkt-line Format").
const LENGTH: usize = 4;
/// request-command.
const COMMANDS: &[&[u8]] = &[b"git-upload-pack", b"git-receive-pack", b"git-upload-archive"];
/// What begins the host parameter, which may be missing.
const HOST: &[u8] = b"host=";
/// Longest path believed, Linux's PATH_MAX.
const MAX_PATH: usize = 4096;
/// Longest host name and port believed.
const MAX_HOST: usize = 255 + 6;
/// The shortest request: `0016git-upload-pack /` and NUL.
const SHORTEST: usize = 22;
/// Longest request believed. git's packets have at most 65,520 bytes.
const MAX_REQUEST: usize = 2 * MAX_PATH;

/// Matches once the path and, if there is one, the host parameter have ended.
pub(super) const PROTOCOL: Protocol =
    Protocol { name: "git", shortest: SHORTEST, members: &[], examine, details };

/// A request.
struct Request<'a> {
    command: &'static [u8],
    path: &'a [u8],
    host: Option<&'a [u8]>,
}

fn examine(bytes: &[u8]) -> Verdict<()> {
    request(bytes).map(|_| ()).into()
}

/// `command`, `path` and `host`, the latter with its port if the client says one.
fn details(bytes: &[u8]) -> Details {
    request(bytes).map_or_else(
        |_| Details::new(),
        |Request { command, path, host }| {
            Details::new().with("command", command).with("path", path).with_some("host", host)
        },
    )
}

fn request(bytes: &[u8]) -> Result<Request<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    let length = length(&mut scan)?;
    if !(SHORTEST..=MAX_REQUEST).contains(&length) {
        return Err(Stop::Contradiction);
    }
    scan.limit(length);
    let command = scan.one_of(COMMANDS)?;
    scan.literal(b" ")?;

    let start = scan.position();
    scan.one(|byte| matches!(byte, b'/' | b'~'))?;
    scan.run(MAX_PATH, is_text)?;
    let path = scan.since(start);
    scan.literal(b"\0")?;
    let request = Request { command, path, host: None };
    if scan.position() == length {
        return Ok(request);
    }

    // Extra parameters, without a host before them, begin with a NUL of their own.
    if scan.peek()? == b'\0' {
        return Ok(request);
    }
    scan.literal(HOST)?;
    let host = scan.run(MAX_HOST, is_text)?;
    scan.literal(b"\0")?;
    Ok(Request { host: Some(host), ..request })
}

/// Reads a packet's length.
fn length(scan: &mut Scan<'_>) -> Result<usize, Stop> {
    let mut length = 0;
    for _ in 0..LENGTH {
        let digit = scan.one(|byte| byte.is_ascii_hexdigit())?;
        let digit = char::from(digit).to_digit(16).unwrap_or_default();
        length = length << 4 | digit as usize;
    }
    Ok(length)
}

/// What paths and hosts are made of, in any encoding.
const fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f
}
