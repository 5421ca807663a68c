//! Conditions, compiled: every value of [`Matcher`] can be evaluated, and none can fail.

use std::sync::Arc;

use super::{
    HttpMatcher, NetworkFile, Networks, Phase, Predicate, Regex, Sniffed, TlsMatcher, heads::Heads,
};
use crate::probe::{Probe, Seen, Verdict};

/// A condition on a connection's first bytes and its client.
///
/// Two matchers are equal when they are written alike; see also [`Matcher::covers`].
#[derive(Clone, Debug, PartialEq)]
pub enum Matcher {
    /// Every connection, at once, without a byte.
    Always,
    /// The first bytes are these.
    Prefix(Prefix),
    /// A regular expression finds a match among the bytes.
    Regex(Regex),
    /// Bytes at an offset, under a mask, are these.
    Bytes(MaskedBytes),
    /// A probe recognises its protocol.
    Probe(Probe),
    /// A TLS client offers these.
    Tls(TlsMatcher),
    /// An HTTP client asks for this.
    Http(HttpMatcher),
    /// A function of the embedding program's says so.
    Predicate(Predicate),
    /// The client's address is in one of these networks.
    Client(Networks),
    /// All of these hold.
    All(Group),
    /// One of these holds.
    Any(Group),
    /// This does not hold.
    Not(Box<Matcher>),
}

impl Matcher {
    /// Whether the condition holds.
    ///
    /// In [`Phase::Open`] the verdict is sure, in Kleene's three-valued logic, and monotone
    /// in the bytes, but for [`Matcher::is_tentative`] ones. In the other phases it is never
    /// [`Verdict::NeedMore`]: what is not true of these bytes is false.
    #[must_use]
    pub fn evaluate(&self, sniffed: &Sniffed<'_>) -> Verdict<()> {
        self.answer(sniffed, &Heads::new(sniffed.bytes))
    }

    /// The same; `heads` are those of these bytes, for all conditions about them.
    pub(super) fn answer(&self, sniffed: &Sniffed<'_>, heads: &Heads<'_>) -> Verdict<()> {
        let phase = sniffed.phase;
        match self {
            Self::Always => Verdict::Match(()),
            Self::Prefix(prefix) => settle(prefix.examine(sniffed.bytes), phase),
            Self::Regex(regex) => regex.examine(sniffed.bytes, phase),
            Self::Bytes(masked) => settle(masked.examine(sniffed.bytes), phase),
            Self::Probe(probe) => settle(probe.examine(sniffed.bytes), phase),
            Self::Tls(tls) => settle(tls.examine(heads), phase),
            Self::Http(http) => settle(http.examine(heads), phase),
            Self::Predicate(predicate) => settle(predicate.examine(sniffed.bytes), phase),
            Self::Client(networks) => {
                if sniffed.client.is_some_and(|client| networks.contains(client)) {
                    Verdict::Match(())
                } else {
                    Verdict::NoMatch
                }
            }
            Self::All(group) => all(group.members(), sniffed, heads),
            Self::Any(group) => group.members().iter().fold(Verdict::NoMatch, |sum, member| {
                sum.or_else(|| member.answer(sniffed, heads))
            }),
            Self::Not(inner) => match inner.answer(sniffed, heads) {
                Verdict::Match(()) => Verdict::NoMatch,
                Verdict::NoMatch => Verdict::Match(()),
                Verdict::NeedMore(total) => Verdict::NeedMore(total),
            },
        }
    }

    /// What the first probe in it saw that made it match, if one did: to be asked once
    /// [`Matcher::evaluate`] has said [`Verdict::Match`].
    #[must_use]
    pub fn seen(&self, sniffed: &Sniffed<'_>) -> Option<Seen> {
        let matches = |member: &&Self| member.evaluate(sniffed).is_match();
        let saw = |probe: Probe| {
            let details = probe.details(sniffed.bytes);
            Some(Seen { probe, details })
        };
        match self {
            Self::Probe(probe) => saw(probe.clone()),
            Self::Tls(_) => saw(Probe::tls()),
            Self::Http(_) => saw(HttpMatcher::probe(sniffed.bytes)),
            Self::All(group) => group.members().iter().find_map(|member| member.seen(sniffed)),
            Self::Any(group) => group.members().iter().find(matches)?.seen(sniffed),
            Self::Always
            | Self::Prefix(_)
            | Self::Regex(_)
            | Self::Bytes(_)
            | Self::Predicate(_)
            | Self::Client(_)
            | Self::Not(_) => None,
        }
    }

    /// The conditions that it consists of; of most, none.
    #[must_use]
    pub fn members(&self) -> &[Self] {
        match self {
            Self::All(group) | Self::Any(group) => group.members(),
            Self::Not(inner) => std::slice::from_ref(inner),
            Self::Always
            | Self::Prefix(_)
            | Self::Regex(_)
            | Self::Bytes(_)
            | Self::Probe(_)
            | Self::Tls(_)
            | Self::Http(_)
            | Self::Predicate(_)
            | Self::Client(_) => &[],
        }
    }

    /// The files of networks in it.
    pub fn network_files(&self, found: &mut Vec<Arc<NetworkFile>>) {
        if let Self::Client(networks) = self {
            found.extend(networks.files().iter().cloned());
        }
        self.members().iter().for_each(|member| member.network_files(found));
    }

    /// Whether its "no" is of the bytes so far only, see [`Predicate::bool`].
    #[must_use]
    pub fn is_tentative(&self) -> bool {
        match self {
            Self::Predicate(predicate) => predicate.is_tentative(),
            Self::All(group) | Self::Any(group) => group.members().iter().any(Self::is_tentative),
            Self::Not(inner) => inner.is_tentative(),
            Self::Always
            | Self::Prefix(_)
            | Self::Regex(_)
            | Self::Bytes(_)
            | Self::Probe(_)
            | Self::Tls(_)
            | Self::Http(_)
            | Self::Client(_) => false,
        }
    }
}

/// Kleene's "and".
fn all(members: &[Matcher], sniffed: &Sniffed<'_>, heads: &Heads<'_>) -> Verdict<()> {
    let mut undecided: Option<usize> = None;
    for member in members {
        match member.answer(sniffed, heads) {
            Verdict::Match(()) => {}
            Verdict::NoMatch => return Verdict::NoMatch,
            // The first of them to change its mind may make the whole false.
            Verdict::NeedMore(total) => {
                undecided = Some(undecided.map_or(total, |other| other.min(total)));
            }
        }
    }
    undecided.map_or(Verdict::Match(()), Verdict::NeedMore)
}

/// Takes "not yet" for "no" where there will be no more bytes.
fn settle<T>(verdict: Verdict<T>, phase: Phase) -> Verdict<T> {
    match verdict {
        Verdict::NeedMore(_) if !phase.is_open() => Verdict::NoMatch,
        Verdict::Match(_) | Verdict::NoMatch | Verdict::NeedMore(_) => verdict,
    }
}

/// A condition that says nothing, such as an empty prefix or an empty list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("empty: it would say nothing")]
pub struct EmptyMatcher;

/// First bytes; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Box<[u8]>);

impl Prefix {
    /// # Errors
    /// [`EmptyMatcher`] when there are no bytes.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, EmptyMatcher> {
        let bytes = bytes.into();
        if bytes.is_empty() { Err(EmptyMatcher) } else { Ok(Self(bytes)) }
    }

    /// The bytes; never empty.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn examine(&self, bytes: &[u8]) -> Verdict<()> {
        let len = bytes.len().min(self.0.len());
        if bytes[..len] != self.0[..len] {
            Verdict::NoMatch
        } else if len == self.0.len() {
            Verdict::Match(())
        } else {
            Verdict::NeedMore(len + 1)
        }
    }
}

/// Bytes at an offset, compared under a mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedBytes {
    offset: usize,
    /// Zero where the mask is.
    value: Box<[u8]>,
    /// As long as `value`.
    mask: Box<[u8]>,
}

/// Why [`MaskedBytes::new`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskedBytesError {
    /// No value.
    #[error("no bytes to compare with")]
    Empty,
    /// The mask has another length than the value.
    #[error("the mask has {mask} bytes and the value has {value}")]
    Length {
        /// Bytes of the mask.
        mask: usize,
        /// Bytes of the value.
        value: usize,
    },
    /// Every bit is masked out.
    #[error("the mask is all zero: nothing would be compared")]
    ZeroMask,
    /// Beyond what is ever sniffed.
    #[error("these bytes end beyond {} bytes, the most that is ever sniffed", MaskedBytes::MAX_END)]
    TooFar,
}

impl MaskedBytes {
    /// Largest `offset + value.len()`: the largest `sniff_limit`.
    pub const MAX_END: usize = 1 << 20;

    /// Compares `value` at `offset`, under `mask` (all ones when `None`). Bits of `value`
    /// outside the mask do not matter.
    ///
    /// # Errors
    /// When it could not be compared, or would match anything; see [`MaskedBytesError`].
    pub fn new(offset: usize, value: &[u8], mask: Option<&[u8]>) -> Result<Self, MaskedBytesError> {
        if value.is_empty() {
            return Err(MaskedBytesError::Empty);
        }
        let mask: Box<[u8]> = mask.map_or_else(|| vec![0xff; value.len()].into(), Into::into);
        if mask.len() != value.len() {
            return Err(MaskedBytesError::Length { mask: mask.len(), value: value.len() });
        }
        if mask.iter().all(|&bits| bits == 0) {
            return Err(MaskedBytesError::ZeroMask);
        }
        if offset.checked_add(value.len()).is_none_or(|end| end > Self::MAX_END) {
            return Err(MaskedBytesError::TooFar);
        }
        let value = value.iter().zip(&mask).map(|(byte, bits)| byte & bits).collect();
        Ok(Self { offset, value, mask })
    }

    /// The first bytes that it demands in full; may be none.
    pub(super) fn literal(&self) -> &[u8] {
        let whole = if self.offset == 0 {
            self.mask.iter().take_while(|&&bits| bits == 0xff).count()
        } else {
            0
        };
        &self.value[..whole]
    }

    /// Offset, value and mask; the latter two are of the same length.
    #[must_use]
    pub fn parts(&self) -> (usize, &[u8], &[u8]) {
        (self.offset, &self.value, &self.mask)
    }

    /// One past the last byte compared.
    pub(super) fn end(&self) -> usize {
        self.offset + self.value.len()
    }

    fn examine(&self, bytes: &[u8]) -> Verdict<()> {
        let there = bytes.get(self.offset..).unwrap_or_default();
        let wanted = self.value.iter().zip(&self.mask);
        if there.iter().zip(wanted).any(|(byte, (value, mask))| byte & mask != *value) {
            Verdict::NoMatch
        } else if there.len() >= self.value.len() {
            Verdict::Match(())
        } else {
            Verdict::NeedMore(bytes.len().max(self.offset) + 1)
        }
    }
}

/// Members of [`Matcher::All`] and [`Matcher::Any`]; at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Group(Box<[Matcher]>);

impl Group {
    /// # Errors
    /// [`EmptyMatcher`] when there are none.
    pub fn new(members: impl Into<Box<[Matcher]>>) -> Result<Self, EmptyMatcher> {
        let members = members.into();
        if members.is_empty() { Err(EmptyMatcher) } else { Ok(Self(members)) }
    }

    /// The members; never none.
    #[must_use]
    pub fn members(&self) -> &[Matcher] {
        &self.0
    }
}
