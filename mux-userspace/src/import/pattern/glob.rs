//! fnmatch(3) without flags: `*` and `?` take dots too.

use super::{hex, is_class, literal, member};

/// A glob for host names, in mux's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Glob {
    /// A name by itself.
    Exact(String),
    /// `*.` and a name.
    Suffix(String),
    /// The rest, as a regular expression of the whole name.
    Regex(String),
}

/// Translates a glob. Host names are compared in lower case, so that is what they become.
pub(in super::super) fn glob(pattern: &[u8]) -> Glob {
    let pattern = pattern.to_ascii_lowercase();
    let is_name = |text: &[u8]| {
        !text.is_empty()
            && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    let text = String::from_utf8_lossy(&pattern).into_owned();
    match pattern.strip_prefix(b"*.") {
        Some(rest) if is_name(rest) => Glob::Suffix(text),
        _ if is_name(&pattern) => Glob::Exact(text),
        _ => Glob::Regex(regex(&pattern)),
    }
}

fn regex(pattern: &[u8]) -> String {
    let mut out = String::from("(?s)^");
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        at += 1;
        match byte {
            b'*' => out.push_str(".*"),
            b'?' => out.push('.'),
            b'\\' if at < pattern.len() => {
                literal(&mut out, pattern[at]);
                at += 1;
            }
            b'[' => match class(&pattern[at..]) {
                Some((class, length)) => {
                    out.push_str(&class);
                    at += length;
                }
                // One that does not end is a bracket.
                None => literal(&mut out, b'['),
            },
            _ => literal(&mut out, byte),
        }
    }
    out.push('$');
    out
}

/// A bracket expression after its `[`: as a class, and how long it is with its `]`.
fn class(text: &[u8]) -> Option<(String, usize)> {
    let mut out = String::from("[");
    let mut at = 0;
    if matches!(text.first(), Some(b'!' | b'^')) {
        out.push('^');
        at += 1;
    }
    let first = at;
    let mut empty = true;
    loop {
        match *text.get(at)? {
            b']' if at > first => {
                at += 1;
                break;
            }
            b'[' if text.get(at + 1) == Some(&b':') => {
                let length = text[at + 2..].windows(2).position(|pair| pair == b":]")?;
                let name = &text[at + 2..at + 2 + length];
                if !is_class(name) {
                    return None;
                }
                out.push_str("[:");
                out.push_str(&String::from_utf8_lossy(name));
                out.push_str(":]");
                at += length + 4;
                empty = false;
            }
            _ => {
                let (low, length) = character(&text[at..])?;
                at += length;
                let high = match (text.get(at), text.get(at + 1)) {
                    (Some(b'-'), Some(end)) if *end != b']' => {
                        let (high, length) = character(&text[at + 1..])?;
                        at += 1 + length;
                        high
                    }
                    _ => low,
                };
                if low <= high {
                    empty = false;
                    range(&mut out, low, high);
                }
            }
        }
    }
    out.push(']');
    // A class of nothing but `z-a`.
    let nothing = if out.starts_with("[^") { "." } else { r"[^\x00-\xff]" };
    Some((if empty { nothing.to_owned() } else { out }, at))
}

/// A character of a bracket expression, and how long it is.
fn character(text: &[u8]) -> Option<(u8, usize)> {
    match *text.first()? {
        b'\\' => Some((*text.get(1)?, 2)),
        byte => Some((byte, 1)),
    }
}

fn range(out: &mut String, low: u8, high: u8) {
    member(out, low);
    if low < high {
        out.push('-');
        // In hexadecimal, the end cannot be taken for syntax.
        if high.is_ascii_alphanumeric() { member(out, high) } else { hex(out, high) }
    }
}
