//! Three-valued regular expressions, against `regex::bytes`.

use proptest::prelude::*;

use super::*;

fn settled(pattern: &str, bytes: &[u8]) -> Option<(usize, bool)> {
    decided(&regex(pattern), bytes)
}

#[test]
fn anchored_patterns_refuse_early() {
    let tls = r"^\x16\x03[\x00-\x03]";
    assert_eq!(settled(tls, b"\x16\x03\x01\x02"), Some((3, true)));
    assert_eq!(settled(tls, b"GET "), Some((1, false)));
    assert_eq!(settled(tls, b"\x16\x03\x04"), Some((3, false)));
    assert_eq!(settled(tls, b"\x16\x03"), None);
    assert_eq!(settled(r"^(GET|POST) ", b"POX"), Some((3, false)));
    assert_eq!(settled(r"^(GET|POST) ", b"POST /"), Some((5, true)));
}

#[test]
fn unanchored_patterns_wait() {
    assert_eq!(settled("Host: a", b"GET / HTTP/1.1\r\nHost: a"), Some((23, true)));
    assert_eq!(settled("Host: b", b"GET / HTTP/1.1\r\nHost: a"), None);
    assert_eq!(verdict(&regex("b"), b"a", Phase::Open), Verdict::NeedMore(2));
    assert_eq!(verdict(&regex("b"), b"a", Phase::TimedOut), Verdict::NoMatch);
}

#[test]
fn a_branch_that_matches_nothing_does_not_hide_the_others() {
    assert_eq!(settled(r"^(?:[^\x00-\xff]|ab)", b"ab"), Some((2, true)));
    assert_eq!(regex(r"^(?:[^\x00-\xff]|ab)").shortest_match(), Some(2));
    assert_eq!(regex(r"a[^\x00-\xff]|b[^\x00-\xff]").shortest_match(), None);
    // The one that is left matches before the byte that it looks at.
    assert_eq!(settled(r"\b|[^\x00-\xff]", b"a"), Some((1, true)));
    assert_eq!(settled(r"\b|[^\x00-\xff]", b"!"), None);
}

#[test]
fn bytes_not_text() {
    assert_eq!(settled(r"^\x80\xff", b"\x80\xff"), Some((2, true)));
    assert_eq!(settled(r"^.\x01", b"\xff\x01"), Some((2, true)));
    assert_eq!(settled("^é", "é".as_bytes()), Some((2, true)));
    assert_eq!(settled(r"^\w", "é".as_bytes()), Some((1, false)));
    assert_eq!(settled("^get", b"GET"), Some((1, false)));
    assert_eq!(settled("(?i)^get", b"GeT"), Some((3, true)));
}

#[test]
fn what_looks_ahead_waits_for_the_next_byte() {
    assert_eq!(settled(r"^GET\b", b"GET "), Some((4, true)));
    assert_eq!(settled(r"^GET\b", b"GETX"), Some((4, false)));
    assert_eq!(settled(r"^GET$", b"GET"), None);
    assert_eq!(verdict(&regex("^GET$"), b"GET", Phase::Ended), Verdict::Match(()));
    assert_eq!(settled(r"^GET$", b"GETX"), Some((4, false)));
    assert_eq!(settled(r"(?m)^a$", b"a\n"), Some((2, true)));
    // Either branch will do, whatever comes next.
    assert_eq!(settled(r"^a(\b|\B)", b"a"), Some((1, true)));
    assert_eq!(verdict(&regex("^$"), b"", Phase::Ended), Verdict::Match(()));
    assert_eq!(verdict(&regex("^$"), b"", Phase::Open), Verdict::NeedMore(1));
}

#[test]
fn patterns_without_a_dfa_are_searched() {
    // Unicode word boundaries and large counted repetitions are what a DFA refuses.
    for pattern in [r"(?u)^\w+\b!", r"[01]*1[01]{18}!"] {
        let matcher = regex(pattern);
        let bytes = b"111000000000000000000!";
        assert_eq!(decided(&matcher, b"111000000000000000000"), None, "{pattern}");
        assert_eq!(verdict(&matcher, bytes, Phase::Ended), Verdict::Match(()), "{pattern}");
        assert_eq!(verdict(&matcher, b"1", Phase::Ended), Verdict::NoMatch, "{pattern}");
    }
    assert_eq!(settled(r"[01]*1[01]{18}!", b"111000000000000000000!"), Some((22, true)));
    // A Unicode boundary could be undone, so only the end settles it.
    assert_eq!(settled(r"(?u)^\w+\b!", b"a!"), None);
}

#[test]
fn what_does_not_compile_says_why() {
    let error = |pattern: &str| Regex::new(pattern).expect_err(pattern).to_string();
    assert_eq!(error("^(a"), "unclosed group");
    assert_eq!(error(r"\k<x>"), "unrecognized escape sequence");
    assert!(error(r"(?=a)").starts_with("look-around"));
    assert_eq!(error("(a{1000}){1000}"), "compiled, it would be larger than 1048576 bytes");
    assert_eq!(error("(?:a{500}){500}"), "compiled, it would be larger than 1048576 bytes");
}

/// Patterns out of the pieces that matter, over a small alphabet.
fn patterns() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "ab", "[ab]", "[^a]", ".", r"\n", r"\xff", " "]),
        2 => prop::sample::select(vec!["^", "$", r"\b", r"\B", r"\A", r"\z", "(?m:^)", "(?m:$)", "(?mR:$)"]),
        1 => prop::sample::select(vec!["(?i:A)", r"\w", r"\b{start}", r"\b{end-half}", "(?s:.)", ""]),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            3 => proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            1 => proptest::collection::vec(inner.clone(), 2..4)
                .prop_map(|parts| format!("(?:{})", parts.join("|"))),
            1 => (inner, prop::sample::select(vec!["*", "+", "?", "{2}", "*?"]))
                .prop_map(|(part, count)| format!("(?:{part}){count}")),
        ]
    })
    .prop_flat_map(|pattern| prop_oneof![Just(format!("^(?:{pattern})")), Just(pattern)])
}

fn haystacks() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop::sample::select(&b"aabbAB \n\r\xff"[..]), 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// In the end it says what `regex::bytes` says; before, it is sure only of what every
    /// extension bears out.
    #[test]
    fn agrees_with_the_regex_crate(pattern in patterns(), bytes in haystacks()) {
        let oracle = ::regex::bytes::RegexBuilder::new(&pattern).unicode(false).build();
        let oracle = oracle.expect("made of valid pieces");
        let matcher = regex(&pattern);
        for phase in [Phase::Ended, Phase::Full, Phase::TimedOut] {
            prop_assert_eq!(verdict(&matcher, &bytes, phase).is_match(), oracle.is_match(&bytes));
        }
        let early = decided(&matcher, &bytes);
        if let Some((len, is_match)) = early {
            for end in len..=bytes.len() {
                prop_assert_eq!(oracle.is_match(&bytes[..end]), is_match, "{} at {}", pattern, end);
                prop_assert_eq!(verdict(&matcher, &bytes[..end], Phase::Open).is_match(), is_match);
            }
        }
        if oracle.is_match(&bytes) {
            let shortest = matcher.shortest_match();
            prop_assert!(shortest.is_some_and(|shortest| shortest <= bytes.len()), "{}", pattern);
        }
    }

    /// What it is said to do for ever, it does on every extension.
    #[test]
    fn the_outlook_is_borne_out(pattern in patterns(), bytes in haystacks(), more in haystacks()) {
        let regex = Regex::new(&pattern).expect("made of valid pieces");
        let whole = [&bytes[..], &more].concat();
        let matcher = Matcher::Regex(regex.clone());
        if regex.waits_for_ever(&bytes) {
            prop_assert!(!verdict(&matcher, &bytes, Phase::Open).is_match());
            prop_assert!(verdict(&matcher, &whole, Phase::Open) != Verdict::NoMatch);
        }
        if regex.accepts_everything() {
            prop_assert!(verdict(&matcher, &whole, Phase::Ended).is_match());
        }
    }

    /// What looks at nothing after itself is sure at once, without waiting for a byte.
    #[test]
    fn matches_are_not_late(pattern in "\\^?([ab.]|\\[ab\\]|a\\*){1,5}", bytes in haystacks()) {
        let oracle = ::regex::bytes::RegexBuilder::new(&pattern).unicode(false).build();
        let oracle = oracle.expect("made of valid pieces");
        let first = (0..=bytes.len()).find(|&len| oracle.is_match(&bytes[..len]));
        let sure = decided(&regex(&pattern), &bytes).filter(|(_, is_match)| *is_match);
        prop_assert_eq!(sure.map(|(len, _)| len), first, "{}", pattern);
    }
}

#[test]
fn patterns_that_wait_for_ever() {
    for (pattern, bytes, waits) in [
        ("a", &b""[..], true),
        ("a", b"b", true),
        ("a", b"a", false),
        ("^a", b"", false),
        ("^a|b", b"c", true),
        ("(?s)^a.*b", b"", false),
        ("(?s)^a.*b", b"a", true),
        ("^a.*b", b"a", false),
        (r"(?u)^\w+\b!", b"a", true),
        (r"[^\x00-\xff]", b"a", false),
    ] {
        let regex = Regex::new(pattern).expect(pattern);
        assert_eq!(regex.waits_for_ever(bytes), waits, "{pattern} after {bytes:?}");
    }
}

#[test]
fn what_every_match_begins_with() {
    let prefixes = |pattern: &str| {
        let regex = Regex::new(pattern).expect(pattern);
        regex.prefixes().map(|all| {
            all.iter().map(|bytes| bytes.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
        })
    };
    for (pattern, expected) in [
        (r"^GET /", Some("GET /")),
        (
            r"^(?:GET|PUT)\s",
            Some(
                "GET\\t GET\\n GET\\x0b GET\\x0c GET\\r GET  PUT\\t PUT\\n PUT\\x0b PUT\\x0c PUT\\r PUT ",
            ),
        ),
        (
            r"^\x16\x03[\x00-\x03]",
            Some("\\x16\\x03\\x00 \\x16\\x03\\x01 \\x16\\x03\\x02 \\x16\\x03\\x03"),
        ),
        (r"\Aab", Some("ab")),
        (r"GET", None),
        (r"^a|b", None),
        (r"(?m)^a", None),
        (r"^a*b?", None),
        (r"^", None),
    ] {
        assert_eq!(prefixes(pattern).as_deref(), expected, "{pattern}");
    }
}
