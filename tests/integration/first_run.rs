//! What a new user tries first: the rules file at the root, and the examples.

use std::fs;

use anyhow::{Context, Result, ensure};
use mux_tests::{Daemon, Pattern, Server, peers::curl, repository};

fn first_run() -> Result<Daemon> {
    let rules = repository().join("rules.toml");
    Daemon::with_file(&rules, &["--listen", "127.0.0.1:0"])
}

#[test]
fn curl_is_told_what_mux_saw() -> Result<()> {
    let daemon = first_run()?;
    let url = format!("http://localhost:{}/", daemon.port());
    let text = curl(&[&url])?;
    for part in ["client:   127.0.0.1:", "listener: listener-1", "rule:     web", "probe:    http"]
    {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

#[test]
fn curl_is_told_in_json_when_it_asks_for_it() -> Result<()> {
    let daemon = first_run()?;
    let url = format!("http://localhost:{}/", daemon.port());
    let text = curl(&["-H", "Accept: application/json", &url])?;
    let about: serde_json::Value = serde_json::from_str(&text).context(text)?;
    ensure!(about["rule"] == "web" && about["listener"] == "listener-1", "{about}");
    ensure!(about["client"].as_str().is_some_and(|c| c.starts_with("127.0.0.1:")), "{about}");
    ensure!(about["relay"] == "copy", "{about}");
    ensure!(about["relay_note"].as_str().is_some_and(|note| note.contains("built in")), "{about}");
    Ok(())
}

/// Whoever asks by HTTP/2 is answered by HTTP/2.
#[test]
fn curl_is_told_over_http2_when_it_asks_so() -> Result<()> {
    let daemon = first_run()?;
    let url = format!("http://localhost:{}/", daemon.port());
    let shown = ["-w", "%{http_version} %{http_code}", "--http2-prior-knowledge"];
    let text = curl(&[&shown[..], &[&url]].concat())?;
    for part in ["probe:    http (", "version=2", "2 200"] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let text = curl(&["--http2-prior-knowledge", "-H", "Accept: application/json", &url])?;
    let about: serde_json::Value = serde_json::from_str(&text).context(text)?;
    ensure!(about["details"]["version"] == 2, "{about}");
    Ok(())
}

/// Who does not speak HTTP is told all the same; who says nothing, too.
#[test]
fn whoami_answers_anybody_and_discard_nobody() -> Result<()> {
    let daemon = Daemon::user_space(
        "[[rule]]\nmatch = { prefix = \"drop\" }\nupstream = \"builtin:discard\"\n\
         [[rule]]\nname = \"all\"\nupstream = \"builtin:whoami\"\n",
    )?;
    let client = daemon.connect()?;
    client.send("dropped")?;
    client.send_pattern(Pattern::new(1), 0, 1 << 20)?;
    client.finish()?;
    client.expect_end()?;
    ensure!(daemon.access_of(client.local()?)?.bytes() == (7 + (1 << 20), 0));
    let client = daemon.connect()?;
    client.send("hello?\n")?;
    client.expect(format!("client:   {}\nlistener: listener-1\n", client.local()?))?;
    Ok(())
}

#[test]
fn the_echo_rule_echoes() -> Result<()> {
    let daemon = first_run()?;
    let client = daemon.connect()?;
    client.send("echo hello\n")?;
    client.finish()?;
    client.expect("echo hello\n")?;
    client.expect_end()
}

#[test]
fn every_example_passes_the_check() -> Result<()> {
    let directory = repository().join("examples");
    let mut examples = vec![repository().join("rules.toml")];
    if directory.is_dir() {
        let before = examples.len();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                examples.push(path);
            }
        }
        ensure!(examples.len() > before, "{} has no example", directory.display());
    }
    for example in examples {
        let output = Daemon::check(&example)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {error}", example.display());
        ensure!(String::from_utf8_lossy(&output.stdout).contains(": ok: "), "{error}");
    }
    Ok(())
}

#[test]
fn the_example_of_a_silent_protocol_tells_its_clients_apart() -> Result<()> {
    let mail = Server::tagged("220 mail.example ESMTP\r\n")?;
    let example = fs::read_to_string(repository().join("examples/server-first.toml"))?;
    let rules = example
        .replace("\"0.0.0.0:3025\"", "\"127.0.0.1:0\"")
        .replace("upstream = 2525", &format!("upstream = \"{}\"", mail.name()));
    ensure!(rules != example && !rules.contains("2525\n"), "{rules}");
    let daemon = Daemon::user_space(&rules)?;

    for (says, rule) in [("", "mail"), ("EHLO client.example\r\n", "early")] {
        let client = daemon.connect()?;
        client.send(says)?;
        client.expect("220 mail.example ESMTP\r\n")?;
        client.finish()?;
        client.expect_end()?;
        let access = daemon.access_of(client.local()?)?;
        ensure!(access.rule() == rule, "{access:?}");
    }
    let text = curl(&[&format!("http://localhost:{}/", daemon.port())])?;
    ensure!(text.contains("rule:     web"), "{text}");
    ensure!(mail.served() == 2);
    mail.stop()
}
