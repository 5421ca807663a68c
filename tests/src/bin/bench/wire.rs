//! What is said on the wire by both ends: the generator knows to the byte what the server answers.

use std::sync::Arc;

/// How a client asks for each service. The first bytes are what multiplexers route by.
pub(crate) const ECHO: &[u8; 4] = b"ECHO";
/// The one method that the server knows.
pub(crate) const GET: &[u8] = b"GET /";
/// Asks the source for bytes without end. Longer than its first word: some multiplexers want five
/// bytes before they decide anything.
pub(crate) const BULK: &[u8; 17] = b"BULK, without end";
/// Begins a stream of small writes, which the sink counts.
pub(crate) const TINY: &[u8; 4] = b"TINY";
/// Ends it. Not the end of the stream: multiplexers that have no half-closed streams would close
/// the other way, too, before the sink has answered.
pub(crate) const DONE: &[u8; 4] = b"done";

/// A TLS alert record: fatal, `handshake_failure` (RFC 8446, section 6). What the hello service
/// answers to any ClientHello, so that a work can measure routing without cryptography.
pub(crate) const ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];
/// Bytes of a TLS record's header (RFC 8446, section 5.1).
pub(crate) const RECORD_HEADER: usize = 5;

/// Bytes of the repeated pattern that the source sends; a power of two.
pub(crate) const PATTERN: usize = 256 * 1024;
/// Bytes of the number by which the sink answers.
pub(crate) const COUNT: usize = 8;

/// Whether a connection serves one request or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// Many.
    Keep,
    /// One; the server closes.
    Close,
}

/// A request for `size` bytes.
pub(crate) fn request(size: usize, persistence: Persistence) -> Vec<u8> {
    let connection = match persistence {
        Persistence::Keep => "",
        Persistence::Close => "Connection: close\r\n",
    };
    format!("GET /{size} HTTP/1.1\r\nHost: bench.test\r\n{connection}\r\n").into_bytes()
}

/// The whole answer to [`request`].
pub(crate) fn response(size: usize, persistence: Persistence) -> Arc<[u8]> {
    let connection = match persistence {
        Persistence::Keep => "",
        Persistence::Close => "Connection: close\r\n",
    };
    let head = format!("HTTP/1.1 200 OK\r\n{connection}Content-Length: {size}\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + size, b'.');
    bytes.into()
}

/// Reads the head of a [`request`]: its size and whether to close. `None`: it is not one.
pub(crate) fn parse_request(head: &[u8]) -> Option<(usize, Persistence)> {
    let text = std::str::from_utf8(head).ok()?;
    let size = text.strip_prefix("GET /")?.split(' ').next()?.parse().ok()?;
    let closes = text.contains("\r\nConnection: close\r\n");
    Some((size, if closes { Persistence::Close } else { Persistence::Keep }))
}

/// What the source repeats: each eight bytes hold their own place, so that a lost or repeated
/// byte shifts every word after it.
pub(crate) fn pattern() -> Box<[u8]> {
    (0..PATTERN as u64 / 8).flat_map(|word| (word * 8).to_le_bytes()).collect()
}

/// Whether `chunk`, which is at `offset` of the stream, begins and ends as the pattern does.
/// Not the whole of it: comparing every byte would measure the comparison.
pub(crate) fn fits(pattern: &[u8], offset: u64, chunk: &[u8]) -> bool {
    const EDGE: usize = 16;
    let edge = EDGE.min(chunk.len());
    let last = chunk.len() - edge;
    let at = |place: usize| (offset as usize).wrapping_add(place) & (PATTERN - 1);
    let same = |start: usize| {
        chunk[start..start + edge]
            .iter()
            .enumerate()
            .all(|(index, byte)| pattern.get(at(start + index)) == Some(byte))
    };
    same(0) && same(last)
}

/// The server name of a TLS work's client, and of a rule.
pub(crate) fn server_name(index: usize) -> String {
    format!("host-{index:04}.bench.test")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_understands_what_the_generator_asks() {
        for persistence in [Persistence::Keep, Persistence::Close] {
            let request = request(1 << 20, persistence);
            assert_eq!(parse_request(&request), Some((1 << 20, persistence)));
        }
        assert_eq!(parse_request(b"POST /1 HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn a_lost_byte_of_the_pattern_is_noticed_at_every_place() {
        let pattern = pattern();
        let stream: Vec<u8> = pattern.iter().chain(&pattern).copied().collect();
        for offset in [0, 5, PATTERN - 3] {
            let chunk = &stream[offset..offset + 1000];
            assert!(fits(&pattern, offset as u64, chunk));
            assert!(!fits(&pattern, offset as u64 + 1, chunk));
            let mut lost = chunk.to_vec();
            lost.remove(500);
            assert!(!fits(&pattern, offset as u64, &lost), "lost after {offset}");
        }
        assert!(fits(&pattern, 0, &[]));
    }
}
