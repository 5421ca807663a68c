//! Against the C library's fnmatch(3), which sslh uses for names in TLS.

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use super::{
    super::{Glob, glob},
    compiled, matches,
};
use crate::import::tests::oracle;

/// Whether a glob, as translated, matches a name in lower case; by mux's own rules for names.
fn glob_matches(pattern: &[u8], name: &[u8]) -> bool {
    let name_text = String::from_utf8_lossy(name);
    match glob(pattern) {
        Glob::Exact(exact) => name_text == exact.as_str(),
        Glob::Suffix(suffix) => name_text.ends_with(suffix.trim_start_matches('*')),
        Glob::Regex(regex) => matches(&compiled(&regex), name),
    }
}

fn pattern() -> impl Strategy<Value = Vec<u8>> {
    let piece = proptest::sample::select(vec![
        &b"a"[..],
        b"b",
        b"x",
        b".",
        b"-",
        b"*",
        b"?",
        b"*.",
        b"[ab]",
        b"[!a]",
        b"[^b]",
        b"[a-c]",
        b"[c-a]",
        b"[!c-a]",
        b"[]]",
        b"[!]a]",
        b"[a-]",
        b"[-a]",
        b"[",
        b"]",
        b"[[:digit:]x]",
        b"[![:alpha:]]",
        b"\\*",
        b"\\a",
        b"[\\]a]",
        b"[--z]",
        b"!",
        b"^",
        b"[^^]",
        b"[*?]",
    ]);
    // A collating symbol, which the C library refuses and no host name has.
    let has_symbol = |pattern: &Vec<u8>| pattern.windows(2).any(|pair| pair == b"[.");
    proptest::collection::vec(piece, 0..5)
        .prop_map(|pieces| pieces.concat())
        .prop_filter("a collating symbol", move |pattern| !has_symbol(pattern))
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let piece = proptest::sample::select(vec![
        &b"a"[..],
        b"b",
        b"c",
        b"x",
        b"z",
        b".",
        b"-",
        b"5",
        b"*",
        b"]",
        b"[",
        b"^",
        b"!",
        b"\\",
    ]);
    proptest::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

#[test]
fn translated_globs_match_what_fnmatch_matches() {
    let mut runner = TestRunner::deterministic();
    let cases: Vec<(Vec<u8>, Vec<u8>)> = (0..40_000)
        .map(|_| (pattern(), name()).new_tree(&mut runner).expect("it generates").current())
        .collect();
    let Some(expected) = oracle::fnmatch(&cases) else { return };
    let matching = expected.iter().filter(|&&matches| matches).count();
    assert!(matching > 1_000, "only {matching} match");
    for ((pattern, name), expected) in cases.iter().zip(expected) {
        let (shown, on) = (pattern.escape_ascii(), name.escape_ascii());
        assert_eq!(glob_matches(pattern, name), expected, "{shown} ({:?}) on {on}", glob(pattern));
    }
}
