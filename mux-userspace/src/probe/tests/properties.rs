//! What holds of every probe on every input.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::fixtures;
use crate::probe::{Probe, Verdict};

/// Longest fixture that is a seed; each of its prefixes is examined in each case.
const MAX_SEED: usize = 200;

/// First bytes that bring every probe some way.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    fixtures::all()
        .into_iter()
        .map(|(_, _, bytes)| bytes)
        .filter(|bytes| bytes.len() <= MAX_SEED)
        .collect()
});

/// A seed with some bytes overwritten, and some added.
fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let tail = proptest::collection::vec(any::<u8>(), 0..40);
    let mutated =
        (prop::sample::select(&SEEDS[..]), changes, tail).prop_map(|(seed, changes, tail)| {
            let mut bytes = [seed, tail].concat();
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
    prop_oneof![mutated, proptest::collection::vec(any::<u8>(), 0..80)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Once sure, always sure; and no verdict before the bytes that were asked for.
    #[test]
    fn verdicts_are_monotone_and_wants_are_lower_bounds(bytes in inputs()) {
        for probe in Probe::all() {
            let mut last = Verdict::NeedMore(0);
            for len in 0..=bytes.len() {
                let verdict = probe.examine(&bytes[..len]);
                match last {
                    Verdict::NeedMore(wanted) if len < wanted => {
                        prop_assert!(matches!(verdict, Verdict::NeedMore(_)), "{} at {}", probe, len);
                    }
                    Verdict::NeedMore(_) => {}
                    Verdict::Match(()) | Verdict::NoMatch => {
                        prop_assert_eq!(verdict, last, "{} at {}", probe, len);
                    }
                }
                if let Verdict::NeedMore(total) = verdict {
                    prop_assert!(total > len, "{} at {}", probe, len);
                }
                if verdict.is_match() {
                    prop_assert!(len >= probe.shortest_match(), "{} at {}", probe, len);
                }
                last = verdict;
            }
        }
    }

    /// A probe of a family says what its members say.
    #[test]
    fn families_include_their_members(bytes in inputs()) {
        for family in Probe::all() {
            for member in Probe::all().filter(|member| family.includes(member)) {
                if member.examine(&bytes).is_match() {
                    prop_assert!(family.examine(&bytes).is_match(), "{} {}", family, member);
                }
            }
        }
    }

    /// What is shown of a peer's bytes is printable ASCII, and not long.
    #[test]
    fn details_are_harmless(bytes in inputs()) {
        for probe in Probe::all() {
            if probe.examine(&bytes).is_match() {
                let details = probe.details(&bytes);
                let (text, json) = (details.to_string(), details.to_json());
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
                prop_assert!(text.len() < 16 << 10);
                prop_assert!(json.is_object(), "{}", json);
            }
        }
    }
}
