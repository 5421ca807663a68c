//! Which rules a listener tries, and where it falls back to, so that connections go where sslh
//! sends them.
//!
//! sslh (probe.c, since 1.20) tries all probes on what has come. The first that matches takes the
//! connection; while one wants more bytes, it waits; if all say no, the last protocol of the file
//! takes it. `anyprot` and `timeout` match any byte. A client that keeps it waiting, or that is
//! silent, goes to the protocol named by `on_timeout`, or else to the first one.

use super::{
    conditions::{Condition, Waits},
    rules::{Entry, Rule},
};

/// The plan, in indices of the entries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What listeners try, in order; never empty.
    pub(super) tried: Vec<usize>,
    /// Whether some rule is not tried: then listeners list the ones that are.
    pub(super) listed: bool,
    /// Where a silent client goes; `None`: nowhere.
    pub(super) on_timeout: Option<usize>,
    /// Where a client goes that no rule matches.
    pub(super) on_no_match: usize,
    /// The rule, if there is one, whose condition is that there are so many bytes.
    pub(super) any_bytes: Option<(usize, u64)>,
    /// Whether there is but one place to go to, so that there is nothing to wait for.
    pub(super) at_once: bool,
}

/// What a rule's `match` is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// Nothing: the rule is not tried, or takes everything at once.
    Nothing,
    /// That there are so many bytes.
    AnyBytes(u64),
    /// Its own condition.
    Own,
}

impl Plan {
    /// What this rule's `match` is to say.
    pub(super) fn matches(&self, index: usize) -> Match {
        if let Some((_, count)) = self.any_bytes.filter(|(rule, _)| *rule == index) {
            Match::AnyBytes(count)
        } else if self.tried.contains(&index) && !self.at_once {
            Match::Own
        } else {
            Match::Nothing
        }
    }
}

/// What came of planning.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Planned {
    /// Every rule has its place.
    Plan(Plan),
    /// These have none, for this reason; without them there may be a plan.
    Unused(Vec<(usize, String)>),
    /// There is no rule at all.
    Nothing,
}

/// Makes a plan.
pub(super) fn plan(entries: &[Entry], on_timeout: &str) -> Planned {
    let rules: Vec<(usize, &Rule)> = entries
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| Some((index, entry.rule.as_ref().ok()?)))
        .collect();
    let certain = rules.iter().find(|(_, rule)| rule.condition == Condition::Any);
    let Some(&(fallback, fallback_rule)) = certain.or_else(|| rules.last()) else {
        return Planned::Nothing;
    };
    let silent = silent(entries, on_timeout);
    let comes_first = |index: usize| certain.is_none_or(|&(at, _)| index < at);
    let unused: Vec<(usize, String)> = rules
        .iter()
        .filter(|(index, _)| *index != fallback && Some(*index) != silent)
        .filter_map(|&(index, rule)| match &rule.condition {
            Condition::Never(reason) => Some((index, reason.clone())),
            Condition::When { .. } if comes_first(index) => None,
            Condition::When { .. } | Condition::Any => {
                let taker = &fallback_rule.name;
                Some((
                    index,
                    format!("no connection comes so far: `{taker}`, before it, takes all"),
                ))
            }
        })
        .collect();
    if !unused.is_empty() {
        return Planned::Unused(unused);
    }

    let mut plan = Plan {
        tried: Vec::new(),
        listed: false,
        on_timeout: silent,
        on_no_match: fallback,
        any_bytes: None,
        at_once: false,
    };
    if silent == Some(fallback) && rules.len() == 1 {
        return Planned::Plan(Plan { tried: vec![fallback], at_once: true, ..plan });
    }
    let (mut waits, mut sure_after) = (false, 1);
    for &(index, rule) in &rules {
        let Condition::When { waits: it_waits, .. } = rule.condition else { continue };
        // The last one takes the rest, so that it need not wait for its own.
        if comes_first(index) && !(index == fallback && it_waits != Waits::No) {
            waits |= it_waits != Waits::No;
            sure_after = rule.sure_after.max(sure_after);
            plan.tried.push(index);
        }
    }
    // While a rule waits, mux cannot tell a client that no rule will match from one that is silent.
    // A last rule can, which matches anything that sslh would have been sure of by then.
    if waits || plan.tried.is_empty() {
        plan.any_bytes = Some((fallback, sure_after));
        plan.tried.retain(|&index| index != fallback);
        plan.tried.push(fallback);
    }
    plan.listed = rules.iter().any(|(index, _)| !plan.tried.contains(index));
    Planned::Plan(plan)
}

/// Where a silent client goes: to the first protocol of that name, or else to the first one. If
/// that one is left out, nowhere.
fn silent(entries: &[Entry], on_timeout: &str) -> Option<usize> {
    let mut named = entries.iter().filter(|entry| entry.protocol == on_timeout).peekable();
    if named.peek().is_some() && named.all(|entry| entry.rule.is_err()) {
        return None;
    }
    let has_rule = |entry: &Entry| entry.rule.is_ok();
    entries
        .iter()
        .position(|entry| entry.protocol == on_timeout && has_rule(entry))
        .or_else(|| entries.iter().position(has_rule))
}
