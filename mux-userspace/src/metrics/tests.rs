//! The table of families, and the reference that is made of it.

use std::{collections::HashSet, fmt::Write as _, fs, path::PathBuf};

use super::{
    counters::place,
    families::{Family, Kind},
};
use crate::account::Counter;

#[test]
fn names_follow_the_format() {
    let mut seen = HashSet::new();
    for family in Family::ALL {
        let name = family.name();
        assert!(seen.insert(name), "{name} twice");
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(plain) && !name.ends_with("_total"), "{name}");
        assert!(name.starts_with("mux_") || name.starts_with("process_"), "{name}");
        for reserved in ["_count", "_sum", "_bucket", "_created", "_info"] {
            assert!(!name.ends_with(reserved), "{name}");
        }
        if family.kind() == Kind::Histogram {
            assert!(family.unit().is_some() && family.labels().is_empty(), "{name}");
        }
        assert!(!family.help().is_empty(), "{name}");
    }
}

#[test]
fn every_counter_has_a_sample_of_its_own() {
    let mut seen = HashSet::new();
    for &counter in Counter::ALL {
        let Some((family, label)) = place(counter) else { continue };
        assert!(seen.insert((family.name(), label)), "{}: another counter's", counter.name());
        assert_eq!(family.labels().len(), usize::from(label.is_some()), "{}", counter.name());
        assert_eq!(family.kind(), Kind::Counter, "{}", counter.name());
    }
}

#[test]
fn the_reference_has_the_table_of_families() {
    let mut page = String::from(HEAD);
    let _ = write!(page, "\n| name | type | labels | meaning |\n|---|---|---|---|\n");
    for family in Family::ALL {
        let labels: Vec<_> = family.labels().iter().map(|label| format!("`{label}`")).collect();
        let kind = family.kind();
        let _ = writeln!(
            page,
            "| `{}{}` | {} | {} | {} |",
            family.name(),
            kind.suffix(),
            kind.name(),
            labels.join(", "),
            family.help()
        );
    }
    page.push_str(REFUSED);
    for &counter in Counter::ALL {
        if let Some((Family::Refused, Some(reason))) = place(counter) {
            let _ = writeln!(page, "| `{reason}` | {} |", counter.help().trim());
        }
    }
    page.push_str(FAULTS);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
    if std::env::var_os("MUX_UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/metrics.md is old: run with MUX_UPDATE_DOCS=1");
}

const HEAD: &str = "\
# Metrics

<!-- Made by a test: MUX_UPDATE_DOCS=1 cargo test -p mux-userspace --lib metrics::tests -->

`GET /metrics` over the [admin sockets](rules.md#admin) answers in [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/) 1.0 text, which Prometheus
reads. Each page is of one moment; counters never go back while the process lives, and begin at 0 with it.

- Bytes are those of flows that are over and of flows that are alive, in the kernel too: once nothing is on its way, they are what clients and servers have counted.
- How many series there are is bounded by the rules file: rules, upstreams, endpoints, and a few fixed words. A rule that a reload has removed is gone from the page with its last flow.
- After an upgrade the page is the new process's, and begins at 0: flows that the old one still carries are in no page any more, and in its access log when they end.
- If a core does not answer within 1 s, the answer is 503 rather than a page with a part of the truth.
- Samples about the verdict are there only where the kernel relay is in force; `mux_closed_total` and the series by rule from the first one on that there is.
";

const REFUSED: &str = "
## Reasons of `mux_refused_total`

| reason | meaning |
|---|---|
";

const FAULTS: &str = "
## Reasons of failed attempts

Of `mux_connect_failures_total`, `mux_upstream_retries_total` and `mux_upstream_ejections_total`. Those of an upstream that a reload has removed are gone from the page; the
totals of the last line of the log (`connect_failed`, `upstream_retries`, …) are of all.

| reason | meaning |
|---|---|
| `refused` | Nobody listens there; of a Unix socket, also that its file is not there. |
| `timed_out` | No connection within `connect_timeout`. |
| `unreachable` | No route to the host or the network. |
| `reset` | The connection was reset while it was made. |
| `local` | This machine lacks a port, descriptors or memory, or an address that `source` asks for: not the endpoint's failure, for which nothing is ejected. |
| `resolve` | The name could not be looked up. |
| `other` | Anything else, such as a Unix socket that mux's user must not connect to. The access log has the error. |
";

/// Every expression of the Grafana dashboard.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(object) => {
            if let Some(expression) = object.get("expr").and_then(serde_json::Value::as_str) {
                found.push(expression.to_owned());
            }
            object.values().for_each(|value| expressions(value, found));
        }
        serde_json::Value::Array(values) => {
            values.iter().for_each(|value| expressions(value, found));
        }
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/grafana/mux.json");
    let text = fs::read_to_string(&path).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    assert!(asked.len() > 20, "{asked:?}");
    let known: HashSet<String> = Family::ALL
        .iter()
        .flat_map(|family| match family.kind() {
            Kind::Histogram => vec![format!("{}_bucket", family.name())],
            kind => vec![format!("{}{}", family.name(), kind.suffix())],
        })
        .collect();
    let metric = regex::Regex::new(r"\b(?:mux|process)_[a-z_]+").expect("a regex");
    let grouped = regex::Regex::new(r"by \(([^)]*)\)").expect("a regex");
    let labels: HashSet<&str> = Family::ALL
        .iter()
        .flat_map(|family| family.labels().iter().copied())
        .chain(["le"])
        .collect();
    for expression in &asked {
        let names: Vec<&str> = metric.find_iter(expression).map(|name| name.as_str()).collect();
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            assert!(known.contains(name), "{name} in {expression}");
        }
        for by in grouped.captures_iter(expression) {
            for label in by[1].split(',').map(str::trim) {
                assert!(labels.contains(label), "{label} in {expression}");
            }
        }
    }
}
