//! Conditions that the embedding program writes as functions.

use std::{fmt, sync::Arc};

use crate::probe::Verdict;

type Function = Arc<dyn Fn(&[u8]) -> Verdict<()> + Send + Sync>;

/// A function of a connection's first bytes. Cheap to clone.
#[derive(Clone)]
pub struct Predicate {
    function: Function,
    tentative: bool,
}

impl Predicate {
    /// A function that knows when it cannot know yet. It should be monotone, as a probe is
    /// (see [`mod@crate::probe`]).
    pub fn new(function: impl Fn(&[u8]) -> Verdict<()> + Send + Sync + 'static) -> Self {
        Self { function: Arc::new(function), tentative: false }
    }

    /// A function that says yes or no of the bytes so far.
    ///
    /// "No" is tentative: it does not hold back the rules after this one, and the function is
    /// asked again when there are more bytes, if no other rule has taken the connection.
    pub fn bool(function: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        let verdict = move |bytes: &[u8]| {
            if function(bytes) { Verdict::Match(()) } else { Verdict::NoMatch }
        };
        Self { function: Arc::new(verdict), tentative: true }
    }

    /// Whether its "no" may become a "yes".
    #[must_use]
    pub const fn is_tentative(&self) -> bool {
        self.tentative
    }

    pub(super) fn examine(&self, bytes: &[u8]) -> Verdict<()> {
        (self.function)(bytes)
    }
}

impl PartialEq for Predicate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.function, &other.function)
    }
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Predicate").field("tentative", &self.tentative).finish_non_exhaustive()
    }
}
