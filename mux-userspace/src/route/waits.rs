//! Which rules can hold back which.
//!
//! A rule that is undecided holds back all after it. Most conditions are decided by a few bytes,
//! one way or the other. A regular expression that can match at any later byte is not: it never
//! says no while more can come. For warnings: an answer of "no" may mean "not visibly".

use super::{
    Matcher, Phase, Regex, Sniffed,
    regex::{Outlook, Prospect},
};
use crate::probe::Verdict;

/// More literals of one condition than this are not tried.
const MAX_LITERALS: usize = 64;

/// A condition, prepared for the question which others it holds back.
#[derive(Debug)]
pub struct Patience<'a> {
    matcher: &'a Matcher,
    node: Node<'a>,
    /// First bytes that it asks for somewhere, and none at all.
    literals: Vec<&'a [u8]>,
}

#[derive(Debug)]
enum Node<'a> {
    Regex(&'a Matcher, Outlook<'a>),
    /// A leaf that the first bytes decide.
    Bytes(&'a Matcher),
    /// A leaf about which nothing is known.
    Unknown,
    /// A leaf that holds of some clients and not of others, whatever they send.
    Client(&'a Matcher),
    All(Vec<Node<'a>>),
    Any(Vec<Node<'a>>),
    Not(Box<Node<'a>>),
}

/// What a condition can visibly say of some of the connections in question. Members of a group are
/// taken to be independent of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Says {
    yes: bool,
    no: bool,
    /// Nothing, while more bytes can come.
    nothing: bool,
}

impl Says {
    const YES: Self = Self { yes: true, no: false, nothing: false };
    const NO: Self = Self { yes: false, no: true, nothing: false };
    const EITHER: Self = Self { yes: true, no: true, nothing: false };
    const YES_OR_NOTHING: Self = Self { yes: true, no: false, nothing: true };

    fn not(self) -> Self {
        let Self { yes, no, nothing } = self;
        Self { yes: no, no: yes, nothing }
    }

    /// That of a group which all members have to agree on.
    fn all(members: impl Iterator<Item = Self> + Clone) -> Self {
        Self {
            yes: members.clone().all(|member| member.yes),
            no: members.clone().any(|member| member.no),
            nothing: members.clone().any(|member| member.nothing)
                && members.clone().all(|member| member.nothing || member.yes),
        }
    }
}

impl<'a> Patience<'a> {
    /// Prepares a condition. Takes time in proportion to the size of its patterns.
    #[must_use]
    pub fn new(matcher: &'a Matcher) -> Self {
        let mut literals = vec![&[][..]];
        let node = Node::new(matcher, &mut literals);
        literals.truncate(MAX_LITERALS);
        Self { matcher, node, literals }
    }

    /// The first regular expression in it that can wait for ever.
    #[must_use]
    pub fn waits(&self) -> Option<&'a Regex> {
        self.node.waits()
    }

    /// Whether it can be undecided for ever about connections that `later` may match, so that
    /// these wait for the sniff timeout.
    #[must_use]
    pub fn holds_back(&self, later: &Self) -> bool {
        self.literals.iter().chain(&later.literals).any(|bytes| {
            later.node.is_possible(bytes) && self.node.says(bytes, later.matcher).nothing
        })
    }
}

impl<'a> Node<'a> {
    fn new(matcher: &'a Matcher, literals: &mut Vec<&'a [u8]>) -> Self {
        match matcher {
            Matcher::Regex(regex) => {
                let prefixes = regex.prefixes().unwrap_or_default();
                literals.extend(prefixes.iter().map(AsRef::as_ref));
                Self::Regex(matcher, Outlook::new(regex))
            }
            Matcher::Prefix(prefix) => {
                literals.push(prefix.as_bytes());
                Self::Bytes(matcher)
            }
            Matcher::Bytes(masked) => {
                literals.push(masked.literal());
                Self::Bytes(matcher)
            }
            Matcher::Always | Matcher::Probe(_) | Matcher::Tls(_) | Matcher::Http(_) => {
                Self::Bytes(matcher)
            }
            Matcher::Predicate(_) => Self::Unknown,
            Matcher::Client(_) => Self::Client(matcher),
            Matcher::All(group) => {
                Self::All(group.members().iter().map(|inner| Self::new(inner, literals)).collect())
            }
            Matcher::Any(group) => {
                Self::Any(group.members().iter().map(|inner| Self::new(inner, literals)).collect())
            }
            Matcher::Not(inner) => Self::Not(Box::new(Self::new(inner, literals))),
        }
    }

    fn waits(&self) -> Option<&'a Regex> {
        match self {
            Self::Regex(_, outlook) => outlook.waits_somewhere().then(|| outlook.regex()),
            Self::Bytes(_) | Self::Unknown | Self::Client(_) => None,
            Self::All(members) | Self::Any(members) => members.iter().find_map(Self::waits),
            Self::Not(inner) => inner.waits(),
        }
    }

    /// What it can say of connections that begin with these bytes and that `later` matches.
    fn says(&self, bytes: &[u8], later: &Matcher) -> Says {
        match self {
            Self::Regex(leaf, outlook) => match outlook.prospect(bytes) {
                Prospect::Match => Says::YES,
                Prospect::NoMatch => Says::NO,
                Prospect::Waits | Prospect::Open if leaf.covers(later) => Says::YES,
                Prospect::Waits => Says::YES_OR_NOTHING,
                Prospect::Open => Says::NO,
            },
            Self::Bytes(leaf) => match evaluate(leaf, bytes) {
                Verdict::Match(()) => Says::YES,
                Verdict::NoMatch => Says::NO,
                Verdict::NeedMore(_) if leaf.covers(later) => Says::YES,
                Verdict::NeedMore(_) if later.covers(leaf) => Says::EITHER,
                Verdict::NeedMore(_) => Says::NO,
            },
            Self::Unknown => Says::default(),
            Self::Client(leaf) if leaf.covers(later) => Says::YES,
            Self::Client(_) => Says::EITHER,
            Self::All(members) => Says::all(members.iter().map(|inner| inner.says(bytes, later))),
            Self::Any(members) => {
                Says::all(members.iter().map(|inner| inner.says(bytes, later).not())).not()
            }
            Self::Not(inner) => inner.says(bytes, later).not(),
        }
    }

    /// Whether it may match something that begins with these bytes.
    fn is_possible(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Regex(_, outlook) => outlook.prospect(bytes) != Prospect::NoMatch,
            Self::Bytes(leaf) => evaluate(leaf, bytes) != Verdict::NoMatch,
            Self::Unknown | Self::Client(_) => true,
            Self::All(members) => members.iter().all(|member| member.is_possible(bytes)),
            Self::Any(members) => members.iter().any(|member| member.is_possible(bytes)),
            Self::Not(inner) => !inner.is_sure(bytes),
        }
    }

    /// Whether it matches everything that begins with these bytes.
    fn is_sure(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Regex(_, outlook) => outlook.prospect(bytes) == Prospect::Match,
            Self::Bytes(leaf) => evaluate(leaf, bytes).is_match(),
            Self::Unknown | Self::Client(_) => false,
            Self::All(members) => members.iter().all(|member| member.is_sure(bytes)),
            Self::Any(members) => members.iter().any(|member| member.is_sure(bytes)),
            Self::Not(inner) => !inner.is_possible(bytes),
        }
    }
}

fn evaluate(leaf: &Matcher, bytes: &[u8]) -> Verdict<()> {
    leaf.evaluate(&Sniffed { bytes, client: None, phase: Phase::Open })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        probe::Probe,
        route::{Group, Networks, Prefix},
    };

    fn regex(pattern: &str) -> Matcher {
        Matcher::Regex(Regex::new(pattern).expect(pattern))
    }

    fn prefix(bytes: &[u8]) -> Matcher {
        Matcher::Prefix(Prefix::new(bytes).expect("not empty"))
    }

    fn probe(name: &str) -> Matcher {
        Matcher::Probe(Probe::from_name(name).expect(name))
    }

    fn office() -> Matcher {
        let network = "10.0.0.0/8".parse().expect("a network");
        Matcher::Client(Networks::new([network]).expect("not empty"))
    }

    fn all(members: Vec<Matcher>) -> Matcher {
        Matcher::All(Group::new(members).expect("not empty"))
    }

    fn any(members: Vec<Matcher>) -> Matcher {
        Matcher::Any(Group::new(members).expect("not empty"))
    }

    fn not(inner: Matcher) -> Matcher {
        Matcher::Not(Box::new(inner))
    }

    #[test]
    fn rules_that_hold_others_back() {
        let sni = |name: &str| regex(&format!(r"(?is)^\x16\x03.*{name}"));
        for (earlier, later) in [
            (regex("Host: a"), probe("ssh")),
            (regex("Host: a"), Matcher::Always),
            (regex("Host: a"), office()),
            (regex("Host: a"), not(office())),
            (regex("(?m)^a"), prefix(b"b")),
            (regex("(?s)^.*a"), prefix(b"b")),
            (sni("a"), sni("b")),
            (sni("a"), probe("tls")),
            (sni("a"), Matcher::Always),
            (all(vec![probe("tls"), regex("a")]), probe("tls")),
            (all(vec![probe("tls"), regex("a")]), all(vec![probe("tls"), regex("b")])),
            (all(vec![probe("tls"), regex("a")]), Matcher::Always),
            (all(vec![probe("http1"), regex("a")]), probe("http")),
            (all(vec![office(), regex("a")]), probe("ssh")),
            (all(vec![not(office()), regex("a")]), probe("ssh")),
            (any(vec![probe("ssh"), regex("a")]), probe("tls")),
            (any(vec![probe("http"), regex("a")]), Matcher::Always),
            (any(vec![regex("a"), regex("b")]), probe("ssh")),
            (all(vec![not(probe("ssh")), regex("a")]), probe("tls")),
            (not(regex("a")), probe("ssh")),
        ] {
            let (mine, theirs) = (Patience::new(&earlier), Patience::new(&later));
            assert!(mine.waits().is_some(), "{earlier:?}");
            assert!(mine.holds_back(&theirs), "{earlier:?} before {later:?}");
        }
    }

    #[test]
    fn rules_that_do_not() {
        let tls_name = regex(r"(?s)^\x16\x03.*a");
        for (earlier, later) in [
            (prefix(b"GET "), Matcher::Always),
            (probe("http"), Matcher::Always),
            (regex("^(?:GET|POST) "), probe("ssh")),
            (regex("^[a-z]+ /"), probe("ssh")),
            (tls_name.clone(), probe("ssh")),
            (tls_name, prefix(b"GET ")),
            (all(vec![probe("tls"), regex("a")]), probe("ssh")),
            (all(vec![probe("tls"), regex("a")]), prefix(b"SSH-")),
            (any(vec![probe("ssh"), regex("a")]), prefix(b"SSH-2.0-x")),
            (regex(".*"), probe("ssh")),
            (regex("a"), prefix(b"ab")),
            (all(vec![not(office()), regex("a")]), all(vec![probe("ssh"), office()])),
            (all(vec![not(probe("ssh")), regex("a")]), prefix(b"SSH-2.0-x")),
            (not(probe("ssh")), probe("tls")),
        ] {
            let (mine, theirs) = (Patience::new(&earlier), Patience::new(&later));
            assert!(!mine.holds_back(&theirs), "{earlier:?} before {later:?}");
        }
        for anchored in ["^GET ", "^[a-z]+ /", r"^\x16\x03"] {
            assert!(Patience::new(&regex(anchored)).waits().is_none(), "{anchored}");
        }
    }
}
