//! Perl's regular expressions, as PCRE2 takes them without options: bytes, not UTF-8; a line
//! ends in `\n`.
//!
//! Only whether there is a match counts here, so that groups need not capture and quantifiers
//! may be greedy or not.

use super::{Untranslatable, hex, is_class, literal, member};

/// Translates a pattern.
///
/// # Errors
/// [`Untranslatable`]: it looks around or back, or is no regular expression.
pub(in super::super) fn perl(pattern: &[u8]) -> Result<String, Untranslatable> {
    let mut translation = Translation {
        pattern,
        at: 0,
        out: String::with_capacity(pattern.len()),
        groups: 0,
        open: vec![Group::default()],
    };
    while translation.at < pattern.len() {
        translation.element()?;
    }
    Ok(translation.out)
}

struct Translation<'p> {
    pattern: &'p [u8],
    /// The next byte.
    at: usize,
    out: String,
    /// Capturing groups so far.
    groups: usize,
    /// The groups that are open, the whole pattern being the first; never empty.
    open: Vec<Group>,
}

/// A group that is open.
#[derive(Clone, Copy, Default)]
struct Group {
    /// `(?m)`
    multiline: bool,
    /// Whether this branch has come to a `$`. That may take a line feed here and does not there, so
    /// that nothing can follow it.
    ended: bool,
    /// Whether another branch has.
    other_ended: bool,
}

type Step = Result<(), Untranslatable>;

/// What stands for one position in a class.
enum Member {
    Byte(u8),
    /// More than one byte, already written.
    Set,
}

impl Translation<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.pattern.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &[u8] {
        self.pattern.get(self.at..).unwrap_or_default()
    }

    /// Takes this text, if it comes next.
    fn take(&mut self, text: &[u8]) -> bool {
        let there = self.rest().starts_with(text);
        if there {
            self.at += text.len();
        }
        there
    }

    fn no<T>(&self, at: usize, what: impl Into<String>) -> Result<T, Untranslatable> {
        Err(Untranslatable { what: what.into(), at: at + 1 })
    }

    /// The innermost group.
    fn group(&mut self) -> &mut Group {
        if self.open.is_empty() {
            self.open.push(Group::default());
        }
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    /// One character, escape, class, assertion, quantifier, or the head or end of a group.
    fn element(&mut self) -> Step {
        let Some(byte) = self.peek(0) else { return Ok(()) };
        match byte {
            b'(' => return self.head(),
            b')' | b'|' => {
                self.at += 1;
                self.out.push(char::from(byte));
                self.end_branch(byte == b')');
                return Ok(());
            }
            _ => self.go_on()?,
        }
        match byte {
            b'\\' => self.escape(),
            b'[' => self.class(),
            b'{' => self.counted(),
            b'*' | b'+' | b'?' => {
                self.at += 1;
                self.out.push(char::from(byte));
                self.laziness()
            }
            b'$' => {
                self.at += 1;
                self.end_of_text();
                Ok(())
            }
            b'.' | b'^' => {
                self.at += 1;
                self.out.push(char::from(byte));
                Ok(())
            }
            _ => {
                self.at += 1;
                literal(&mut self.out, byte);
                Ok(())
            }
        }
    }

    /// Complains if there was a `$`.
    fn go_on(&mut self) -> Step {
        match self.group().ended {
            true => self.no(self.at, "a pattern that goes on after `$`"),
            false => Ok(()),
        }
    }

    /// `|`, or `)`.
    fn end_branch(&mut self, is_last: bool) {
        let group = self.group();
        group.other_ended |= group.ended;
        group.ended = false;
        let ended = group.other_ended;
        // One `)` too many is for the regex crate to complain about.
        if is_last && self.open.len() > 1 {
            self.open.pop();
            self.group().ended |= ended;
        }
    }

    /// `$`, which also holds before a line feed that ends the text.
    fn end_of_text(&mut self) {
        if self.group().multiline {
            self.out.push('$');
        } else {
            self.out.push_str(r"\n?\z");
            self.group().ended = true;
        }
    }

    /// After a quantifier.
    fn laziness(&mut self) -> Step {
        match self.peek(0) {
            Some(b'?') => {
                self.at += 1;
                self.out.push('?');
                Ok(())
            }
            Some(b'+') => self.no(self.at, "a quantifier that gives nothing back (`+` after it)"),
            _ => Ok(()),
        }
    }

    /// `{2}`, `{2,}`, `{2,3}`; anything else is a brace. `{,3}`, and blanks inside, are that only
    /// before PCRE2 10.43.
    fn counted(&mut self) -> Step {
        let rest = self.rest();
        let length = rest.iter().position(|&byte| byte == b'}').unwrap_or_default();
        let inside = rest.get(1..length).unwrap_or_default();
        let (least, most) = match inside.iter().position(|&byte| byte == b',') {
            Some(comma) => (&inside[..comma], &inside[comma + 1..]),
            None => (inside, &b""[..]),
        };
        let is_number = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let is_lenient =
            |text: &[u8]| text.iter().all(|byte| byte.is_ascii_digit() || is_blank(byte));
        let has_digit = inside.iter().any(u8::is_ascii_digit);
        let is_strict = !least.is_empty() && is_number(least) && is_number(most);
        if has_digit && is_lenient(least) && is_lenient(most) && !is_strict {
            return self.no(self.at, "a quantifier that versions of PCRE2 read differently");
        }
        if !is_strict {
            self.at += 1;
            literal(&mut self.out, b'{');
            return Ok(());
        }
        let quantifier = String::from_utf8_lossy(&rest[..=length]).into_owned();
        self.out.push_str(&quantifier);
        self.at += length + 1;
        self.laziness()
    }

    /// `(`, `(?…`, `(*…`
    fn head(&mut self) -> Step {
        let start = self.at;
        if self.rest().starts_with(b"(*") {
            return self.no(start, "a verb, `(*…)`");
        }
        self.at += 1;
        if !self.take(b"?") {
            return self.capturing();
        }
        if self.take(b"#") {
            return match self.rest().iter().position(|&byte| byte == b')') {
                Some(length) => {
                    self.at += length + 1;
                    Ok(())
                }
                None => self.no(start, "a comment that does not end"),
            };
        }
        if self.take(b"|") {
            return self.plain();
        }
        for (head, what) in [
            (&b"="[..], "a look ahead, `(?=…)`"),
            (b"!", "a look ahead, `(?!…)`"),
            (b"<=", "a look behind, `(?<=…)`"),
            (b"<!", "a look behind, `(?<!…)`"),
            (b">", "a group that gives nothing back, `(?>…)`"),
            (b"(", "a condition, `(?(…)…)`"),
            (b"R", "a recursion, `(?R)`"),
            (b"&", "a recursion, `(?&…)`"),
            (b"P>", "a recursion, `(?P>…)`"),
            (b"P=", "a reference back, `(?P=…)`"),
            (b"C", "a callout, `(?C)`"),
            (b"*", "a look around, `(?*…)`"),
        ] {
            if self.rest().starts_with(head) {
                return self.no(start, what);
            }
        }
        for (head, end) in [(&b"P<"[..], b'>'), (b"<", b'>'), (b"'", b'\'')] {
            if self.take(head) {
                let length = self.rest().iter().position(|&byte| byte == end);
                let Some(length) = length else {
                    return self.no(start, "a name that does not end");
                };
                self.at += length + 1;
                return self.capturing();
            }
        }
        self.flags(start)
    }

    fn capturing(&mut self) -> Step {
        self.groups += 1;
        self.plain()
    }

    /// What a group captures is nobody's business here.
    fn plain(&mut self) -> Step {
        let multiline = self.group().multiline;
        self.out.push_str("(?:");
        self.enter(multiline)
    }

    fn enter(&mut self, multiline: bool) -> Step {
        self.go_on()?;
        self.open.push(Group { multiline, ..Group::default() });
        Ok(())
    }

    /// `(?i)`, `(?i-s:…)`, and `(?:…)`, which sets none.
    fn flags(&mut self, start: usize) -> Step {
        let mut multiline = self.group().multiline;
        let (mut set, mut cleared, mut sets) = (String::new(), String::new(), true);
        loop {
            let Some(byte) = self.peek(0) else {
                return self.no(start, "a group that does not end");
            };
            self.at += 1;
            match byte {
                b'i' | b's' | b'm' => {
                    if byte == b'm' {
                        multiline = sets;
                    }
                    // The last word counts, and the regex crate wants to hear each once.
                    let flag = char::from(byte);
                    let flags = if sets { &mut set } else { &mut cleared };
                    if !flags.contains(flag) {
                        flags.push(flag);
                    }
                    if !sets {
                        set.retain(|earlier| earlier != flag);
                    }
                }
                // They change what is captured, not whether there is a match.
                b'U' | b'J' | b'n' => {}
                b'-' if sets => sets = false,
                b':' | b')' => {
                    let scoped = byte == b':';
                    self.write_flags(&set, &cleared, scoped);
                    if scoped {
                        return self.enter(multiline);
                    }
                    self.group().multiline = multiline;
                    return Ok(());
                }
                b'x' => return self.no(start, "an extended pattern, `(?x)`"),
                _ => return self.no(start, "a group of an unknown kind"),
            }
        }
    }

    fn write_flags(&mut self, set: &str, cleared: &str, scoped: bool) {
        if !scoped && set.is_empty() && cleared.is_empty() {
            return;
        }
        self.out.push_str("(?");
        self.out.push_str(set);
        if !cleared.is_empty() {
            self.out.push('-');
            self.out.push_str(cleared);
        }
        self.out.push(if scoped { ':' } else { ')' });
    }

    /// A backslash outside of a class.
    fn escape(&mut self) -> Step {
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
    fn byte_escape(&mut self, in_class: bool) -> Result<Option<u8>, Untranslatable> {
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

    /// `[…]`
    fn class(&mut self) -> Step {
        let start = self.at;
        self.at += 1;
        self.out.push('[');
        if self.take(b"^") {
            self.out.push('^');
        }
        let first = self.at;
        loop {
            match self.peek(0) {
                None => return self.no(start, "a class that does not end"),
                Some(b']') if self.at > first => {
                    self.at += 1;
                    self.out.push(']');
                    return Ok(());
                }
                Some(_) => self.class_range(start)?,
            }
        }
    }

    /// One member of a class, or a range of them.
    fn class_range(&mut self, start: usize) -> Step {
        let Member::Byte(low) = self.class_member()? else { return Ok(()) };
        let is_range = self.peek(0) == Some(b'-') && !matches!(self.peek(1), None | Some(b']'));
        if !is_range {
            member(&mut self.out, low);
            return Ok(());
        }
        self.at += 1;
        let before = self.out.len();
        match self.class_member()? {
            Member::Byte(high) if low <= high => {
                member(&mut self.out, low);
                self.out.push('-');
                if high.is_ascii_alphanumeric() {
                    member(&mut self.out, high);
                } else {
                    hex(&mut self.out, high);
                }
                Ok(())
            }
            Member::Byte(_) | Member::Set => {
                self.out.truncate(before);
                self.no(start, "a range of a class that is not from a lower to a higher byte")
            }
        }
    }

    /// One member of a class: a byte, or a set, which is written at once.
    fn class_member(&mut self) -> Result<Member, Untranslatable> {
        let start = self.at;
        match (self.peek(0), self.peek(1)) {
            (Some(b'\\'), Some(letter)) => {
                if let Some(byte) = self.byte_escape(true)? {
                    return Ok(Member::Byte(byte));
                }
                let Some(set) = set_escape(letter) else {
                    return self.no(start, format!("`\\{}` in a class", letter.escape_ascii()));
                };
                self.at += 2;
                self.out.push_str(set);
                Ok(Member::Set)
            }
            (Some(b'['), Some(b':')) => self.posix(start),
            (Some(b'['), Some(b'.' | b'=')) => self.no(start, "a collating element"),
            (Some(byte), _) => {
                self.at += 1;
                Ok(Member::Byte(byte))
            }
            (None, _) => self.no(start, "a class that does not end"),
        }
    }

    /// `[:alpha:]`, `[:^alpha:]`; without an end it is a bracket.
    fn posix(&mut self, start: usize) -> Result<Member, Untranslatable> {
        let inside = self.pattern.get(self.at + 2..).unwrap_or_default();
        let end = inside.iter().position(|byte| !byte.is_ascii_lowercase() && *byte != b'^');
        let Some(length) = end.filter(|&end| inside[end..].starts_with(b":]")) else {
            self.at += 1;
            return Ok(Member::Byte(b'['));
        };
        let name = &inside[..length];
        let (sign, class) = name.strip_prefix(b"^").map_or(("", name), |class| ("^", class));
        if !is_class(class) {
            return self.no(start, "a class of an unknown name");
        }
        let class = String::from_utf8_lossy(class).into_owned();
        self.out.push_str(&format!("[:{sign}{class}:]"));
        self.at += length + 4;
        Ok(Member::Set)
    }
}

/// Escapes that stand for several bytes, in a class and outside of one.
fn set_escape(letter: u8) -> Option<&'static str> {
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
