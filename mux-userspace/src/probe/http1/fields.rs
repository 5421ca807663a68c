//! Field lines (RFC 9112 5), as far as they have come.

use crate::probe::http::is_token;

/// Goes over the field lines that are there to their end.
///
/// A line that is malformed ends the header: what a server makes of such a line, and so of
/// those after it, differs from server to server. That are lines without a colon, with white
/// space before it (RFC 9112 5.1), with a control code in the value (RFC 9110 5.5), and ones
/// that begin with white space: line folding, which is obsolete (RFC 9112 5.2).
#[derive(Clone, Debug)]
pub(in crate::probe) struct Fields<'a> {
    rest: &'a [u8],
    end: Option<End>,
}

/// What comes after the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::probe) enum End {
    /// More lines may.
    Open,
    /// The empty line did.
    Complete,
    /// A line did that cannot be read.
    Malformed,
}

impl<'a> Fields<'a> {
    pub(in crate::probe) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, end: None }
    }

    /// What came after the last one; to be asked after it.
    pub(in crate::probe) fn end(&self) -> End {
        self.end.unwrap_or(End::Open)
    }
}

impl<'a> Iterator for Fields<'a> {
    /// Name and value.
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.end.is_some() {
            return None;
        }
        let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') else {
            self.end = Some(End::Open);
            return None;
        };
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        // A lone LF may end the line (RFC 9112 2.2).
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let field = field(line);
        if field.is_none() {
            self.end = Some(if line.is_empty() { End::Complete } else { End::Malformed });
        }
        field
    }
}

/// `field-name ":" OWS field-value OWS`; the value without the white space around it.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_name = !name.is_empty() && name.iter().all(|&byte| is_token(byte));
    let is_value = value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    (is_name && is_value).then(|| (name, trim(value)))
}

/// Takes `OWS` (RFC 9110 5.6.3) off both ends.
fn trim(value: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = value.iter().position(is_text).unwrap_or(value.len());
    let end = value.iter().rposition(is_text).map_or(start, |last| last + 1);
    &value[start..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{End, Fields};

    type Field<'a> = (&'a [u8], &'a [u8]);

    fn read(bytes: &[u8]) -> (Vec<Field<'_>>, End) {
        let mut fields = Fields::new(bytes);
        let read: Vec<Field<'_>> = fields.by_ref().collect();
        assert!(fields.next().is_none());
        (read, fields.end())
    }

    #[test]
    fn lines() {
        let one = |line: &'static str| match read(line.as_bytes()) {
            (fields, End::Open) if fields.len() == 1 => Some(fields[0]),
            (fields, end) => {
                assert!(fields.is_empty() && end == End::Malformed, "{line:?} {fields:?} {end:?}");
                None
            }
        };
        let host: Field<'_> = (b"Host", b"a");
        for line in ["Host:a\n", "Host: a\r\n", "Host:\t a \t\r\n", "Host: a\n"] {
            assert_eq!(one(line), Some(host), "{line:?}");
        }
        assert_eq!(one("X:\r\n"), Some((&b"X"[..], &b""[..])));
        assert_eq!(one("X: a: b\x7e\u{e4}\r\n"), Some((&b"X"[..], "a: b~ä".as_bytes())));
        for line in [
            "Host : a\r\n",
            " Host: a\r\n",
            "\tfolded\r\n",
            "Host\r\n",
            ": a\r\n",
            "Ho st: a\r\n",
            "Host: a\0\r\n",
            "Host: a\rb\r\n",
            "Host: \x7f\r\n",
            "Hö: a\r\n",
            "\r\r\n",
        ] {
            assert_eq!(one(line), None, "{line:?}");
        }
    }

    #[test]
    fn ends() {
        assert_eq!(read(b""), (vec![], End::Open));
        assert_eq!(read(b"\r"), (vec![], End::Open));
        assert_eq!(read(b"\r\nHost: in the body\r\n"), (vec![], End::Complete));
        assert_eq!(read(b"a: b\n\n"), (vec![(&b"a"[..], &b"b"[..])], End::Complete));
        assert_eq!(read(b"a: b\n c\nd: e\n"), (vec![(&b"a"[..], &b"b"[..])], End::Malformed));
    }

    fn headers() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: [&[u8]; 16] = [
            b"Host",
            b"x-y",
            b":",
            b": ",
            b" ",
            b"\t",
            b"\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b"a.example",
            b"\0",
            b"\xff",
            b"\x7f",
            b"a: b\r\n",
            b"(",
        ];
        let piece = prop::sample::select(&PIECES[..]);
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn agrees_with_httparse(mut bytes in headers()) {
            // httparse says what is wrong with a line before it is there.
            let lines = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
            bytes.truncate(lines);
            let (fields, end) = read(&bytes);
            let mut storage = [httparse::EMPTY_HEADER; 16];
            match httparse::parse_headers(&bytes, &mut storage) {
                Ok(httparse::Status::Complete((_, theirs))) => {
                    prop_assert_eq!(end, End::Complete, "{}", bytes.escape_ascii());
                    let theirs: Vec<Field<'_>> =
                        theirs.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
                    prop_assert_eq!(fields, theirs, "{}", bytes.escape_ascii());
                }
                Ok(httparse::Status::Partial) => {
                    prop_assert_eq!(end, End::Open, "{}", bytes.escape_ascii());
                }
                Err(_) => prop_assert_eq!(end, End::Malformed, "{}", bytes.escape_ascii()),
            }
        }
    }
}
