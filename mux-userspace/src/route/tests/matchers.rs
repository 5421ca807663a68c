//! Single matchers, and the three-valued logic of groups.

use super::*;
use crate::route::MaskedBytesError;

#[test]
fn always_needs_no_byte() {
    for phase in PHASES {
        assert_eq!(verdict(&Matcher::Always, b"", phase), Verdict::Match(()));
    }
}

#[test]
fn prefixes_decide_at_the_first_contradiction() {
    let get = prefix(b"GET ");
    assert_eq!(decided(&get, b"GET / HTTP/1.1"), Some((4, true)));
    assert_eq!(decided(&get, b"GEX"), Some((3, false)));
    assert_eq!(decided(&get, b"GET"), None);
    assert_eq!(verdict(&get, b"GET", Phase::Ended), Verdict::NoMatch);
}

#[test]
fn masked_bytes() {
    let matcher = masked(2, b"\x01\x02", Some(b"\xff\x0f"));
    assert_eq!(decided(&matcher, b"xx\x01\xf2"), Some((4, true)));
    assert_eq!(decided(&matcher, b"xx\x01\xf3"), Some((4, false)));
    assert_eq!(decided(&matcher, b"xx\x02\xf2"), Some((3, false)));
    assert_eq!(verdict(&matcher, b"", Phase::Open), Verdict::NeedMore(3));
    assert_eq!(verdict(&matcher, b"xx\x01", Phase::Open), Verdict::NeedMore(4));
    assert_eq!(verdict(&matcher, b"xx\x01", Phase::Full), Verdict::NoMatch);
    assert_eq!(masked(0, b"\xff", Some(b"\xf0")), masked(0, b"\xf0", Some(b"\xf0")));
}

#[test]
fn masked_bytes_that_cannot_be() {
    for (offset, value, mask, error) in [
        (0, &b""[..], None, MaskedBytesError::Empty),
        (0, b"ab", Some(&b"a"[..]), MaskedBytesError::Length { mask: 1, value: 2 }),
        (0, b"ab", Some(b"\0\0"), MaskedBytesError::ZeroMask),
        (1 << 20, b"a", None, MaskedBytesError::TooFar),
        (usize::MAX, b"a", None, MaskedBytesError::TooFar),
    ] {
        assert_eq!(MaskedBytes::new(offset, value, mask), Err(error));
    }
    assert!(MaskedBytes::new((1 << 20) - 1, b"a", None).is_ok());
}

#[test]
fn clients() {
    let matcher = client(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]);
    let evaluate = |client| matcher.evaluate(&Sniffed { bytes: b"", client, phase: Phase::Open });
    for (address, inside) in [
        ("10.1.2.3", true),
        ("11.1.2.3", false),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
        ("2001:db8::1", true),
        ("2001:db9::1", false),
        ("::ffff:10.0.0.1", true),
        ("::ffff:11.0.0.1", false),
    ] {
        let verdict = evaluate(Some(address.parse().expect(address)));
        assert_eq!(verdict.is_match(), inside, "{address}");
    }
    assert_eq!(evaluate(None), Verdict::NoMatch);
}

#[test]
fn groups_are_sure_as_early_as_they_can_be() {
    let (a, ab, b) = (prefix(b"a"), prefix(b"ab"), prefix(b"b"));
    assert_eq!(decided(&all_of(vec![ab.clone(), a.clone()]), b"ab"), Some((2, true)));
    assert_eq!(decided(&all_of(vec![ab.clone(), b.clone()]), b"ab"), Some((1, false)));
    assert_eq!(decided(&any_of(vec![ab.clone(), a.clone()]), b"ab"), Some((1, true)));
    assert_eq!(decided(&any_of(vec![ab.clone(), b.clone()]), b"cd"), Some((1, false)));
    assert_eq!(decided(&not(ab.clone()), b"ax"), Some((2, true)));
    assert_eq!(decided(&not(not(ab.clone())), b"ab"), Some((2, true)));

    let elsewhere = client(&["192.0.2.0/24"]);
    assert_eq!(decided(&all_of(vec![ab.clone(), elsewhere.clone()]), b""), Some((0, false)));
    assert_eq!(decided(&any_of(vec![ab, not(elsewhere)]), b""), Some((0, true)));
}

#[test]
fn groups_want_what_their_first_to_decide_wants() {
    let far = masked(9, b"x", None);
    let near = masked(4, b"x", None);
    for group in [all_of(vec![far.clone(), near.clone()]), any_of(vec![far, near])] {
        assert_eq!(verdict(&group, b"", Phase::Open), Verdict::NeedMore(5));
        assert_eq!(verdict(&not(group), b"", Phase::Open), Verdict::NeedMore(5));
    }
}

#[test]
fn the_end_settles_the_leaves_not_the_whole() {
    // What is not true of these bytes is false, so its negation is true.
    let matcher = not(prefix(b"GET "));
    assert_eq!(verdict(&matcher, b"GE", Phase::Open), Verdict::NeedMore(3));
    for phase in [Phase::Ended, Phase::Full, Phase::TimedOut] {
        assert_eq!(verdict(&matcher, b"GE", phase), Verdict::Match(()));
        assert_eq!(verdict(&matcher, b"", phase), Verdict::Match(()));
    }
}

#[test]
fn probes_give_details_through_groups() {
    let get = b"GET / HTTP/1.1\r\n";
    let seen = |matcher: &Matcher| {
        let sniffed = Sniffed { bytes: get, client: None, phase: Phase::Open };
        assert!(matcher.evaluate(&sniffed).is_match());
        matcher.seen(&sniffed).map(|seen| (seen.probe.to_string(), seen.details.to_string()))
    };
    let http = probe("http");
    let expected = Some(("http".to_owned(), "method=GET path=/ version=1.1".to_owned()));
    assert_eq!(seen(&http), expected);
    assert_eq!(seen(&all_of(vec![prefix(b"G"), http.clone()])), expected);
    assert_eq!(seen(&any_of(vec![prefix(b"X"), http.clone()])), expected);
    assert_eq!(seen(&any_of(vec![prefix(b"G"), http.clone()])), None);
    assert_eq!(seen(&not(not(http))), None);
}

#[test]
fn certain_matchers() {
    for matcher in [
        Matcher::Always,
        regex(""),
        regex("a*"),
        regex("^"),
        any_of(vec![prefix(b"a"), Matcher::Always]),
        all_of(vec![Matcher::Always, regex("(?s).*")]),
        not(regex(r"[^\x00-\xff]")),
    ] {
        assert!(matcher.is_certain(), "{matcher:?}");
        assert!(verdict(&matcher, b"", Phase::Open).is_match(), "{matcher:?}");
        assert_eq!(matcher.shortest_match(), Some(0), "{matcher:?}");
    }
    for matcher in [regex("$"), regex("a"), prefix(b"a"), not(prefix(b"a")), client(&["0.0.0.0/0"])]
    {
        assert!(!matcher.is_certain(), "{matcher:?}");
    }
    assert_eq!(not(Matcher::Always).shortest_match(), None);
    assert_eq!(all_of(vec![Matcher::Always, regex(r"[^\x00-\xff]")]).shortest_match(), None);
}

#[test]
fn covering() {
    for matcher in one_of_each() {
        assert!(matcher.covers(&matcher), "{matcher:?}");
        assert!(Matcher::Always.covers(&matcher), "{matcher:?}");
        assert_eq!(matcher.covers(&Matcher::Always), matcher == Matcher::Always, "{matcher:?}");
        assert!(any_of(vec![regex("x"), matcher.clone()]).covers(&matcher), "{matcher:?}");
        assert!(matcher.covers(&all_of(vec![regex("x"), matcher.clone()])), "{matcher:?}");
        assert!(!prefix(b"zz").covers(&matcher), "{matcher:?}");
    }
    assert!(prefix(b"G").covers(&prefix(b"GET ")));
    assert!(!prefix(b"GET ").covers(&prefix(b"G")));
    assert!(regex("^G").covers(&prefix(b"GET ")));
    assert!(!regex("^G$").covers(&prefix(b"G")));
    assert!(probe("ssh").covers(&prefix(b"SSH-2.0-")));
    assert!(probe("http").covers(&probe("http2")));
    assert!(!probe("http1").covers(&probe("http")));
    assert!(client(&["10.0.0.0/8"]).covers(&client(&["10.1.0.0/16", "10.2.0.0/16"])));
    assert!(!client(&["10.1.0.0/16"]).covers(&client(&["10.0.0.0/8"])));
    assert!(prefix(b"a").covers(&any_of(vec![prefix(b"ab"), prefix(b"ac")])));
    assert!(!prefix(b"a").covers(&any_of(vec![prefix(b"ab"), prefix(b"b")])));
    assert!(not(prefix(b"ab")).covers(&not(prefix(b"a"))));
}

#[test]
fn covering_gives_up_on_deep_nests() {
    let nest = |leaf: &[u8], side: &[u8]| {
        (0..40).fold(prefix(leaf), |inner, depth| {
            let members = vec![regex("x"), inner, prefix(side)];
            if depth % 2 == 0 { all_of(members) } else { any_of(members) }
        })
    };
    assert!(!nest(b"a", b"c").covers(&nest(b"b", b"d")));
}
