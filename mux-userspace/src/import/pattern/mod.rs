//! Patterns of other dialects as those of mux: Perl's (PCRE2) and the shell's (fnmatch(3)).
//!
//! Both become the regex crate's syntax on raw bytes, in ASCII. What cannot be said in it is an
//! error, never something near.

mod glob;
mod perl;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

pub(super) use self::{
    glob::{Glob, glob},
    perl::perl,
};
use crate::{
    probe::Verdict,
    route::{Matcher, Phase, Regex, RegexError, Sniffed},
};

/// Why a pattern cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}, at byte {at} of the pattern")]
pub(super) struct Untranslatable {
    /// What there is no equal of, in words.
    what: String,
    /// Where, from 1.
    at: usize,
}

/// Bytes after which a pattern is sure soon enough: that many come in one packet, or the client is
/// at the word that the pattern begins with.
const SOON: usize = 16;

/// What a pattern does to a stream of which the end is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    /// It matches whatever there is, even nothing.
    pub(super) always: bool,
    /// It can match no bytes at all.
    pub(super) empty: bool,
    /// After many bytes, or any number, those still to come can make it match.
    pub(super) waits: bool,
}

/// What a translated pattern does.
///
/// # Errors
/// mux refuses it.
pub(super) fn traits(pattern: &str) -> Result<Traits, RegexError> {
    let regex = Regex::new(pattern)?;
    let is_soon_sure = regex.longest_match().is_some_and(|longest| longest <= SOON);
    let matcher = Matcher::Regex(regex);
    let matches_nothing = |phase| {
        let sniffed = Sniffed { bytes: b"", client: None, phase };
        matches!(matcher.evaluate(&sniffed), Verdict::Match(_))
    };
    let always = matches_nothing(Phase::Open);
    let empty = matches_nothing(Phase::TimedOut);
    Ok(Traits { always, empty, waits: !is_soon_sure && !always })
}

/// A byte by itself, outside of a class.
fn literal(out: &mut String, byte: u8) {
    match byte {
        b'\n' => out.push_str("\\n"),
        b'\r' => out.push_str("\\r"),
        b'\t' => out.push_str("\\t"),
        b'.' | b'^' | b'$' | b'*' | b'+' | b'?' | b'(' | b')' | b'[' | b']' | b'{' | b'}'
        | b'|' | b'\\' => out.extend(['\\', char::from(byte)]),
        b' '..=b'~' => out.push(char::from(byte)),
        _ => hex(out, byte),
    }
}

/// A byte by itself, in a class.
fn member(out: &mut String, byte: u8) {
    match byte {
        b'[' | b']' | b'^' | b'-' | b'&' | b'~' | b'\\' => out.extend(['\\', char::from(byte)]),
        b' '..=b'~' => out.push(char::from(byte)),
        _ => hex(out, byte),
    }
}

fn hex(out: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\\x{byte:02x}");
}

/// The names of character classes that the regex crate shares with POSIX and Perl.
fn is_class(name: &[u8]) -> bool {
    const CLASSES: [&str; 14] = [
        "alpha", "lower", "upper", "alnum", "ascii", "blank", "cntrl", "digit", "graph", "print",
        "punct", "space", "word", "xdigit",
    ];
    CLASSES.iter().any(|class| class.as_bytes() == name)
}
