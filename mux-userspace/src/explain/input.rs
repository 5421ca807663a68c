//! The first bytes to explain: hexadecimal, a file, or standard input.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use thiserror::Error;

/// Bytes written in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hex(Arc<[u8]>);

impl Hex {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why a text is no bytes in hexadecimal. Positions are in characters, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum HexError {
    /// Neither a digit nor one of the things that are skipped.
    #[error("character {at}, {found:?}, is not a hexadecimal digit")]
    Digit {
        /// Where.
        at: usize,
        /// What stands there.
        found: char,
    },
    /// A byte of one digit.
    #[error("the digit {found:?}, character {at}, is alone: a byte has two")]
    Half {
        /// Where.
        at: usize,
        /// The digit.
        found: char,
    },
}

/// Reads bytes of two digits each. Between bytes, white space, `0x`, `\x`, `,` and `:` are
/// skipped.
pub(super) fn parse_hex(text: &str) -> Result<Hex, HexError> {
    let mut bytes = Vec::new();
    let mut rest = (1..).zip(text.chars()).peekable();
    while let Some((at, found)) = rest.next() {
        if found.is_whitespace() || matches!(found, ',' | ':') {
            continue;
        }
        let is_escape = matches!(found, '0' | '\\');
        if is_escape && rest.next_if(|(_, c)| matches!(c, 'x' | 'X')).is_some() {
            continue;
        }
        let high = found.to_digit(16).ok_or(HexError::Digit { at, found })?;
        let low = match rest.next() {
            Some((_, c)) if c.is_whitespace() || matches!(c, ',' | ':' | '\\') => {
                return Err(HexError::Half { at, found });
            }
            Some((at, found)) => found.to_digit(16).ok_or(HexError::Digit { at, found })?,
            None => return Err(HexError::Half { at, found }),
        };
        // Two digits are at most 0xff.
        bytes.push((high << 4 | low) as u8);
    }
    Ok(Hex(bytes.into()))
}

/// Where bytes are read from.
#[derive(Debug)]
pub(super) enum Input<'a> {
    Bytes(&'a [u8]),
    File(&'a Path),
    Standard,
}

impl Input<'_> {
    /// Reads them, at most so many; or says why not.
    pub(super) fn read(&self, most: usize) -> Result<Vec<u8>, String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.iter().take(most).copied().collect()),
            Self::File(path) => File::open(path)
                .and_then(|file| take(file, most))
                .map_err(|error| format!("cannot read {}: {error}", path.display())),
            Self::Standard => take(io::stdin().lock(), most)
                .map_err(|error| format!("cannot read standard input: {error}")),
        }
    }
}

fn take(from: impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_people_write_bytes() {
        for text in [
            "16030100ff",
            "16 03 01 00 FF",
            "16:03:01:00:ff",
            r"\x16\x03\x01\x00\xff",
            "0x16, 0x03, 0x01, 0x00, 0XfF",
            "0x16030100ff",
            "\t1603\n0100 ff\n",
        ] {
            let hex = parse_hex(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(hex.bytes(), b"\x16\x03\x01\x00\xff", "{text}");
        }
        for text in ["", " ", "0x", ":"] {
            assert_eq!(parse_hex(text).map(|hex| hex.bytes().len()), Ok(0), "{text}");
        }
    }

    #[test]
    fn what_is_not_hexadecimal_is_pointed_at() {
        for (text, error) in [
            ("16g3", HexError::Digit { at: 3, found: 'g' }),
            ("1g", HexError::Digit { at: 2, found: 'g' }),
            ("16 ä3", HexError::Digit { at: 4, found: 'ä' }),
            ("16 3", HexError::Half { at: 4, found: '3' }),
            ("1 6", HexError::Half { at: 1, found: '1' }),
            (r"16 3\x01", HexError::Half { at: 4, found: '3' }),
            ("-1", HexError::Digit { at: 1, found: '-' }),
            (r"16\n", HexError::Digit { at: 3, found: '\\' }),
        ] {
            assert_eq!(parse_hex(text), Err(error), "{text}");
        }
    }

    #[test]
    fn no_more_is_read_than_is_looked_at() {
        assert_eq!(Input::Bytes(b"abcdef").read(4), Ok(b"abcd".to_vec()));
        assert_eq!(take(io::repeat(7), 5).unwrap(), [7; 5]);
        let missing = Input::File(Path::new("/nonexistent/x")).read(4).unwrap_err();
        assert!(missing.contains("/nonexistent/x: No such file"), "{missing}");
    }
}
