//! `cargo xtask matching`: what a decision costs, from criterion's estimates into the documentation,
//! so that no figure is copied by hand.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::sh;

/// Where the tables are, each between two comments.
const PAGE: &str = "docs/internals/performance.md";
/// The groups of `mux-userspace/benches/matching.rs`.
const GROUPS: [&str; 3] = ["route", "probe", "parse"];

/// `cargo xtask matching`.
#[derive(clap::Args, Debug)]
pub(crate) struct MatchingArgs {
    /// Measure first, which wants a machine that does nothing else
    #[arg(long)]
    measure: bool,
    /// Only these groups
    #[arg(value_parser = GROUPS)]
    groups: Vec<String>,
}

/// Writes the tables.
///
/// # Errors
/// There are no estimates, or the page has no place for them.
pub(crate) fn command(args: &MatchingArgs) -> Result<()> {
    let groups: Vec<&str> = match args.groups.as_slice() {
        [] => GROUPS.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    if args.measure {
        for group in &groups {
            let bench = ["bench", "-p", "mux-userspace", "--bench", "matching", "--"];
            sh::run(sh::cargo().args(bench).arg(format!("^{group}/")))?;
        }
    }
    let path = sh::root().join(PAGE);
    let mut page = fs::read_to_string(&path).with_context(|| PAGE.to_owned())?;
    for group in groups {
        let estimates = estimates(&sh::target_dir().join("criterion"), group)?;
        let table = match group {
            "probe" => probes(&estimates)?,
            "parse" => curves(&estimates, |ns| format!("{:.2}", ns / 1e6)),
            _ => curves(&estimates, |ns| format!("{ns:.0}")),
        };
        page = replaced(&page, group, &table)?;
    }
    fs::write(&path, page)?;
    sh::status(format!("{PAGE} is written: say there on which day and machine"));
    Ok(())
}

/// One benchmark's result.
#[derive(Clone, Debug)]
struct Estimate {
    function: String,
    parameter: String,
    /// Nanoseconds.
    mean: f64,
    /// Of the chunk, where there is one.
    bytes: Option<u64>,
}

/// criterion's `benchmark.json`.
#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: Option<String>,
    value_str: Option<String>,
    throughput: Option<BTreeMap<String, u64>>,
}

/// A part of criterion's `estimates.json`.
#[derive(Deserialize)]
struct Estimates {
    mean: Mean,
}

#[derive(Deserialize)]
struct Mean {
    point_estimate: f64,
}

/// The last estimates of a group, in the order of the file system.
fn estimates(criterion: &Path, group: &str) -> Result<Vec<Estimate>> {
    let mut found = Vec::new();
    let mut folders = vec![criterion.join(group)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| {
            format!("{}: run `cargo xtask matching --measure` first", folder.display())
        })?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name == "new") {
                found.extend(estimate(&path, group)?);
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    ensure!(!found.is_empty(), "criterion knows nothing of {group}");
    Ok(found)
}

fn estimate(folder: &Path, group: &str) -> Result<Option<Estimate>> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).with_context(|| path.display().to_string())
    };
    let benchmark: Benchmark = serde_json::from_slice(&read("benchmark.json")?)?;
    let (Some(function), Some(parameter)) = (benchmark.function_id, benchmark.value_str) else {
        return Ok(None);
    };
    if benchmark.group_id != group {
        return Ok(None);
    }
    let estimates: Estimates = serde_json::from_slice(&read("estimates.json")?)?;
    let bytes = benchmark.throughput.and_then(|map| map.get("Bytes").copied());
    Ok(Some(Estimate { function, parameter, mean: estimates.mean.point_estimate, bytes }))
}

/// A row for each kind of rule, a column for each number of them.
fn curves(estimates: &[Estimate], shown: impl Fn(f64) -> String) -> String {
    let mut counts: Vec<u32> =
        estimates.iter().filter_map(|estimate| estimate.parameter.parse().ok()).collect();
    counts.sort_unstable();
    counts.dedup();
    let mut rows: BTreeMap<&str, BTreeMap<u32, f64>> = BTreeMap::new();
    for Estimate { function, parameter, mean, .. } in estimates {
        if let Ok(count) = parameter.parse() {
            rows.entry(function).or_default().insert(count, *mean);
        }
    }
    // What costs least goes first.
    let last = |row: &BTreeMap<u32, f64>| row.values().last().copied().unwrap_or_default();
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(_, one), (_, other)| last(one).total_cmp(&last(other)));
    let heads: String = counts.iter().map(|count| format!(" {count} |")).collect();
    let mut table = format!("| rules by |{heads}\n|---|{}\n", "---:|".repeat(counts.len()));
    for (kind, row) in rows {
        let cells =
            counts.iter().map(|count| row.get(count).map_or(String::new(), |ns| shown(*ns)));
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(table, "| `{kind}` | {} |", cells.join(" | "));
    }
    table
}

/// A row for each probe, in the order of the alphabet.
fn probes(estimates: &[Estimate]) -> Result<String> {
    let mut rows: BTreeMap<&str, (Option<f64>, Option<f64>, u64)> = BTreeMap::new();
    for Estimate { function, parameter, mean, bytes } in estimates {
        let (verdict, details, length) = rows.entry(parameter).or_default();
        match function.as_str() {
            "verdict" => *verdict = Some(*mean),
            "details" => *details = Some(*mean),
            other => bail!("criterion has a benchmark probe/{other}"),
        }
        *length = bytes.unwrap_or(*length);
    }
    let mut table = "| probe | verdict | details | bytes |\n|---|---:|---:|---:|\n".to_owned();
    for (probe, (verdict, details, length)) in rows {
        let (Some(verdict), Some(details)) = (verdict, details) else {
            bail!("only a half is measured of {probe}");
        };
        let _ = writeln!(table, "| `{probe}` | {verdict:.0} | {details:.0} | {length} |");
    }
    Ok(table)
}

/// The page with another table between the comments of this name.
fn replaced(page: &str, name: &str, table: &str) -> Result<String> {
    let begin = format!("<!-- {name} -->\n");
    let (before, rest) = page.split_once(&begin).with_context(|| format!("{PAGE}: no {begin}"))?;
    let end = "<!-- end -->";
    let (_, after) = rest.split_once(end).with_context(|| format!("{PAGE}: no end of {name}"))?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(function: &str, parameter: &str, mean: f64) -> Estimate {
        Estimate { function: function.into(), parameter: parameter.into(), mean, bytes: Some(8) }
    }

    #[test]
    fn tables() {
        let route = [
            estimate("sni", "10", 320.4),
            estimate("sni", "100", 322.6),
            estimate("prefix", "10", 75.0),
        ];
        assert_eq!(
            curves(&route, |ns| format!("{ns:.0}")),
            "| rules by | 10 | 100 |\n|---|---:|---:|\n| `prefix` | 75 |  |\n| `sni` | 320 | 323 |\n"
        );
        let both = [estimate("verdict", "ssh", 4.4), estimate("details", "ssh", 61.0)];
        assert!(probes(&both).expect("both").ends_with("| `ssh` | 4 | 61 | 8 |\n"));
        assert!(probes(&both[..1]).is_err());
        let page = "a\n<!-- x -->\nold\n<!-- end -->\nb\n";
        assert_eq!(replaced(page, "x", "new\n").expect("a place"), page.replace("old", "new"));
        assert!(replaced(page, "y", "").is_err());
    }

    /// A probe that nobody has measured is seen here.
    #[test]
    fn the_page_has_every_probe() {
        let page = fs::read_to_string(sh::root().join(PAGE)).expect("a page");
        let (_, table) = page.split_once("<!-- probe -->").expect("a table");
        for entry in
            fs::read_dir(sh::root().join("mux-userspace/fixtures/probes")).expect("fixtures")
        {
            let path = entry.expect("an entry").path();
            let probe = path.file_stem().unwrap_or_default().to_string_lossy();
            assert!(table.contains(&format!("\n| `{probe}` |")), "cargo xtask matching: {probe}");
        }
    }
}
