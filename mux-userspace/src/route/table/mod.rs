//! The rules of one listener, compiled so that a thousand of them cost about what ten do.
//!
//! Asking every rule about every chunk costs as much as there are rules. Most rules demand
//! something that can be looked up instead: first bytes, a name, a path, a client's network. The [`Index`] gives the rules
//! whose demand these bytes meet or may still meet; only those are asked, in their order. All of them share what was parsed of the chunk ([`Heads`]). A
//! rule that was once sure not to match is not asked again ([`Progress`]).

mod clients;
mod index;
mod names;
mod need;
mod patterns;
mod requests;
pub(super) mod shapes;
mod trie;

use std::sync::Arc;

use self::index::Index;
use super::{Sniffed, heads::Heads};
use crate::{
    probe::Verdict,
    rules::config::{Rule, RuleId},
};

/// The rules that a listener tries, in order.
#[derive(Debug, Default)]
pub struct Table {
    entries: Box<[Entry]>,
    index: Index,
}

#[derive(Debug)]
struct Entry {
    id: RuleId,
    rule: Arc<Rule>,
    /// See [`super::Matcher::is_tentative`].
    tentative: bool,
}

/// How far a connection has come in a [`Table`]: all rules before are sure not to match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress(u32);

/// What a [`Table`] knows of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    /// The first rule that is sure, with none before it that may become so.
    Rule(RuleId, &'a Rule),
    /// Not before there are this many bytes.
    NeedMore(usize),
    /// No rule.
    None,
}

impl Table {
    /// Compiles an index over these rules.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = (RuleId, Arc<Rule>)>) -> Self {
        let entries: Box<[Entry]> = rules
            .into_iter()
            .map(|(id, rule)| Entry { id, tentative: rule.matcher.is_tentative(), rule })
            .collect();
        let index = Index::new(entries.iter().map(|entry| &entry.rule.matcher));
        Self { entries, index }
    }

    /// The rules' ids, in the order in which they are tried.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = RuleId> {
        self.entries.iter().map(|entry| entry.id)
    }

    /// The rules, in the order in which they are tried.
    pub fn rules(&self) -> impl DoubleEndedIterator<Item = (RuleId, &Rule)> {
        self.entries.iter().map(|entry| (entry.id, &*entry.rule))
    }

    /// Whether this rule is among them.
    #[must_use]
    pub fn contains(&self, id: RuleId) -> bool {
        self.ids().any(|mine| mine == id)
    }

    /// Looks for the first rule that is sure. `progress` is the connection's; of the default
    /// value at its first chunk.
    pub(super) fn find(&self, sniffed: &Sniffed<'_>, progress: &mut Progress) -> Found<'_> {
        let mut first_tentative = None;
        let heads = Heads::new(sniffed.bytes);
        for position in self.index.candidates(sniffed, &heads, progress.0) {
            let Some(entry) = self.entries.get(position as usize) else { continue };
            match entry.rule.matcher.answer(sniffed, &heads) {
                Verdict::Match(()) => return Found::Rule(entry.id, &entry.rule),
                Verdict::NoMatch if entry.tentative => {
                    first_tentative.get_or_insert(position);
                }
                Verdict::NoMatch => {}
                Verdict::NeedMore(total) => {
                    *progress = Progress(first_tentative.unwrap_or(position));
                    // One that may change its mind at any byte wants to be asked at each.
                    let total =
                        if first_tentative.is_some() { sniffed.bytes.len() + 1 } else { total };
                    return Found::NeedMore(total);
                }
            }
        }
        match first_tentative {
            Some(position) if sniffed.phase.is_open() => {
                *progress = Progress(position);
                Found::NeedMore(sniffed.bytes.len() + 1)
            }
            Some(_) | None => Found::None,
        }
    }
}

/// The same as [`Table::find`], without an index: what it must agree with.
#[cfg(test)]
pub(super) fn find_naively<'a>(
    rules: impl Iterator<Item = (RuleId, &'a Rule)>,
    sniffed: &Sniffed<'_>,
) -> Found<'a> {
    let mut tentative = false;
    for (id, rule) in rules {
        match rule.matcher.evaluate(sniffed) {
            Verdict::Match(()) => return Found::Rule(id, rule),
            Verdict::NoMatch => tentative |= rule.matcher.is_tentative(),
            Verdict::NeedMore(_) if tentative => return Found::NeedMore(sniffed.bytes.len() + 1),
            Verdict::NeedMore(total) => return Found::NeedMore(total),
        }
    }
    if tentative && sniffed.phase.is_open() {
        Found::NeedMore(sniffed.bytes.len() + 1)
    } else {
        Found::None
    }
}
