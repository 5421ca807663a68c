//! What is wrong with a rules file or a command line, and where: exit codes and messages.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use anyhow::{Result, ensure};
use mux_tests::{Daemon, Need, Scratch, Starter, mux, need, run, skip};

const USAGE: i32 = 64;
const NOT_PERMITTED: i32 = 77;
const CONFIG: i32 = 78;
const OTHER: i32 = 1;

/// Every part must be on standard error.
fn says(output: &Output, code: i32, parts: &[&str]) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{}, not {code}:\n{text}", output.status);
    for part in parts {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

/// The daemon and `mux check` must both refuse it, in the same words.
fn refused(rules: &str, parts: &[&str]) -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.write("bad.toml", rules)?;
    let checked = Daemon::check(&file)?;
    says(&checked, CONFIG, parts)?;
    let served = Starter::file(&file).fail()?;
    says(&served, CONFIG, parts)?;
    ensure!(checked.stderr == served.stderr, "the daemon and `mux check` differ");
    Ok(())
}

#[test]
fn an_unknown_key_is_shown_with_what_may_be_meant() -> Result<()> {
    refused(
        "listen = \"127.0.0.1:0\"\n\n[[rule]]\nmach = \"ssh\"\nupstream = 22\n",
        &[
            "unknown key `mach`",
            "bad.toml:4:1",
            "4 | mach = \"ssh\"",
            "| ^^^^",
            "hint: did you mean `match`?",
        ],
    )
}

#[test]
fn a_bad_regular_expression_is_shown() -> Result<()> {
    refused(
        "listen = \"127.0.0.1:0\"\n[[rule]]\nmatch = { regex = '^(GET' }\nupstream = 80\n",
        &["bad.toml:3:19", "3 | match = { regex = '^(GET' }", "^^^", "hint:"],
    )
}

#[test]
fn a_wrong_type_is_shown() -> Result<()> {
    refused(
        "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = true\n",
        &["bad.toml:3:12", "3 | upstream = true", "^^^^"],
    )
}

#[test]
fn an_unknown_upstream_is_shown() -> Result<()> {
    refused(
        "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = \"web\"\n",
        &["unknown upstream `web`", "bad.toml:3:12", "^^^^^", "hint:"],
    )
}

#[test]
fn an_unreachable_rule_is_shown() -> Result<()> {
    refused(
        "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = 80\n[[rule]]\nmatch = \"ssh\"\nupstream = 22\n",
        &["`rule-2` is unreachable", "bad.toml:5:9", "^^^^^", "hint:"],
    )
}

#[test]
fn a_syntax_error_is_shown() -> Result<()> {
    refused(
        "listen = \"127.0.0.1:0\"\n[[rule]\nupstream = 80\n",
        &["bad.toml:2:8", "2 | [[rule]", "^"],
    )
}

#[test]
fn all_errors_are_shown_at_once() -> Result<()> {
    refused(
        "listen = \"127.0.0.1:0\"\nx = 1\n[[rule]]\nmatch = { regex = '(' }\nupstream = \"web\"\n",
        &["bad.toml:2:1", "bad.toml:4:19", "bad.toml:5:12"],
    )
}

#[test]
fn a_missing_file_is_named() -> Result<()> {
    let output = run(Command::new(mux()?).args(["--rules", "/nonexistent/rules.toml"]))?;
    says(&output, CONFIG, &["/nonexistent/rules.toml", "No such file"])
}

#[test]
fn an_unknown_user_is_named() -> Result<()> {
    need!(Need::Root);
    let output = Starter::new(
        "[[rule]]\nupstream = \"builtin:echo\"\n[security]\nuser = \"no-such-user\"\n",
    )
    .user_space()
    .fail()?;
    says(&output, CONFIG, &["no-such-user", "hint:"])
}

#[test]
fn a_wrong_command_line_is_a_usage_error() -> Result<()> {
    let calls: &[&[&str]] = &[
        &[],
        &["--no-such-option"],
        &["--rules"],
        &["--rules", "rules.toml", "--relay", "teleport"],
        &["--rules", "rules.toml", "--listen", "nonsense"],
        &["--rules", "rules.toml", "--threads", "0"],
        &["no-such-command"],
        &["check"],
    ];
    for call in calls {
        let output = run(Command::new(mux()?).args(*call))?;
        says(&output, USAGE, &["error: "])?;
    }
    Ok(())
}

#[test]
fn help_and_version_are_no_errors() -> Result<()> {
    for (argument, part) in [("--help", "Usage: mux"), ("--version", "eBPF object: ")] {
        let output = run(Command::new(mux()?).arg(argument))?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success() && text.contains(part), "{argument}: {text}");
    }
    Ok(())
}

#[test]
fn a_port_that_needs_privileges_is_not_permitted() -> Result<()> {
    need!(Need::Root);
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
    if first.trim().parse::<u16>()? <= 81 {
        return skip("every user may bind port 81 (net.ipv4.ip_unprivileged_port_start)");
    }
    let output = Starter::new("listen = \"127.0.0.1:81\"\n[[rule]]\nupstream = \"builtin:echo\"\n")
        .nobody(&[])
        .user_space()
        .fail()?;
    says(&output, NOT_PERMITTED, &["127.0.0.1:81", "Permission denied", "hint:"])
}

#[test]
fn an_address_in_use_is_named() -> Result<()> {
    let other = TcpListener::bind("127.0.0.1:0")?;
    let address = other.local_addr()?.to_string();
    let rules = format!("listen = \"{address}\"\n[[rule]]\nupstream = \"builtin:echo\"\n");
    let output = Starter::new(&rules).user_space().fail()?;
    says(&output, OTHER, &[&address, "in use", "hint:"])
}

#[test]
fn an_access_log_that_cannot_be_opened_is_named() -> Result<()> {
    let output = Starter::new(
        "[[rule]]\nupstream = \"builtin:echo\"\n\
         [log]\naccess = { format = \"json\", file = \"/nonexistent/access.log\" }\n",
    )
    .user_space()
    .fail()?;
    says(&output, OTHER, &["/nonexistent/access.log", "No such file"])
}
