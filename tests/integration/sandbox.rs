//! The daemon confines itself once it serves, and serves all the same: the other modules' tests run
//! confined, too.

use std::{fs, os::unix::fs::symlink};

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Need, Relay, Scratch, Starter, Upstream, eventually_true, need};

/// `SECCOMP_MODE_FILTER`, include/uapi/linux/seccomp.h.
const FILTER: &str = "2";
const OFF: &str = "[security]\nlandlock = \"off\"\nseccomp = \"off\"\n";

/// Every thread, not only the first one: capabilities, filters and Landlock are a thread's.
#[test]
fn every_thread_is_confined_while_the_kernel_relays() -> Result<()> {
    need!(Need::Root);
    let upstream = Upstream::tcp()?;
    let log = Scratch::new()?;
    for user in ["nobody", "root"] {
        let rules = format!(
            "{}[log]\naccess = \"json\"\naccess_file = \"{}\"\n[security]\nuser = \"{user}\"\n",
            Relay::Sockmap.rule(&upstream.name()),
            log.join(user).display()
        );
        let daemon = Daemon::start(&rules, &[])?;
        let line = daemon.wait_log(" sandbox ")?;
        ensure!(line.contains(" INFO ") && line.contains("landlock=\"ABI "), "{line}");
        let (client, server) = daemon.flow(&upstream)?;
        for (field, wanted) in [
            ("CapEff", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", FILTER),
        ] {
            let values = daemon.proc().status_of_threads(field)?;
            // The main one, the access log's, the verdict's, a core's.
            ensure!(values.len() >= 4, "{values:?}");
            ensure!(values.iter().all(|value| value == wanted), "{field}: {values:?}");
        }
        client.finish()?;
        server.expect_end()?;
        drop(server);
        client.expect_end()?;
        daemon.stop()?;
        let access = fs::read_to_string(log.join(user))?;
        ensure!(access.contains("\"relay\":\"sockmap\""), "{access}");
    }
    Ok(())
}

#[test]
fn a_kernel_that_lacks_half_of_it_gets_a_warning_and_the_other_half() -> Result<()> {
    need!(Need::Root);
    for (call, error, seccomp, said) in [
        ("landlock_create_ruleset", "ENOSYS", FILTER, "landlock=\"not to be had: "),
        ("landlock_create_ruleset", "EOPNOTSUPP", FILTER, "landlock=\"not to be had: "),
        ("seccomp", "EINVAL", "0", "seccomp=\"refused: "),
    ] {
        let rules = Relay::Copy.rule("builtin:echo");
        let daemon = Starter::new(&rules).user_space().without(call, error).start()?;
        let line = daemon.wait_log(" sandbox")?;
        ensure!(line.contains(" WARN ") && line.contains(said), "{line}");
        let modes = daemon.proc().status_of_threads("Seccomp")?;
        ensure!(modes.iter().all(|mode| mode == seccomp), "{call}: {modes:?}");
        let client = daemon.connect()?;
        client.send("hello")?;
        client.expect("hello")?;
        client.finish()?;
        client.expect_end()?;
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn what_is_switched_off_is_not_in_force() -> Result<()> {
    let rules = format!("{}{OFF}", Relay::Copy.rule("builtin:echo"));
    let daemon = Daemon::user_space(&rules)?;
    let line = daemon.wait_log(" sandbox ")?;
    ensure!(line.contains("landlock=\"off\" seccomp=\"off\""), "{line}");
    ensure!(daemon.proc().status("Seccomp")? == "0");
    daemon.stop()?;
    Ok(())
}

/// The daemon does as it is told by a file, and the file tells it to read where it has no business.
#[test]
fn a_list_of_networks_cannot_lead_out_of_the_sandbox() -> Result<()> {
    need!(Need::Root);
    for confined in [true, false] {
        let (inside, outside) = (Scratch::new()?, Scratch::new()?);
        let list = inside.join("list");
        symlink(inside.write("own", "127.0.0.2\n")?, &list)?;
        let other = outside.write("other", "127.0.0.0/8\n")?;
        let rules = format!(
            "[[rule]]\nmatch = {{ client = [\"file:{}\"] }}\nupstream = \"builtin:echo\"\n{}",
            list.display(),
            if confined { "" } else { OFF }
        );
        let daemon = Starter::new(&rules).user_space().start()?;
        let is_served = || -> Result<bool> {
            let client = daemon.connect()?;
            Ok(client.send("echo?").is_ok() && client.expect("echo?").is_ok())
        };
        ensure!(!is_served()?);
        let link = inside.join("link");
        symlink(&other, &link)?;
        fs::rename(&link, &list)?;
        if confined {
            let line = daemon.wait_log("its networks stay as they were")?;
            ensure!(line.contains("Permission denied"), "{line}");
            ensure!(!is_served()?);
        } else {
            eventually_true("the other list is in force", || is_served().unwrap_or(false))?;
        }
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn the_doctor_says_what_would_be_in_force() -> Result<()> {
    let scratch = Scratch::new()?;
    let doctor = |rules: &str| -> Result<serde_json::Value> {
        let file = scratch.write("rules.toml", rules)?;
        let mut command = std::process::Command::new(mux_tests::mux()?);
        command.arg("doctor").arg("--json").arg("--rules").arg(file);
        Ok(serde_json::from_slice(&mux_tests::run(&mut command)?.stdout)?)
    };
    let found = |report: &serde_json::Value, name: &str| -> Result<String> {
        let checks = report["checks"].as_array().context("no checks")?;
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.with_context(|| format!("no {name}: {report}"))?;
        Ok(check["found"].as_str().unwrap_or_default().to_owned())
    };
    let rules = "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = \"builtin:echo\"\n\
                 [kernel]\nsockmap = \"off\"\n";
    let report = doctor(rules)?;
    ensure!(found(&report, "seccomp")?.ends_with(" system calls allowed"), "{report}");
    ensure!(found(&report, "Landlock")?.starts_with("ABI "), "{report}");
    let report = doctor(&format!("{rules}{OFF}"))?;
    for name in ["Landlock", "seccomp"] {
        ensure!(found(&report, name)?.starts_with("off by [security]"), "{report}");
    }
    Ok(())
}

/// The C library's resolver, with what it reads, in the sandbox of a daemon that has no name to look
/// up at start.
#[test]
fn a_name_is_looked_up_inside() -> Result<()> {
    let upstream = Upstream::at("127.0.0.1:0".parse()?, 1)?;
    let port = upstream.address().port();
    let daemon = Daemon::user_space(&Relay::Copy.rule(&format!("localhost:{port}")))?;
    let client: Conn = daemon.connect()?;
    client.send("hello")?;
    upstream.accept()?.expect("hello")?;
    Ok(())
}
