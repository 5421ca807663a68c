//! HPACK's Huffman code (RFC 7541 5.2).
//!
//! It is canonical: codes of one length are consecutive, in the order of their symbols, and
//! follow those of the length before. So the lengths are all there is to know of it.

/// Symbols: the bytes, and the one that ends a string.
const SYMBOLS: usize = 257;
/// The symbol that must not occur.
const EOS: u16 = 256;
/// Longest code, bits.
const MAX_BITS: usize = 30;

/// Appends what the data says. `None`: it is malformed.
pub(super) fn decode(data: &[u8], text: &mut Vec<u8>) -> Option<()> {
    let mut code = 0;
    let mut bits = 0;
    for byte in data {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            let Some(symbol) = CODE.symbol(code, bits) else { continue };
            // End of string is not to be sent (RFC 7541 5.2).
            text.push(u8::try_from(symbol).ok()?);
            (code, bits) = (0, 0);
        }
    }
    // What is left is padding: less than a byte of ones.
    (bits < 8 && code == (1 << bits) - 1).then_some(())
}

/// The code, in the form in which it is decoded.
static CODE: Code = Code::new();

struct Code {
    /// Of each length: its first code, how many it has, and the place of the first's symbol.
    lengths: [(u32, u32, usize); MAX_BITS + 1],
    /// By length, then by symbol.
    symbols: [u16; SYMBOLS],
}

impl Code {
    const fn new() -> Self {
        let mut lengths = [(0, 0, 0); MAX_BITS + 1];
        let mut symbols = [EOS; SYMBOLS];
        let mut place = 0;
        let mut next = 0;
        let mut bits = 1;
        while bits <= MAX_BITS {
            next <<= 1;
            let (first, first_place) = (next, place);
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == bits {
                    symbols[place] = symbol as u16;
                    place += 1;
                    next += 1;
                }
                symbol += 1;
            }
            lengths[bits] = (first, next - first, first_place);
            bits += 1;
        }
        Self { lengths, symbols }
    }

    /// The symbol of this code of so many bits, if it is one.
    fn symbol(&self, code: u32, bits: usize) -> Option<u16> {
        let (first, count, place) = *self.lengths.get(bits)?;
        let offset = code.checked_sub(first).filter(|&offset| offset < count)?;
        self.symbols.get(place + offset as usize).copied()
    }
}

/// The code of a byte, and its length.
#[cfg(test)]
pub(super) fn code_of(byte: u8) -> (u32, usize) {
    let bits = usize::from(LENGTHS[usize::from(byte)]);
    let (first, _, place) = CODE.lengths[bits];
    let place_of = CODE.symbols.iter().position(|&symbol| symbol == u16::from(byte));
    (first + (place_of.expect("every byte has one") - place) as u32, bits)
}

/// Lengths of the codes of all symbols, bits (RFC 7541 appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
