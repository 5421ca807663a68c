//! `mux explain`: the whole account as text and as JSON, its exit codes, and its arguments.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{Process, Scratch, mux, run};
use serde_json::{Value, json};

const RULES: &str = r#"
[[listener]]
name = "edge"
address = "127.0.0.1:0"
sniff_timeout = "500ms"
sniff_limit = 24
on_timeout = "mail"
on_no_match = "reset"
rules = ["office", "api", "slow", "tls"]

[[rule]]
name = "office"
match = { all = ["ssh", { client = ["10.0.0.0/8"] }] }
upstream = 22

[[rule]]
name = "api"
match = { any = [{ prefix = "GET /api" }, { bytes = { offset = 1, hex = "0102", mask = "ff0f" } }] }
upstream = "pool"
relay = "splice"

[[rule]]
name = "slow"
match = { regex = "Host: a" }
upstream = "builtin:whoami"

[[rule]]
name = "tls"
match = { prefix_hex = "16 03" }
upstream = "10.0.0.1:443"

[[rule]]
name = "mail"
upstream = 25

[[upstream]]
name = "pool"
endpoints = [80, "web.internal:81"]
"#;

/// Runs `mux explain` on [`RULES`], with this on its standard input.
fn explain(arguments: &[&str], input: &[u8]) -> Result<Output> {
    explain_file(RULES, arguments, input)
}

fn explain_file(rules: &str, arguments: &[&str], input: &[u8]) -> Result<Output> {
    let scratch = Scratch::new()?;
    scratch.write("rules.toml", rules)?;
    let mut command = Command::new(mux()?);
    command.current_dir(scratch.path()).args(["explain", "--rules", "rules.toml"]).args(arguments);
    let mut process = Process::start_with(command.stdin(Stdio::piped()))?;
    let mut pipe = process.input().context("a pipe")?;
    // One that does not read all of it closes the pipe.
    let _ = pipe.write_all(input);
    drop(pipe);
    process.output()
}

#[track_caller]
fn printed(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}{error}");
    assert_eq!(error, "");
    text
}

#[test]
fn an_account_as_people_see_it() -> Result<()> {
    let output = explain(&["--hex", "53 53 48 2d 32 2e 30 2d 1b 0d 0a"], b"")?;
    assert_eq!(
        printed(&output, 0),
        r#"rules.toml: listener `edge`, client 127.0.0.1 (assumed: `--client` names another)
11 bytes: SSH-2.0-\x1b\x0d\x0a

office: no, sure before the first byte
  all of these:
    yes  probe ssh: version=2.0 software=\x1b
    no   client 10.0.0.0/8: 127.0.0.1 is not in it
api: no, sure after 2 bytes
  any of these:
    no   prefix "GET /api": byte 1 is 0x53 (S), not 0x47 (G)
    no   bytes 01 02 at offset 1, mask ff 0f: byte 2 is 0x53 (S), not 0x01
slow: undecided, needs at least 12 bytes
  regex Host: a: not found yet, and it never says no while more bytes can come
held back by it: `tls` (it says no)
=> undecided: `slow` needs at least 12 bytes

If no more bytes come:
slow: no, because no more bytes are looked at
  regex Host: a: not found
tls: no, sure after 1 byte
  prefix "\x16\x03": byte 1 is 0x53 (S), not 0x16
=> when the client ends its stream: no rule matches, and `on_no_match` resets it
=> after 500ms (`sniff_timeout`): no rule matches, and `on_timeout` gives it to `mail`: upstream 127.0.0.1:25, relay auto
"#
    );
    Ok(())
}

#[test]
fn the_client_decides() -> Result<()> {
    let ssh = b"SSH-2.0-x\r\n";
    let output = explain(&["--stdin", "--client", "10.1.2.3:4567"], ssh)?;
    assert_eq!(
        printed(&output, 0),
        r"rules.toml: listener `edge`, client 10.1.2.3
11 bytes: SSH-2.0-x\x0d\x0a

office: match, sure after 8 bytes
  all of these:
    yes  probe ssh: version=2.0 software=x
    yes  client 10.0.0.0/8: 10.1.2.3 is in 10.0.0.0/8
=> `office` takes it: upstream 127.0.0.1:22, relay auto
"
    );
    Ok(())
}

#[test]
fn a_file_and_a_client_of_ipv6() -> Result<()> {
    let rules = "listen = \"127.0.0.1:0\"\n[[rule]]\nname = \"six\"\n\
        match = { all = [\"ssh\", { client = [\"2001:db8::/32\", \"::ffff:10.0.0.0/104\"] }] }\nupstream = 22\n\
        [[rule]]\nname = \"four\"\nmatch = { client = [\"10.0.0.0/8\"] }\nupstream = 23\n";
    let scratch = Scratch::new()?;
    let file = scratch.write("first bytes", b"SSH-2.0-x\r\n")?;
    let file = file.to_str().context("a path in UTF-8")?;
    for (client, shown) in [("2001:db8::7", "2001:db8::7"), ("[2001:db8::7]:4567", "2001:db8::7")] {
        let output = explain_file(rules, &["--file", file, "--client", client], b"")?;
        assert_eq!(
            printed(&output, 0),
            format!(
                r"rules.toml: listener `listener-1`, client {shown}
11 bytes: SSH-2.0-x\x0d\x0a

six: match, sure after 8 bytes
  all of these:
    yes  probe ssh: version=2.0 software=x
    yes  client 2001:db8::/32, ::ffff:10.0.0.0/104: {shown} is in 2001:db8::/32
=> `six` takes it: upstream 127.0.0.1:22, relay auto
"
            )
        );
    }
    // An IPv4 client of a dual-stack listener is one of IPv4.
    let output =
        explain_file(rules, &["--file", file, "--client", "::ffff:10.1.2.3", "--json"], b"")?;
    let report: Value = serde_json::from_str(&printed(&output, 0))?;
    ensure!(report["client"] == json!("10.1.2.3"), "{report}");
    ensure!(report.to_string().contains("\"four\""), "{report}");
    Ok(())
}

#[test]
fn chunks_are_told_where_they_change_something() -> Result<()> {
    let output = explain(&["--stdin", "--split", "3,1"], b"GET /api/x HTTP/1.1\r\n")?;
    assert_eq!(
        printed(&output, 0),
        r#"rules.toml: listener `edge`, client 127.0.0.1 (assumed: `--client` names another)
21 bytes: GET\x20/api/x\x20HTTP/1.1\x0d\x0a

With chunk 1, 3 bytes in all:
office: no, sure before the first byte
  all of these:
    no   probe ssh: it is something else
    no   client 10.0.0.0/8: 127.0.0.1 is not in it
api: undecided, needs at least 4 bytes
  any of these:
    ?    prefix "GET /api": the first 3 of its 8 bytes are there
    no   bytes 01 02 at offset 1, mask ff 0f: byte 2 is 0x45 (E), not 0x01
held back by it: `slow` (it is undecided), `tls` (it says no)
=> undecided: `api` needs at least 4 bytes

With chunk 3, 21 bytes in all:
api: match, sure after 8 bytes
  any of these:
    yes  prefix "GET /api": all 8 bytes are there
    no   bytes 01 02 at offset 1, mask ff 0f: byte 2 is 0x45 (E), not 0x01
=> `api` takes it: upstream pool (127.0.0.1:80, web.internal:81), relay splice
"#
    );
    Ok(())
}

#[test]
fn a_trace_for_programs() -> Result<()> {
    let output = explain(&["--json", "--hex", r"\x16:03,0x01 00"], b"")?;
    let report: Value = serde_json::from_str(&printed(&output, 0))?;
    let office = json!({
        "rule": "office", "asked": true, "kind": "all", "condition": "", "verdict": "no",
        "needs": null, "sure_at": 0, "saw": "nothing",
        "members": [
            {
                "kind": "probe", "condition": "ssh", "verdict": "no", "needs": null,
                "sure_at": 1, "saw": "protocol", "details": {},
            },
            {
                "kind": "client", "condition": "10.0.0.0/8", "verdict": "no", "needs": null,
                "sure_at": 0, "saw": "client", "client": "127.0.0.1", "network": null,
            },
        ],
    });
    let different = |at: u64, found: u64, expected: u64| json!({ "at": at, "found": found, "expected": expected, "mask": 255 });
    let api = json!({
        "rule": "api", "asked": true, "kind": "any", "condition": "", "verdict": "no",
        "needs": null, "sure_at": 2, "saw": "nothing",
        "members": [
            {
                "kind": "prefix", "condition": "\"GET /api\"", "verdict": "no", "needs": null,
                "sure_at": 1, "saw": "bytes", "offset": 0, "of": 8, "equal": 0,
                "differs": different(0, 0x16, 0x47),
            },
            {
                "kind": "bytes", "condition": "01 02 at offset 1, mask ff 0f", "verdict": "no",
                "needs": null, "sure_at": 2, "saw": "bytes", "offset": 1, "of": 2, "equal": 0,
                "differs": different(1, 3, 1),
            },
        ],
    });
    let slow = |verdict: &str, needs: Value, can_refuse: bool| {
        json!({
            "rule": "slow", "asked": true, "kind": "regex", "condition": "Host: a",
            "verdict": verdict, "needs": needs, "sure_at": null, "saw": "search",
            "can_refuse": can_refuse,
        })
    };
    let tls = |asked: bool| {
        json!({
            "rule": "tls", "asked": asked, "kind": "prefix", "condition": "\"\\x16\\x03\"",
            "verdict": "match", "needs": null, "sure_at": 2, "saw": "bytes", "offset": 0,
            "of": 2, "equal": 2, "differs": null,
        })
    };
    let routed = json!({
        "fate": "routed", "rule": "tls", "why": "matched", "upstream": "10.0.0.1:443",
        "endpoints": ["10.0.0.1:443"], "relay": "auto", "probe": null, "details": null,
    });
    let expected = json!({
        "file": "rules.toml",
        "client_given": false,
        "traces": [{
            "listener": "edge", "client": "127.0.0.1", "bytes": 4,
            "input": "\\x16\\x03\\x01\\x00", "truncated": false, "sniff_limit": 24,
            "sniff_timeout_ms": 500, "chunks": 1,
            "steps": [{
                "chunk": 1, "bytes": 4, "full": false,
                "rules": [office, api, slow("needs_more", json!(5), false), tls(false)],
                "fate": { "fate": "undecided", "waits_for": "slow", "needs": 5 },
            }],
            "silence": {
                "rules": [office, api, slow("no", Value::Null, true), tls(true)],
                "ended": routed, "timed_out": routed,
            },
        }],
    });
    assert_eq!(report, expected, "{report:#}");
    Ok(())
}

#[test]
fn what_is_beyond_the_limit_is_ignored() -> Result<()> {
    let output = explain(&["--stdin"], &[b"x".repeat(24).as_slice(), b"Host: a"].concat())?;
    let text = printed(&output, 1);
    for part in [
        "24 bytes: xxxxxxxxxxxxxxxxxxxxxxxx\nThere are more, which are ignored: `sniff_limit` is 24\n",
        "slow: no, because no more bytes are looked at\n",
        "=> no rule matches, and `on_no_match` resets it (at `sniff_limit`)\n",
    ] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

#[test]
fn listeners_that_differ_are_each_explained() -> Result<()> {
    let rules = "[[listener]]\nname = 'a'\naddress = '127.0.0.1:1'\nrules = ['ssh']\n\
                 [[listener]]\nname = 'b'\naddress = 'unix:/tmp/mux-explain.sock'\n\
                 [[rule]]\nname = 'ssh'\nmatch = 'ssh'\nupstream = 22\n\
                 [[rule]]\nname = 'web'\nmatch = { prefix = 'G' }\nupstream = 80\n";
    let both = printed(&explain_file(rules, &["--hex", "47"], b"")?, 1);
    for part in [
        "rules.toml: listener `a`, client 127.0.0.1 (assumed",
        "=> no rule matches, and `on_no_match` closes it\n",
        "rules.toml: listener `b`, a client of a Unix socket, which has no address\n",
        "=> `web` takes it: upstream 127.0.0.1:80, relay auto\n",
        "\nThe listeners differ: `--listener NAME` explains one of them.\n",
    ] {
        ensure!(both.contains(part), "no {part:?} in:\n{both}");
    }
    let one = printed(&explain_file(rules, &["--hex", "47", "--listener", "b"], b"")?, 0);
    ensure!(!one.contains("listener `a`") && !one.contains("differ"), "{one}");

    let alike = "listen = ['127.0.0.1:1', '127.0.0.1:2']\n[[rule]]\nupstream = 80\n";
    let first = printed(&explain_file(alike, &[], b"")?, 0);
    ensure!(first.contains("listener `listener-1` (like the 1 other), client"), "{first}");
    ensure!(first.contains("rule-1: match, sure before the first byte\n"), "{first}");
    Ok(())
}

#[test]
fn wrong_arguments_and_files_are_told() -> Result<()> {
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--hex", "16g3"], 64, "character 3, 'g', is not a hexadecimal digit"),
        (&["--hex", "16 3"], 64, "the digit '3', character 4, is alone: a byte has two"),
        (&["--hex", "16", "--stdin"], 64, "cannot be used with"),
        (&["--client", "office"], 64, "this is not an IP address"),
        (&["--split", "0"], 64, "--split"),
        (&["--listener", "egde"], 64, "hint: did you mean `edge`?"),
        (&["--file", "/nonexistent/x"], 64, "cannot read /nonexistent/x: No such file"),
    ];
    for (arguments, code, part) in cases {
        let output = explain(arguments, b"")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(*code), "{arguments:?}: {}: {error}", output.status);
        ensure!(error.contains(part), "{arguments:?}: no {part:?} in:\n{error}");
    }
    let output = explain_file("listen = 1\n", &[], b"")?;
    ensure!(output.status.code() == Some(78), "{}", output.status);
    let output = run(Command::new(mux()?).arg("explain"))?;
    ensure!(output.status.code() == Some(64), "{}", output.status);
    Ok(())
}

#[test]
fn access_lists_are_told() -> Result<()> {
    let rules = "[[listener]]\naddress = '127.0.0.1:1'\ndeny = ['192.0.2.0/24']\n\
                 [[rule]]\nname = 'ssh'\nmatch = 'ssh'\nallow = ['10.0.0.0/8']\nupstream = 22\n";
    for (client, code, fate) in [
        ("10.0.0.1", 0, "=> `ssh` takes it: upstream 127.0.0.1:22, relay auto\n"),
        (
            "127.0.0.1",
            1,
            "=> `ssh` would take it, but its `allow` and `deny` do not permit the client: reset\n",
        ),
        (
            "192.0.2.9",
            1,
            "Before the first byte:\n\
             => the listener's `allow` and `deny` do not permit the client: reset\n",
        ),
    ] {
        let output = explain_file(rules, &["--stdin", "--client", client], b"SSH-2.0-x\r\n")?;
        let text = printed(&output, code);
        ensure!(text.ends_with(fate), "no {fate:?} in:\n{text}");
    }
    Ok(())
}
