//! Host names that a rule lists, for SNI and for HTTP alike.
//!
//! Names have no case and no dot at their end; nothing here allocates to compare.

use std::fmt;

use super::{EmptyMatcher, Phase, Regex};

/// Longest name that a regular expression is tried on, bytes. No name in the DNS is longer
/// (RFC 1035 2.3.4).
const MAX_NAME: usize = 255;
/// Longest label, bytes (RFC 1035 2.3.4).
const MAX_LABEL: usize = 63;

/// One entry of such a list.
#[derive(Clone, Debug, PartialEq)]
pub enum NamePattern {
    /// This name.
    Exact(Name),
    /// `*.b.example`: every name below `b.example`, by one label or more, but not that itself.
    Below(Name),
    /// A regular expression that is tried on the name in lower case.
    Regex(Regex),
}

/// A host name in lower case, without a dot at its end; or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(Box<str>);

/// Why something is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("an empty name")]
    Empty,
    /// A label or the whole is too long.
    #[error("longer than a name can be: 63 bytes a label, 253 the whole")]
    TooLong,
    /// Two dots in a row, or one at the beginning.
    #[error("an empty label")]
    EmptyLabel,
    /// A `*` that is not the first label.
    #[error("a `*` can only be the whole first label")]
    Star,
    /// `*` and nothing below which.
    #[error("a `*` alone")]
    StarAlone,
    /// Not ASCII.
    #[error("not ASCII")]
    NotAscii,
    /// A byte that no host name has.
    #[error("`{0}` in a name")]
    Character(char),
}

impl Name {
    /// Reads a host name: labels of letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// [`NameError`]: it is none.
    pub fn host(text: &str) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        for c in name.chars() {
            match c {
                'a'..='z' | '0'..='9' | '-' | '_' | '.' => {}
                '*' => return Err(NameError::Star),
                c if !c.is_ascii() => return Err(NameError::NotAscii),
                c => return Err(NameError::Character(c)),
            }
        }
        if name.split('.').any(str::is_empty) {
            return Err(NameError::EmptyLabel);
        }
        // 255 on the wire are 253 written: a length before the first label, and the root's.
        if name.len() > MAX_NAME - 2 || name.split('.').any(|label| label.len() > MAX_LABEL) {
            return Err(NameError::TooLong);
        }
        Ok(Self(name.into()))
    }

    /// An address as HTTP writes it: IPv6 in brackets (RFC 3986 3.2.2).
    #[must_use]
    pub fn address(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(address) => Self(address.to_string().into()),
            std::net::IpAddr::V6(address) => Self(format!("[{address}]").into()),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is(&self, name: &[u8]) -> bool {
        self.0.as_bytes().eq_ignore_ascii_case(name)
    }

    /// Whether `name` is below this one.
    fn is_above(&self, name: &[u8]) -> bool {
        let suffix = self.0.as_bytes();
        name.len()
            .checked_sub(suffix.len() + 1)
            .filter(|&labels| labels > 0)
            .is_some_and(|dot| name[dot] == b'.' && name[dot + 1..].eq_ignore_ascii_case(suffix))
    }
}

impl NamePattern {
    /// Reads `a.example` or `*.b.example`.
    ///
    /// # Errors
    /// [`NameError`]: it is neither.
    pub fn host(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix("*.") {
            _ if text == "*" => Err(NameError::StarAlone),
            Some(below) => Name::host(below).map(Self::Below),
            None => Name::host(text).map(Self::Exact),
        }
    }
}

/// A list of patterns, one of which has to match; at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Names(Box<[NamePattern]>);

impl Names {
    /// # Errors
    /// [`EmptyMatcher`] when there are none.
    pub fn new(patterns: impl Into<Box<[NamePattern]>>) -> Result<Self, EmptyMatcher> {
        let patterns = patterns.into();
        if patterns.is_empty() { Err(EmptyMatcher) } else { Ok(Self(patterns)) }
    }

    /// The patterns; never none.
    #[must_use]
    pub fn patterns(&self) -> &[NamePattern] {
        &self.0
    }

    /// Whether one of them matches this name, which has no dot at its end and is not empty.
    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.0.iter().any(|pattern| match pattern {
            NamePattern::Exact(exact) => exact.is(name),
            NamePattern::Below(above) => above.is_above(name),
            NamePattern::Regex(regex) => matches_lower_case(regex, name),
        })
    }

    /// Whether every name of `other` is, visibly, one of these.
    pub(super) fn include(&self, other: &Self) -> bool {
        other.0.iter().all(|theirs| match theirs {
            NamePattern::Exact(name) => self.contains(name.0.as_bytes()),
            NamePattern::Below(name) => self.0.iter().any(|mine| match mine {
                NamePattern::Below(above) => above == name || above.is_above(name.0.as_bytes()),
                NamePattern::Exact(_) | NamePattern::Regex(_) => false,
            }),
            NamePattern::Regex(_) => self.0.contains(theirs),
        })
    }

    /// Fewest bytes of a name that is one of these; a lower bound.
    pub(super) fn shortest(&self) -> usize {
        let lengths = self.0.iter().map(|pattern| match pattern {
            NamePattern::Exact(name) => name.0.len(),
            NamePattern::Below(name) => name.0.len() + 2,
            NamePattern::Regex(regex) => regex.shortest_match().unwrap_or(0).max(1),
        });
        lengths.min().unwrap_or(0)
    }
}

/// As rules files write them, a pattern between slashes.
impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { ", " } else { "" })?;
            match pattern {
                NamePattern::Exact(name) => f.write_str(&name.0)?,
                NamePattern::Below(name) => write!(f, "*.{}", name.0)?,
                NamePattern::Regex(regex) => write!(f, "/{regex}/")?,
            }
        }
        Ok(())
    }
}

/// Tries a regular expression on a name in lower case. A longer name than any is no match.
fn matches_lower_case(regex: &Regex, name: &[u8]) -> bool {
    let mut lower = [0; MAX_NAME];
    let Some(lower) = lower.get_mut(..name.len()) else { return false };
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    regex.examine(lower, Phase::Ended).is_match()
}
