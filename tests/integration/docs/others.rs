//! What the pages have for other programs: logrotate's and Prometheus's configurations, the alerts.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Daemon, Need, Scratch, eventually_true, need, peers::promtool, repository, run_ok,
};

use super::page::pages;

/// The blocks of a language.
fn blocks(language: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for page in pages()? {
        let blocks = page.blocks()?.into_iter().filter(|block| block.language() == language);
        found.extend(blocks.map(|block| block.text));
    }
    ensure!(!found.is_empty(), "there is no block of {language}");
    Ok(found)
}

/// With another path, and with a signal in place of systemd.
#[test]
fn logrotate_rotates_the_access_log_as_documented() -> Result<()> {
    need!(Need::Root);
    let scratch = Scratch::new()?;
    let directory = scratch.join("log");
    fs::create_dir(&directory)?;
    // The service's directory is its user's; logrotate refuses one that everybody can write to.
    std::os::unix::fs::chown(&directory, Some(mux_tests::NOBODY), Some(mux_tests::NOBODY))?;
    fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
    let log = directory.join("access.log");
    fs::write(&log, "")?;
    std::os::unix::fs::chown(&log, Some(mux_tests::NOBODY), Some(mux_tests::NOBODY))?;
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nupstream = \"builtin:echo\"\n[log]\naccess = \"json\"\naccess_file = \"{}\"\n",
        log.display()
    ))?;
    let connect = || -> Result<()> {
        let client = daemon.connect()?;
        client.send("x")?;
        client.finish()?;
        client.expect("x")?;
        client.expect_end()
    };
    let lines = |name: &str| {
        fs::read_to_string(directory.join(name)).map_or(0, |text| text.lines().count())
    };
    connect()?;
    eventually_true("a line", || lines("access.log") == 1)?;

    let documented = blocks("logrotate")?.concat();
    let reload = format!("kill -HUP {}", daemon.proc().0);
    let config = documented
        .replace("/var/log/mux/access.log", &log.display().to_string())
        .replace("systemctl reload mux", &reload);
    ensure!(config.contains(&reload) && !config.contains("/var/log"), "{config}");
    let config = scratch.write("logrotate.conf", config)?;
    fs::set_permissions(&config, Permissions::from_mode(0o644))?;
    let mut logrotate = Command::new("logrotate");
    logrotate.arg("--force").arg("--state").arg(scratch.join("state")).arg(&config);
    run_ok(&mut logrotate)?;

    eventually_true("the new file", || log.exists())?;
    connect()?;
    eventually_true("a line in each", || lines("access.log") == 1 && lines("access.log.1") == 1)?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn prometheus_takes_the_documented_configuration() -> Result<()> {
    for config in blocks("yaml")? {
        let scratch = Scratch::new()?;
        scratch.write("prometheus.yml", config)?;
        promtool(&["check", "config", "prometheus.yml"], scratch.path(), "")?;
    }
    Ok(())
}

/// Each has its row on the page about operations, and no other has.
#[test]
fn the_alerts_are_explained() -> Result<()> {
    let names = |text: &str, before: &str| -> Vec<String> {
        let mut names: Vec<String> = text
            .split(before)
            .skip(1)
            .map(|rest| rest.chars().take_while(char::is_ascii_alphabetic).collect())
            .collect();
        names.sort();
        names
    };
    let alerts = fs::read_to_string(repository().join("packaging/prometheus/alerts.yml"))?;
    let page = fs::read_to_string(repository().join("docs/operations.md"))?;
    let section = page.split("\n## Alerts\n").nth(1).context("no section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let (there, told) = (names(&alerts, "- alert: "), names(section, "`Mux"));
    let told: Vec<String> = told.into_iter().map(|name| format!("Mux{name}")).collect();
    ensure!(there == told, "there are {there:?}, explained are {told:?}");
    Ok(())
}
