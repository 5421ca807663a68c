//! Accounts of routing, against routing itself.

use std::{num::NonZeroUsize, sync::Arc};

use proptest::prelude::*;

use super::{
    properties::matchers,
    routing::{listener, rules},
    *,
};
use crate::{
    probe::TlsVersion,
    route::{
        Decision, FieldName, HttpConditions, HttpMatcher, NamePattern, Names, Outcome, Progress,
        Sni, Table, TlsMatcher, Why,
        explain::{Account, Answer, Evidence, Fate, Question, Split, Trace, explain},
        route,
    },
    rules::config::{
        Acl, Address, Builtin, Config, KernelConfig, Limits, ListenerConfig, LogConfig, Otherwise,
        Rule, RuleId, SecurityConfig, Timeouts, UpstreamConfig,
    },
};

const CLIENT: Option<std::net::IpAddr> =
    Some(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

fn config(rules: &[Arc<Rule>]) -> Config {
    Config {
        listeners: Vec::new(),
        rules: rules.to_vec(),
        upstreams: vec![UpstreamConfig::single(Address::Builtin(Builtin::Echo)).into()],
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        log: LogConfig::default(),
        admin: crate::rules::config::AdminConfig::default(),
        security: SecurityConfig::default(),
        kernel: KernelConfig::default(),
        network_files: Vec::new(),
    }
}

fn sizes(sizes: &[usize]) -> Split {
    let sizes = sizes.iter().map(|&size| NonZeroUsize::new(size).expect("not zero"));
    Split::Sizes(sizes.collect())
}

/// Rules in their order, with a listener for them.
struct World {
    config: Config,
    listener: ListenerConfig,
}

impl World {
    fn new(matchers: Vec<Matcher>) -> Self {
        let order: Vec<usize> = (0..matchers.len()).collect();
        let rules = rules(matchers);
        Self { config: config(&rules), listener: listener(&rules, &order) }
    }

    fn explain(&self, bytes: &[u8], split: &Split) -> Trace {
        let Self { config, listener } = self;
        explain(&Question { config, listener, client: CLIENT, bytes, split })
    }

    /// What the sniff makes of these chunks: chunks read, bytes read, the outcome, and what
    /// becomes of it at the end of the stream and at the timeout.
    fn sniff(&self, bytes: &[u8], chunks: &[usize]) -> (usize, usize, Outcome, [Outcome; 2]) {
        let mut progress = Progress::default();
        let bytes = &bytes[..bytes.len().min(self.listener.sniff_limit)];
        let mut ask = |len: usize, phase| {
            let sniffed = Sniffed { bytes: &bytes[..len], client: CLIENT, phase };
            route(&self.listener, &sniffed, &mut progress)
        };
        let (mut read, mut len) = (0, 0);
        loop {
            let is_full = len >= self.listener.sniff_limit;
            let outcome = ask(len, if is_full { Phase::Full } else { Phase::Open });
            if !matches!(outcome, Outcome::NeedMore(_)) || len == bytes.len() {
                let later = [ask(len, Phase::Ended), ask(len, Phase::TimedOut)];
                return (read, len, outcome, later);
            }
            len = bytes.len().min(len + chunks.get(read).copied().unwrap_or(bytes.len()));
            read += 1;
        }
    }
}

/// Whether an account of a fate tells this outcome.
fn tells(fate: &Fate, outcome: &Outcome) -> bool {
    match (fate, outcome) {
        (Fate::Routed(routed), Outcome::Routed(Decision { rule, why, seen })) => {
            routed.id == *rule
                && routed.why == *why
                && routed.probe.as_deref() == seen.as_ref().map(|seen| seen.probe.name())
                && routed.details.as_ref() == seen.as_ref().map(|seen| &seen.details)
        }
        (Fate::Undecided { needs, .. }, Outcome::NeedMore(total)) => needs == total,
        (Fate::Close { .. }, Outcome::Close) | (Fate::Reset { .. }, Outcome::Reset) => true,
        _ => false,
    }
}

/// The rule that takes it, and why.
fn taker(fate: &Fate) -> Option<(RuleId, Why)> {
    match fate {
        Fate::Routed(routed) => Some((routed.id, routed.why)),
        Fate::Undecided { .. } | Fate::Denied { .. } | Fate::Close { .. } | Fate::Reset { .. } => {
            None
        }
    }
}

fn answer(verdict: Verdict<()>) -> Answer {
    match verdict {
        Verdict::Match(()) => Answer::Match,
        Verdict::NoMatch => Answer::No,
        Verdict::NeedMore(_) => Answer::NeedsMore,
    }
}

/// Kleene's logic over the members' answers.
fn of_members(account: &Account) -> Option<Answer> {
    let has = |answer| account.members.iter().any(|member| member.answer == answer);
    let first_of = |one, two, other| {
        if has(one) {
            one
        } else if has(two) {
            two
        } else {
            other
        }
    };
    match account.kind {
        "all" => Some(first_of(Answer::No, Answer::NeedsMore, Answer::Match)),
        "any" => Some(first_of(Answer::Match, Answer::NeedsMore, Answer::No)),
        "not" => Some(match account.members[0].answer {
            Answer::Match => Answer::No,
            Answer::No => Answer::Match,
            Answer::NeedsMore => Answer::NeedsMore,
        }),
        _ => None,
    }
}

fn check(account: &Account, matcher: &Matcher, bytes: &[u8], phase: Phase) {
    assert_eq!(account.answer, answer(verdict(matcher, bytes, phase)));
    assert_eq!(account.sure_at, decided(matcher, bytes).map(|(len, _)| len));
    assert_eq!(of_members(account).unwrap_or(account.answer), account.answer, "{account:?}");
    if let Evidence::Bytes { offset, of, equal, differs } = &account.evidence {
        // A difference is a "no", all there is a "match", and nothing else.
        assert_eq!(differs.is_none() && equal == of, account.answer == Answer::Match);
        assert!(differs.is_none() || account.answer == Answer::No);
        assert!(offset + equal <= bytes.len().max(*offset));
        assert!(differs.is_none_or(|differs| bytes[differs.at] == differs.found));
    }
    let members = matcher.members();
    assert_eq!(members.len(), account.members.len());
    for (member, matcher) in account.members.iter().zip(members) {
        check(member, matcher, bytes, phase);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The winner, and when it is clear, is the sniff's: in every phase, at every limit, for every
    /// arrival.
    #[test]
    fn accounts_tell_what_routing_does(
        matchers in proptest::collection::vec(matchers(), 0..6),
        bytes in "[abc \\n]{0,8}",
        chunks in proptest::collection::vec(1_usize..4, 0..5),
        limit in 1_usize..12,
        on_timeout in prop::sample::select(vec![
            Otherwise::Close, Otherwise::Reset, Otherwise::Rule(RuleId(0)),
        ]),
    ) {
        let mut world = World::new(matchers);
        world.listener.sniff_limit = limit;
        if !world.config.rules.is_empty() {
            world.listener.on_timeout = on_timeout;
        }
        world.listener.on_no_match = Otherwise::Reset;
        let bytes = bytes.as_bytes();
        let trace = world.explain(bytes, &sizes(&chunks));
        let (read, len, outcome, [ended, timed_out]) = world.sniff(bytes, &chunks);

        let last = trace.steps.last().expect("a step");
        prop_assert_eq!((trace.chunks, last.chunk, last.bytes), (read, read, len));
        prop_assert!(tells(&last.fate, &outcome), "{:?} and {outcome:?}", last.fate);
        prop_assert_eq!(last.full, len >= limit);
        prop_assert_eq!(trace.truncated, bytes.len() > limit);
        prop_assert_eq!(trace.silence.is_some(), matches!(outcome, Outcome::NeedMore(_)));
        if let Some(silence) = &trace.silence {
            prop_assert!(tells(&silence.ended, &ended), "{:?} and {ended:?}", silence.ended);
            prop_assert!(tells(&silence.timed_out, &timed_out));
        }

        let whole = world.explain(bytes, &Split::Whole);
        prop_assert_eq!(whole.fate().map(taker), trace.fate().map(taker));
    }

    /// Every account is of the rule's condition, and its parts bear it out.
    #[test]
    fn accounts_tell_what_conditions_say(
        matchers in proptest::collection::vec(matchers(), 1..5),
        bytes in "[abc \\n]{0,6}",
        size in 1_usize..4,
    ) {
        let world = World::new(matchers);
        let bytes = bytes.as_bytes();
        let trace = world.explain(bytes, &Split::Every(NonZeroUsize::new(size).expect("not 0")));
        let open = trace.steps.iter().map(|step| (&step.rules, step.bytes, Phase::Open));
        let closed = trace.silence.iter().map(|silence| (&silence.rules, bytes.len(), Phase::Ended));
        for (accounts, len, phase) in open.chain(closed) {
            let mut is_held_back = false;
            for (account, rule) in accounts.iter().zip(&world.config.rules) {
                prop_assert_eq!(&account.rule, &*rule.name);
                prop_assert_eq!(account.asked, !is_held_back);
                is_held_back |= account.account.answer == Answer::NeedsMore;
                check(&account.account, &rule.matcher, &bytes[..len], phase);
            }
        }
    }
}

#[test]
fn an_account_ends_with_the_rule_that_takes_the_connection() {
    let world = World::new(vec![prefix(b"GET "), regex("^S"), Matcher::Always, prefix(b"x")]);
    let trace = world.explain(b"SSH", &Split::Whole);
    let [step] = trace.steps.as_slice() else { panic!("{trace:?}") };
    let names: Vec<&str> = step.rules.iter().map(|rule| rule.rule.as_str()).collect();
    assert_eq!(names, ["rule-1", "rule-2"]);
    let Evidence::Bytes { differs: Some(differs), .. } = step.rules[0].account.evidence else {
        panic!("{step:?}")
    };
    assert_eq!((differs.at, differs.found, differs.expected), (0, b'S', b'G'));
    assert_eq!(taker(&step.fate), Some((RuleId(1), Why::Matched)));
    assert_eq!(step.rules[1].account.sure_at, Some(1));
}

#[test]
fn a_rule_that_needs_no_byte_takes_it_before_the_first() {
    let world = World::new(vec![client(&["192.0.2.0/24"]), client(&["10.0.0.0/8"])]);
    let trace = world.explain(b"anything", &Split::Every(NonZeroUsize::MIN));
    assert_eq!((trace.chunks, trace.steps.len(), trace.steps[0].bytes), (0, 1, 0));
    assert_eq!(trace.fate().and_then(taker), Some((RuleId(1), Why::Matched)));
}

#[test]
fn rules_are_held_back_by_a_pattern_that_waits_for_ever() {
    let world = World::new(vec![regex("b"), prefix(b"a")]);
    let trace = world.explain(b"a", &Split::Whole);
    let rules = &trace.steps[0].rules;
    assert_eq!(rules[0].account.evidence, Evidence::Search { can_refuse: false });
    assert!(!rules[1].asked && rules[1].account.answer == Answer::Match);
    let silence = trace.silence.expect("undecided");
    assert_eq!(taker(&silence.timed_out), Some((RuleId(1), Why::Matched)));
}

/// A step for each change, and none for the chunks between.
#[test]
fn only_changes_are_told() {
    let world = World::new(vec![prefix(b"abcdef"), prefix(b"abcxyz")]);
    let trace = world.explain(b"abcxyz", &Split::Every(NonZeroUsize::MIN));
    let lengths: Vec<usize> = trace.steps.iter().map(|step| step.bytes).collect();
    assert_eq!(lengths, [1, 4, 6]);
}

/// A tentative "no" is asked about at each byte, and never sure.
#[test]
fn predicates_that_change_their_mind() {
    let long = Matcher::Predicate(Predicate::bool(|bytes| bytes.len() > 2));
    let world = World::new(vec![long, prefix(b"b")]);
    for (bytes, expected) in [(&b"a"[..], None), (b"ab", None), (b"abc", Some(0)), (b"b", Some(1))]
    {
        let trace = world.explain(bytes, &Split::Every(NonZeroUsize::MIN));
        let (.., outcome, _) = world.sniff(bytes, &[1, 1, 1]);
        let last = trace.steps.last().expect("a step");
        assert!(tells(&last.fate, &outcome), "{:?} and {outcome:?}", last.fate);
        assert_eq!(taker(&last.fate).map(|(rule, _)| rule.0), expected);
        assert!(expected == Some(0) || last.rules[0].account.sure_at.is_none());
    }
}

/// Of a TLS or HTTP client that asks for something else, the account says for what.
#[test]
fn what_a_head_says_is_told_of_a_no_as_well() {
    let names = |name: &str| Names::new([NamePattern::host(name).expect(name)]).expect("not empty");
    let hosts = Some(names("*.a.example"));
    let conditions = HttpConditions {
        hosts,
        path_prefixes: Some(vec!["/api".into()]),
        headers: vec![(FieldName::new("X-Y").expect("a token"), Regex::new("^z").expect("z"))],
        ..HttpConditions::default()
    };
    let http = HttpMatcher::new(conditions).expect("not empty");
    let tls = TlsMatcher::new(
        Some(Sni::Names(names("a.example"))),
        Some(vec![b"h2"[..].into()]),
        Some(vec![TlsVersion::Tls13]),
    );
    let tls = Matcher::Tls(tls.expect("not empty"));
    let world = World::new(vec![tls, Matcher::Http(http)]);
    let trace = world.explain(b"GET /b HTTP/1.1\r\nHost: b.a.example\r\n\r\n", &Split::Whole);
    let [tls, http] = &trace.steps[0].rules[..] else { panic!("{trace:?}") };
    assert_eq!((tls.account.kind, http.account.kind), ("tls", "http"));
    assert_eq!(tls.account.condition, "sni a.example; alpn h2; version 1.3");
    assert_eq!(http.account.condition, "host *.a.example; path_prefix /api; header x-y /^z/");
    let Evidence::Protocol { details } = &http.account.evidence else { panic!("{http:?}") };
    assert_eq!(details.to_string(), "method=GET path=/b version=1.1 host=b.a.example");
    assert_eq!((tls.account.answer, http.account.answer), (Answer::No, Answer::No));
}

#[test]
fn access_lists_have_the_last_word() {
    let deny = |network: &str| {
        let network = network.parse().expect(network);
        Acl { allow: None, deny: Some(Networks::new([network]).expect("not empty")) }
    };
    let mut world = World::new(vec![Matcher::Always]);
    world.listener.acl = deny("10.0.0.0/8");
    let trace = world.explain(b"abc", &Split::Whole);
    assert_eq!((trace.chunks, trace.steps[0].bytes, trace.steps[0].rules.len()), (0, 0, 0));
    assert!(matches!(trace.fate(), Some(Fate::Denied { rule: None })));
    world.listener.acl = deny("192.0.2.0/24");
    assert!(matches!(world.explain(b"", &Split::Whole).fate(), Some(Fate::Routed(_))));

    let mut rules = rules(vec![prefix(b"a"), Matcher::Always]);
    Arc::get_mut(&mut rules[0]).expect("the only one").acl = deny("10.0.0.1/32");
    let world = World { config: config(&rules), listener: listener(&rules, &[0, 1]) };
    // It matches, so that the rules after it are not asked.
    let trace = world.explain(b"a", &Split::Whole);
    assert!(matches!(trace.fate(), Some(Fate::Denied { rule: Some(rule) }) if rule == "rule-1"));
}

#[test]
fn a_listener_without_rules_says_so_at_once() {
    let mut world = World::new(Vec::new());
    world.listener.rules = Table::default().into();
    let trace = world.explain(b"", &Split::Whole);
    assert!(trace.steps[0].rules.is_empty());
    assert!(matches!(trace.fate(), Some(Fate::Close { why: Why::OnNoMatch })));
}
