//! Files that nobody wrote on purpose: every answer is a configuration or a report.

use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;
use crate::{
    probe::Probes,
    rules::{config::Otherwise, load},
};

/// A file with everything in it.
const FILE: &str = r#"
listen = ["0.0.0.0:3000", "[::]:3000"]
[[listener]]
name = "edge"
address = "unix:/run/mux.sock"
sniff_timeout = "3s"
sniff_limit = "64KiB"
on_timeout = "ssh"
on_no_match = "close"
max_connections = 10000
rules = ["ssh", "web"]
[[rule]]
name = "web"
match = { prefix = "GET ", client = ["10.0.0.0/8", "::1"], not = { any = ["tls", "socks"] } }
upstream = "web"
relay = "auto"
on_no_upstream = "ssh"
[[rule]]
name = "ssh"
match = { all = ["ssh", { regex = '^SSH-[12]\.' }, { bytes = { offset = 2, hex = "48", mask = "ff" } }] }
upstream = 22
[[upstream]]
name = "web"
endpoints = ["10.0.0.5:443", { address = "app:80", weight = 2, max_connections = 5 }, { address = 80, backup = true }]
balance = "random-two"
connect_timeout = "2s"
retries = 2
resolve = "30s"
max_connections = 7
queue = { length = 5, timeout = "1s", half_closed = "waits" }
health = { interval = "2s", timeout = "1s", rise = 2, fall = 3, send = "PING", expect_regex = '^\+PONG' }
eject = { failures = 3, backoff = "1s", max = "1m" }
[timeouts]
idle = "1h"
[limits]
max_connections = 10000
[log]
level = "info"
access = { format = "json", file = "/tmp/x" }
[security]
user = "nobody"
landlock = "auto"
seccomp = "off"
keeper = "auto"
[kernel]
send_buffer = "2MiB"
backlog_limit = "512KiB"
"#;

/// Either there is a configuration whose indices are right, or a report that is not empty.
fn is_answered(text: &str) -> Result<(), TestCaseError> {
    match parse("rules.toml", text) {
        Ok(config) => {
            prop_assert!(!config.listeners.is_empty() && !config.rules.is_empty());
            for rule in &config.rules {
                prop_assert!(config.upstreams.get(rule.upstream.0).is_some());
                prop_assert!(comes_to_an_end(&config, rule.on_no_upstream));
            }
            for listener in &config.listeners {
                prop_assert!(listener.rules.ids().next().is_some());
                prop_assert!(listener.rules.ids().all(|id| id.0 < config.rules.len()));
            }
            for upstream in &config.upstreams {
                prop_assert!(upstream.endpoints.iter().any(|endpoint| !endpoint.backup));
                prop_assert!(upstream.endpoints.iter().all(|endpoint| endpoint.weight > 0));
            }
        }
        Err(error) => {
            let report = error.to_string();
            prop_assert!(report.starts_with("error: "), "{}", report);
            prop_assert!(report.contains("rules.toml:"), "{}", report);
            prop_assert!(!error.render(Style::Coloured).is_empty());
        }
    }
    Ok(())
}

/// Whether what stands in for an upstream is found in fewer steps than there are rules.
fn comes_to_an_end(config: &Config, mut next: Otherwise) -> bool {
    for _ in &config.rules {
        let Otherwise::Rule(id) = next else { return true };
        next = config.rules[id.0].on_no_upstream;
    }
    !matches!(next, Otherwise::Rule(_))
}

#[test]
fn the_file_is_valid() {
    config(FILE);
}

#[test]
fn every_beginning_of_a_file_is_answered() {
    for end in 0..=FILE.len() {
        is_answered(&FILE[..end]).expect("an answer");
    }
}

#[test]
fn deep_nests_are_refused_not_overflowed() {
    for (open, close) in [("{ not = ", " }"), ("{ any = [", "] }"), ("[", "]")] {
        let nest = format!("{}'tls'{}", open.repeat(10_000), close.repeat(10_000));
        is_answered(&format!("{LISTEN}[[rule]]\nupstream = 80\nmatch = {nest}\n"))
            .expect("an answer");
    }
}

proptest! {
    /// Pieces of the file cut out, doubled, moved, or replaced by something else.
    #[test]
    fn mutated_files_are_answered(
        cuts in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), "\\PC{0,3}|[\\[\\]{}=\"'#,\n\\\\.]{1,3}"),
            1..5,
        )
    ) {
        let mut text: Vec<char> = FILE.chars().collect();
        for (from, to, replacement) in cuts {
            let from = from.index(text.len());
            let to = (from + to.index(12)).min(text.len());
            text.splice(from..to, replacement.chars());
            text.push('\n');
        }
        is_answered(&text.into_iter().collect::<String>())?;
    }

    /// Every value of the file replaced by one of another kind.
    #[test]
    fn values_of_other_kinds_are_answered(
        line in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![
            "0", "-1", "99999999999999999999", "1.5", "nan", "true", "''", "'\u{85}'", "[]", "{}",
            "[[]]", "[{}]", "1979-05-27", "'tls'", "['tls']", "0x7fffffffffffffff", "{ not = {} }",
        ]),
    ) {
        let mut lines: Vec<String> = FILE.lines().map(str::to_owned).collect();
        let line = line.index(lines.len());
        if let Some((key, _)) = lines[line].split_once(" = ") {
            lines[line] = format!("{key} = {value}");
        }
        is_answered(&lines.join("\n"))?;
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,60}") {
        is_answered(&text)?;
    }
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("rules.toml");
    let error = load(&missing, &Probes::default()).expect_err("there is no file").to_string();
    assert!(error.starts_with(&format!("error: cannot read {}: ", missing.display())), "{error}");
    assert!(error.ends_with("= hint: name a file that is there: `--rules rules.toml`"), "{error}");

    let error = load(folder.path(), &Probes::default()).expect_err("it is a folder").to_string();
    assert!(error.ends_with("= hint: name a file in this directory"), "{error}");

    let invalid = folder.path().join("latin1.toml");
    fs::write(&invalid, b"listen = 1\nname = \"\xe9\"\n").expect("written");
    let error = load(&invalid, &Probes::default()).expect_err("it is not UTF-8").to_string();
    let expected = format!("error: {}:2:9: this is not UTF-8\n  = hint: ", invalid.display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn files_that_can_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.toml");
    // An editor's byte order mark and Windows line ends do no harm.
    fs::write(&path, format!("\u{feff}{LISTEN}{RULE}").replace('\n', "\r\n")).expect("written");
    assert_eq!(load(&path, &Probes::default()).expect("valid").rules.len(), 1);

    fs::write(&path, "[[rule]]\nupstrem = 80\n").expect("written");
    let error = load(Path::new(&path), &Probes::default()).expect_err("a typo").to_string();
    assert!(error.contains(&format!("{}:2:1\n", path.display())), "{error}");
}
