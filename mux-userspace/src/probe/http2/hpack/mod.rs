//! HPACK (RFC 7541): the fields of a connection's first field block.
//!
//! Why not a crate: `hpack` is not maintained and panics on hostile input
//! (RUSTSEC-2023-0085), its fork `fluke-hpack` does still, h2's decoder is private, and the
//! others copy each reference to the table, so that a small block becomes a large list. Only
//! the first block is ever read here, so nothing is kept between blocks, and references cost
//! a range each. Tests compare with h2's encoder and with another decoder.

mod huffman;
mod table;

use std::ops::Range;

use self::table::{Dynamic, STATIC};

/// Most bytes of names and values, counted as RFC 9113 6.5.2 does, with 32 more for each field.
const MAX_LIST: usize = 64 << 10;
/// What a field counts beside its name and value (RFC 7541 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// Field lines, in their order.
#[derive(Debug, Default)]
pub(in crate::probe) struct Fields {
    text: Vec<u8>,
    fields: Vec<Field>,
}

/// Where in the text a field's name and value are.
type Field = (Range<usize>, Range<usize>);

impl Fields {
    /// Names and values.
    pub(in crate::probe) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (self.text(name), self.text(value)))
    }

    /// Where names and values are.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Field> {
        self.fields.iter().cloned()
    }

    /// What is there; the range is one of this list's.
    pub(super) fn text(&self, range: &Range<usize>) -> &[u8] {
        self.text.get(range.clone()).unwrap_or_default()
    }

    fn push_text(&mut self, text: &[u8]) -> Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(text);
        start..self.text.len()
    }
}

/// Decodes the first field block of a connection. `None`: it is malformed, or too large.
pub(in crate::probe) fn decode(block: &[u8]) -> Option<Fields> {
    let mut decoder = Decoder {
        input: block,
        fields: Fields::default(),
        dynamic: Dynamic::default(),
        list_size: 0,
    };
    while let Some(&first) = decoder.input.first() {
        decoder.step(first)?;
    }
    Some(decoder.fields)
}

struct Decoder<'a> {
    input: &'a [u8],
    fields: Fields,
    dynamic: Dynamic,
    list_size: usize,
}

impl Decoder<'_> {
    /// One representation (RFC 7541 6), which begins with this byte.
    fn step(&mut self, first: u8) -> Option<()> {
        match first {
            // Indexed field.
            0x80.. => {
                let index = self.integer(7)?;
                let field = self.entry(index)?;
                self.push(field)
            }
            // Literal that enters the table.
            0x40.. => {
                let field = self.literal(6)?;
                self.dynamic.insert(field.clone());
                self.push(field)
            }
            // New size of the table: only before the first field (RFC 7541 4.2).
            0x20.. => {
                let size = self.integer(5)?;
                self.fields.fields.is_empty().then_some(())?;
                self.dynamic.resize(size)
            }
            // Literal that does not, or must never, enter a table.
            _ => {
                let field = self.literal(4)?;
                self.push(field)
            }
        }
    }

    fn push(&mut self, field: Field) -> Option<()> {
        self.list_size += field.0.len() + field.1.len() + ENTRY_OVERHEAD;
        self.fields.fields.push(field);
        (self.list_size <= MAX_LIST).then_some(())
    }

    /// The entry of a table (RFC 7541 2.3.3).
    fn entry(&mut self, index: usize) -> Option<Field> {
        let index = index.checked_sub(1)?;
        match STATIC.get(index) {
            Some((name, value)) => {
                Some((self.fields.push_text(name), self.fields.push_text(value)))
            }
            None => self.dynamic.get(index - STATIC.len()),
        }
    }

    /// Name, by index or in full, and value (RFC 7541 6.2).
    fn literal(&mut self, prefix: u32) -> Option<Field> {
        let name = match self.integer(prefix)? {
            0 => self.string()?,
            index => self.entry(index)?.0,
        };
        Some((name, self.string()?))
    }

    /// An integer with a prefix of so many bits (RFC 7541 5.1). Ones that take more than
    /// four further bytes are refused: nothing here is so large.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let mask = 0xff_u8 >> (8 - prefix);
        let mut value = usize::from(self.byte()? & mask);
        if value < usize::from(mask) {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A string literal (RFC 7541 5.2).
    fn string(&mut self) -> Option<Range<usize>> {
        let is_huffman = self.input.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        let (data, rest) = self.input.split_at_checked(length)?;
        self.input = rest;
        if !is_huffman {
            return Some(self.fields.push_text(data));
        }
        let start = self.fields.text.len();
        huffman::decode(data, &mut self.fields.text)?;
        Some(start..self.fields.text.len())
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.input.split_first()?;
        self.input = rest;
        Some(byte)
    }
}

#[cfg(test)]
mod tests;
