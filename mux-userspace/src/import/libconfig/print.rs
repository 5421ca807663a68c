//! Settings → text, on one line: what comments of a rules file quote. It reads as what it was
//! printed from.

use std::fmt;

use super::{Kind, Setting, Settings, Value};

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, setting) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{setting};")?;
        }
        Ok(())
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Bool(value) => write!(f, "{value}"),
            Kind::Int { value, long } => write!(f, "{value}{}", if *long { "L" } else { "" }),
            // Always with a point or an exponent, which makes it a float.
            Kind::Float(value) => write!(f, "{value:?}"),
            Kind::String(text) => string(f, text),
            Kind::Array(members) => list(f, '[', members, ']'),
            Kind::List(members) => list(f, '(', members, ')'),
            Kind::Group(settings) if settings.0.is_empty() => f.write_str("{ }"),
            Kind::Group(settings) => write!(f, "{{ {settings} }}"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, open: char, members: &[Value], close: char) -> fmt::Result {
    write!(f, "{open}")?;
    for (index, member) in members.iter().enumerate() {
        write!(f, "{}{member}", if index == 0 { " " } else { ", " })?;
    }
    write!(f, " {close}")
}

/// In quotes; what is not a character that shows is an escape.
fn string(f: &mut fmt::Formatter<'_>, text: &[u8]) -> fmt::Result {
    f.write_str("\"")?;
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                _ if character.is_control() => {
                    let mut bytes = [0; 4];
                    hex(f, character.encode_utf8(&mut bytes).as_bytes())?;
                }
                _ => write!(f, "{character}")?,
            }
        }
        hex(f, chunk.invalid())?;
    }
    f.write_str("\"")
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}
