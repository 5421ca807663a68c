//! XMPP: the stream header (RFC 6120 4.2), of a client, a server or a component.

use super::{
    Details, Protocol,
    scan::Scan,
    verdict::{Stop, Verdict},
};

/// The start of the optional XML declaration (RFC 6120 11.5) and its end.
const DECLARATION: &[u8] = b"?xml";
const DECLARATION_END: &[u8] = b"?>";
/// Longest inside of a declaration believed; `version='1.0' encoding='UTF-8'` has 30 bytes.
const MAX_DECLARATION: usize = 128;
/// The root element. Its prefix has to be `stream` (RFC 6120 4.8.5).
const STREAM: &[u8] = b"stream:stream";
/// The attribute that declares that prefix, and what it has to say (RFC 6120 4.8.1).
const PREFIX: &[u8] = b"xmlns:stream";
const NAMESPACE: &[u8] = b"http://etherx.jabber.org/streams";
/// The attribute that names the server (RFC 6120 4.7.2).
const TO: &[u8] = b"to";
/// Longest attribute's name believed.
const MAX_NAME: usize = 64;
/// Longest header believed, with its declaration. Those of clients have 100 to 300 bytes.
const MAX_HEADER: usize = 2048;

/// Matches at the end of the root element's start tag.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "xmpp",
    // `<stream:stream xmlns:stream="…">`.
    shortest: STREAM.len() + PREFIX.len() + NAMESPACE.len() + 6,
    members: &[],
    examine,
    details,
};

fn examine(bytes: &[u8]) -> Verdict<()> {
    header(bytes).map(|_| ()).into()
}

/// `to`: the server that is asked for, if the client says it.
fn details(bytes: &[u8]) -> Details {
    Details::new().with_some("to", header(bytes).ok().and_then(|Header { to }| to))
}

/// A stream header.
struct Header<'a> {
    to: Option<&'a [u8]>,
}

fn header(bytes: &[u8]) -> Result<Header<'_>, Stop> {
    let mut scan = Scan::new(bytes);
    scan.limit(MAX_HEADER);
    scan.literal(b"<")?;
    if scan.peek()? == b'?' {
        scan.literal(DECLARATION)?;
        scan.one(is_space)?;
        scan.word(MAX_DECLARATION, is_declaration)?;
        scan.literal(DECLARATION_END)?;
        scan.run(MAX_HEADER, is_space)?;
        scan.literal(b"<")?;
    }
    scan.literal(STREAM)?;

    let (mut is_stream, mut to) = (false, None);
    while let Some(Attribute { name, value }) = attribute(&mut scan)? {
        match name {
            PREFIX if value != NAMESPACE => return Err(Stop::Contradiction),
            PREFIX => is_stream = true,
            TO => to = Some(value),
            _ => {}
        }
    }
    if is_stream { Ok(Header { to }) } else { Err(Stop::Contradiction) }
}

/// An attribute of the start tag.
struct Attribute<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

/// The next attribute; `None` at the tag's end (XML 1.0, productions 40, 41, 25 and 10).
fn attribute<'a>(scan: &mut Scan<'a>) -> Result<Option<Attribute<'a>>, Stop> {
    let space = scan.run(MAX_HEADER, is_space)?;
    if scan.peek()? == b'>' {
        return Ok(None);
    }
    if space.is_empty() {
        return Err(Stop::Contradiction);
    }
    let name = scan.word(MAX_NAME, is_name)?;
    scan.run(MAX_HEADER, is_space)?;
    scan.literal(b"=")?;
    scan.run(MAX_HEADER, is_space)?;
    let quote = scan.one(|byte| matches!(byte, b'\'' | b'"'))?;
    let value = scan.run(MAX_HEADER, |byte| byte != quote && is_value(byte))?;
    scan.one(|byte| byte == quote)?;
    Ok(Some(Attribute { name, value }))
}

/// White space (XML 1.0, production 3).
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// What stands in a declaration: names, `=`, quotes and plain text.
const fn is_declaration(byte: u8) -> bool {
    (byte.is_ascii_graphic() || is_space(byte)) && !matches!(byte, b'?' | b'<' | b'>')
}

/// What attributes' names of stream headers are made of; all of those defined are ASCII.
const fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.')
}

/// What may stand in a value, except for its quote.
const fn is_value(byte: u8) -> bool {
    (byte >= b' ' || is_space(byte)) && byte != b'<' && byte != 0x7f
}
