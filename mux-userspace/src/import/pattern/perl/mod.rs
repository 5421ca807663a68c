//! Perl's regular expressions, as PCRE2 takes them without options: bytes, not UTF-8; a line
//! ends in `\n`.
//!
//! Only whether there is a match counts here, so that groups need not capture and quantifiers
//! may be greedy or not.

mod class;
mod escape;

use super::{Untranslatable, literal};

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
}
