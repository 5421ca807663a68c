//! Whether an endpoint is up: two state machines, without a clock or a socket of their own.
//!
//! [`Checked`] follows the active checks, [`Ejection`] the connections that flows make. An endpoint
//! is used while neither objects.

use tokio::time::Instant;

use crate::rules::config::EjectConfig;

/// What the active checks say. Up at first: a daemon that starts serves at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    down: bool,
    /// Results in a row that contradict `down`.
    against: u32,
}

/// A change that a result brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It was down.
    Up,
    /// It was up.
    Down,
}

impl Checked {
    /// Whether the checks have taken it down.
    pub(super) const fn is_down(&self) -> bool {
        self.down
    }

    /// Takes a check's result: `rise` passed ones in a row bring an endpoint up, `fall` failed ones
    /// take it down.
    pub(super) fn record(&mut self, passed: bool, rise: u32, fall: u32) -> Option<Change> {
        if passed != self.down {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if self.against < if passed { rise } else { fall } {
            return None;
        }
        *self = Self { down: !passed, against: 0 };
        Some(if passed { Change::Up } else { Change::Down })
    }
}

/// What the flows' connection attempts say.
///
/// ```text
///          `failures` in a row                  time is over
/// serving ───────────────────► ejected until … ─────────────► on trial
///    ▲                          │    ▲                         │   │
///    └──────────────────────────┴────│─────── success ─────────┘   │
///                                    └──── failure: twice as long ─┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ejection {
    /// Failures in a row while serving.
    failures: u32,
    /// End of the last ejection; `None`: serving.
    until: Option<Instant>,
    /// Ejections so far, of which the next one's length is made.
    level: u32,
    /// Since when it has been serving again.
    returned: Option<Instant>,
}

/// Whether flows may use an endpoint, as far as their attempts tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// As any.
    Serving,
    /// Until then only if there is no other.
    Ejected(Instant),
    /// One at a time, to see whether it is back.
    OnTrial,
}

impl Ejection {
    /// The standing at `now`.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self.until {
            None => Standing::Serving,
            Some(until) if now < until => Standing::Ejected(until),
            Some(_) => Standing::OnTrial,
        }
    }

    /// End of the last ejection, unless it is serving.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether a success would change anything.
    pub(super) const fn is_spotless(&self) -> bool {
        self.failures == 0 && self.until.is_none()
    }

    /// Takes a failed attempt that ended at `now`; whether it ejects the endpoint.
    pub(super) fn failed(&mut self, now: Instant, rules: &EjectConfig) -> bool {
        match self.standing(now) {
            // An attempt from before the ejection, or one because there was no other endpoint: it
            // says nothing new.
            Standing::Ejected(_) => return false,
            Standing::Serving => {
                self.failures = self.failures.saturating_add(1);
                if self.failures < rules.failures {
                    return false;
                }
                if self.returned.is_some_and(|at| now.duration_since(at) >= rules.max) {
                    self.level = 0;
                }
            }
            Standing::OnTrial => {}
        }
        let factor = 2u32.checked_pow(self.level).unwrap_or(u32::MAX);
        self.failures = 0;
        self.until = Some(now + rules.backoff.saturating_mul(factor).min(rules.max));
        self.level = self.level.saturating_add(1);
        true
    }

    /// Takes an attempt, or a check, that succeeded at `now`; whether it brings the endpoint back.
    pub(super) fn succeeded(&mut self, now: Instant) -> bool {
        self.failures = 0;
        let was_ejected = self.until.take().is_some();
        if was_ejected {
            self.returned = Some(now);
        }
        was_ejected
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const RULES: EjectConfig =
        EjectConfig { failures: 3, backoff: Duration::from_secs(1), max: Duration::from_secs(5) };

    #[test]
    fn checks_take_down_and_bring_up() {
        let mut checked = Checked::default();
        let results = [
            (false, None),
            (true, None), // in a row
            (false, None),
            (false, None),
            (false, Some(Change::Down)),
            (false, None),
            (true, None),
            (false, None),
            (true, None),
            (true, Some(Change::Up)),
            (true, None),
        ];
        for (step, (passed, change)) in results.into_iter().enumerate() {
            assert_eq!(checked.record(passed, 2, 3), change, "step {step}");
        }
    }

    #[test]
    fn an_ejection_lasts_twice_as_long_each_time_up_to_its_limit() {
        let mut ejection = Ejection::default();
        let mut now = Instant::now();
        assert!(!ejection.failed(now, &RULES) && !ejection.failed(now, &RULES));
        for seconds in [1, 2, 4, 5, 5] {
            assert!(ejection.failed(now, &RULES));
            let until = now + Duration::from_secs(seconds);
            assert_eq!(ejection.standing(now), Standing::Ejected(until));
            assert!(!ejection.failed(now, &RULES), "late failures change nothing");
            assert_eq!(ejection.standing(now), Standing::Ejected(until));
            now = until;
            assert_eq!(ejection.standing(now), Standing::OnTrial);
        }
        assert!(ejection.succeeded(now));
        assert_eq!(ejection.standing(now), Standing::Serving);
        assert!(!ejection.succeeded(now));
    }

    #[test]
    fn a_success_in_between_forgives_failures() {
        let mut ejection = Ejection::default();
        let now = Instant::now();
        for _ in 0..10 {
            assert!(!ejection.failed(now, &RULES) && !ejection.failed(now, &RULES));
            assert!(!ejection.succeeded(now));
        }
    }

    /// One that comes and goes is away for longer and longer; one that has served for `max` starts
    /// anew.
    #[test]
    fn flapping_is_remembered_for_a_while() {
        let mut ejection = Ejection::default();
        let mut now = Instant::now();
        let eject = |ejection: &mut Ejection, now: Instant| {
            while !ejection.failed(now, &RULES) {}
            ejection.until().expect("ejected") - now
        };
        assert_eq!(eject(&mut ejection, now), Duration::from_secs(1));
        now += Duration::from_secs(1);
        ejection.succeeded(now);
        now += Duration::from_millis(4999);
        assert_eq!(eject(&mut ejection, now), Duration::from_secs(2));
        now += Duration::from_secs(2);
        ejection.succeeded(now);
        now += Duration::from_secs(5);
        assert_eq!(eject(&mut ejection, now), Duration::from_secs(1));
    }

    proptest! {
        /// Against the definition: the last `rise` or `fall` results decide, else nothing changes.
        #[test]
        fn checks_follow_their_definition(
            results in prop::collection::vec(any::<bool>(), 0..60),
            rise in 1usize..5,
            fall in 1usize..5,
        ) {
            let mut checked = Checked::default();
            let mut up = true;
            for end in 1..=results.len() {
                let last = |count: usize, passed: bool| {
                    end >= count && results[end - count..end].iter().all(|result| *result == passed)
                };
                let before = up;
                if up && last(fall, false) {
                    up = false;
                } else if !up && last(rise, true) {
                    up = true;
                }
                let change = checked.record(results[end - 1], rise as u32, fall as u32);
                let expected = match (before, up) {
                    (true, false) => Some(Change::Down),
                    (false, true) => Some(Change::Up),
                    _ => None,
                };
                prop_assert_eq!(change, expected, "after {} results", end);
                prop_assert_eq!(checked.is_down(), !up);
            }
        }

        /// Any sequence: ejections last between `backoff` and `max`, begin only after enough
        /// failures in a row or on trial, and end only by a success.
        #[test]
        fn ejections_are_bounded_and_end_by_a_success(
            steps in prop::collection::vec((any::<bool>(), 0u64..3000), 0..100),
            failures in 1u32..5,
        ) {
            let rules = EjectConfig { failures, ..RULES };
            let mut ejection = Ejection::default();
            let mut now = Instant::now();
            let mut streak = 0;
            for (success, pause) in steps {
                now += Duration::from_millis(pause);
                let before = ejection.standing(now);
                if success {
                    prop_assert_eq!(ejection.succeeded(now), before != Standing::Serving);
                    prop_assert_eq!(ejection.standing(now), Standing::Serving);
                    prop_assert!(ejection.is_spotless());
                    streak = 0;
                    continue;
                }
                streak += 1;
                let ejected = ejection.failed(now, &rules);
                match before {
                    Standing::Serving => prop_assert_eq!(ejected, streak >= failures),
                    Standing::OnTrial => prop_assert!(ejected),
                    Standing::Ejected(_) => prop_assert!(!ejected),
                }
                if ejected {
                    streak = 0;
                    let length = ejection.until().expect("ejected") - now;
                    prop_assert!((rules.backoff..=rules.max).contains(&length));
                } else {
                    prop_assert_eq!(ejection.standing(now), before);
                }
            }
        }
    }
}
