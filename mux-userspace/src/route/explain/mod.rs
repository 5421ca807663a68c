//! Why a connection is routed as it is: what every rule saw of its first bytes, as data.
//!
//! Follows the sniff: chunk by chunk, up to the limit, and then to what becomes of bytes that do
//! not decide. It asks every rule about all the bytes, without the index that [`route`] uses;
//! both must come to the same outcome. It prints nothing.
//!
//! [`route`]: super::route

mod account;
mod fate;

use std::{net::IpAddr, num::NonZeroUsize};

use serde::Serialize;

use self::{account::sure_at, fate::fate};
pub use self::{
    account::{Account, Answer, Difference, Evidence},
    fate::{Fate, Routed},
};
use super::{Phase, Sniffed};
use crate::{
    probe::{PeerText, Verdict},
    rules::config::{Config, ListenerConfig, Rule},
};

/// A connection to explain.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Where upstreams are found.
    pub config: &'a Config,
    /// Where it comes in; one of `config`'s.
    pub listener: &'a ListenerConfig,
    /// The client's address; `None` over a Unix socket.
    pub client: Option<IpAddr>,
    /// Its first bytes. Those beyond the listener's `sniff_limit` are not looked at.
    pub bytes: &'a [u8],
    /// How they arrive.
    pub split: &'a Split,
}

/// How the bytes arrive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// All at once.
    #[default]
    Whole,
    /// In chunks of this size.
    Every(NonZeroUsize),
    /// In chunks of these sizes, and then the rest at once.
    Sizes(Vec<NonZeroUsize>),
}

/// The whole account of one connection.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// The listener's name.
    pub listener: String,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Bytes looked at: those given, or the listener's `sniff_limit` where that is less.
    pub bytes: usize,
    /// The first of them, at most [`Trace::MAX_INPUT`], escaped.
    pub input: PeerText,
    /// Whether there were more, which are not looked at.
    pub truncated: bool,
    /// The listener's `sniff_limit`, bytes.
    pub sniff_limit: usize,
    /// The listener's `sniff_timeout`, milliseconds.
    pub sniff_timeout_ms: u128,
    /// Chunks that arrived until the outcome was clear; 0: it was before the first.
    pub chunks: usize,
    /// The account when something changed, and at last. Never empty.
    pub steps: Vec<Step>,
    /// What becomes of the connection if no further byte comes. `None`: it is decided.
    pub silence: Option<Silence>,
}

/// The account at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Chunks that have arrived.
    pub chunk: usize,
    /// Bytes that have arrived.
    pub bytes: usize,
    /// Whether the limit is reached, so that what is undecided counts as what it is of these bytes.
    pub full: bool,
    /// In the order in which they are tried, up to the one that takes the connection.
    pub rules: Vec<RuleAccount>,
    /// What the rules come to.
    pub fate: Fate,
}

/// What becomes of a connection that is undecided when no further byte comes.
#[derive(Clone, Debug, Serialize)]
pub struct Silence {
    /// What the rules then say, up to the one that takes the connection.
    pub rules: Vec<RuleAccount>,
    /// If the client has ended its stream.
    pub ended: Fate,
    /// At the sniff timeout.
    pub timed_out: Fate,
}

/// What one rule says.
#[derive(Clone, Debug, Serialize)]
pub struct RuleAccount {
    /// Its name.
    pub rule: String,
    /// Whether it counts; not if an earlier rule is undecided and holds it back.
    pub asked: bool,
    /// What its condition saw.
    #[serde(flatten)]
    pub account: Account,
}

impl Step {
    /// Of a client that the listener does not let in.
    fn denied() -> Self {
        let fate = Fate::Denied { rule: None };
        Self { chunk: 0, bytes: 0, full: false, rules: Vec::new(), fate }
    }
}

impl Trace {
    /// Bytes of the input that are shown.
    pub const MAX_INPUT: usize = 64;

    /// What becomes of the connection; at the sniff timeout, if its bytes do not decide.
    #[must_use]
    pub fn fate(&self) -> Option<&Fate> {
        match &self.silence {
            Some(silence) => Some(&silence.timed_out),
            None => self.steps.last().map(|step| &step.fate),
        }
    }
}

/// Explains what becomes of a connection.
#[must_use]
pub fn explain(question: &Question<'_>) -> Trace {
    let Question { config: _, listener, client, bytes, split } = *question;
    let looked_at = &bytes[..bytes.len().min(listener.sniff_limit)];
    let walk = Walk::new(question, looked_at);
    let (steps, chunks) =
        if listener.acl.permits(client) { walk.steps(split) } else { (vec![Step::denied()], 0) };
    let is_open = steps.last().is_some_and(|step| matches!(step.fate, Fate::Undecided { .. }));
    Trace {
        listener: listener.name.to_string(),
        client,
        bytes: looked_at.len(),
        input: PeerText::new(&looked_at[..looked_at.len().min(Trace::MAX_INPUT)]),
        truncated: looked_at.len() < bytes.len(),
        sniff_limit: listener.sniff_limit,
        sniff_timeout_ms: listener.sniff_timeout.as_millis(),
        chunks,
        steps,
        silence: is_open.then(|| walk.silence()),
    }
}

/// The rules and the bytes.
struct Walk<'a> {
    question: &'a Question<'a>,
    bytes: &'a [u8],
    rules: Vec<(&'a Rule, Option<Sure>)>,
}

/// When a rule becomes sure, and of what.
struct Sure {
    at: usize,
    matches: bool,
}

/// What changes from chunk to chunk: which rule is the first that does not say no, and whether it
/// matches.
type State = Option<(usize, bool)>;

impl<'a> Walk<'a> {
    fn new(question: &'a Question<'a>, bytes: &'a [u8]) -> Self {
        let sniffed = Sniffed { bytes, client: question.client, phase: Phase::Open };
        let sure = |rule: &Rule| {
            let at = sure_at(&rule.matcher, &sniffed)?;
            let then = Sniffed { bytes: &bytes[..at], ..sniffed };
            Some(Sure { at, matches: rule.matcher.evaluate(&then).is_match() })
        };
        let rules = question.listener.rules.rules();
        let rules = rules.map(|(_, rule)| (rule, sure(rule))).collect();
        Self { question, bytes, rules }
    }

    fn sniffed(&self, len: usize, phase: Phase) -> Sniffed<'a> {
        Sniffed { bytes: &self.bytes[..len], client: self.question.client, phase }
    }

    /// The phase of the sniff when so many bytes are there.
    fn phase(&self, len: usize) -> Phase {
        if len >= self.question.listener.sniff_limit { Phase::Full } else { Phase::Open }
    }

    /// The accounts that matter, and how many chunks it took.
    fn steps(&self, split: &Split) -> (Vec<Step>, usize) {
        let mut steps = Vec::new();
        let mut last = None;
        let mut arrived = 0;
        for (chunk, len) in std::iter::once(0).chain(split.ends(self.bytes.len())).enumerate() {
            arrived = chunk;
            let state = self.state(len);
            let is_decided = self.phase(len) == Phase::Full || state.is_none_or(|(_, is)| is);
            let is_last = is_decided || len == self.bytes.len();
            // Before the first byte there is something to tell only if that is all.
            if is_last || (chunk > 0 && last != Some(state)) {
                steps.push(self.step(chunk, len));
                last = Some(state);
            }
            if is_last {
                break;
            }
        }
        (steps, arrived)
    }

    /// What there is to compare; the accounts themselves would cost too much at every byte.
    fn state(&self, len: usize) -> State {
        let sniffed = self.sniffed(len, Phase::Open);
        let mut tentative = None;
        for (position, (rule, sure)) in self.rules.iter().enumerate() {
            if rule.matcher.is_tentative() {
                match rule.matcher.evaluate(&sniffed) {
                    Verdict::Match(()) => return Some((position, true)),
                    Verdict::NeedMore(_) => return Some((position, false)),
                    Verdict::NoMatch => tentative = tentative.or(Some((position, false))),
                }
            } else {
                match sure {
                    Some(Sure { at, matches: true }) if *at <= len => {
                        return Some((position, true));
                    }
                    Some(Sure { at, matches: false }) if *at <= len => {}
                    Some(_) | None => return Some((position, false)),
                }
            }
        }
        tentative
    }

    fn step(&self, chunk: usize, len: usize) -> Step {
        let phase = self.phase(len);
        let sniffed = self.sniffed(len, phase);
        Step {
            chunk,
            bytes: len,
            full: phase == Phase::Full,
            rules: self.accounts(&sniffed),
            fate: fate(self.question, &sniffed),
        }
    }

    fn silence(&self) -> Silence {
        let len = self.bytes.len();
        Silence {
            rules: self.accounts(&self.sniffed(len, Phase::Ended)),
            ended: fate(self.question, &self.sniffed(len, Phase::Ended)),
            timed_out: fate(self.question, &self.sniffed(len, Phase::TimedOut)),
        }
    }

    /// Asks the rules, up to the first that takes the connection.
    fn accounts(&self, sniffed: &Sniffed<'_>) -> Vec<RuleAccount> {
        let mut accounts = Vec::new();
        let mut asked = true;
        for (rule, _) in &self.rules {
            let account = Account::new(&rule.matcher, sniffed);
            let answer = account.answer;
            accounts.push(RuleAccount { rule: rule.name.to_string(), asked, account });
            match answer {
                Answer::Match if asked => break,
                Answer::NeedsMore => asked = false,
                Answer::Match | Answer::No => {}
            }
        }
        accounts
    }
}

impl Split {
    /// How many bytes there are after each chunk, up to `len`.
    fn ends(&self, len: usize) -> impl Iterator<Item = usize> {
        let mut end = 0;
        let mut chunk = 0;
        std::iter::from_fn(move || {
            let size = match self {
                Self::Whole => None,
                Self::Every(size) => Some(*size),
                Self::Sizes(sizes) => sizes.get(chunk).copied(),
            };
            let next = size.map_or(len, |size| len.min(end + size.get().min(len)));
            chunk += 1;
            (next > std::mem::replace(&mut end, next)).then_some(next)
        })
    }
}
