//! Text → tokens. Includes are followed here: a file's tokens stand where its `@include` stands.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path, sync::Arc};

use super::{
    super::source::{Problem, Sources, Span},
    MAX_INCLUDE_DEPTH,
};

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(String),
    /// One pair of quotes.
    String(Vec<u8>),
    Bool(bool),
    Int {
        value: i64,
        long: bool,
    },
    Float(f64),
    /// `=` or `:`
    Equals,
    /// One of `, ; { } [ ] ( )`
    Mark(u8),
    /// The end of the first file.
    End,
}

/// Reads tokens from a stack of files.
pub(super) struct Lexer<'s> {
    sources: &'s mut Sources,
    /// The file that is read is the last one; never empty.
    files: Vec<Cursor>,
}

struct Cursor {
    file: usize,
    bytes: Arc<[u8]>,
    at: usize,
}

impl Cursor {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn slice(&self, start: usize) -> &[u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// Takes bytes while they are like this.
    fn skip(&mut self, like: impl Fn(u8) -> bool) {
        self.at += self.rest().iter().take_while(|&&byte| like(byte)).count();
    }

    /// From `start` to here.
    fn span(&self, start: usize) -> Span {
        Span::new(self.file, start, self.at)
    }

    /// The character here.
    fn character(&self) -> (char, Span) {
        let chunk = &self.rest()[..self.rest().len().min(4)];
        let character = chunk
            .utf8_chunks()
            .next()
            .and_then(|chunk| chunk.valid().chars().next())
            .unwrap_or(char::REPLACEMENT_CHARACTER);
        let length =
            if character == char::REPLACEMENT_CHARACTER { 1 } else { character.len_utf8() };
        (character, Span::new(self.file, self.at, self.at + length))
    }

    /// Whether there are only blanks before this on its line.
    fn begins_line(&self) -> bool {
        let before = self.slice(0);
        before
            .iter()
            .rev()
            .take_while(|&&byte| byte != b'\n')
            .all(|&byte| matches!(byte, b' ' | b'\t'))
    }

    /// Takes `/* … */`.
    fn skip_comment(&mut self) -> Result<(), Problem> {
        let start = self.at;
        match self.rest().windows(2).skip(2).position(|pair| pair == b"*/") {
            Some(length) => {
                self.at += length + 4;
                Ok(())
            }
            None => {
                self.at = start + 2;
                Err(Problem::new(self.span(start), "this comment does not end")
                    .hint("end it with `*/`"))
            }
        }
    }

    /// Takes `"…"`.
    fn string(&mut self) -> Result<Vec<u8>, Problem> {
        let start = self.at;
        self.at += 1;
        let mut text = Vec::new();
        loop {
            match (self.peek(0), self.peek(1)) {
                (None, _) => {
                    self.at = start + 1;
                    return Err(Problem::new(self.span(start), "this string does not end")
                        .hint("end it with `\"`, and write a quote inside of it as `\\\"`"));
                }
                (Some(b'"'), _) => {
                    self.at += 1;
                    return Ok(text);
                }
                (Some(b'\\'), Some(letter)) => self.escape(letter, &mut text),
                (Some(byte), _) => {
                    self.at += 1;
                    text.push(byte);
                }
            }
        }
    }

    /// Takes a backslash and what follows. One that begins no escape is a backslash.
    fn escape(&mut self, letter: u8, text: &mut Vec<u8>) {
        let short = match letter {
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'f' => Some(b'\x0c'),
            b'\\' | b'"' => Some(letter),
            _ => None,
        };
        let digit = |ahead| self.peek(ahead).and_then(|byte| char::from(byte).to_digit(16));
        let hex = || (matches!(letter, b'x' | b'X')).then(|| Some(digit(2)? * 16 + digit(3)?))?;
        if let Some(byte) = short {
            text.push(byte);
            self.at += 2;
        } else if let Some(byte) = hex().and_then(|byte| u8::try_from(byte).ok()) {
            text.push(byte);
            self.at += 4;
        } else {
            text.push(b'\\');
            self.at += 1;
        }
    }

    /// Takes a number. `None`: there is none here.
    fn number(&mut self) -> Option<Result<Token, Problem>> {
        let start = self.at;
        let rest = self.rest();
        if let [b'0', b'x' | b'X', digit, ..] = rest
            && digit.is_ascii_hexdigit()
        {
            self.at += 2;
            self.skip(|byte| byte.is_ascii_hexdigit());
            return Some(self.integer(start, start + 2, 16));
        }
        let signed = matches!(rest.first(), Some(b'+' | b'-'));
        let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut length = usize::from(signed);
        let whole = digits(&rest[length..]);
        length += whole;
        let mut fraction = 0;
        let point = rest.get(length) == Some(&b'.');
        if point {
            fraction = digits(&rest[length + 1..]);
            length += 1 + fraction;
        }
        if whole + fraction == 0 {
            return None;
        }
        let exponent = exponent(&rest[length..]);
        self.at += length + exponent;
        Some(if point || exponent > 0 { self.float(start) } else { self.integer(start, start, 10) })
    }

    /// The integer whose digits, and a sign, are from `digits` to here; takes `L` and `LL`.
    ///
    /// Digits after a leading zero are decimal, as in libconfig 1.5; nobody writes a timeout in
    /// octal.
    fn integer(&mut self, start: usize, digits: usize, radix: u32) -> Result<Token, Problem> {
        let text = String::from_utf8_lossy(self.slice(digits)).into_owned();
        let long = self.peek(0) == Some(b'L');
        if long {
            self.at += if self.peek(1) == Some(b'L') { 2 } else { 1 };
        }
        i64::from_str_radix(&text, radix).map(|value| Token::Int { value, long }).map_err(|_| {
            Problem::new(self.span(start), "this integer does not fit into 64 bits")
                .hint("write one from -9223372036854775808 to 9223372036854775807")
        })
    }

    fn float(&self, start: usize) -> Result<Token, Problem> {
        let text = String::from_utf8_lossy(self.slice(start));
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Token::Float(value)),
            Ok(_) | Err(_) => Err(Problem::new(self.span(start), "this number is too large")
                .hint("write one that a double-precision float can be")),
        }
    }
}

/// The length of `e+10` where this begins with it, else 0.
fn exponent(text: &[u8]) -> usize {
    let sign = match text {
        [b'e' | b'E', b'+' | b'-', ..] => 1,
        [b'e' | b'E', ..] => 0,
        _ => return 0,
    };
    let digits = text[1 + sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 { 0 } else { 1 + sign + digits }
}

impl<'s> Lexer<'s> {
    /// Begins with a file of these sources.
    pub(super) fn new(sources: &'s mut Sources, file: usize) -> Self {
        let bytes = sources.bytes(file);
        Self { sources, files: vec![Cursor { file, bytes, at: 0 }] }
    }

    /// The next token and where it stands.
    pub(super) fn next(&mut self) -> Result<(Token, Span), Problem> {
        loop {
            let depth = self.files.len();
            let Some(cursor) = self.files.last_mut() else {
                return Ok((Token::End, Span::new(0, 0, 0)));
            };
            cursor.skip(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c'));
            match (cursor.peek(0), cursor.peek(1)) {
                (None, _) if depth == 1 => return Ok((Token::End, cursor.span(cursor.at))),
                (None, _) => {
                    self.files.pop();
                }
                (Some(b'#'), _) | (Some(b'/'), Some(b'/')) => cursor.skip(|byte| byte != b'\n'),
                (Some(b'/'), Some(b'*')) => cursor.skip_comment()?,
                (Some(b'@'), _) => self.include()?,
                (Some(first), _) => return token(cursor, first),
            }
        }
    }

    /// Follows `@include "path"`, which stands at the beginning of a line.
    fn include(&mut self) -> Result<(), Problem> {
        let Some(cursor) = self.files.last_mut() else { return Ok(()) };
        let start = cursor.at;
        let blanks = || cursor.rest().strip_prefix(b"@include").unwrap_or_default().iter();
        let gap = blanks().take_while(|&&byte| matches!(byte, b' ' | b'\t')).count();
        if gap == 0 || blanks().nth(gap) != Some(&b'"') || !cursor.begins_line() {
            return Err(Problem::new(cursor.character().1, "this is no include")
                .hint("write `@include \"file.cfg\"`, at the beginning of a line"));
        }
        cursor.at += b"@include".len() + gap;
        let quote = cursor.at;
        let path = cursor.string()?;
        let (from, place) = (cursor.file, cursor.span(quote));
        let whole = cursor.span(start);

        if self.files.len() > MAX_INCLUDE_DEPTH {
            return Err(Problem::new(whole, "includes are nested too deeply").hint(format!(
                "at most {MAX_INCLUDE_DEPTH} files deep; does this file include itself?"
            )));
        }
        let path = Path::new(OsStr::from_bytes(&path));
        let file = self.sources.include(from, path).map_err(|error| unreadable(place, &error))?;
        self.files.push(Cursor { file, bytes: self.sources.bytes(file), at: 0 });
        Ok(())
    }
}

fn unreadable(place: Span, error: &io::Error) -> Problem {
    Problem::new(place, "this file cannot be included")
        .label(error.to_string())
        .hint("a relative path is taken from the directory of the file that includes")
}

/// The token that begins here with `first`.
fn token(cursor: &mut Cursor, first: u8) -> Result<(Token, Span), Problem> {
    let start = cursor.at;
    let token = match first {
        b'"' => Token::String(cursor.string()?),
        b'=' | b':' => {
            cursor.at += 1;
            Token::Equals
        }
        b',' | b';' | b'{' | b'}' | b'[' | b']' | b'(' | b')' => {
            cursor.at += 1;
            Token::Mark(first)
        }
        _ if first.is_ascii_alphabetic() || first == b'*' => {
            cursor.skip(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*'));
            word(cursor.slice(start))
        }
        _ => match cursor.number() {
            Some(number) => number?,
            None => return Err(garbage(cursor)),
        },
    };
    Ok((token, cursor.span(start)))
}

/// A name, or a boolean.
fn word(text: &[u8]) -> Token {
    if text.eq_ignore_ascii_case(b"true") {
        Token::Bool(true)
    } else if text.eq_ignore_ascii_case(b"false") {
        Token::Bool(false)
    } else {
        Token::Name(String::from_utf8_lossy(text).into_owned())
    }
}

fn garbage(cursor: &Cursor) -> Problem {
    let (character, span) = cursor.character();
    let hint = match character {
        '\'' => "strings stand in double quotes: `\"…\"`",
        '_' => "names begin with a letter or `*`",
        '/' => "comments begin with `#`, `//` or `/*`",
        _ => "quote it, if it belongs to a string",
    };
    let shown = match character.is_control() {
        true => character.escape_debug().to_string(),
        false => character.to_string(),
    };
    let message = format!("`{shown}` has no meaning here");
    Problem::new(span, message).hint(hint)
}
