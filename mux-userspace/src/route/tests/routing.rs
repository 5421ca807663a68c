//! The decision among rules.

use std::{net::IpAddr, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    route::{Decision, Outcome, Progress, Table, Why, route},
    rules::config::{
        Acl, ListenAddress, ListenerConfig, Otherwise, RelayChoice, Rule, RuleId, UpstreamId,
    },
};

pub(super) fn rules(matchers: Vec<Matcher>) -> Vec<Arc<Rule>> {
    let rule = |(index, matcher)| {
        Arc::new(Rule {
            name: format!("rule-{}", index + 1).into(),
            matcher,
            upstream: UpstreamId(0),
            on_no_upstream: Otherwise::Reset,
            relay: RelayChoice::Auto,
            proxy_protocol: None,
            max_connections: None,
            acl: Acl::default(),
        })
    };
    matchers.into_iter().enumerate().map(rule).collect()
}

pub(super) fn listener(rules: &[Arc<Rule>], order: &[usize]) -> ListenerConfig {
    let table = order.iter().map(|&id| (RuleId(id), Arc::clone(&rules[id])));
    let address = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
    ListenerConfig::new("listener-1", address, Arc::new(Table::new(table)))
}

/// The decision without a call before it.
fn first_call(listener: &ListenerConfig, sniffed: &Sniffed<'_>) -> Outcome {
    route(listener, sniffed, &mut Progress::default())
}

fn sniffed(bytes: &[u8], phase: Phase) -> Sniffed<'_> {
    Sniffed { bytes, client: None, phase }
}

fn routed(rule: usize, why: Why) -> Outcome {
    Outcome::Routed(Decision { rule: RuleId(rule), why, seen: None })
}

#[test]
fn the_first_sure_rule_wins() {
    let rules = rules(vec![prefix(b"a"), prefix(b"ab"), Matcher::Always]);
    let outcome =
        |order: &[usize], bytes| first_call(&listener(&rules, order), &sniffed(bytes, Phase::Open));
    assert_eq!(outcome(&[0, 1, 2], b"ab"), routed(0, Why::Matched));
    assert_eq!(outcome(&[1, 0, 2], b"ab"), routed(1, Why::Matched));
    assert_eq!(outcome(&[2, 0], b""), routed(2, Why::Matched));
    assert_eq!(outcome(&[0, 1, 2], b"x"), routed(2, Why::Matched));
}

#[test]
fn an_undecided_rule_holds_back_only_those_after_it() {
    let rules = rules(vec![prefix(b"a"), masked(5, b"x", None), Matcher::Always]);
    let listener = listener(&rules, &[0, 1, 2]);
    let outcome = |bytes, phase| first_call(&listener, &sniffed(bytes, phase));
    assert_eq!(outcome(b"", Phase::Open), Outcome::NeedMore(1));
    assert_eq!(outcome(b"a", Phase::Open), routed(0, Why::Matched));
    assert_eq!(outcome(b"b", Phase::Open), Outcome::NeedMore(6));
    for phase in [Phase::Ended, Phase::Full, Phase::TimedOut] {
        assert_eq!(outcome(b"b", phase), routed(2, Why::Matched));
    }
}

#[test]
fn fallbacks() {
    let rules = rules(vec![prefix(b"a"), prefix(b"b")]);
    let mut listener = listener(&rules, &[0]);
    listener.on_timeout = Otherwise::Rule(RuleId(1));
    listener.on_no_match = Otherwise::Reset;
    let outcome =
        |listener: &ListenerConfig, bytes, phase| first_call(listener, &sniffed(bytes, phase));
    assert_eq!(outcome(&listener, b"", Phase::TimedOut), routed(1, Why::OnTimeout));
    assert_eq!(outcome(&listener, b"", Phase::Ended), Outcome::Reset);
    assert_eq!(outcome(&listener, b"x", Phase::Open), Outcome::Reset);
    assert_eq!(outcome(&listener, b"x", Phase::Full), Outcome::Reset);
    assert_eq!(outcome(&listener, b"", Phase::Open), Outcome::NeedMore(1));
    listener.on_no_match = Otherwise::Rule(RuleId(1));
    assert_eq!(outcome(&listener, b"x", Phase::Open), routed(1, Why::OnNoMatch));
    listener.on_no_match = Otherwise::Close;
    assert_eq!(outcome(&listener, b"x", Phase::Open), Outcome::Close);
    listener.rules = Arc::default();
    assert_eq!(outcome(&listener, b"", Phase::Open), Outcome::Close);
}

proptest! {
    /// Against the obvious: the first rule that is not a sure "no" speaks.
    #[test]
    fn agrees_with_a_naive_model(
        order in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(),
        count in 0_usize..9,
        bytes in "[GEXT ]{0,5}",
        phase in prop::sample::select(&PHASES[..]),
        fallbacks in prop::sample::select(vec![
            Otherwise::Close, Otherwise::Reset, Otherwise::Rule(RuleId(3)),
        ]),
    ) {
        let rules = rules(one_of_each());
        let mut listener = listener(&rules, &order[..count]);
        listener.on_timeout = fallbacks;
        listener.on_no_match = Otherwise::Reset;
        let sniffed = sniffed(bytes.as_bytes(), phase);

        let verdicts = order[..count].iter().map(|&id| (id, rules[id].matcher.evaluate(&sniffed)));
        let expected = match verdicts.into_iter().find(|(_, verdict)| *verdict != Verdict::NoMatch) {
            Some((id, Verdict::Match(()))) => {
                let seen = rules[id].matcher.seen(&sniffed);
                Outcome::Routed(Decision { rule: RuleId(id), why: Why::Matched, seen })
            }
            Some((_, Verdict::NeedMore(total))) => Outcome::NeedMore(total),
            Some((_, Verdict::NoMatch)) | None if phase == Phase::TimedOut => match fallbacks {
                Otherwise::Close => Outcome::Close,
                Otherwise::Reset => Outcome::Reset,
                Otherwise::Rule(rule) => routed(rule.0, Why::OnTimeout),
            },
            Some((_, Verdict::NoMatch)) | None => Outcome::Reset,
        };
        let outcome = first_call(&listener, &sniffed);
        if let Outcome::NeedMore(total) = outcome {
            prop_assert!(phase == Phase::Open && total > bytes.len());
        }
        prop_assert_eq!(outcome, expected);
    }

    /// However the bytes arrive, the same rule takes the connection.
    #[test]
    fn arrival_does_not_matter(
        order in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(),
        count in 1_usize..9,
        bytes in "[GEXT ]{0,6}",
    ) {
        let rules = rules(one_of_each());
        let listener = listener(&rules, &order[..count]);
        let at_once = first_call(&listener, &sniffed(bytes.as_bytes(), Phase::Open));
        let first = (0..=bytes.len())
            .map(|len| first_call(&listener, &sniffed(&bytes.as_bytes()[..len], Phase::Open)))
            .find(|outcome| !matches!(outcome, Outcome::NeedMore(_)));
        if let Some(first) = first {
            prop_assert_eq!(at_once, first);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// The index and what is remembered between calls change nothing: in each phase, at each
    /// length on the way, it is as if every rule had been asked about all the bytes.
    #[test]
    fn agrees_with_asking_every_rule(
        matchers in prop_oneof![
            proptest::collection::vec(properties::matchers(), 0..12),
            proptest::collection::vec(properties::heads(), 1..6),
            // Enough of a kind for what is searched for together.
            proptest::collection::vec(properties::heads(), 12..24),
            proptest::collection::vec(properties::tentative(), 1..5),
        ],
        bytes in properties::inputs(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        client in prop::sample::select(vec![
            None, Some(IpAddr::from([10, 0, 0, 1])), Some([192, 0, 2, 9].into()),
            Some("::ffff:10.0.0.7".parse().expect("valid")), Some("2001:db8::1".parse().expect("valid")),
        ]),
        phase in prop::sample::select(&PHASES[..]),
    ) {
        let rules = rules(matchers);
        let order: Vec<usize> = (0..rules.len()).collect();
        let listener = listener(&rules, &order);
        let mut progress = Progress::default();
        let mut lengths: Vec<usize> = cuts.into_iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        lengths.sort_unstable();
        lengths.push(bytes.len());
        for (call, &len) in lengths.iter().enumerate() {
            let phase = if call + 1 == lengths.len() { phase } else { Phase::Open };
            let sniffed = Sniffed {
                bytes: &bytes[..len],
                client,
                phase,
            };
            let outcome = route(&listener, &sniffed, &mut progress);
            let naive = match find_naively(listener.rules.rules(), &sniffed) {
                Found::Rule(rule, found) => Outcome::Routed(Decision {
                    rule,
                    why: Why::Matched,
                    seen: found.matcher.seen(&sniffed),
                }),
                Found::NeedMore(total) => Outcome::NeedMore(total),
                Found::None => Outcome::Close,
            };
            prop_assert_eq!(&outcome, &naive);
            if !matches!(outcome, Outcome::NeedMore(_)) {
                break;
            }
        }
    }
}

/// A tentative "no" lets others go first, and is asked again.
#[test]
fn a_predicate_that_says_no_does_not_hold_back() {
    let long = Matcher::Predicate(Predicate::bool(|bytes| bytes.len() > 2));
    let sure = Matcher::Predicate(Predicate::new(|bytes| match bytes.len() {
        0..=2 => Verdict::NeedMore(3),
        _ => Verdict::Match(()),
    }));
    let rules = rules(vec![long, prefix(b"a"), sure]);
    let in_order = |order: &[usize], chunks: &[&[u8]]| {
        let listener = listener(&rules, order);
        let mut progress = Progress::default();
        chunks
            .iter()
            .map(|bytes| route(&listener, &sniffed(bytes, Phase::Open), &mut progress))
            .collect::<Vec<_>>()
    };
    assert_eq!(in_order(&[0, 1], &[b"a"]), [routed(1, Why::Matched)]);
    assert_eq!(
        in_order(&[0, 1], &[b"", b"x", b"xyz"]),
        [Outcome::NeedMore(1), Outcome::NeedMore(2), routed(0, Why::Matched)]
    );
    assert_eq!(in_order(&[2, 1], &[b"a", b"abc"]), [Outcome::NeedMore(3), routed(2, Why::Matched)]);
    // Asked at each byte, although the other one knows how many it needs.
    assert_eq!(in_order(&[0, 2], &[b"a"]), [Outcome::NeedMore(2)]);
}
