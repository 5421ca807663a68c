//! The table at the end.

use super::verdict::Verdict;

const HEAD: [&str; 14] = [
    "kernel",
    "version",
    "self-test",
    "auto",
    "forced",
    "wire",
    "packet",
    "flows",
    "bytes",
    "wrong",
    "passes",
    "trimmed",
    "WARN",
    "seconds",
];

/// The table, a line a kernel, and what is wrong below it.
pub(crate) fn render(verdicts: &[Verdict]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(verdicts.iter().map(row));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    for verdict in verdicts {
        for skipped in &verdict.skipped {
            text.push_str(&format!("{}: skipped: {skipped}\n", verdict.kernel));
        }
        for problem in verdict.problems.iter().chain(&verdict.missing) {
            text.push_str(&format!("{}: {problem}\n", verdict.kernel));
        }
    }
    text
}

fn row(verdict: &Verdict) -> [String; 14] {
    let torture = |value: fn(&super::verdict::Torture) -> u64| {
        verdict.torture.as_ref().map_or("-".to_owned(), |torture| value(torture).to_string())
    };
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    [
        verdict.kernel.to_owned(),
        or_none(version(&verdict.release, &verdict.version)),
        or_none(&verdict.self_test),
        or_none(&verdict.relay_auto),
        or_none(&verdict.relay_forced),
        or_none(&verdict.wire),
        or_none(&verdict.packet),
        torture(|torture| torture.flows),
        torture(|torture| torture.bytes),
        torture(|torture| torture.wrong),
        torture(|torture| torture.passes),
        torture(|torture| torture.trimmed),
        verdict.complaints.len().to_string(),
        format!("{:.0}", verdict.seconds),
    ]
}

/// The version that stands in `uname -v` of Debian's kernels; `uname -r` has less.
fn version<'a>(release: &'a str, version: &'a str) -> &'a str {
    version.split_once("Debian ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let verdict = Verdict {
            kernel: "newest",
            version: "#1 SMP Debian 7.3.4-1~bpo13+1 (2026-11-01)".to_owned(),
            wire: "11 passed".to_owned(),
            packet: "19 passed, 1 skipped".to_owned(),
            skipped: vec!["packet: arming::look: an old kernel".to_owned()],
            problems: vec!["is on fire".to_owned()],
            ..Verdict::default()
        };
        let text = render(&[verdict]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].find("version"), lines[1].find("7.3.4-1~bpo13+1"));
        assert_eq!(lines[0].find("wire"), lines[1].find("11 passed"));
        assert_eq!(lines[0].find("packet"), lines[1].find("19 passed, 1 skipped"));
        assert_eq!(lines[2], "newest: skipped: packet: arming::look: an old kernel");
        assert_eq!(lines[3], "newest: is on fire");
    }
}
