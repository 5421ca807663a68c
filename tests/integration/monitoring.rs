//! Prometheus and its tools: what they think of the metrics' page and of the alerts, and that they get
//! the numbers that clients have counted.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Daemon,
    admin::{AdminSocket, metrics_address},
    peers::{Prometheus, promtool},
    repository,
};

fn alerts() -> PathBuf {
    repository().join("packaging/prometheus")
}

/// A page in the format before OpenMetrics, which is all that promtool reads: names in `# TYPE` and
/// `# HELP` are those of the samples, and there is no `info`.
fn older_format(page: &str) -> String {
    let suffixed = |suffix: &'static str, kind: &str| -> BTreeSet<String> {
        let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let of_kind = types.filter_map(|line| line.strip_suffix(kind));
        of_kind.map(|name| format!("{}{suffix}", name.trim_end())).collect()
    };
    let (counters, infos) = (suffixed("_total", " counter"), suffixed("_info", " info"));
    let mut old = String::new();
    for line in page.lines().filter(|line| !line.starts_with("# UNIT ")) {
        let mut words: Vec<String> = line.splitn(4, ' ').map(str::to_owned).collect();
        if line.starts_with("# TYPE ") || line.starts_with("# HELP ") {
            for (suffix, names) in [("_total", &counters), ("_info", &infos)] {
                let name = format!("{}{suffix}", words[2]);
                if names.contains(&name) {
                    words[2] = name;
                }
            }
            if words[1] == "TYPE" && words[3] == "info" {
                "gauge".clone_into(&mut words[3]);
            }
        }
        old += &words.join(" ");
        old.push('\n');
    }
    old
}

#[test]
fn promtool_finds_nothing_odd_about_the_page() -> Result<()> {
    let socket = AdminSocket::new()?;
    let rules = format!("[[rule]]\nupstream = \"builtin:echo\"\n{}", socket.rules());
    let daemon = Daemon::start(&rules, &[])?;
    let client = daemon.connect()?;
    client.send("x")?;
    client.expect("x")?;
    let page = socket.get("/metrics")?.body;
    let said = promtool(&["check", "metrics"], &alerts(), &older_format(&page))?;
    ensure!(said.trim().is_empty(), "{said}");
    // That it would have found something.
    let odd = format!("{}mux_odd 1\n", older_format(&page));
    ensure!(promtool(&["check", "metrics"], &alerts(), &odd).is_err(), "promtool likes everything");
    Ok(())
}

#[test]
fn the_alerts_fire_when_they_should_and_only_then() -> Result<()> {
    promtool(&["check", "rules", "alerts.yml"], &alerts(), "")?;
    promtool(&["test", "rules", "alerts.test.yml"], &alerts(), "")?;
    let (rules, tests) = ("alerts.yml", "alerts.test.yml");
    let (rules, tests) =
        (fs::read_to_string(alerts().join(rules))?, fs::read_to_string(alerts().join(tests))?);
    for line in rules.lines() {
        if let Some((_, name)) = line.split_once("- alert: ") {
            let fires = tests.matches(&format!("- alertname: {name}\n")).count();
            let rests = tests.matches(&format!("{{alertname: {name},")).count();
            ensure!(fires == 1 && rests == 1, "{name}: tested {fires} and {rests} times");
        }
    }
    Ok(())
}

/// Every metric that the alerts and the dashboard ask for is one of the reference's.
#[test]
fn alerts_and_dashboard_know_the_metrics() -> Result<()> {
    let reference = fs::read_to_string(repository().join("docs/reference/metrics.md"))?;
    let known: BTreeSet<&str> =
        reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    for file in ["packaging/prometheus/alerts.yml", "packaging/grafana/mux.json"] {
        let text = fs::read_to_string(repository().join(file))?;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: BTreeSet<&str> = words.filter(|word| word.starts_with("mux_")).collect();
        ensure!(names.len() > 5, "{file} asks for {names:?} only");
        for name in names {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            ensure!(known.contains(family), "{file}: there is no {name}");
        }
    }
    Ok(())
}

#[test]
fn prometheus_scrapes_what_clients_have_counted() -> Result<()> {
    let socket = AdminSocket::new()?;
    let rules =
        format!("[[rule]]\nname = \"echo\"\nupstream = \"builtin:echo\"\n{}", socket.rules());
    let daemon = Daemon::user_space(&rules)?;
    for _ in 0..3 {
        let client = daemon.connect()?;
        client.send("0123456789")?;
        client.expect("0123456789")?;
        client.finish()?;
        client.expect_end()?;
    }
    socket.wait_metric("mux_closed_total{reason=\"finished\"}", 3.0)?;

    let prometheus = Prometheus::scraping(metrics_address(&daemon)?, &alerts().join("alerts.yml"))?;
    let is = |query: &str, expected: f64| -> Result<()> {
        let value = prometheus.value(query)?;
        ensure!((value - expected).abs() < 1e-9, "{query} is {value}, not {expected}");
        Ok(())
    };
    is("mux_accepted_total", 3.0)?;
    is("mux_relayed_bytes_total%7Bdirection=%22up%22%7D", 30.0)?;
    is("mux_flows_total%7Brule=%22echo%22,relay=%22copy%22%7D", 3.0)?;
    is("mux_build_info", 1.0)?;
    is("up%7Bjob=%22mux%22%7D", 1.0)?;

    let rules = prometheus.api("rules")?;
    let alerts = rules["groups"][0]["rules"].as_array().context("no rules")?;
    ensure!(alerts.len() > 10, "{rules}");
    let sick = alerts.iter().find(|alert| alert["health"] == "err" || alert["state"] == "firing");
    ensure!(sick.is_none(), "{sick:?}");
    Ok(())
}
