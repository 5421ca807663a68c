//! The tables that HPACK refers to (RFC 7541 2.3).

use std::collections::VecDeque;

use super::{ENTRY_OVERHEAD, Field};

/// `SETTINGS_HEADER_TABLE_SIZE` before the server has said another (RFC 9113 6.5.2).
const MAX_SIZE: usize = 4096;

/// The fields that were sent before (RFC 7541 2.3.2).
#[derive(Debug)]
pub(super) struct Dynamic {
    /// The newest first.
    entries: VecDeque<Field>,
    size: usize,
    max_size: usize,
}

impl Default for Dynamic {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, max_size: MAX_SIZE }
    }
}

impl Dynamic {
    pub(super) fn get(&self, index: usize) -> Option<Field> {
        self.entries.get(index).cloned()
    }

    /// Makes room, and enters it; one that is larger than the table only empties it
    /// (RFC 7541 4.4).
    pub(super) fn insert(&mut self, field: Field) {
        self.entries.push_front(field);
        self.size += self.entries.front().map_or(0, size);
        self.evict();
    }

    /// `None`: more than the connection allows.
    pub(super) fn resize(&mut self, size: usize) -> Option<()> {
        self.max_size = size;
        self.evict();
        (size <= MAX_SIZE).then_some(())
    }

    fn evict(&mut self) {
        while self.size > self.max_size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= size(&oldest);
        }
    }
}

/// What a field counts (RFC 7541 4.1).
fn size((name, value): &Field) -> usize {
    name.len() + value.len() + ENTRY_OVERHEAD
}

/// The static table (RFC 7541 appendix A); its first index is 1.
pub(super) const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];
