//! Names of probes, and what is refused.

use super::*;
use crate::{probe::Verdict, route::Matcher};

fn acme() -> Probe {
    Probe::custom("acme", |bytes: &[u8]| match bytes {
        [b'A', ..] => Verdict::Match(()),
        [] => Verdict::NeedMore(1),
        [..] => Verdict::NoMatch,
    })
}

fn config(builder: Builder) -> Result<Config, StartError> {
    let mut builder = builder;
    builder.config()
}

#[test]
fn a_probe_of_ones_own_is_known_by_its_name_without_a_file() {
    let config = config(
        Mux::builder()
            .rule(probe("acme"), "builtin:echo")
            .probe(acme())
            .rule(probe("tls"), "builtin:echo"),
    )
    .expect("both are there");
    let names = config.rules.iter().map(|rule| match &rule.matcher {
        Matcher::Probe(probe) => probe.name().to_owned(),
        other => panic!("{other:?}"),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["acme", "tls"]);
}

#[test]
fn names_that_are_not_there_or_twice_are_refused() {
    let rule = |name: &str| Mux::builder().rule(probe(name), "builtin:echo");
    let unknown = config(rule("acme")).expect_err("nobody registered it");
    assert!(unknown.to_string().contains("rule `rule-1`: there is no probe `acme`"), "{unknown}");
    let twice = config(rule("acme").probe(acme()).probe(acme())).expect_err("twice");
    assert!(matches!(twice, StartError::Probe(RegisterError::Taken(name)) if name == "acme"));
    let ours = config(rule("tls").probe(Probe::custom("tls", |_: &[u8]| Verdict::NoMatch)));
    assert!(matches!(ours, Err(StartError::Probe(RegisterError::Taken(name))) if name == "tls"));
    let empty = config(Mux::builder().rule(prefix(""), "builtin:echo"));
    assert!(matches!(empty, Err(StartError::Condition { .. })));
}
