//! The parsers inside the probes of TLS and HTTP, without the layers around them: any bytes as a
//! ClientHello's body, as HTTP/1 field lines, as an HPACK block. Then with the layers, which must
//! change nothing, however the bytes are cut into records and frames.

use mux::{
    Verdict,
    probe::{
        http,
        inside::{field_block, field_lines, hello},
        tls,
    },
};

/// The check; the first byte says of which, the second where a layer is cut.
pub(crate) fn check(input: &[u8]) {
    let [which, cut, bytes @ ..] = input else { return };
    match which % 3 {
        0 => client_hello(bytes, usize::from(*cut)),
        1 => http1(bytes),
        _ => http2(bytes, usize::from(*cut)),
    }
}

fn client_hello(body: &[u8], cut: usize) {
    let body = &body[..body.len().min(8 << 10)];
    let read = hello(body);
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[0x01], &length[1..], body].concat();
    let (first, second) = message.split_at(1 + cut.min(message.len() - 1));
    let record = |fragment: &[u8]| {
        let length = (fragment.len() as u16).to_be_bytes();
        [&[0x16, 0x03, 0x01], &length[..], fragment].concat()
    };
    let mut cuts = vec![record(&message)];
    if !second.is_empty() {
        cuts.push([record(first), record(second)].concat());
    }
    for bytes in cuts {
        let name = match tls::sni(&bytes) {
            Verdict::Match(name) => Some(name.map(|name| name.to_vec())),
            Verdict::NoMatch => None,
            Verdict::NeedMore(total) => panic!("has all {}, wants {total}", bytes.len()),
        };
        assert_eq!(name, read.as_ref().map(|hello| hello.name.clone()));
    }
    let Some(hello) = read else { return };
    assert!(hello.name.is_none_or(|name| name.len() <= body.len()));
    assert!(hello.protocols.iter().all(|name| !name.is_empty()));
}

fn http1(bytes: &[u8]) {
    // httparse says what is wrong with a line before it is there.
    let lines = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let lines = &bytes[..lines];
    let (fields, end) = field_lines(lines);
    let mut room = [httparse::EMPTY_HEADER; 128];
    match httparse::parse_headers(lines, &mut room) {
        Ok(httparse::Status::Complete((_, theirs))) => {
            assert_eq!(end, Some(true));
            let theirs = theirs.iter().map(|field| (field.name.as_bytes(), field.value));
            let ours = fields.iter().map(|(name, value)| (&name[..], &value[..]));
            assert!(theirs.eq(ours), "{}", lines.escape_ascii());
        }
        Ok(httparse::Status::Partial) => assert_eq!(end, None, "{}", lines.escape_ascii()),
        Err(httparse::Error::TooManyHeaders) => {}
        Err(_) => assert_eq!(end, Some(false), "{}", lines.escape_ascii()),
    }
    let head = [b"GET / HTTP/1.1\r\n", lines].concat();
    if let Verdict::Match(Some(host)) = http::host(&head) {
        let is_host = |(name, value): &(Vec<u8>, Vec<u8>)| {
            name.eq_ignore_ascii_case(b"host") && value.starts_with(&host)
        };
        assert!(fields.iter().any(is_host), "{}", host.escape_ascii());
    }
}

fn http2(block: &[u8], cut: usize) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const END_HEADERS: u8 = 4;
    let block = &block[..block.len().min(8 << 10)];
    if let Some(fields) = field_block(block) {
        // RFC 9113 6.5.2, and the bound that is believed.
        let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        assert!(size <= 64 << 10, "{size}");
    }
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let (first, second) = block.split_at(cut.min(block.len()));
    let at_once = [PREFACE, SETTINGS, &frame(1, END_HEADERS, block)].concat();
    let in_two = [PREFACE, SETTINGS, &frame(1, 0, first), &frame(9, END_HEADERS, second)].concat();
    let (one, two) = (http::host(&at_once), http::host(&in_two));
    assert_eq!(one, two);
    assert!(!matches!(one, Verdict::NeedMore(_)));
}
