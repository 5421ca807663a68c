//! `tls = { … }` and `http = { … }`: every key, and everything that can be wrong with it.

use super::*;
use crate::{
    probe::{HttpVersion, TlsVersion},
    route::{
        FieldName, HttpConditions, HttpMatcher, Matcher, Name, NamePattern, Names, Regex, Sni,
        TlsMatcher,
    },
};

/// A file of one rule whose `match` is this.
fn matching(condition: &str) -> String {
    format!("{LISTEN}[[rule]]\nmatch = {condition}\nupstream = 80\n")
}

#[track_caller]
fn matcher(condition: &str) -> Matcher {
    config(&matching(condition)).rules[0].matcher.clone()
}

fn exact(name: &str) -> NamePattern {
    NamePattern::host(name).expect(name)
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect(pattern)
}

fn names(patterns: impl Into<Box<[NamePattern]>>) -> Names {
    Names::new(patterns).expect("not empty")
}

#[test]
fn every_key_of_tls() {
    let tls = |sni, alpn, versions| {
        Matcher::Tls(TlsMatcher::new(sni, alpn, versions).expect("a condition"))
    };
    let a = Sni::Names(names([exact("a.example"), exact("*.b.example")]));
    let all = TlsVersion::ALL.to_vec();
    for (text, expected) in [
        ("{ tls = { sni = ['A.example', '*.b.example.'] } }", tls(Some(a), None, None)),
        ("{ tls = { sni = [] } }", tls(Some(Sni::Absent), None, None)),
        (
            "{ tls = { sni = [{ regex = '^c' }] } }",
            tls(Some(Sni::Names(names([NamePattern::Regex(regex("^c"))]))), None, None),
        ),
        (
            "{ tls = { sni = 'c.example' } }",
            tls(Some(Sni::Names(names([exact("c.example")]))), None, None),
        ),
        (
            "{ tls = { alpn = ['http/1.1', 'h2', 'of-my-own'] } }",
            tls(
                None,
                Some(vec![(*b"h2").into(), (*b"http/1.1").into(), (*b"of-my-own").into()]),
                None,
            ),
        ),
        (
            "{ tls = { version = ['1.3', '1.2', '1.1', '1.0', 'ssl3'] } }",
            tls(None, None, Some(all)),
        ),
        (
            "{ tls = { sni = [], version = ['1.2'] } }",
            tls(Some(Sni::Absent), None, Some(vec![TlsVersion::Tls12])),
        ),
    ] {
        assert_eq!(matcher(text), expected, "{text}");
    }
}

#[test]
fn what_can_be_wrong_with_tls() {
    let empty = "an empty list would match nobody";
    for (inner, at, message, hint) in [
        (
            "{}",
            "{}",
            "this condition says nothing",
            "match every TLS client with `match = \"tls\"`",
        ),
        ("{ alpn = [] }", "[]", empty, "name at least one, such as \"h2\", or leave the key out"),
        ("{ version = [] }", "[]", empty, "name at least one, such as \"1.3\""),
        (
            "{ version = ['1.4'] }",
            "'1.4'",
            "unknown version `1.4` of TLS",
            "one of: \"ssl3\", \"1.0\", \"1.1\", \"1.2\", \"1.3\"",
        ),
        ("{ alpn = [''] }", "''", "this cannot be a protocol's name", "write a name such as"),
        ("{ snii = [] }", "snii", "unknown key `snii` in `tls`", "did you mean `sni`?"),
        ("{ sni = [{}] }", "{}", "`regex` is missing in a name", "add `regex = "),
        ("{ sni = [{ regex = '(' }] }", "'('", "this regular expression does not", "the syntax"),
        ("{ sni = [{ regx = 'a', regex = 'a' }] }", "regx", "unknown key `regx` in a name", "did"),
    ] {
        refused(&matching(&format!("{{ tls = {inner} }}")), at, message, hint);
    }
    let long = format!("{{ tls = {{ alpn = ['{}'] }} }}", "x".repeat(256));
    refused(&matching(&long), "'xxx", "this cannot be a protocol's name", "write a name such as");
    for (condition, message) in [
        ("{ tls = true }", "expected a table, found a boolean"),
        ("{ tls = 'h2' }", "expected a table, found a string"),
        (
            "{ tls = { sni = [1] } }",
            "expected a host name or `{ regex = \"…\" }`, found an integer",
        ),
        ("{ tls = { alpn = [1] } }", "expected a string, found an integer"),
        ("{ tls = { version = [1.3] } }", "expected a string, found a float"),
    ] {
        let report = report(&matching(condition));
        assert!(report.starts_with(&format!("error: {message}\n --> rules.toml:3:")), "{report}");
    }
    let both = report(&matching("{ tls = { sni = ['a b', 'ä'], alpn = [''] } }"));
    assert_eq!(both.matches("error: ").count(), 3, "{both}");
}

#[test]
fn every_key_of_http() {
    let none = HttpConditions::default;
    let texts = |list: &[&str]| Some(list.iter().map(|text| (*text).into()).collect());
    let address = NamePattern::Exact(Name::address([0, 0, 0, 0, 0, 0, 0, 1].into()));
    let header = |name, pattern| (FieldName::new(name).expect("a name"), regex(pattern));
    for (text, conditions) in [
        (
            "method = ['GET', 'M-SEARCH']",
            HttpConditions { methods: texts(&["GET", "M-SEARCH"]), ..none() },
        ),
        (
            "host = ['a.example', '*.b.example', { regex = '^c' }]",
            HttpConditions {
                hosts: Some(names([
                    exact("a.example"),
                    exact("*.b.example"),
                    NamePattern::Regex(regex("^c")),
                ])),
                ..none()
            },
        ),
        (
            "host = ['[::1]', '::1', '10.0.0.1']",
            HttpConditions {
                hosts: Some(names([address.clone(), address, exact("10.0.0.1")])),
                ..none()
            },
        ),
        ("path = ['/a', '*']", HttpConditions { paths: texts(&["*", "/a"]), ..none() }),
        ("path_prefix = '/a/'", HttpConditions { path_prefixes: texts(&["/a/"]), ..none() }),
        (
            "path_prefix = ['/b', '/a']",
            HttpConditions { path_prefixes: texts(&["/a", "/b"]), ..none() },
        ),
        ("path_regex = '^/x'", HttpConditions { path_regexes: Some(vec![regex("^/x")]), ..none() }),
        (
            "header = { User-Agent = '^curl/', accept = 'json' }",
            HttpConditions {
                headers: vec![header("user-agent", "^curl/"), header("accept", "json")],
                ..none()
            },
        ),
        (
            "version = ['1.0', '1.1', '2']",
            HttpConditions { versions: Some(HttpVersion::ALL.to_vec()), ..none() },
        ),
        (
            "method = 'GET', path_prefix = '/'",
            HttpConditions { methods: texts(&["GET"]), path_prefixes: texts(&["/"]), ..none() },
        ),
    ] {
        let expected = Matcher::Http(HttpMatcher::new(conditions).expect("a condition"));
        assert_eq!(matcher(&format!("{{ http = {{ {text} }} }}")), expected, "{text}");
    }
}

#[test]
fn what_can_be_wrong_with_http() {
    let empty = "an empty list would match nobody";
    let nothing = "this condition says nothing";
    for (inner, at, message, hint) in [
        ("{}", "{}", nothing, "match every HTTP client with `match = \"http\"`"),
        ("{ host = [] }", "[]", empty, "name at least one, such as \"a.example\""),
        ("{ method = [] }", "[]", empty, "name at least one, such as \"GET\""),
        ("{ path = [] }", "[]", empty, "name at least one, such as \"/\""),
        ("{ path_prefix = [] }", "[]", empty, "name at least one, such as \"/\""),
        ("{ path_regex = [] }", "[]", empty, "name at least one, such as \"^/a\""),
        ("{ version = [] }", "[]", empty, "name at least one, such as \"1.1\""),
        ("{ header = {} }", "{}", nothing, "name a field, as in `header = { user-agent = "),
        ("{ hots = ['a'] }", "hots", "unknown key `hots` in `http`", "did you mean `host`?"),
        ("{ method = ['a b'] }", "'a b'", "`a b` is not a method", "write a method such as"),
        ("{ method = [''] }", "''", "`` is not a method", "write a method such as"),
        (
            "{ method = ['get'] }",
            "'get'",
            "no client says `get`: methods have case",
            "write \"GET\"",
        ),
        (
            "{ version = ['2.0'] }",
            "'2.0'",
            "unknown version `2.0` of HTTP",
            "one of: \"1.0\", \"1.1\", \"2\"",
        ),
        ("{ path = ['a'] }", "'a'", "`a` is not a path", "a path begins with `/`"),
        ("{ path_prefix = '' }", "''", "`` is not a path", "a path begins with `/`"),
        ("{ path = ['/a?b'] }", "'/a?b'", "`/a?b` is not a path", "only what is before `?`"),
        ("{ path = ['/a b'] }", "'/a b'", "`/a b` is not a path", "write it as it is sent, with"),
        ("{ path_regex = '(' }", "'('", "this regular expression does not", "the syntax is"),
        (
            "{ header = { 'a b' = '' } }",
            "'a b'",
            "`a b` is not a field's name",
            "names have letters",
        ),
        ("{ header = { ':path' = '' } }", "':path'", "`:path` is not a field's name", "use `path`"),
        (
            "{ header = { ':authority' = '' } }",
            "':au",
            "`:authority` is not a field's",
            "use `host`",
        ),
        ("{ header = { a = '(' } }", "'('", "this regular expression does not", "the syntax is"),
        (
            "{ host = ['a.example:80'] }",
            "'a.example:80'",
            "`a.example:80` is not a host name",
            "the port is no part of what is compared: write \"a.example\"",
        ),
        (
            "{ host = ['[::1]:80'] }",
            "'[::1]:80'",
            "`[::1]:80` is not a host name",
            "the port is no part of what is compared: write \"[::1]\"",
        ),
    ] {
        refused(&matching(&format!("{{ http = {inner} }}")), at, message, hint);
    }
    for (condition, message) in [
        ("{ http = 'GET' }", "expected a table, found a string"),
        ("{ http = { header = 'a: b' } }", "expected a table, found a string"),
        ("{ http = { header = { a = 1 } } }", "expected a string, found an integer"),
        ("{ http = { host = [{}] } }", "`regex` is missing in a name"),
    ] {
        let report = report(&matching(condition));
        assert!(report.starts_with(&format!("error: {message}\n --> rules.toml:3:")), "{report}");
    }
}

#[test]
fn what_can_be_wrong_with_a_name() {
    for (name, label, hint) in [
        ("", "an empty name", "write a name, or leave it out"),
        (".", "an empty name", "write a name, or leave it out"),
        ("a..example", "an empty label", "leave out the dot too many"),
        ("*", "a `*` alone", "`*.b.example` stands for every name below `b.example`"),
        ("a.*.example", "a `*` can only be the whole first label", "`*.b.example` stands for"),
        ("*b.example", "a `*` can only be the whole first label", "`*.b.example` stands for"),
        ("bücher.example", "not ASCII", "write its ASCII form, in which such a label begins with"),
        ("a b", "` ` in a name", "a name has letters, digits, `-`, `_` and dots"),
        ("https://a.example/", "`:` in a name", "this is a URL: write its host alone"),
        ("a.example/x", "`/` in a name", "a path is no part of a name: use `path_prefix`"),
        (
            "a.example:443",
            "`:` in a name",
            "the port is no part of what is compared: write \"a.example\"",
        ),
    ] {
        let text = matching(&format!("{{ tls = {{ sni = ['{name}'] }} }}"));
        refused(&text, &format!("'{name}'"), &format!("`{name}` is not a host name"), hint);
        let report = report(&text);
        assert!(report.contains(&format!("^ {label}")), "{report}");
    }
    for long in ["x".repeat(64), format!("{}x", "x.".repeat(127))] {
        let text = matching(&format!("{{ tls = {{ sni = ['{long}'] }} }}"));
        refused(&text, &format!("'{long}"), &format!("`{long}` is not a host name"), "no client");
    }
    for address in ["10.0.0.1", "::1", "[2001:db8::1]"] {
        let text = matching(&format!("{{ tls = {{ sni = ['{address}'] }} }}"));
        let message = format!("`{address}` is an address, not a name");
        let hint = "clients that connect to an address ask for no name: write `sni = []`";
        refused(&text, &format!("'{address}'"), &message, hint);
    }
}

#[test]
fn shadowed_names() {
    let after = |first: &str, second: &str| {
        format!(
            "{LISTEN}[[rule]]\nmatch = {first}\nupstream = 1\n[[rule]] # second\nmatch = {second}\nupstream = 2\n"
        )
    };
    let message = "rule `rule-2` is unreachable on listener `listener-1`";
    let hint = "rule `rule-1`, before it, matches all that it does";
    for (first, second) in [
        ("{ tls = { sni = ['*.example'] } }", "{ tls = { sni = ['a.example'], alpn = ['h2'] } }"),
        ("'tls'", "{ tls = { sni = ['b.example'] } }"),
        ("'http'", "{ http = { host = ['b.example'] } }"),
        ("{ http = { path_prefix = '/' } }", "{ http = { path = ['/x'], method = ['GET'] } }"),
    ] {
        refused(&after(first, second), second, message, hint);
    }
    config(&after("{ tls = { sni = ['a.example'] } }", "{ tls = { sni = ['*.example'] } }"));
}
