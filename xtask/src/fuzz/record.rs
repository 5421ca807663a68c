//! What ran, and the page that says so.

use std::{fmt, fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::sh;

/// Where it is written down, and below which heading.
const PAGE: &str = "docs/internals/fuzzing.md";
const HEADING: &str = "## Last runs\n";

/// A target's run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// The fuzzer's processor time.
    pub(super) time: Duration,
    /// Inputs tried.
    executions: u64,
    /// Branches reached, by all inputs together.
    branches: u64,
}

impl Run {
    /// Adds a slice, of which the fuzzer said this. `None`: it did not say enough.
    pub(super) fn add(&mut self, time: Duration, said: &str) -> Option<()> {
        let executions =
            said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        self.executions += executions?.trim().parse::<u64>().ok()?;
        // `#1234  DONE   cov: 567 ft: 890 corp: …`
        let covered = said.lines().rev().find_map(|line| line.split_once(" cov: "))?.1;
        let covered = covered.split(' ').next()?.parse().ok()?;
        self.branches = self.branches.max(covered);
        self.time += time;
        Some(())
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, executions, branches } = self;
        write!(f, "{} s, {executions} inputs, {branches} branches", time.as_secs())
    }
}

/// Puts the run into the page's table, in the place of the target's last one.
pub(super) fn write(target: &str, run: &Run) -> Result<()> {
    let path = sh::root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| PAGE.to_owned())?;
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let day = now.split('T').next().unwrap_or_default();
    let commit = sh::output(Command::new("git").args(["rev-parse", "--short", "HEAD"]))?;
    let corpus = super::files(&super::folder("corpus", target))?.len();
    let Run { time, executions, branches } = run;
    let row = format!(
        "| `{target}` | {} | {} | {branches} | {corpus} | {day} | {commit} |",
        time.as_secs(),
        thousands(*executions)
    );
    fs::write(&path, replaced(&page, target, &row)?)?;
    Ok(())
}

/// The page with another row for a target.
fn replaced(page: &str, target: &str, row: &str) -> Result<String> {
    let (before, runs) =
        page.split_once(HEADING).with_context(|| format!("{PAGE} has no {HEADING}"))?;
    let begins = format!("| `{target}` |");
    ensure!(
        runs.lines().filter(|line| line.starts_with(&begins)).count() == 1,
        "{PAGE} has no row, or several, for {target}"
    );
    let lines = runs.lines().map(|line| if line.starts_with(&begins) { row } else { line });
    let runs: String = lines.map(|line| format!("{line}\n")).collect();
    Ok(format!("{before}{HEADING}{runs}"))
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_add_up() {
        let said = "#2\tINITED cov: 12 ft: 13\n#9\tDONE   cov: 120 ft: 130 corp: 1/1b\n\
                    stat::number_of_executed_units: 1000\nstat::average_exec_per_sec: 3\n";
        let mut run = Run::default();
        for _ in 0..2 {
            run.add(Duration::from_secs(40), said).expect("it says enough");
        }
        assert_eq!(run.to_string(), "80 s, 2000 inputs, 120 branches");
        assert!(run.add(Duration::ZERO, "nothing").is_none());
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
    }

    #[test]
    fn the_row_of_the_last_run_is_replaced() {
        let page = "| `x` | what it is |\n## Last runs\n| `x` | 1 |\n| `xy` | 2 |\n";
        let expected = page.replace("| `x` | 1 |", "| `x` | 3 |");
        assert_eq!(replaced(page, "x", "| `x` | 3 |").expect("one"), expected);
        assert!(replaced(page, "z", "").is_err());
    }
}
