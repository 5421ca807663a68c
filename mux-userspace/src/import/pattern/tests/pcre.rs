//! Against PCRE2 itself, which sslh uses since 1.21.

use proptest::prelude::*;

use super::{super::perl, compiled, matches};

/// A piece of a pattern.
fn atom() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => proptest::sample::select(vec!["a", "b", "G", "-", " ", "&", "~", "#", "é", "\n", "]", "}"])
            .prop_map(str::to_owned),
        2 => proptest::sample::select(vec![".", "^", "$", r"\b", r"\B", r"\A", r"\z", r"\Z"])
            .prop_map(str::to_owned),
        3 => proptest::sample::select(vec![
            r"\x41", r"\xe9", r"\x", r"\x4", r"\x{42}", r"\n", r"\t", r"\e", r"\0", r"\012", r"\.", r"\\",
            r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\h", r"\H", r"\v", r"\V", r"\R", r"\N", r"\cA",
            r"\Qa.\E", r"\12", r"\101", r"\o{102}",
        ])
        .prop_map(str::to_owned),
        3 => class(),
    ]
}

fn class() -> impl Strategy<Value = String> {
    let member = proptest::sample::select(vec![
        "a",
        "b",
        "a-c",
        "0-9",
        "-",
        "[",
        "^",
        "&&",
        "~~",
        "--",
        r"\d",
        r"\W",
        r"\h",
        r"\]",
        r"\\",
        r"\x80-\xff",
        r"\x00-\x1f",
        "[:alpha:]",
        "[:^space:]",
        "[:",
        r"\b",
        r"\n",
        r"\101",
        "é",
        ".",
        "$",
        " -~",
    ]);
    let members = proptest::collection::vec(member, 0..4);
    (proptest::sample::select(vec!["[", "[^", "[]", "[^]"]), members)
        .prop_map(|(open, members)| format!("{open}{}]", members.concat()))
}

/// A pattern of such pieces, with groups, alternatives, quantifiers and flags.
fn pattern() -> impl Strategy<Value = String> {
    atom().prop_recursive(4, 24, 4, |inner| {
        let many = proptest::collection::vec(inner.clone(), 0..5);
        let group = proptest::sample::select(vec![
            "(", "(?:", "(?i:", "(?s:", "(?is-i:", "(?-i:", "(?|", "(?<n>", "(?m:a",
        ]);
        let quantifier = proptest::sample::select(vec![
            "*", "+", "?", "*?", "+?", "{2}", "{1,2}", "{0,}", "{,2}", "{", "{a}",
        ]);
        let flags = proptest::sample::select(vec!["(?i)", "(?s)", "(?-i)", "(?#c)", "(?U)"]);
        prop_oneof![
            many.clone().prop_map(|pieces| pieces.concat()),
            many.prop_map(|pieces| format!("(?:{})", pieces.join("|"))),
            (group, inner.clone(), inner.clone())
                .prop_map(|(group, a, b)| format!("{group}{a}|{b})")),
            (inner.clone(), quantifier)
                .prop_map(|(inner, quantifier)| format!("(?:{inner}){quantifier}")),
            (flags, inner).prop_map(|(flags, inner)| format!("{flags}{inner}")),
        ]
    })
}

fn subject() -> impl Strategy<Value = Vec<u8>> {
    let piece = proptest::sample::select(vec![
        &b"a"[..],
        b"b",
        b"c",
        b"A",
        b"G",
        b"0",
        b" ",
        b"-",
        b"[",
        b"]",
        b"^",
        b"&",
        b"~",
        b"\n",
        b"\r\n",
        b"\t",
        b"\0",
        b"\x1b",
        b"\x01",
        b"\x0b",
        b"\x80",
        b"\xa0",
        b"\xff",
        "é".as_bytes(),
        b".",
        b"\\",
        b"{",
        b"}",
        b"_",
        b"\x7f",
    ]);
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn translated_patterns_match_what_pcre_matches(
        pattern in pattern(),
        subjects in proptest::collection::vec(subject(), 12),
    ) {
        let original = pcre2::bytes::RegexBuilder::new().build(&pattern);
        let translated = perl(pattern.as_bytes());
        if let (Ok(original), Ok(translated)) = (original, translated) {
            let ours = compiled(&translated);
            for subject in &subjects {
                let expected = original.is_match(subject).expect("PCRE2 does not fail");
                prop_assert_eq!(
                    matches(&ours, subject),
                    expected,
                    "/{}/ is {:?}; on {}",
                    pattern,
                    translated,
                    subject.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn any_bytes_are_translated_or_refused(pattern in any::<Vec<u8>>()) {
        if let Ok(translated) = perl(&pattern) {
            prop_assert!(translated.is_ascii(), "{}", translated);
            prop_assert!(!translated.contains('\n'), "{}", translated);
        }
    }
}
