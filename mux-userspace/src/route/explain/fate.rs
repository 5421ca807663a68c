//! What all rules together come to.

use serde::{Serialize, Serializer};

use super::{Question, Sniffed};
use crate::{
    probe::{Details, Verdict},
    route::{Phase, Why},
    rules::config::{Otherwise, Rule, RuleId},
};

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// A rule takes it.
    Routed(Routed),
    /// Not clear yet.
    Undecided {
        /// The first rule that cannot say yet.
        waits_for: String,
        /// Not before there are so many bytes in total.
        needs: usize,
    },
    /// Reset, because an access list does not permit the client.
    Denied {
        /// The rule that it is of; `None`: the listener, before the first byte.
        rule: Option<String>,
    },
    /// Closed (FIN).
    Close {
        /// Which of the listener's keys says so.
        #[serde(serialize_with = "name")]
        why: Why,
    },
    /// Reset (RST).
    Reset {
        /// Which of the listener's keys says so.
        #[serde(serialize_with = "name")]
        why: Why,
    },
}

/// The rule that takes a connection, and where that leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Routed {
    /// Its index in the configuration.
    #[serde(skip)]
    pub id: RuleId,
    /// Its name.
    pub rule: String,
    /// How it came to it.
    #[serde(serialize_with = "name")]
    pub why: Why,
    /// The upstream's name: a group's, or the address.
    pub upstream: String,
    /// The upstream's addresses.
    pub endpoints: Vec<String>,
    /// The rule's relay.
    pub relay: &'static str,
    /// The probe that made it match, if one did.
    pub probe: Option<String>,
    /// What that saw.
    pub details: Option<Details>,
}

fn name<S: Serializer>(why: &Why, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(why.name())
}

/// Asks every rule in its order: what [`route`](super::super::route) must agree with.
pub(super) fn fate(question: &Question<'_>, sniffed: &Sniffed<'_>) -> Fate {
    let mut tentative = None;
    for (id, rule) in question.listener.rules.rules() {
        match rule.matcher.evaluate(sniffed) {
            Verdict::Match(()) => return routed(question, id, rule, Why::Matched, Some(sniffed)),
            Verdict::NoMatch if rule.matcher.is_tentative() => {
                tentative.get_or_insert(rule);
            }
            Verdict::NoMatch => {}
            Verdict::NeedMore(total) => {
                return match tentative {
                    // It may change its mind at any byte.
                    Some(earlier) => undecided(earlier, sniffed.bytes.len() + 1),
                    None => undecided(rule, total),
                };
            }
        }
    }
    match tentative {
        Some(rule) if sniffed.phase.is_open() => undecided(rule, sniffed.bytes.len() + 1),
        Some(_) | None => otherwise(question, sniffed.phase),
    }
}

fn undecided(rule: &Rule, needs: usize) -> Fate {
    Fate::Undecided { waits_for: rule.name.to_string(), needs }
}

/// What the listener does when no rule has matched.
fn otherwise(question: &Question<'_>, phase: Phase) -> Fate {
    let listener = question.listener;
    let (otherwise, why) = match phase {
        Phase::TimedOut => (listener.on_timeout, Why::OnTimeout),
        Phase::Open | Phase::Ended | Phase::Full => (listener.on_no_match, Why::OnNoMatch),
    };
    let rule = |id: RuleId| question.config.rules.get(id.0);
    match otherwise {
        Otherwise::Reset => Fate::Reset { why },
        Otherwise::Close => Fate::Close { why },
        // A compiled configuration has every rule that it refers to.
        Otherwise::Rule(id) => {
            rule(id).map_or(Fate::Close { why }, |rule| routed(question, id, rule, why, None))
        }
    }
}

fn routed(
    question: &Question<'_>,
    id: RuleId,
    rule: &Rule,
    why: Why,
    sniffed: Option<&Sniffed<'_>>,
) -> Fate {
    if !rule.acl.permits(question.client) {
        return Fate::Denied { rule: Some(rule.name.to_string()) };
    }
    let upstream = question.config.upstreams.get(rule.upstream.0);
    let seen = sniffed.and_then(|sniffed| rule.matcher.seen(sniffed));
    Fate::Routed(Routed {
        id,
        rule: rule.name.to_string(),
        why,
        upstream: upstream.map(|upstream| upstream.name.to_string()).unwrap_or_default(),
        endpoints: upstream
            .map(|upstream| upstream.addresses().map(ToString::to_string).collect())
            .unwrap_or_default(),
        relay: rule.relay.name(),
        probe: seen.as_ref().map(|seen| seen.probe.name().to_owned()),
        details: seen.map(|seen| seen.details),
    })
}
