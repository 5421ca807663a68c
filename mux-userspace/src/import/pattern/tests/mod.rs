//! Translated patterns match what the originals match: PCRE2 and fnmatch(3) are asked.

mod fnmatch;
mod pcre;

use super::{Glob, Traits, glob, perl, traits};
use crate::{
    probe::Verdict,
    route::{Matcher, Phase, Regex, Sniffed},
};

/// A pattern of mux's.
#[track_caller]
fn compiled(pattern: &str) -> Matcher {
    Matcher::Regex(Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")))
}

/// Whether it matches these bytes, if they are all.
fn matches(pattern: &Matcher, bytes: &[u8]) -> bool {
    let sniffed = Sniffed { bytes, client: None, phase: Phase::Ended };
    matches!(pattern.evaluate(&sniffed), Verdict::Match(_))
}

#[test]
fn perl_patterns_are_written_like_this() {
    for (pattern, expected) in [
        (&b""[..], ""),
        (b"^SSH-2\\.0", r"^SSH-2\.0"),
        (b"^\x16\x03[\x00-\x03]", r"^\x16\x03[\x00-\x03]"),
        (b"^\\x16\\x3[\\0-\\3]", r"^\x16\x03[\x00-\x03]"),
        (b"caf\xe9", r"caf\xe9"),
        (b"a$", r"a\n?\z"),
        (b"(?m)^a$", r"(?m)^a$"),
        (b"(a|b)(?<n>c)(?P<m>d)(?'o'e)", "(?:a|b)(?:c)(?:d)(?:e)"),
        (b"(?i)get (?-i:HTTP)", "(?i)get (?-i:HTTP)"),
        (b"a{2}b{2,}c{2,3}d{}e{", r"a{2}b{2,}c{2,3}d\{\}e\{"),
        (b"[]a-z[:digit:]&&\\d\\]-]", r"[\]a-z[:digit:]\&\&\d\]\-]"),
        (b"[^[\\x80-\\xff]", r"[^\[\x80-\xff]"),
        (b"\\Qa.b\\E.\\Q*", r"a\.b.\*"),
        (b"a(?#what?)b", "ab"),
        (b"\\h\\N\\e\\cA\\o{101}\\x{41}\\101", r"[\t \xa0][^\n]\x1b\x01AAA"),
        (b"\\bGET\\b \\A\\z", r"\bGET\b \A\z"),
        (b"(a$|b)|c\\Z", r"(?:a\n?\z|b)|c\n?\z"),
    ] {
        let shown = pattern.escape_ascii();
        assert_eq!(perl(pattern).as_deref(), Ok(expected), "{shown}");
        assert!(traits(expected).is_ok(), "{shown}");
    }
}

#[test]
fn what_cannot_be_said_is_named() {
    for (pattern, reason) in [
        ("^(?!GET )", "a look ahead, `(?!…)`, at byte 2 of the pattern"),
        ("(?<=a)b", "a look behind, `(?<=…)`, at byte 1 of the pattern"),
        (r"(a)\1", "a reference back to a group, at byte 4 of the pattern"),
        ("a++", "a quantifier that gives nothing back (`+` after it), at byte 3 of the pattern"),
        ("a{,2}", "a quantifier that versions of PCRE2 read differently, at byte 2 of the pattern"),
        (
            "a{1, 2}",
            "a quantifier that versions of PCRE2 read differently, at byte 2 of the pattern",
        ),
        ("(?>a)", "a group that gives nothing back, `(?>…)`, at byte 1 of the pattern"),
        ("(?(1)a)", "a condition, `(?(…)…)`, at byte 1 of the pattern"),
        ("(?R)", "a recursion, `(?R)`, at byte 1 of the pattern"),
        ("(?1)", "a group of an unknown kind, at byte 1 of the pattern"),
        ("(*UTF)a", "a verb, `(*…)`, at byte 1 of the pattern"),
        ("(?x) a", "an extended pattern, `(?x)`, at byte 1 of the pattern"),
        (r"\pL", r"`\p`, at byte 1 of the pattern"),
        (r"\R", r"`\R`, at byte 1 of the pattern"),
        ("(a$|b)c", "a pattern that goes on after `$`, at byte 7 of the pattern"),
        ("a$*", "a pattern that goes on after `$`, at byte 3 of the pattern"),
        (r"(?:a$)+", "a pattern that goes on after `$`, at byte 7 of the pattern"),
        (r"a\K", r"`\K`, at byte 2 of the pattern"),
        (r"\x{100}", "a character code that is not one of a byte, at byte 1 of the pattern"),
        (r"\777", "a character code above 255, at byte 1 of the pattern"),
        (
            "[z-a]",
            "a range of a class that is not from a lower to a higher byte, at byte 1 of the pattern",
        ),
        ("[a", "a class that does not end, at byte 1 of the pattern"),
        ("[[:nosuch:]]", "a class of an unknown name, at byte 2 of the pattern"),
        ("a\\", "a backslash with nothing after it, at byte 2 of the pattern"),
        ("(?#", "a comment that does not end, at byte 1 of the pattern"),
    ] {
        let error = perl(pattern.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(error, Err(reason.to_owned()), "{pattern}");
    }
}

#[test]
fn traits_tell_what_waits() {
    let all = |pattern: &str| traits(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    for pattern in ["", "^", "a*", "^(?:a|)", "x?^"] {
        assert_eq!(all(pattern), Traits { always: true, empty: true, waits: false }, "{pattern}");
    }
    for pattern in ["^a", "^a{0,9}b", r"^a\n?\z", "^(?:a|bc)", "(?s)^.{16}"] {
        assert_eq!(all(pattern), Traits { always: false, empty: false, waits: false }, "{pattern}");
    }
    for pattern in ["a", "^a.*b", "a|^b", r"a\z", "(?m)^a", "^.{0,50}a", "(?s)^.{17}"] {
        assert_eq!(all(pattern), Traits { always: false, empty: false, waits: true }, "{pattern}");
    }
    assert_eq!(all(r"^\n?\z"), Traits { always: false, empty: true, waits: false });
    assert!(traits("(").is_err());
}

#[test]
fn globs_are_names_suffixes_or_patterns() {
    for (pattern, expected) in [
        ("Mail.Example.NET", Glob::Exact("mail.example.net".to_owned())),
        ("*.example.net", Glob::Suffix("*.example.net".to_owned())),
        ("*.*.acme.invalid", Glob::Regex(r"(?s)^.*\..*\.acme\.invalid$".to_owned())),
        ("a?.example", Glob::Regex(r"(?s)^a.\.example$".to_owned())),
        ("*", Glob::Regex("(?s)^.*$".to_owned())),
        ("", Glob::Regex("(?s)^$".to_owned())),
        ("a[0-9!].example", Glob::Regex(r"(?s)^a[0-9!]\.example$".to_owned())),
        ("[!a-c]*", Glob::Regex("(?s)^[^a-c].*$".to_owned())),
        ("a[.example", Glob::Regex(r"(?s)^a\[\.example$".to_owned())),
        (r"\*.example", Glob::Regex(r"(?s)^\*\.example$".to_owned())),
    ] {
        assert_eq!(glob(pattern.as_bytes()), expected, "{pattern}");
    }
}
