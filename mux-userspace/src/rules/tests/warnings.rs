//! What is odd about a file that can be used: what is said of it, and where.

use super::*;
use crate::{
    probe::{Probe, Probes, Verdict},
    rules::{Diagnostic, RulesFile, Severity, Surroundings, config::Address, parse_in},
};

/// A file that is right; the probe `mysql` is there.
#[track_caller]
fn file(text: &str) -> RulesFile {
    let mut probes = Probes::default();
    let mysql = Probe::custom("mysql", |_: &[u8]| Verdict::<()>::NoMatch);
    // Once mux has such a probe itself, it is the better one.
    let _ = probes.register(mysql);
    let surroundings = Surroundings { probes, ..Surroundings::default() };
    let config =
        parse_in("rules.toml", text, surroundings).unwrap_or_else(|error| panic!("{error}"));
    RulesFile { config, name: "rules.toml".into(), text: text.into() }
}

#[track_caller]
fn warnings(text: &str) -> Vec<Diagnostic> {
    let found = file(text).warnings();
    assert!(found.iter().all(|warning| warning.severity == Severity::Warning), "{found:?}");
    found
}

/// Checks that a file gets one warning, with this message, at the text `at`.
#[track_caller]
fn warned(text: &str, at: &str, message: &str) {
    let found = warnings(text);
    let [warning] = &found[..] else { panic!("not one warning: {found:?}") };
    assert_eq!(warning.message, message);
    assert_eq!(text.get(warning.span.clone()), Some(at));
    assert!(warning.hint.is_some());
}

/// A file with these conditions, and upstreams that are built in.
fn matching(conditions: &[&str]) -> String {
    let rule = |condition: &&str| format!("[[rule]]\nmatch = {condition}\nupstream = 80\n");
    LISTEN.to_owned() + &conditions.iter().map(rule).collect::<String>()
}

#[test]
fn a_warning_as_people_see_it() {
    let file = file(&matching(&["{ regex = 'Host: a' }", "'ssh'", "'tls'"]));
    assert_eq!(
        file.report(file.warnings()).to_string(),
        r"warning: rule `rule-1` makes rule `rule-2` and another one wait
 --> rules.toml:3:19
  |
3 | match = { regex = 'Host: a' }
  |                   ^^^^^^^^^ never says no before the sniff timeout, 3s
  |
  = hint: anchor it with `^` and do without `.*`, or put the rule after those that wait"
    );
}

#[test]
fn files_that_are_as_they_should_be() {
    for text in [
        matching(&["'http'", "{ regex = '^\\x16\\x03[\\x00-\\x03]' }", "'ssh'"]),
        matching(&["'ssh'", "{ regex = 'Host: a' }"]),
        matching(&["{ all = ['tls', { regex = 'a' }] }", "'ssh'"]),
        format!("{LISTEN}{RULE}"),
        format!("listen = ['0.0.0.0:80', '[::]:80', '127.0.0.1:81']\n{RULE}"),
        format!("listen = ['127.0.0.1:0', '0.0.0.0:0']\n{RULE}"),
    ] {
        assert_eq!(warnings(&text), [], "{text}");
    }
}

#[test]
fn patterns_that_match_everything() {
    let message = "this regular expression matches everything";
    for pattern in ["'.*'", "'a*'", "'$'", "'(?s)^.*$'", "'^|a'"] {
        warned(&matching(&["'ssh'", &format!("{{ regex = {pattern} }}")]), pattern, message);
    }
    warned(&matching(&["{ all = ['ssh', { regex = 'x?' }] }"]), "'x?'", message);
    for pattern in ["'^$'", "'.'", "'^.+'", "'(?s).'"] {
        assert_eq!(warnings(&matching(&[&format!("{{ regex = {pattern} }}")])), [], "{pattern}");
    }
}

#[test]
fn patterns_for_names_paths_and_fields_that_match_everything() {
    for (condition, pattern, what) in [
        ("{ tls = { sni = ['a.example', { regex = '.*' }] } }", "'.*'", "every name"),
        ("{ http = { host = [{ regex = '^' }] } }", "'^'", "every name"),
        ("{ http = { path_regex = '^.*' } }", "'^.*'", "every path"),
        ("{ http = { header = { upgrade = '.*' } } }", "'.*'", "every value"),
        ("{ all = ['http', { not = { http = { path_regex = 'x*' } } }] }", "'x*'", "every path"),
    ] {
        let message = format!("this regular expression matches {what}");
        warned(&matching(&[condition]), pattern, &message);
    }
    for condition in [
        "{ tls = { sni = [{ regex = '.' }] } }",
        "{ http = { path_regex = '^/.*' } }",
        // That the field is there.
        "{ http = { header = { upgrade = '' } } }",
    ] {
        assert_eq!(warnings(&matching(&[condition])), [], "{condition}");
    }
}

#[test]
fn a_sniff_limit_that_is_too_low_for_hellos() {
    let text = |limit, condition| {
        format!(
            "[[listener]]\nname = 'x'\naddress = '127.0.0.1:1'\nsniff_limit = {limit}\n\
             [[rule]]\nname = 'r'\nmatch = {condition}\nupstream = 80\n"
        )
    };
    let message = "rule `r` looks at ClientHellos, and listener `x` at 2047 bytes";
    for condition in ["'tls'", "{ tls = { alpn = ['h2'] } }", "{ any = ['ssh', 'tls'] }"] {
        warned(&text(2047, condition), condition, message);
        assert_eq!(warnings(&text(2048, condition)), [], "{condition}");
    }
    assert_eq!(warnings(&text(100, "'ssh'")), []);
}

#[test]
fn rules_that_make_others_wait() {
    warned(
        &matching(&["{ all = ['http', { regex = 'Host: a' }] }", "'ssh'", "'http1'"]),
        "'Host: a'",
        "rule `rule-1` makes rule `rule-3` wait",
    );
    // Each listener has an order of its own.
    let rules = "[[rule]]\nname = 'a'\nmatch = { regex = 'x' }\nupstream = 80\n\
                 [[rule]]\nname = 'b'\nmatch = 'ssh'\nupstream = 80\n";
    let listener =
        |port, rules| format!("[[listener]]\naddress = '127.0.0.1:{port}'\nrules = {rules}\n");
    let good = listener(1, "['b', 'a']");
    assert_eq!(warnings(&(good.clone() + rules)), []);
    let bad = good + &listener(2, "['a', 'b']") + &listener(3, "['a', 'b']");
    warned(&(bad + rules), "'x'", "rule `a` makes rule `b` wait");
}

#[test]
fn parts_of_a_condition_that_cannot_hold() {
    let text = |condition| {
        format!(
            "[[listener]]\nname = 'x'\naddress = '127.0.0.1:1'\nsniff_limit = 4\n\
             [[rule]]\nname = 'r'\nmatch = {condition}\nupstream = 80\n"
        )
    };
    let message = "a part of rule `r` can never match on listener `x`";
    for condition in ["{ any = [{ prefix = 'a' }, { prefix = 'bcdef' }] }", "{ not = 'ssh' }"] {
        warned(&text(condition), condition, message);
    }
    assert_eq!(warnings(&text("{ any = [{ prefix = 'a' }, { prefix = 'bcde' }] }")), []);
}

#[test]
fn rules_for_clients_that_wait_for_their_server() {
    let message = "clients of `mysql` wait for their server to speak first";
    for condition in ["'mysql'", "{ any = ['mysql'] }", "{ all = ['mysql', { prefix = 'a' }] }"] {
        warned(&matching(&[condition]), condition, message);
    }
    assert_eq!(warnings(&matching(&["{ any = ['mysql', 'ssh'] }", "{ not = 'mysql' }"])), []);
    let text = "[[listener]]\naddress = '127.0.0.1:1'\non_timeout = 'db'\n\
                [[rule]]\nname = 'db'\nmatch = 'mysql'\nupstream = 80\n";
    assert_eq!(warnings(text), []);
    // So does another rule that leads to the same server.
    let text = "[[listener]]\naddress = '127.0.0.1:1'\non_timeout = 'silent'\nrules = ['db']\n\
                [[rule]]\nname = 'db'\nmatch = 'mysql'\nupstream = 80\n\
                [[rule]]\nname = 'silent'\nupstream = 80\n";
    assert_eq!(warnings(text), []);
    warned(&text.replacen("80", "81", 1), "'mysql'", message);
}

#[test]
fn listeners_that_overlap() {
    warned(
        &format!("listen = ['0.0.0.0:80', '127.0.0.1:80']\n{RULE}"),
        "'127.0.0.1:80'",
        "listeners `listener-2` and `listener-1` overlap",
    );
    let text =
        format!("listen = '[::1]:80'\n[[listener]]\nname = 'all'\naddress = '[::]:80'\n{RULE}");
    warned(&text, "'[::1]:80'", "listeners `listener-1` and `all` overlap");
}

#[test]
fn every_address_is_found_where_it_stands() {
    let text = "listen = '127.0.0.1:1'\n\
        [[rule]]\nmatch = 'ssh'\nupstream = 'web'\n\
        [[rule]]\nmatch = 'tls'\nupstream = 'db.internal:5432'\n\
        [[rule]]\nupstream = 81\n\
        [[upstream]]\nname = 'web'\n\
        endpoints = ['/run/web', { address = 'unix:/run/other' }, 80]\n";
    let found = file(text).addresses();
    let found: Vec<(&str, String)> =
        found.iter().map(|(span, address)| (&text[span.clone()], address.to_string())).collect();
    let expected = [
        ("'db.internal:5432'", "db.internal:5432"),
        ("81", "127.0.0.1:81"),
        ("'/run/web'", "unix:/run/web"),
        ("'unix:/run/other'", "unix:/run/other"),
        ("80", "127.0.0.1:80"),
    ];
    assert_eq!(found, expected.map(|(text, address)| (text, address.to_owned())));
    assert!(matches!(file(text).addresses()[0].1, Address::Name { .. }));
}

#[test]
fn as_many_sniffed_connections_as_there_are_connections() {
    let limits = |text: &str| format!("{LISTEN}{RULE}[limits]\n{text}\n");
    let message = "clients that say nothing can take all 100 places";
    warned(&limits("max_connections = 100\nmax_sniffing = 100"), "100", message);
    let message = "clients that say nothing can take all 10000 places";
    warned(&limits("max_sniffing = 20000"), "20000", message);
    assert_eq!(warnings(&limits("max_connections = 100\nmax_sniffing = 99")), []);
    assert_eq!(warnings(&limits("max_connections = 100")), []);
}
