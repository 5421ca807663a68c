//! What `mux status` and `mux flows` show people: tables, aligned, without colour.

use std::fmt::Write as _;

use crate::admin::view::{FlowStatus, Flows, RelayStatus, SecurityStatus, Status};

/// Columns, filled line by line.
#[derive(Debug)]
struct Table {
    lines: Vec<Vec<String>>,
    /// Columns of numbers stand to the right.
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; those that begin with `>` are of numbers.
    fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let heading = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned());
        Self { lines: vec![heading.collect()], right }
    }

    fn add<const N: usize>(&mut self, line: [String; N]) {
        self.lines.push(line.into());
    }

    /// The text; nothing where there is no line.
    fn text(&self) -> String {
        let mut text = String::new();
        if self.lines.len() == 1 {
            return text;
        }
        let width = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for line in &self.lines {
            let mut row = String::new();
            for ((cell, width), right) in line.iter().zip(&widths).zip(&self.right) {
                // Writing to a string cannot fail.
                let _ = if *right {
                    write!(row, "{cell:>width$}  ")
                } else {
                    write!(row, "{cell:<width$}  ")
                };
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The daemon.
pub(super) fn status(status: &Status) -> String {
    let Status { version, object, pid, state, started, flows, bytes, .. } = status;
    let mut text = format!(
        "mux {version} (eBPF object: {object}), process {pid}, {state}, up {} (since {started})\n",
        span(status.uptime_seconds)
    );
    text.push_str(&relay(&status.relay));
    text.push_str(&security(&status.security));
    let _ = writeln!(
        text,
        "connections: {} ({} sniffing); flows: {} copy, {} splice, {} sockmap, {} packet; bytes: {} up, {} down",
        status.connections,
        status.sniffing,
        flows.copy,
        flows.splice,
        flows.sockmap,
        flows.packet,
        size(bytes.up),
        size(bytes.down)
    );
    let _ = writeln!(
        text,
        "cores: {}; rules in force: generation {}; log level: {}",
        status.cores.len(),
        status.generation,
        status.log_level
    );
    if let Some(why) = &status.reload_failure {
        let _ = writeln!(text, "the last reload failed: {why}");
    }
    for part in
        [listeners(status), rules(status), endpoints(status), limits(status), counters(status)]
    {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(&part);
        }
    }
    text
}

fn relay(relay: &RelayStatus) -> String {
    let RelayStatus { in_force, why_not, no_packets, switch, self_test_milliseconds, checks: _ } =
        relay;
    let mut text = format!("relay: {in_force}");
    if let Some(why) = why_not {
        let _ = write!(text, " ({why})");
    }
    if let Some(took) = self_test_milliseconds {
        let _ = write!(text, "; self-test passed in {took:.0} ms");
    }
    // That it was switched off is no news.
    if let Some(why) = no_packets.as_ref().filter(|why| !why.starts_with("switched off")) {
        let _ = write!(text, "; packet is not in force: {why}");
    }
    // What another version may say is left out.
    text.push_str(match switch.as_str() {
        "off" => "; switched off: `mux relay auto` allows it again",
        "off-by-rules" => "; switched off by the rules: [kernel] sockmap = \"off\"",
        _ => "",
    });
    text.push('\n');
    text
}

/// Nothing of a daemon that does not tell.
fn security(security: &SecurityStatus) -> String {
    let SecurityStatus { user, capabilities, no_new_privs, seccomp, landlock } = security;
    if user.is_empty() {
        return String::new();
    }
    let capabilities =
        if capabilities.is_empty() { "none".to_owned() } else { capabilities.join(", ") };
    let no_new_privs = if *no_new_privs { "set" } else { "not set" };
    format!(
        "security: user {user}; capabilities: {capabilities}; no_new_privs: {no_new_privs}; \
         seccomp: {seccomp}; Landlock: {landlock}\n"
    )
}

fn listeners(status: &Status) -> String {
    let mut table = Table::new(&["listener", "address"]);
    for listener in &status.listeners {
        table.add([listener.name.clone(), listener.address.clone()]);
    }
    table.text()
}

fn rules(status: &Status) -> String {
    let mut table =
        Table::new(&["rule", "upstream", ">flows", ">ended", ">bytes up", ">bytes down"]);
    for rule in &status.rules {
        table.add([
            rule.rule.clone(),
            rule.upstream.clone(),
            rule.flows.sum().to_string(),
            rule.ended.sum().to_string(),
            size(rule.bytes.up),
            size(rule.bytes.down),
        ]);
    }
    table.text()
}

fn endpoints(status: &Status) -> String {
    let mut table =
        Table::new(&["upstream", "endpoint", "state", ">flows", ">limit", ">queue", "reason"]);
    for upstream in &status.upstreams {
        for endpoint in &upstream.endpoints {
            let limit = endpoint.limit.or(upstream.limit);
            table.add([
                upstream.name.clone(),
                endpoint.address.clone(),
                endpoint.state.clone(),
                endpoint.flows.to_string(),
                limit.map_or_else(|| "-".into(), |limit| limit.to_string()),
                upstream.queue.to_string(),
                endpoint.reason.clone(),
            ]);
        }
    }
    table.text()
}

fn limits(status: &Status) -> String {
    let mut table = Table::new(&["limit", ">used", ">of"]);
    for limit in &status.limits {
        table.add([limit.name.clone(), limit.used.to_string(), limit.of.to_string()]);
    }
    table.text()
}

/// Those that are not zero.
fn counters(status: &Status) -> String {
    let mut table = Table::new(&["counter", ">"]);
    for (name, &count) in status.counters.iter().filter(|(_, count)| **count > 0) {
        table.add([name.clone(), count.to_string()]);
    }
    table.text()
}

/// Flows.
pub(super) fn flows(flows: &Flows) -> String {
    let mut table = Table::new(&[
        "id",
        "client",
        "rule",
        "endpoint",
        "relay",
        "state",
        ">age",
        ">bytes up",
        ">bytes down",
        "note",
    ]);
    for flow in &flows.flows {
        let FlowStatus { id, client, rule, endpoint, relay, state, relay_note, .. } = flow;
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        table.add([
            id.clone(),
            client.clone(),
            or_dash(rule),
            or_dash(endpoint),
            or_dash(relay),
            state.clone(),
            span(flow.age_seconds),
            flow.bytes_up.to_string(),
            flow.bytes_down.to_string(),
            relay_note.clone(),
        ]);
    }
    let mut text = table.text();
    if flows.flows.is_empty() {
        text.push_str("no flows\n");
    }
    if flows.truncated {
        let _ = writeln!(text, "and more: `--limit` shows them");
    }
    text
}

/// A time as people say it: two units.
pub(crate) fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) if whole < 10 => format!("{seconds:.1}s"),
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", whole % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Bytes as people say it, with three digits.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 1000.0
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = Some(next);
    }
    let unit = unit.copied().unwrap_or_default();
    if unit == "B" {
        format!("{bytes} B")
    } else if value < 9.995 {
        format!("{value:.2} {unit}")
    } else if value < 99.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{EndpointStatus, UpstreamStatus};

    #[test]
    fn times_and_sizes_are_short() {
        let spans = [(0.04, "0.0s"), (9.94, "9.9s"), (59.9, "59s"), (61.0, "1m01s")];
        for (seconds, text) in spans.into_iter().chain([(3660.0, "1h01m"), (90_000.0, "1d01h")]) {
            assert_eq!(span(seconds), text);
        }
        let sizes = [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1 << 20, "1.00 MiB")];
        for (bytes, text) in
            sizes.into_iter().chain([(55 << 20, "55.0 MiB"), (u64::MAX, "16384 PiB")])
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn columns_are_aligned_and_empty_tables_are_not_there() {
        let mut table = Table::new(&["name", ">count"]);
        assert_eq!(table.text(), "");
        table.add(["a".into(), "1".into()]);
        table.add(["longer".into(), "1234567".into()]);
        assert_eq!(table.text(), "name      count\na             1\nlonger  1234567\n");
    }

    #[test]
    fn a_page_has_what_is_wrong() {
        let endpoint = EndpointStatus {
            address: "10.0.0.1:80".into(),
            state: "down".into(),
            reason: "connection refused".into(),
            ..EndpointStatus::default()
        };
        let upstream = UpstreamStatus {
            name: "web".into(),
            endpoints: vec![endpoint],
            ..UpstreamStatus::default()
        };
        let mut page = Status { upstreams: vec![upstream], ..Status::default() };
        page.relay.in_force = "sockmap".into();
        page.relay.self_test_milliseconds = Some(154.6);
        page.relay.switch = "off".into();
        let text = status(&page);
        let relay = "relay: sockmap; self-test passed in 155 ms; switched off: `mux relay auto` allows it again\n";
        assert!(text.contains(relay), "{text}");
        let line = "web       10.0.0.1:80  down       0      -      0  connection refused\n";
        assert!(text.contains(line), "{text}");
    }
}
