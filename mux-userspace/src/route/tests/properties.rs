//! What holds of every matcher on every input.

use proptest::prelude::*;

use super::*;
use crate::{
    probe::{HttpVersion, TlsVersion},
    route::HttpConditions,
};

/// Matchers over a small alphabet, nested.
pub(super) fn matchers() -> impl Strategy<Value = Matcher> {
    let leaf = prop_oneof![
        1 => Just(Matcher::Always),
        4 => "[ab]{1,3}".prop_map(|text| prefix(text.as_bytes())),
        2 => prop::sample::select(vec!["^a", "b", "^[ab]c", "^[a-c]{2}$", r"^[ab]+\b", r"^\w[^b]", "^ab$", r"a\b", "", "^[^a]", r"[^\x00-\xff]", "^(?:ab|b)c?", "^a*b", "(?m)^b", "ab|^c", "^(?i)A[bc]", "c$"]).prop_map(regex),
        2 => (0_usize..3, "[ab]{1,2}", prop::sample::select(vec![0xff_u8, 0xdf, 0x01])).prop_map(|(offset, text, mask)| {
            masked(offset, text.as_bytes(), Some(&vec![mask; text.len()]))
        }),
        1 => prop::sample::select(Probe::all().collect::<Vec<_>>()).prop_map(Matcher::Probe),
        2 => tls_matchers(),
        2 => http_matchers().prop_map(http::http),
        2 => proptest::sample::subsequence(
            vec!["10.0.0.0/8", "192.0.2.0/24", "10.0.0.1/32", "10.0.0.7/24", "::/0", "0.0.0.0/0"], 1..3,
        )
        .prop_map(|list| client(&list)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(all_of),
            proptest::collection::vec(inner.clone(), 1..4).prop_map(any_of),
            inner.prop_map(not),
        ]
    })
}

/// The same, some of them together with a function whose "no" is tentative.
pub(super) fn tentative() -> impl Strategy<Value = Matcher> {
    let ends = "[ab]{1,2}".prop_map(|text| {
        Matcher::Predicate(Predicate::bool(move |bytes| bytes.ends_with(text.as_bytes())))
    });
    prop_oneof![
        matchers(),
        ends.clone(),
        (ends.clone(), matchers()).prop_map(|(one, other)| all_of(vec![one, other])),
        (ends, matchers()).prop_map(|(one, other)| any_of(vec![other, one])),
    ]
}

/// Those on heads of requests alone.
pub(super) fn heads() -> impl Strategy<Value = Matcher> {
    prop_oneof![tls_matchers(), http_matchers().prop_map(http::http)]
}

fn tls_matchers() -> impl Strategy<Value = Matcher> {
    let names = vec!["a.x", "b.a.x", "*.x", "*.a.x", "/a/", "/^b/", "/^c[.]b/", "/x$/"];
    prop_oneof![
        proptest::sample::subsequence(names, 0..4).prop_map(|names| tls::sni(&names)),
        proptest::sample::subsequence(vec!["h2", "a"], 1..3).prop_map(|names| tls::alpn(&names)),
        proptest::sample::subsequence(TlsVersion::ALL.to_vec(), 1..3)
            .prop_map(|versions| tls::version(&versions)),
    ]
}

fn http_matchers() -> impl Strategy<Value = HttpConditions> {
    let some = |list: Vec<&'static str>| proptest::sample::subsequence(list, 1..3);
    let http = prop_oneof![
        some(vec!["GET", "PUT", "P"]).prop_map(|list| http::methods(&list)),
        some(vec!["a.x", "*.x", "*.a.x", "/a/", "/^[ab]/", "/x$/"])
            .prop_map(|list| http::hosts(&list)),
        some(vec!["/a", "/ab", "*"]).prop_map(|list| http::paths(&list)),
        some(vec!["/", "/a", "/b"]).prop_map(|list| http::prefixes(&list)),
        some(vec!["^/a$", "b", "^/.*b", "/"]).prop_map(|list| http::path_regexes(&list)),
        proptest::sample::subsequence(vec![("a", "b"), ("A", "b$"), ("host", "^a")], 1..3)
            .prop_map(|list| http::headers(&list)),
        proptest::sample::subsequence(HttpVersion::ALL.to_vec(), 1..3)
            .prop_map(|list| http::versions(&list)),
    ];
    (http.clone(), http, any::<bool>())
        .prop_map(|(one, other, with)| match with {
            true => HttpConditions { methods: other.methods, headers: other.headers, ..one },
            false => one,
        })
        .prop_filter("a condition", |conditions| *conditions != HttpConditions::default())
}

/// First bytes over the same alphabet, and those that the protocols' matchers are about.
pub(super) fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![None, Some("a.x"), Some("B.a.x."), Some("c.b.x")]);
    let hello = (
        name,
        proptest::sample::subsequence(vec!["a", "h2"], 0..3),
        proptest::sample::subsequence(vec![0x0a0a, 0x0302, 0x0303, 0x0304], 0..4),
    );
    let hello = hello.prop_map(|(name, alpn, versions)| tls::hello(name, &alpn, &versions));
    let target =
        prop::sample::select(vec!["/a", "/ab?c", "/b", "*", "http://a.x", "http://b.x:1/a"]);
    let lines = vec!["Host: a.x:1\r\n", "hOst:b.a.x.\n", "a: b\r\n", "A: bc\n", " c\n", "\r\n"];
    let lines = proptest::collection::vec(prop::sample::select(lines), 0..4);
    let method = prop::sample::select(vec!["GET", "PUT", "P"]);
    let request = (method, target, 0..2, lines).prop_map(|(method, target, minor, lines)| {
        format!("{method} {target} HTTP/1.{minor}\r\n{}", lines.concat()).into_bytes()
    });
    let fields = vec![
        (":method", "GET"),
        (":path", "/a"),
        (":authority", "b.a.x"),
        ("host", "a.x"),
        ("a", "b"),
        ("a", "bc"),
        (":path", "/b"),
        ("A", "b"),
    ];
    let http2 = proptest::sample::subsequence(fields, 0..6).prop_map(|fields| http::http2(&fields));
    prop_oneof![
        4 => "[abc \\n]{0,6}".prop_map(String::into_bytes),
        1 => hello,
        2 => request,
        1 => http2,
    ]
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
        | Matcher::Tls(_)
        | Matcher::Http(_)
        | Matcher::Predicate(_)
        | Matcher::Client(_)) => verdict(leaf, bytes, Phase::Ended).is_match(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn verdicts_are_monotone_and_true_in_the_end(matcher in matchers(), bytes in inputs()) {
        let bytes = bytes.as_slice();
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
        bytes in inputs(),
    ) {
        let bytes = bytes.as_slice();
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
