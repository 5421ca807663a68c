//! What one condition saw: its verdict, from which byte on it is sure of it, and the evidence.

use std::net::IpAddr;

use serde::Serialize;

use crate::{
    probe::{Details, Probe, Verdict},
    route::{HttpMatcher, MaskedBytes, Matcher, Networks, Sniffed},
};

/// What a condition says of some bytes, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// What kind of condition it is, as rules files call it.
    pub kind: &'static str,
    /// What it asks for, escaped; empty where the kind says it all.
    pub condition: String,
    /// Its verdict.
    #[serde(rename = "verdict")]
    pub answer: Answer,
    /// It says nothing else before there are so many bytes in total; only when it needs more.
    pub needs: Option<usize>,
    /// The fewest bytes at which its verdict was clear, whatever would follow. `None`: it is not;
    /// a verdict without it holds only because no more bytes are looked at.
    pub sure_at: Option<usize>,
    /// What it saw.
    #[serde(flatten)]
    pub evidence: Evidence,
    /// The conditions that it consists of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Account>,
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Yes.
    Match,
    /// No.
    No,
    /// It depends on what follows.
    NeedsMore,
}

/// What a condition saw. Text of the peer's is escaped in all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "saw", rename_all = "snake_case")]
pub enum Evidence {
    /// Nothing that would say more than the verdict.
    Nothing,
    /// Bytes, compared one by one.
    Bytes {
        /// Where the comparison begins, from 0.
        offset: usize,
        /// How many it is about.
        of: usize,
        /// How many are equal, up to the first that is not.
        equal: usize,
        /// The first that is not.
        differs: Option<Difference>,
    },
    /// Bytes, searched by a pattern.
    Search {
        /// Whether it has said no, or still can while more bytes may come.
        can_refuse: bool,
    },
    /// Bytes of a protocol.
    Protocol {
        /// What its probe tells of them; empty unless they are of that protocol.
        details: Details,
    },
    /// The client.
    Client {
        /// Its address; `None` over a Unix socket.
        client: Option<IpAddr>,
        /// The first of the networks that it is in.
        network: Option<String>,
    },
}

/// A byte that is not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where, from 0.
    pub at: usize,
    /// The byte.
    pub found: u8,
    /// What it should have been.
    pub expected: u8,
    /// The bits compared.
    pub mask: u8,
}

/// More of a pattern, or of a list, than this is cut off.
const MAX_CONDITION: usize = 200;

impl Account {
    /// Of a condition.
    pub(super) fn new(matcher: &Matcher, sniffed: &Sniffed<'_>) -> Self {
        let (answer, needs) = match matcher.evaluate(sniffed) {
            Verdict::Match(()) => (Answer::Match, None),
            Verdict::NoMatch => (Answer::No, None),
            Verdict::NeedMore(total) => (Answer::NeedsMore, Some(total)),
        };
        let Sees { kind, condition, evidence } = Sees::of(matcher, sniffed, answer);
        let members = matcher.members().iter().map(|member| Self::new(member, sniffed)).collect();
        let condition = shorten(condition);
        let sure_at = sure_at(matcher, sniffed);
        Self { kind, condition, answer, needs, sure_at, evidence, members }
    }
}

/// What an account says beside the verdict.
struct Sees {
    kind: &'static str,
    condition: String,
    evidence: Evidence,
}

impl Sees {
    fn of(matcher: &Matcher, sniffed: &Sniffed<'_>, answer: Answer) -> Self {
        let bytes = sniffed.bytes;
        match matcher {
            Matcher::Always => Self::new("always", String::new(), Evidence::Nothing),
            Matcher::Prefix(prefix) => {
                let expected = prefix.as_bytes();
                Self::new("prefix", quoted(expected), compared(bytes, 0, expected, None))
            }
            Matcher::Bytes(masked) => Self::masked(masked, bytes),
            Matcher::Regex(regex) => {
                let can_refuse = answer != Answer::NeedsMore || !regex.waits_for_ever(bytes);
                Self::new("regex", regex.to_string(), Evidence::Search { can_refuse })
            }
            Matcher::Probe(probe) => Self::protocol("probe", probe, probe, bytes),
            Matcher::Tls(tls) => Self::protocol("tls", tls, &Probe::tls(), bytes),
            Matcher::Http(http) => Self::protocol("http", http, &HttpMatcher::probe(bytes), bytes),
            Matcher::Predicate(_) => Self::new("function", String::new(), Evidence::Nothing),
            Matcher::Client(networks) => Self::client(networks, sniffed.client),
            Matcher::All(_) => Self::new("all", String::new(), Evidence::Nothing),
            Matcher::Any(_) => Self::new("any", String::new(), Evidence::Nothing),
            Matcher::Not(_) => Self::new("not", String::new(), Evidence::Nothing),
        }
    }

    fn new(kind: &'static str, condition: String, evidence: Evidence) -> Self {
        Self { kind, condition, evidence }
    }

    /// A condition on a protocol: what the protocol's probe tells of the bytes, if they are.
    fn protocol(
        kind: &'static str,
        condition: &impl ToString,
        probe: &Probe,
        bytes: &[u8],
    ) -> Self {
        let is_it = probe.examine(bytes).is_match();
        let details = if is_it { probe.details(bytes) } else { Details::new() };
        Self::new(kind, condition.to_string(), Evidence::Protocol { details })
    }

    fn masked(masked: &MaskedBytes, bytes: &[u8]) -> Self {
        let (offset, value, mask) = masked.parts();
        let mut condition = format!("{} at offset {offset}", hex(value));
        if mask.iter().any(|&bits| bits != 0xff) {
            condition = format!("{condition}, mask {}", hex(mask));
        }
        Self::new("bytes", condition, compared(bytes, offset, value, Some(mask)))
    }

    fn client(networks: &Networks, client: Option<IpAddr>) -> Self {
        let network = client.and_then(|client| networks.find(client));
        Self::new("client", networks.to_string(), Evidence::Client { client, network })
    }
}

/// Compares as [`Prefix`](crate::route::Prefix) and [`MaskedBytes`] do.
fn compared(bytes: &[u8], offset: usize, expected: &[u8], mask: Option<&[u8]>) -> Evidence {
    let there = bytes.get(offset..).unwrap_or_default();
    let mask_at = |index| mask.and_then(|mask| mask.get(index)).copied().unwrap_or(0xff);
    let differs =
        there.iter().zip(expected).enumerate().find_map(|(index, (&found, &expected))| {
            let mask = mask_at(index);
            let at = offset + index;
            (found & mask != expected & mask).then_some(Difference { at, found, expected, mask })
        });
    let equal = differs.map_or(there.len().min(expected.len()), |differs| differs.at - offset);
    Evidence::Bytes { offset, of: expected.len(), equal, differs }
}

/// The fewest bytes at which the verdict was clear; `None`: it is not while more can come.
///
/// Verdicts are monotone, so that they can be bisected. A "no" that may become a "yes" is never
/// clear.
pub(super) fn sure_at(matcher: &Matcher, sniffed: &Sniffed<'_>) -> Option<usize> {
    let is_tentative = matcher.is_tentative();
    let is_sure = |len: usize| {
        let phase = crate::route::Phase::Open;
        match matcher.evaluate(&Sniffed { bytes: &sniffed.bytes[..len], phase, ..*sniffed }) {
            Verdict::Match(()) => true,
            Verdict::NoMatch => !is_tentative,
            Verdict::NeedMore(_) => false,
        }
    };
    let mut most = sniffed.bytes.len();
    if !is_sure(most) {
        return None;
    }
    let mut least = 0;
    while least < most {
        let middle = least + (most - least) / 2;
        if is_sure(middle) { most = middle } else { least = middle + 1 }
    }
    Some(most)
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(MAX_CONDITION) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
