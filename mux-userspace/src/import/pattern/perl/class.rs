//! Character classes, `[…]`.

use super::{
    super::{Untranslatable, hex, is_class, member},
    Step, Translation,
    escape::set_escape,
};

/// What stands for one position in a class.
enum Member {
    Byte(u8),
    /// More than one byte, already written.
    Set,
}

impl Translation<'_> {
    /// `[…]`
    pub(super) fn class(&mut self) -> Step {
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
