//! What an upstream is given first: a PROXY header perhaps, and the bytes that were sniffed.

/// The first bytes for an upstream.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    bytes: Vec<u8>,
    /// So many of them are a header, which is not the stream's.
    header: usize,
}

impl Opening {
    /// Of a flow with these bytes in hand.
    #[must_use]
    pub const fn new(prefix: Vec<u8>) -> Self {
        Self { bytes: prefix, header: 0 }
    }

    /// Puts a header before the prefix, in place of one that is there.
    pub fn announce(&mut self, header: Option<Vec<u8>>) {
        if self.header > 0 {
            self.bytes.drain(..self.header);
            self.header = 0;
        }
        if let Some(mut header) = header {
            self.header = header.len();
            header.append(&mut self.bytes);
            self.bytes = header;
        }
    }

    /// The stream's bytes.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.bytes[self.header..]
    }

    /// All of them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many of them are the header's.
    #[must_use]
    pub const fn header(&self) -> usize {
        self.header
    }

    /// All of them, and how many are the header's.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, usize) {
        (self.bytes, self.header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_rule_that_stands_in_replaces_the_one_before() {
        let mut opening = Opening::new(b"GET".to_vec());
        opening.announce(Some(b"PROXY one\r\n".to_vec()));
        assert_eq!((opening.bytes(), opening.prefix()), (&b"PROXY one\r\nGET"[..], &b"GET"[..]));
        opening.announce(Some(b"two ".to_vec()));
        assert_eq!(opening.bytes(), b"two GET");
        opening.announce(None);
        assert_eq!(opening.into_parts(), (b"GET".to_vec(), 0));
    }
}
