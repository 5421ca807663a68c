//! [libconfig](https://hyperrealm.github.io/libconfig/libconfig_manual.html)'s syntax, which
//! sslh's configuration is written in: text → [`Settings`] with their places.
//!
//! Knows nothing of sslh. It takes what libconfig 1.5 to 1.7 take; where they differ, or read
//! something else than what is written, it is as the manual says:
//!
//! - `,` may end a list, as in 1.7; a comment may end the file without a line feed; integers
//!   larger than libconfig's are kept, and refused only above 64 bits;
//! - strings keep their NUL bytes, where libconfig loses them (1.5) or ends there (1.7);
//! - a comment or a string that does not end is an error;
//! - a relative `@include` is looked for beside the including file, where libconfig takes the
//!   working directory, which for a daemon says nothing.

mod lexer;
mod parser;
mod print;

#[cfg(test)]
mod tests;

pub use self::parser::parse;
use super::source::Span;

/// Deepest nesting of groups and lists.
pub const MAX_DEPTH: usize = 64;
/// Most files that include each other; libconfig's limit.
pub const MAX_INCLUDE_DEPTH: usize = 10;

/// A group's settings, or a file's, in the order of the text. No name comes twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(pub Vec<Setting>);

/// `name = value`
#[derive(Clone, Debug)]
pub struct Setting {
    /// Letters, digits, `-`, `_` and `*`.
    pub name: String,
    /// Of the name.
    pub place: Span,
    /// Of what.
    pub value: Value,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Value {
    /// What it is.
    pub kind: Kind,
    /// From its first to its last character.
    pub place: Span,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `true`, `false`, in any case.
    Bool(bool),
    /// `10`, `0x0a`, `10L`.
    Int {
        /// Its value.
        value: i64,
        /// Whether it is written as 64 bits wide (`L`). Such integers and others do not go into
        /// one array.
        long: bool,
    },
    /// `1.5`, `1e3`; always finite.
    Float(f64),
    /// `"a" "b"`, joined, escapes resolved. Any bytes.
    String(Vec<u8>),
    /// `[ … ]`: scalars of one type.
    Array(Vec<Value>),
    /// `( … )`: anything.
    List(Vec<Value>),
    /// `{ … }`
    Group(Settings),
}

impl Kind {
    /// Its type, with an article.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Int { long: false, .. } => "an integer",
            Self::Int { long: true, .. } => "a 64-bit integer",
            Self::Float(_) => "a float",
            Self::String(_) => "a string",
            Self::Array(_) => "an array `[…]`",
            Self::List(_) => "a list `(…)`",
            Self::Group(_) => "a group `{…}`",
        }
    }
}

impl Kind {
    /// The integer that it is.
    #[must_use]
    pub const fn integer(&self) -> Option<i64> {
        if let Self::Int { value, .. } = self { Some(*value) } else { None }
    }

    /// The string that it is, if that is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        if let Self::String(text) = self { String::from_utf8(text.clone()).ok() } else { None }
    }
}

/// By name and value, wherever they stand.
impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.value == other.value
    }
}

/// By value, wherever it stands.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}
