//! What a pattern can still say of bytes of which it is not sure: whether it waits for ever.

use std::collections::{HashMap, HashSet};

use regex_automata::{
    dfa::{Automaton, dense},
    util::primitives::StateID,
};

use super::{Engine, Regex};
use crate::{probe::Verdict, route::Phase};

/// What a pattern says of some first bytes and all that can follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::route) enum Prospect {
    /// It matches.
    Match,
    /// It does not match.
    NoMatch,
    /// It never says no: without a match it waits until there are no more bytes.
    Waits,
    /// It may match or say no, depending on what follows.
    Open,
}

/// The states of a pattern's machine, looked at once for many questions.
#[derive(Debug)]
pub(in crate::route) struct Outlook<'a> {
    regex: &'a Regex,
    /// States from which the dead one can be reached.
    mortal: HashSet<StateID>,
    /// Whether, in the end, it has matched whatever the bytes were.
    accepts_everything: bool,
    /// Whether there are bytes after which it waits for ever.
    waits_somewhere: bool,
}

impl<'a> Outlook<'a> {
    /// That of a pattern. Takes time in proportion to the size of its DFA.
    pub(in crate::route) fn new(regex: &'a Regex) -> Self {
        match &regex.engine {
            Engine::Dfa { dfa, start } => Self::of_dfa(regex, dfa, *start),
            Engine::Search(_) => Self {
                regex,
                mortal: HashSet::new(),
                accepts_everything: regex.examine(&[], Phase::Open).is_match(),
                waits_somewhere: regex.shortest.is_some(),
            },
        }
    }

    /// The pattern.
    pub(in crate::route) fn regex(&self) -> &'a Regex {
        self.regex
    }

    /// Whether there are bytes after which it waits for ever.
    pub(in crate::route) fn waits_somewhere(&self) -> bool {
        self.waits_somewhere
    }

    /// What it says of all that begins with these bytes.
    pub(in crate::route) fn prospect(&self, bytes: &[u8]) -> Prospect {
        match self.regex.examine(bytes, Phase::Open) {
            Verdict::Match(()) => Prospect::Match,
            Verdict::NoMatch => Prospect::NoMatch,
            Verdict::NeedMore(_) => match &self.regex.engine {
                // It has no notion of "never".
                Engine::Search(_) => Prospect::Waits,
                Engine::Dfa { dfa, start } => {
                    let state =
                        bytes.iter().fold(*start, |state, &byte| dfa.next_state(state, byte));
                    if self.mortal.contains(&state) { Prospect::Open } else { Prospect::Waits }
                }
            },
        }
    }

    fn of_dfa(regex: &'a Regex, dfa: &dense::DFA<Vec<u32>>, start: StateID) -> Self {
        let mut before: HashMap<StateID, Vec<StateID>> = HashMap::new();
        let mut accepts_everything = true;
        let mut dead = Vec::new();
        let mut seen = HashSet::from([start]);
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            // What follows a match makes no difference.
            if dfa.is_match_state(state) {
                continue;
            }
            accepts_everything &= dfa.is_match_state(dfa.next_eoi_state(state));
            if dfa.is_dead_state(state) {
                dead.push(state);
                continue;
            }
            let units = dfa.byte_classes().representatives(0..=u8::MAX);
            for byte in units.filter_map(|unit| unit.as_u8()) {
                let next = dfa.next_state(state, byte);
                before.entry(next).or_default().push(state);
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        let mut mortal = HashSet::new();
        while let Some(state) = dead.pop() {
            if mortal.insert(state) {
                dead.extend(before.get(&state).into_iter().flatten());
            }
        }
        let waits = |state: &StateID| {
            !dfa.is_match_state(*state)
                && !mortal.contains(state)
                && !regex.has_matched(dfa, *state)
        };
        let waits_somewhere = regex.shortest.is_some() && seen.iter().any(waits);
        Self { regex, mortal, accepts_everything, waits_somewhere }
    }
}

impl Regex {
    /// Whether it matches every connection, sooner or later, whatever its bytes; "no" may mean
    /// "not visibly".
    #[must_use]
    pub fn accepts_everything(&self) -> bool {
        Outlook::new(self).accepts_everything
    }

    /// Whether, after these bytes, it is undecided and never says no while more can come.
    #[must_use]
    pub fn waits_for_ever(&self, bytes: &[u8]) -> bool {
        Outlook::new(self).prospect(bytes) == Prospect::Waits
    }
}
