//! What a backslash begins.

use super::{
    super::{Untranslatable, literal},
    Step, Translation,
};

impl Translation<'_> {
    /// A backslash outside of a class.
    pub(super) fn escape(&mut self) -> Step {
        let start = self.at;
        let Some(letter) = self.peek(1) else {
            return self.no(start, "a backslash with nothing after it");
        };
        if let Some(byte) = self.byte_escape(false)? {
            literal(&mut self.out, byte);
            return Ok(());
        }
        if let Some(set) = set_escape(letter) {
            self.at += 2;
            self.out.push_str(set);
            return Ok(());
        }
        self.at += 2;
        match letter {
            b'b' | b'B' | b'A' | b'z' => self.out.extend(['\\', char::from(letter)]),
            b'Z' => {
                self.out.push_str(r"\n?\z");
                self.group().ended = true;
            }
            b'N' if self.peek(0) != Some(b'{') => self.out.push_str(r"[^\n]"),
            b'E' => {}
            b'Q' => self.quoted(),
            b'1'..=b'9' => return self.no(start, "a reference back to a group"),
            _ => return self.no(start, format!("`\\{}`", letter.escape_ascii())),
        }
        Ok(())
    }

    /// What is between `\Q` and `\E`, or the end, is itself.
    fn quoted(&mut self) {
        let rest = self.rest();
        let end = rest.windows(2).position(|pair| pair == b"\\E");
        let text = rest[..end.unwrap_or(rest.len())].to_vec();
        self.at += text.len() + if end.is_some() { 2 } else { 0 };
        for byte in text {
            literal(&mut self.out, byte);
        }
    }

    /// Takes an escape that is one byte; `None`: it is another one, and still there.
    pub(super) fn byte_escape(&mut self, in_class: bool) -> Result<Option<u8>, Untranslatable> {
        let start = self.at;
        let Some(letter) = self.peek(1) else { return Ok(None) };
        let simple = match letter {
            b'a' => Some(0x07),
            b'e' => Some(0x1b),
            b'f' => Some(0x0c),
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'b' if in_class => Some(0x08),
            _ if !letter.is_ascii_alphanumeric() => Some(letter),
            _ => None,
        };
        if let Some(byte) = simple {
            self.at += 2;
            return Ok(Some(byte));
        }
        match letter {
            b'x' => {
                self.at += 2;
                if self.take(b"{") {
                    self.braced(start, 16).map(Some)
                } else {
                    Ok(Some(self.digits(16, 2)))
                }
            }
            b'o' => {
                self.at += 2;
                if !self.take(b"{") {
                    return self.no(start, "`\\o` without braces");
                }
                self.braced(start, 8).map(Some)
            }
            b'c' => match self.peek(2) {
                Some(control @ b' '..=b'~') => {
                    self.at += 3;
                    Ok(Some(control.to_ascii_uppercase() ^ 0x40))
                }
                _ => self.no(start, "`\\c` without a letter"),
            },
            b'0' => {
                self.at += 1;
                Ok(Some(self.digits(8, 3)))
            }
            b'1'..=b'7' if in_class || self.is_octal() => {
                self.at += 1;
                let value = self.digits(8, 3);
                // Three digits may say more than a byte can.
                if self.pattern[start + 1] > b'3' && self.at == start + 4 {
                    return self.no(start, "a character code above 255");
                }
                Ok(Some(value))
            }
            _ => Ok(None),
        }
    }

    /// Whether `\12` is a character's code: there are not so many groups, and it has two digits
    /// or more.
    fn is_octal(&self) -> bool {
        let digits = self.pattern.get(self.at + 1..).unwrap_or_default();
        let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = String::from_utf8_lossy(&digits[..length]).parse::<usize>();
        number.is_ok_and(|number| number > 9 && number > self.groups)
    }

    /// Takes up to `most` digits; none are 0.
    fn digits(&mut self, radix: u32, most: usize) -> u8 {
        let mut value: u32 = 0;
        for _ in 0..most {
            let digit = self.peek(0).and_then(|byte| char::from(byte).to_digit(radix));
            let Some(digit) = digit else { break };
            value = value * radix + digit;
            self.at += 1;
        }
        value.to_le_bytes()[0]
    }

    /// Takes digits and `}`.
    fn braced(&mut self, start: usize, radix: u32) -> Result<u8, Untranslatable> {
        let rest = self.rest();
        let length = rest.iter().position(|&byte| byte == b'}').unwrap_or_default();
        let text = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        match u8::from_str_radix(&text, radix) {
            Ok(byte) if !text.starts_with('+') => Ok(byte),
            Ok(_) | Err(_) => self.no(start, "a character code that is not one of a byte"),
        }
    }
}

/// Escapes that stand for several bytes, in a class and outside of one.
pub(super) fn set_escape(letter: u8) -> Option<&'static str> {
    Some(match letter {
        b'd' => r"\d",
        b'D' => r"\D",
        b's' => r"\s",
        b'S' => r"\S",
        b'w' => r"\w",
        b'W' => r"\W",
        b'h' => r"[\t \xa0]",
        b'H' => r"[^\t \xa0]",
        b'v' => r"[\n\x0b\x0c\r\x85]",
        b'V' => r"[^\n\x0b\x0c\r\x85]",
        _ => return None,
    })
}
