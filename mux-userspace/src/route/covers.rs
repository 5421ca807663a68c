//! What can be known of a matcher without a byte: what it never, always and at least does.
//!
//! For the linter of rules files. All answers are conservative: "no" may mean "not visibly".

use super::{Group, Matcher, Phase, Sniffed};
use crate::probe::{Probe, Verdict};

impl Matcher {
    /// Whether it matches every connection at once, so that a rule after it is never asked.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Always => true,
            Self::Regex(regex) => matches!(regex.examine(&[], Phase::Open), Verdict::Match(())),
            Self::Prefix(_)
            | Self::Bytes(_)
            | Self::Probe(_)
            | Self::Tls(_)
            | Self::Http(_)
            | Self::Predicate(_) => false,
            // A network of all addresses still has no client of a Unix socket in it.
            Self::Client(_) => false,
            Self::All(group) => group.members().iter().all(Self::is_certain),
            Self::Any(group) => group.members().iter().any(Self::is_certain),
            Self::Not(inner) => inner.shortest_match().is_none(),
        }
    }

    /// The fewest bytes with which it can match; `None`: it never can.
    #[must_use]
    pub fn shortest_match(&self) -> Option<usize> {
        match self {
            Self::Always | Self::Client(_) | Self::Predicate(_) => Some(0),
            Self::Prefix(prefix) => Some(prefix.as_bytes().len()),
            Self::Regex(regex) => regex.shortest_match(),
            Self::Bytes(masked) => Some(masked.end()),
            Self::Probe(probe) => Some(probe.shortest_match()),
            Self::Tls(tls) => Some(tls.shortest_match()),
            Self::Http(http) => Some(http.shortest_match()),
            Self::All(group) => group
                .members()
                .iter()
                .map(Self::shortest_match)
                .try_fold(0, |most, bytes| Some(most.max(bytes?))),
            Self::Any(group) => group.members().iter().filter_map(Self::shortest_match).min(),
            Self::Not(inner) => (!inner.is_certain()).then_some(0),
        }
    }

    /// Whether it visibly matches whatever `other` matches, so that a rule with `other`
    /// after a rule with this is never reached.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.covers_within(other, &mut Steps(MAX_STEPS))
    }

    fn covers_within(&self, other: &Self, steps: &mut Steps) -> bool {
        if !steps.take() {
            return false;
        }
        if self == other || self.is_certain() {
            return true;
        }
        let any_mine = |group: &Group, steps: &mut Steps| {
            group.members().iter().any(|member| member.covers_within(other, steps))
        };
        match (self, other) {
            (_, Self::Any(group)) => {
                group.members().iter().all(|member| self.covers_within(member, steps))
            }
            (Self::All(group), _) => {
                group.members().iter().all(|member| member.covers_within(other, steps))
            }
            (Self::Any(group), _) if any_mine(group, steps) => true,
            (_, Self::All(group)) => {
                group.members().iter().any(|member| self.covers_within(member, steps))
            }
            (Self::Not(mine), Self::Not(theirs)) => theirs.covers_within(mine, steps),
            (Self::Probe(mine), Self::Probe(theirs)) => mine.includes(theirs),
            (Self::Tls(mine), Self::Tls(theirs)) => mine.covers(theirs),
            (Self::Http(mine), Self::Http(theirs)) => mine.covers(theirs),
            (Self::Probe(mine), Self::Tls(_)) => mine.includes(&Probe::tls()),
            (Self::Probe(mine), Self::Http(theirs)) => {
                theirs.probes().all(|probe| mine.includes(&probe))
            }
            (Self::Client(mine), Self::Client(theirs)) => mine.includes(theirs),
            // What is sure of the prefix alone is true of all that begins with it.
            (
                Self::Prefix(_)
                | Self::Bytes(_)
                | Self::Regex(_)
                | Self::Probe(_)
                | Self::Tls(_)
                | Self::Http(_),
                Self::Prefix(prefix),
            ) => {
                let bytes = prefix.as_bytes();
                self.evaluate(&Sniffed { bytes, client: None, phase: Phase::Open }).is_match()
            }
            (
                Self::Always
                | Self::Prefix(_)
                | Self::Regex(_)
                | Self::Bytes(_)
                | Self::Probe(_)
                | Self::Tls(_)
                | Self::Http(_)
                | Self::Predicate(_)
                | Self::Client(_)
                | Self::Any(_)
                | Self::Not(_),
                Self::Always
                | Self::Prefix(_)
                | Self::Regex(_)
                | Self::Bytes(_)
                | Self::Probe(_)
                | Self::Tls(_)
                | Self::Http(_)
                | Self::Predicate(_)
                | Self::Client(_)
                | Self::Not(_),
            ) => false,
        }
    }
}

/// Most pairs compared: nested groups on both sides have exponentially many.
const MAX_STEPS: u32 = 10_000;

/// What is left of [`MAX_STEPS`].
struct Steps(u32);

impl Steps {
    fn take(&mut self) -> bool {
        let left = self.0.checked_sub(1);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}
