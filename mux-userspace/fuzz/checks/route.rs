//! Any first bytes, in any chunks, among many rules: the index and what is remembered between
//! chunks must change nothing, and the decision must not depend on the chunks.

use std::sync::LazyLock;

use mux::{
    Verdict,
    route::{Outcome, Phase, Progress, Sniffed, Why, route},
    rules::{
        self,
        config::{Config, ListenerConfig, RuleId},
    },
};

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    rules::parse("rules.toml", include_str!("../rules.toml"))
        .unwrap_or_else(|error| panic!("{error}"))
});

/// The check.
pub(crate) fn check(input: &[u8]) {
    let [cut, phase, bytes @ ..] = input else { return };
    let bytes = &bytes[..bytes.len().min(2048)];
    let cut = usize::from(*cut).min(bytes.len());
    let phase = [Phase::Open, Phase::Ended, Phase::Full, Phase::TimedOut][usize::from(phase % 4)];
    for listener in &CONFIG.listeners {
        let client = Some([10, 0, 0, 1].into());
        let mut progress = Progress::default();
        let first = Sniffed { bytes: &bytes[..cut], client, phase: Phase::Open };
        let early = route(listener, &first, &mut progress);
        let whole = Sniffed { bytes, client, phase };
        let late = route(listener, &whole, &mut progress);
        let at_once = route(listener, &whole, &mut Progress::default());
        assert_eq!(late, at_once, "what is remembered changes the decision");
        assert_eq!(taken(&at_once), naive(listener, &whole), "the index changes the decision");
        match early {
            Outcome::NeedMore(total) => assert!(total > cut),
            // What is sure of a prefix is sure of all: the rule at least, its details may grow.
            Outcome::Routed(early) => match late {
                Outcome::Routed(late) => assert_eq!(early.rule, late.rule),
                other => panic!("{early:?}, then {other:?}"),
            },
            Outcome::Close | Outcome::Reset => assert_eq!(early, {
                let open = Sniffed { bytes, client, phase: Phase::Open };
                route(listener, &open, &mut Progress::default())
            }),
        }
    }
}

/// The rule, or how many bytes are needed.
fn taken(outcome: &Outcome) -> Option<Result<RuleId, usize>> {
    match outcome {
        Outcome::Routed(decision) if decision.why == Why::Matched => Some(Ok(decision.rule)),
        Outcome::NeedMore(total) => Some(Err(*total)),
        Outcome::Routed(_) | Outcome::Close | Outcome::Reset => None,
    }
}

/// The first rule that is not sure of "no", by asking one after the other.
fn naive(listener: &ListenerConfig, sniffed: &Sniffed<'_>) -> Option<Result<RuleId, usize>> {
    listener.rules.rules().find_map(|(id, rule)| match rule.matcher.evaluate(sniffed) {
        Verdict::Match(()) => Some(Ok(id)),
        Verdict::NoMatch => None,
        Verdict::NeedMore(total) => Some(Err(total)),
    })
}
