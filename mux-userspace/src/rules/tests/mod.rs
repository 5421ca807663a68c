//! Rules files: the schema, everything that can be wrong with one, and hostile ones.

mod admin;
mod errors;
mod heads;
mod hostile;
mod identity;
mod reference;
mod schema;
mod upstreams;
mod warnings;

use super::{Config, LoadError, Style, parse};

/// A listener, for files that are about something else.
const LISTEN: &str = "listen = \"127.0.0.1:0\"\n";
/// And a rule.
const RULE: &str = "[[rule]]\nupstream = 80\n";

#[track_caller]
fn config(text: &str) -> Config {
    parse("rules.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

/// The report for a file that is wrong.
#[track_caller]
fn report(text: &str) -> String {
    match parse("rules.toml", text) {
        Ok(_) => panic!("this should be refused:\n{text}"),
        Err(error) => error.to_string(),
    }
}

/// Checks that a file is refused for one reason only; that the report has the message, the
/// position of the text `at` (its first occurrence), a caret and the hint, in that order.
#[track_caller]
fn refused(text: &str, at: &str, message: &str, hint: &str) {
    let report = report(text);
    let offset = text.find(at).expect("`at` is in the file");
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let mut rest = report.as_str();
    for expected in [
        &format!("error: {message}"),
        &format!("rules.toml:{line}:{column}\n"),
        "^",
        &format!("= hint: {hint}"),
    ] {
        let Some(at) = rest.find(expected) else { panic!("no {expected:?} in:\n{report}") };
        rest = &rest[at + expected.len()..];
    }
    assert_eq!(report.matches("error: ").count(), 1, "{report}");
    assert_eq!(rest.lines().count().max(1), 1, "the hint is last:\n{report}");
}
