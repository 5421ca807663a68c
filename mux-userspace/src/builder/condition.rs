//! What a rule asks for, as values and functions.

use thiserror::Error;

use crate::{
    probe::{Probe, Probes, Verdict},
    route::{EmptyMatcher, Matcher, Predicate, Prefix, Regex, RegexError},
};

/// A condition on the first bytes: these, exactly, from the first one on.
///
/// # Panics
/// Never; an empty prefix is refused by [`Builder::start`](super::Builder::start).
pub fn prefix(bytes: impl AsRef<[u8]>) -> Condition {
    match Prefix::new(bytes.as_ref()) {
        Ok(prefix) => Condition(Asks::Matcher(Matcher::Prefix(prefix))),
        Err(empty) => Condition(Asks::Nothing(empty)),
    }
}

/// A condition on the first bytes: a regular expression in the regex crate's syntax, on raw
/// bytes, unanchored and case-sensitive unless it says otherwise.
///
/// # Errors
/// [`RegexError`]: it is malformed, or too large.
pub fn regex(pattern: &str) -> Result<Condition, RegexError> {
    Regex::new(pattern).map(|regex| Condition(Asks::Matcher(Matcher::Regex(regex))))
}

/// A condition on the first bytes: a probe recognises them, one of mux's own (see [`Probe::all`])
/// or one that the builder is given by [`Builder::probe`](super::Builder::probe), before or after. A name that is neither
/// is refused by [`Builder::start`](super::Builder::start).
pub fn probe(name: impl Into<String>) -> Condition {
    Condition(Asks::ProbeNamed(name.into()))
}

/// Every connection, at once, without a byte: for the last rule.
#[must_use]
pub fn everything() -> Condition {
    Condition(Asks::Matcher(Matcher::Always))
}

/// What a rule asks for; whether it can is found out by [`Builder::start`](super::Builder::start).
#[derive(Clone, Debug)]
pub struct Condition(Asks);

#[derive(Clone, Debug)]
enum Asks {
    Matcher(Matcher),
    /// A probe that may not be known yet.
    ProbeNamed(String),
    Nothing(EmptyMatcher),
}

impl Condition {
    pub(super) fn resolve(self, probes: &Probes) -> Result<Matcher, ConditionError> {
        match self.0 {
            Asks::Matcher(matcher) => Ok(matcher),
            Asks::ProbeNamed(name) => match probes.get(&name) {
                Some(probe) => Ok(Matcher::Probe(probe.clone())),
                None => Err(ConditionError::NoProbe(name)),
            },
            Asks::Nothing(empty) => Err(empty.into()),
        }
    }
}

/// Why a condition was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConditionError {
    /// It says nothing.
    #[error(transparent)]
    Empty(#[from] EmptyMatcher),
    /// There is no such probe.
    #[error("there is no probe `{0}`; one of your own has to be given to `Builder::probe`")]
    NoProbe(String),
}

/// What can be a rule's condition: a [`Condition`], a [`Matcher`], a [`Probe`], or a function of
/// the first bytes that gives `bool` or [`Verdict<()>`](Verdict).
///
/// `Kind` only keeps the implementations apart; it is always inferred.
pub trait IntoCondition<Kind> {
    /// As a condition.
    fn into_condition(self) -> Condition;
}

/// See [`IntoCondition`]: a value.
#[derive(Debug)]
pub enum Itself {}
/// See [`IntoCondition`]: a function with answers of type `A`.
#[derive(Debug)]
pub struct Function<A>(std::convert::Infallible, std::marker::PhantomData<A>);

impl IntoCondition<Itself> for Condition {
    fn into_condition(self) -> Condition {
        self
    }
}

impl IntoCondition<Itself> for Matcher {
    fn into_condition(self) -> Condition {
        Condition(Asks::Matcher(self))
    }
}

impl IntoCondition<Itself> for Probe {
    fn into_condition(self) -> Condition {
        Condition(Asks::Matcher(Matcher::Probe(self)))
    }
}

impl<F> IntoCondition<Function<bool>> for F
where
    F: Fn(&[u8]) -> bool + Send + Sync + 'static,
{
    fn into_condition(self) -> Condition {
        Condition(Asks::Matcher(Matcher::Predicate(Predicate::bool(self))))
    }
}

impl<F> IntoCondition<Function<Verdict<()>>> for F
where
    F: Fn(&[u8]) -> Verdict<()> + Send + Sync + 'static,
{
    fn into_condition(self) -> Condition {
        Condition(Asks::Matcher(Matcher::Predicate(Predicate::new(self))))
    }
}
