//! The answer to "is it?" while bytes are still arriving.

/// Whether the bytes so far are what is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// Yes, whatever follows.
    Match(T),
    /// No, whatever follows.
    NoMatch,
    /// It depends on what follows. No extension shorter than this many bytes in total
    /// gets another verdict; always more than there are now.
    NeedMore(usize),
}

impl<T> Verdict<T> {
    /// The same verdict with other details.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Verdict<U> {
        match self {
            Self::Match(details) => Verdict::Match(f(details)),
            Self::NoMatch => Verdict::NoMatch,
            Self::NeedMore(total) => Verdict::NeedMore(total),
        }
    }

    /// The same verdict, with a reference to its details.
    pub const fn as_ref(&self) -> Verdict<&T> {
        match self {
            Self::Match(details) => Verdict::Match(details),
            Self::NoMatch => Verdict::NoMatch,
            Self::NeedMore(total) => Verdict::NeedMore(*total),
        }
    }

    /// What follows from the details.
    pub fn and_then<U>(self, f: impl FnOnce(T) -> Verdict<U>) -> Verdict<U> {
        match self {
            Self::Match(details) => f(details),
            Self::NoMatch => Verdict::NoMatch,
            Self::NeedMore(total) => Verdict::NeedMore(total),
        }
    }

    /// This or the other: Kleene's "or", of which the first match gives the details.
    #[must_use]
    pub fn or_else(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Match(_) => self,
            Self::NoMatch => other(),
            Self::NeedMore(mine) => match other() {
                Self::Match(details) => Self::Match(details),
                Self::NoMatch => self,
                Self::NeedMore(theirs) => Self::NeedMore(mine.min(theirs)),
            },
        }
    }

    /// Whether it is [`Verdict::Match`].
    #[must_use]
    pub const fn is_match(&self) -> bool {
        matches!(self, Self::Match(_))
    }
}

impl Verdict<()> {
    /// This and the other: Kleene's "and".
    #[must_use]
    pub fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Match(()) => other(),
            Self::NoMatch => self,
            Self::NeedMore(mine) => match other() {
                Self::Match(()) => self,
                Self::NoMatch => Self::NoMatch,
                // The first of them to change its mind may make the whole false.
                Self::NeedMore(theirs) => Self::NeedMore(mine.min(theirs)),
            },
        }
    }
}

/// Why there is no whole message: what a parser can return early by `?`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// [`Verdict::NoMatch`].
    Contradiction,
    /// [`Verdict::NeedMore`].
    Incomplete {
        /// Bytes that are needed in total.
        total: usize,
    },
}

impl<T> From<Result<T, Stop>> for Verdict<T> {
    fn from(result: Result<T, Stop>) -> Self {
        match result {
            Ok(details) => Self::Match(details),
            Err(Stop::Contradiction) => Self::NoMatch,
            Err(Stop::Incomplete { total }) => Self::NeedMore(total),
        }
    }
}

/// Compares the first bytes with a constant.
///
/// Asks for one byte at a time, because each of them can contradict.
pub(super) fn starts_with(bytes: &[u8], expected: &[u8]) -> Verdict<()> {
    let len = bytes.len().min(expected.len());
    if bytes[..len] != expected[..len] {
        Verdict::NoMatch
    } else if len == expected.len() {
        Verdict::Match(())
    } else {
        Verdict::NeedMore(len + 1)
    }
}
