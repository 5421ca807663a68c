//! Routing: which rule a connection's first bytes belong to, and why.
//!
//! Everything here is a pure function of the bytes sniffed, the client's address and the
//! phase of sniffing. It does no I/O and reads no clock; it is called again, with more
//! bytes, until it decides.

mod covers;
pub mod explain;
mod heads;
mod http;
mod matcher;
mod names;
mod networks;
mod predicate;
mod regex;
mod table;
mod tls;
mod waits;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use self::table::Found;
pub use self::{
    http::{FieldName, HttpConditions, HttpMatcher},
    matcher::{EmptyMatcher, Group, MaskedBytes, MaskedBytesError, Matcher, Prefix},
    names::{Name, NameError, NamePattern, Names},
    networks::{MAX_FILE, NetworkFile, NetworkFileError, Networks, networks_in, parse_network},
    predicate::Predicate,
    regex::{Regex, RegexError},
    table::{Progress, Table},
    tls::{Sni, TlsMatcher},
    waits::Patience,
};
use crate::{
    probe::Seen,
    rules::config::{ListenerConfig, Otherwise, RuleId},
};

/// What is known of a connection when it is routed.
#[derive(Clone, Copy, Debug)]
pub struct Sniffed<'a> {
    /// Its first bytes, at most the listener's `sniff_limit`.
    pub bytes: &'a [u8],
    /// The client's address; `None` over a Unix socket.
    pub client: Option<IpAddr>,
    /// Whether there can be more bytes.
    pub phase: Phase,
}

/// How far sniffing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// More bytes may arrive.
    Open,
    /// The client has ended its side; these are all its bytes.
    Ended,
    /// `sniff_limit` is reached; more bytes will not be looked at.
    Full,
    /// `sniff_timeout` has passed.
    TimedOut,
}

impl Phase {
    /// Whether to wait for more bytes makes sense.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Open => true,
            Self::Ended | Self::Full | Self::TimedOut => false,
        }
    }
}

/// What becomes of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A rule takes it.
    Routed(Decision),
    /// Not decided yet, and not before there are this many bytes in total (always more
    /// than there are now), the end of input, or the timeout. Only in [`Phase::Open`].
    NeedMore(usize),
    /// Close it (FIN).
    Close,
    /// Reset it (RST).
    Reset,
}

/// The rule that takes a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub rule: RuleId,
    /// How it came to it.
    pub why: Why,
    /// What the rule's probe saw, if it has one and matched.
    pub seen: Option<Seen>,
}

/// Why a rule takes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is the first whose matcher is sure.
    Matched,
    /// It is the listener's `on_timeout`.
    OnTimeout,
    /// It is the listener's `on_no_match`.
    OnNoMatch,
}

impl Why {
    /// Its name in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::OnTimeout => "on_timeout",
            Self::OnNoMatch => "on_no_match",
        }
    }
}

/// Decides by the first rule of the listener that is sure.
///
/// While the phase is [`Phase::Open`], a rule that cannot say yet holds back the rules
/// after it. In the other phases it counts as what it is of these bytes, which for a probe
/// or a prefix is no match.
///
/// `progress` is the connection's, of the default value at first; the bytes of a later call
/// begin with those of the earlier ones.
///
/// It needs no socket, so that it can be used in a program that does its own I/O:
///
/// ```
/// use mux::route::{Outcome, Phase, Progress, Sniffed, route};
///
/// let config = mux::rules::parse("rules.toml", r#"
///     listen = "127.0.0.1:0"
///     [[rule]]
///     name = "api"
///     match = { http = { path_prefix = "/api/" } }
///     upstream = 8080
///     [[rule]]
///     name = "ssh"
///     match = "ssh"
///     upstream = 22
/// "#)?;
/// let listener = &config.listeners[0];
/// let mut progress = Progress::default();
/// let mut outcome = |bytes: &[u8], phase| {
///     route(listener, &Sniffed { bytes, client: None, phase }, &mut progress)
/// };
/// assert_eq!(outcome(b"GET /ap", Phase::Open), Outcome::NeedMore(8));
/// match outcome(b"GET /api/v1 HTTP/1.1\r\n", Phase::Open) {
///     Outcome::Routed(decision) => assert_eq!(&*config.rules[decision.rule.0].name, "api"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), mux::rules::LoadError>(())
/// ```
#[must_use]
pub fn route(listener: &ListenerConfig, sniffed: &Sniffed<'_>, progress: &mut Progress) -> Outcome {
    match listener.rules.find(sniffed, progress) {
        Found::Rule(id, rule) => {
            let seen = rule.matcher.seen(sniffed);
            Outcome::Routed(Decision { rule: id, why: Why::Matched, seen })
        }
        Found::NeedMore(total) => Outcome::NeedMore(total),
        Found::None if sniffed.phase == Phase::TimedOut => {
            otherwise(listener.on_timeout, Why::OnTimeout)
        }
        Found::None => otherwise(listener.on_no_match, Why::OnNoMatch),
    }
}

/// What the listener does when no rule has matched.
fn otherwise(otherwise: Otherwise, why: Why) -> Outcome {
    match otherwise {
        Otherwise::Close => Outcome::Close,
        Otherwise::Reset => Outcome::Reset,
        Otherwise::Rule(rule) => Outcome::Routed(Decision { rule, why, seen: None }),
    }
}
