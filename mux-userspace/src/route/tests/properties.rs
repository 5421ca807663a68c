//! What holds of every matcher on every input.

use proptest::prelude::*;

use super::*;

/// Matchers over a small alphabet, nested.
pub(super) fn matchers() -> impl Strategy<Value = Matcher> {
    let leaf = prop_oneof![
        1 => Just(Matcher::Always),
        4 => "[ab]{1,3}".prop_map(|text| prefix(text.as_bytes())),
        2 => prop::sample::select(vec!["^a", "b", "^ab$", r"a\b", "", "^[^a]", r"[^\x00-\xff]", "^(?:ab|b)c?", "^a*b", "(?m)^b", "ab|^c", "^(?i)A[bc]", "c$"]).prop_map(regex),
        2 => (0_usize..3, "[ab]{1,2}").prop_map(|(offset, text)| masked(offset, text.as_bytes(), None)),
        1 => prop::sample::select(Probe::all().collect::<Vec<_>>()).prop_map(Matcher::Probe),
        1 => prop::sample::select(vec!["10.0.0.0/8", "192.0.2.0/24"]).prop_map(|text| client(&[text])),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(all_of),
            proptest::collection::vec(inner.clone(), 1..4).prop_map(any_of),
            inner.prop_map(not),
        ]
    })
}

/// Two-valued truth, straight from the definition.
fn naive(matcher: &Matcher, bytes: &[u8]) -> bool {
    match matcher {
        Matcher::All(group) => group.members().iter().all(|member| naive(member, bytes)),
        Matcher::Any(group) => group.members().iter().any(|member| naive(member, bytes)),
        Matcher::Not(inner) => !naive(inner, bytes),
        Matcher::Prefix(prefix) => bytes.starts_with(prefix.as_bytes()),
        leaf @ (Matcher::Always
        | Matcher::Regex(_)
        | Matcher::Bytes(_)
        | Matcher::Probe(_)
        | Matcher::Predicate(_)
        | Matcher::Client(_)) => verdict(leaf, bytes, Phase::Ended).is_match(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn verdicts_are_monotone_and_true_in_the_end(matcher in matchers(), bytes in "[abc \\n]{0,6}") {
        let bytes = bytes.as_bytes();
        let mut last = Verdict::NeedMore(0);
        for len in 0..=bytes.len() {
            let open = verdict(&matcher, &bytes[..len], Phase::Open);
            match last {
                Verdict::NeedMore(wanted) => {
                    prop_assert!(len >= wanted || matches!(open, Verdict::NeedMore(_)));
                }
                Verdict::Match(()) | Verdict::NoMatch => prop_assert_eq!(open, last),
            }
            let truth = naive(&matcher, &bytes[..len]);
            match open {
                Verdict::NeedMore(total) => prop_assert!(total > len),
                Verdict::Match(()) => prop_assert!(truth),
                Verdict::NoMatch => prop_assert!(!truth),
            }
            for phase in [Phase::Ended, Phase::Full, Phase::TimedOut] {
                let settled = verdict(&matcher, &bytes[..len], phase);
                prop_assert!(!matches!(settled, Verdict::NeedMore(_)));
                prop_assert_eq!(settled.is_match(), truth);
            }
            last = open;
        }
    }

    #[test]
    fn what_is_known_without_a_byte_is_so(
        mine in matchers(),
        theirs in matchers(),
        bytes in "[abc \\n]{0,6}",
    ) {
        let bytes = bytes.as_bytes();
        if mine.is_certain() {
            prop_assert!(verdict(&mine, b"", Phase::Open).is_match());
        }
        if naive(&mine, bytes) {
            prop_assert!(mine.shortest_match().is_some_and(|shortest| shortest <= bytes.len()));
        }
        if mine.covers(&theirs) && naive(&theirs, bytes) {
            prop_assert!(naive(&mine, bytes));
        }
    }
}
