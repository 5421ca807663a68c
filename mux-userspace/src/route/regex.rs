//! Regular expressions on raw bytes that know when they cannot know yet.
//!
//! A search engine answers "does this match?"; sniffing also needs "can it still match?"
//! and "can it still stop matching?". A dense DFA answers all three: its dead state is
//! "never", a match state entered by a real byte is "surely". Where the DFA would be too
//! big, a search engine answers the first question and the others wait for the last byte.

mod outlook;

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
};

use regex_automata::{
    Anchored,
    dfa::{Automaton, StartKind, dense},
    nfa::thompson,
    util::{
        look::{Look, LookSet},
        primitives::StateID,
        start, syntax,
    },
};

use regex_syntax::hir::{
    self, Hir,
    literal::{ExtractKind, Extractor},
};

pub(super) use self::outlook::{Outlook, Prospect};
use super::{
    Phase,
    table::shapes::{ByteSet, places},
};
use crate::probe::Verdict;

/// Most memory that one pattern's NFA, and its DFA, may take, bytes.
const SIZE_LIMIT: usize = 1 << 20;
/// Most memory while the DFA is built, bytes; bounds the time too.
const DETERMINIZE_LIMIT: usize = 4 << 20;

/// A compiled pattern. Bytes, not text: `.` is any byte but `\n`, `\xff` is that byte,
/// classes such as `\w` are ASCII unless the pattern says `(?u)`.
///
/// Unanchored and case-sensitive unless the pattern says otherwise.
#[derive(Clone)]
pub struct Regex {
    pattern: Box<str>,
    engine: Engine,
    shortest: Option<usize>,
    longest: Option<usize>,
    /// What every match begins with, where every match is at the beginning; see
    /// [`Regex::prefixes`].
    prefixes: Option<Box<[Box<[u8]>]>>,
    /// Whether the byte after a match, or the end, can undo it: `$`, `\b` and the like.
    looks_ahead: bool,
}

#[derive(Clone)]
enum Engine {
    Dfa { dfa: Box<dense::DFA<Vec<u32>>>, start: StateID },
    Search(::regex::bytes::Regex),
}

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// It is not a regular expression; the message is the regex crate's, in one line.
    #[error("{0}")]
    Syntax(String),
    /// It is one, but a machine for it would be too large.
    #[error("compiled, it would be larger than {SIZE_LIMIT} bytes")]
    TooLarge,
}

impl Regex {
    /// Compiles a pattern in the regex crate's syntax.
    ///
    /// # Errors
    /// [`RegexError`], when it is malformed or too large.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        let syntax = syntax::Config::new().unicode(false).utf8(false);
        let hir = syntax::parse_with(pattern, &syntax)
            .map_err(|error| RegexError::Syntax(last_line(&error.to_string())))?;
        let nfa = thompson::Compiler::new()
            .configure(thompson::Config::new().utf8(false).nfa_size_limit(Some(SIZE_LIMIT)))
            .build_from_hir(&hir)
            .map_err(|_| RegexError::TooLarge)?;
        let engine = match dfa(&nfa) {
            Some(engine) => engine,
            None => Engine::Search(search(pattern)?),
        };
        Ok(Self {
            pattern: pattern.into(),
            shortest: hir.properties().minimum_len().or_else(|| shortest(&engine)),
            longest: hir.properties().maximum_len().filter(|_| nfa.is_always_start_anchored()),
            prefixes: prefixes(&hir),
            looks_ahead: looks_ahead(nfa.look_set_any()),
            engine,
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// The fewest bytes that can match; `None`: nothing can.
    #[must_use]
    pub fn shortest_match(&self) -> Option<usize> {
        self.shortest
    }

    /// The most bytes, from the first one on, that a match can take: with more, the pattern is sure.
    /// `None`: it can match anywhere (it is not anchored by `^`), or there is no such number.
    #[must_use]
    pub fn longest_match(&self) -> Option<usize> {
        self.longest
    }

    /// Byte strings of which one begins whatever matches. `None`: it can match elsewhere than
    /// at the beginning, or there are too many, or they say nothing.
    pub(super) fn prefixes(&self) -> Option<&[Box<[u8]>]> {
        self.prefixes.as_deref()
    }

    /// For each of the first places, at most so many, the bytes that can stand there where it can
    /// still match; after them, any.
    pub(super) fn places(&self, most: usize) -> Vec<ByteSet> {
        let Engine::Dfa { dfa, start } = &self.engine else { return Vec::new() };
        if self.shortest.is_none() {
            return Vec::new();
        }
        places(*start, most, |state| {
            let is_sure = dfa.is_match_state(state) || self.has_matched(dfa, state);
            let next = |byte| (byte, dfa.next_state(state, byte));
            let steps = (0..=u8::MAX).map(next).filter(|(_, state)| !dfa.is_dead_state(*state));
            (!is_sure).then(|| steps.collect())
        })
    }

    /// Whether it matches.
    pub(super) fn examine(&self, bytes: &[u8], phase: Phase) -> Verdict<()> {
        if self.shortest.is_none() {
            // The DFA's search for a place to begin never dies, so it would not tell.
            return Verdict::NoMatch;
        }
        match &self.engine {
            Engine::Dfa { dfa, start } => self.walk(dfa, *start, bytes, phase),
            Engine::Search(regex) => {
                let matches = regex.is_match(bytes);
                if phase.is_open() && (!matches || self.looks_ahead) {
                    Verdict::NeedMore(bytes.len() + 1)
                } else {
                    known(matches)
                }
            }
        }
    }

    /// Feeds the bytes to the DFA and asks the state it ends in what is sure.
    fn walk(
        &self,
        dfa: &dense::DFA<Vec<u32>>,
        start: StateID,
        bytes: &[u8],
        phase: Phase,
    ) -> Verdict<()> {
        let mut state = start;
        for &byte in bytes {
            state = dfa.next_state(state, byte);
            if dfa.is_special_state(state) {
                if dfa.is_dead_state(state) {
                    return Verdict::NoMatch;
                }
                if dfa.is_match_state(state) {
                    return Verdict::Match(());
                }
            }
        }
        if !phase.is_open() {
            // A match state comes one step late, after the byte that look-ahead may want.
            return known(dfa.is_match_state(dfa.next_eoi_state(state)));
        }
        if self.has_matched(dfa, state) {
            return Verdict::Match(());
        }
        if dfa.is_dead_state(state) { Verdict::NoMatch } else { Verdict::NeedMore(bytes.len() + 1) }
    }

    /// Whether what led to this state is a match, whatever follows.
    fn has_matched(&self, dfa: &dense::DFA<Vec<u32>>, state: StateID) -> bool {
        dfa.is_match_state(dfa.next_eoi_state(state))
            && (!self.looks_ahead || matches_before_any_byte(dfa, state))
    }
}

/// The fewest bytes that match, if any do, where regex-syntax says that none do: it says so of an
/// alternation as soon as it is true of one branch (regex-syntax 0.8.12, `Properties::alternation`).
fn shortest(engine: &Engine) -> Option<usize> {
    // A search engine does not tell; it can do without the answer.
    let Engine::Dfa { dfa, start } = engine else { return Some(0) };
    let mut seen = HashSet::from([*start]);
    let mut reached = vec![*start];
    for length in 0.. {
        // At the end; or before, which shows one byte late (`\b` and the like look at it).
        let matches =
            |&state| dfa.is_match_state(state) || dfa.is_match_state(dfa.next_eoi_state(state));
        if reached.iter().any(matches) {
            return Some(length);
        }
        let bytes = || dfa.byte_classes().representatives(0..=u8::MAX).filter_map(|it| it.as_u8());
        let next =
            reached.iter().flat_map(|&state| bytes().map(move |it| dfa.next_state(state, it)));
        reached = next.filter(|state| seen.insert(*state)).collect();
        if reached.is_empty() {
            break;
        }
    }
    None
}

/// See [`Regex::prefixes`].
fn prefixes(hir: &Hir) -> Option<Box<[Box<[u8]>]>> {
    if !hir.properties().look_set_prefix().contains(hir::Look::Start) {
        return None;
    }
    let sequence = Extractor::new().kind(ExtractKind::Prefix).extract(hir);
    let literals = sequence.literals()?;
    literals
        .iter()
        .map(|literal| literal.as_bytes())
        .map(|bytes| (!bytes.is_empty()).then(|| bytes.into()))
        .collect()
}

/// The verdict when nothing is left to wait for.
const fn known(matches: bool) -> Verdict<()> {
    if matches { Verdict::Match(()) } else { Verdict::NoMatch }
}

/// Whether a match has ended here whatever byte comes next.
fn matches_before_any_byte(dfa: &dense::DFA<Vec<u32>>, state: StateID) -> bool {
    dfa.byte_classes()
        .representatives(0..=u8::MAX)
        .filter_map(|unit| unit.as_u8())
        .all(|byte| dfa.is_match_state(dfa.next_state(state, byte)))
}

/// Builds the DFA; `None` when it would be too big, or wants Unicode word boundaries.
fn dfa(nfa: &thompson::NFA) -> Option<Engine> {
    let config = dense::Config::new()
        .start_kind(StartKind::Unanchored)
        .accelerate(false)
        .dfa_size_limit(Some(SIZE_LIMIT))
        .determinize_size_limit(Some(DETERMINIZE_LIMIT));
    let dfa = dense::Builder::new().configure(config).build_from_nfa(nfa).ok()?;
    let start = dfa.start_state(&start::Config::new().anchored(Anchored::No)).ok()?;
    Some(Engine::Dfa { dfa: Box::new(dfa), start })
}

/// Builds the search engine, of the same semantics.
fn search(pattern: &str) -> Result<::regex::bytes::Regex, RegexError> {
    ::regex::bytes::RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| match error {
            ::regex::Error::CompiledTooBig(_) => RegexError::TooLarge,
            error => RegexError::Syntax(last_line(&error.to_string())),
        })
}

/// Whether an assertion depends on what follows: all but the start anchors do.
fn looks_ahead(set: LookSet) -> bool {
    set.iter().any(|look| !matches!(look, Look::Start | Look::StartLF | Look::StartCRLF))
}

/// The regex crate draws the pattern with a caret and ends in `error: …`; a rules file's
/// diagnostic draws its own.
fn last_line(message: &str) -> String {
    let line = message.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The pattern as it was written, but for control characters, which are escaped.
impl fmt::Display for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pattern.chars().try_for_each(|c| {
            if c.is_control() { write!(f, "{}", c.escape_default()) } else { f.write_char(c) }
        })
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regex({:?})", self.pattern)
    }
}
