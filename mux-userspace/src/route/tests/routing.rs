//! The decision among rules.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    route::{Decision, Outcome, Why, route},
    rules::config::{
        ListenAddress, ListenerConfig, Otherwise, RelayChoice, Rule, RuleId, UpstreamId,
    },
};

fn rules(matchers: Vec<Matcher>) -> Vec<Arc<Rule>> {
    let rule = |(index, matcher)| {
        Arc::new(Rule {
            name: format!("rule-{}", index + 1).into(),
            matcher,
            upstream: UpstreamId(0),
            on_no_upstream: Otherwise::Reset,
            relay: RelayChoice::Auto,
            max_connections: None,
        })
    };
    matchers.into_iter().enumerate().map(rule).collect()
}

fn listener(order: &[usize]) -> ListenerConfig {
    ListenerConfig {
        name: "listener-1".into(),
        address: ListenAddress::Tcp(([127, 0, 0, 1], 0).into()),
        sniff_timeout: Duration::from_secs(3),
        sniff_limit: 64 << 10,
        on_timeout: Otherwise::Close,
        on_no_match: Otherwise::Close,
        max_connections: None,
        rules: order.iter().copied().map(RuleId).collect(),
    }
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
        |order: &[usize], bytes| route(&rules, &listener(order), &sniffed(bytes, Phase::Open));
    assert_eq!(outcome(&[0, 1, 2], b"ab"), routed(0, Why::Matched));
    assert_eq!(outcome(&[1, 0, 2], b"ab"), routed(1, Why::Matched));
    assert_eq!(outcome(&[2, 0], b""), routed(2, Why::Matched));
    assert_eq!(outcome(&[0, 1, 2], b"x"), routed(2, Why::Matched));
}

#[test]
fn an_undecided_rule_holds_back_only_those_after_it() {
    let rules = rules(vec![prefix(b"a"), masked(5, b"x", None), Matcher::Always]);
    let listener = listener(&[0, 1, 2]);
    let outcome = |bytes, phase| route(&rules, &listener, &sniffed(bytes, phase));
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
    let mut listener = listener(&[0]);
    listener.on_timeout = Otherwise::Rule(RuleId(1));
    listener.on_no_match = Otherwise::Reset;
    let outcome =
        |listener: &ListenerConfig, bytes, phase| route(&rules, listener, &sniffed(bytes, phase));
    assert_eq!(outcome(&listener, b"", Phase::TimedOut), routed(1, Why::OnTimeout));
    assert_eq!(outcome(&listener, b"", Phase::Ended), Outcome::Reset);
    assert_eq!(outcome(&listener, b"x", Phase::Open), Outcome::Reset);
    assert_eq!(outcome(&listener, b"x", Phase::Full), Outcome::Reset);
    assert_eq!(outcome(&listener, b"", Phase::Open), Outcome::NeedMore(1));
    listener.on_no_match = Otherwise::Rule(RuleId(1));
    assert_eq!(outcome(&listener, b"x", Phase::Open), routed(1, Why::OnNoMatch));
    listener.on_no_match = Otherwise::Close;
    assert_eq!(outcome(&listener, b"x", Phase::Open), Outcome::Close);
    listener.rules.clear();
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
        let mut listener = listener(&order[..count]);
        listener.on_timeout = fallbacks;
        listener.on_no_match = Otherwise::Reset;
        let sniffed = sniffed(bytes.as_bytes(), phase);

        let verdicts = order[..count].iter().map(|&id| (id, rules[id].matcher.evaluate(&sniffed)));
        let expected = match verdicts.into_iter().find(|(_, verdict)| *verdict != Verdict::NoMatch) {
            Some((id, Verdict::Match(seen))) => {
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
        let outcome = route(&rules, &listener, &sniffed);
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
        let listener = listener(&order[..count]);
        let at_once = route(&rules, &listener, &sniffed(bytes.as_bytes(), Phase::Open));
        let first = (0..=bytes.len())
            .map(|len| route(&rules, &listener, &sniffed(&bytes.as_bytes()[..len], Phase::Open)))
            .find(|outcome| !matches!(outcome, Outcome::NeedMore(_)));
        if let Some(first) = first {
            prop_assert_eq!(at_once, first);
        }
    }
}
