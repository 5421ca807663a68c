//! `cargo xtask test`: every check of the project, one after the other; all run, all failures are
//! reported. The list is [`STEPS`].

use std::{
    ffi::OsString,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{room, sh, steps};

/// `cargo xtask test`.
#[derive(clap::Args, Debug)]
pub(crate) struct TestArgs {
    /// Only the checks that need nothing but stable Rust: formatting, lints, unit tests
    #[arg(long)]
    quick: bool,
    /// Print the steps and end
    #[arg(long)]
    list: bool,
    /// Only these steps
    #[arg(value_name = "STEP", value_parser = step_name, conflicts_with = "quick")]
    only: Vec<String>,
    /// Arguments for the integration tests' binary, such as a test's name
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// One check.
pub(crate) struct Step {
    /// One word, for the command line.
    pub(crate) name: &'static str,
    /// What it proves.
    pub(crate) about: &'static str,
    /// Part of `--quick`.
    pub(crate) quick: bool,
    /// Does it.
    pub(crate) run: fn(&mut Context) -> Result<Outcome>,
}

/// How a step ended, if it did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It passed.
    Passed,
    /// It could not be done, and why that is no failure.
    Skipped(String),
}

/// What steps hand to later ones.
#[derive(Default)]
pub(crate) struct Context {
    /// The daemon under test, once it is built.
    pub(crate) daemon: Option<PathBuf>,
    /// The user's arguments for the integration tests.
    pub(crate) arguments: Vec<OsString>,
}

/// Every step, in order.
pub(crate) const STEPS: [Step; 13] = [
    Step {
        name: "packages",
        about: "programs that the tests talk to are installed",
        quick: false,
        run: steps::packages,
    },
    Step { name: "fmt", about: "formatting", quick: true, run: steps::fmt },
    Step { name: "clippy", about: "lints, warnings are errors", quick: true, run: steps::clippy },
    Step {
        name: "ebpf",
        about: "the committed eBPF object is what the source makes",
        quick: false,
        run: steps::ebpf,
    },
    Step {
        name: "daemon",
        about: "the daemon builds with optimisation",
        quick: false,
        run: steps::daemon,
    },
    Step {
        name: "unit",
        about: "unit, property and documentation tests",
        quick: true,
        run: steps::unit,
    },
    Step {
        name: "integration",
        about: "the daemon against real peers and the real kernel",
        quick: false,
        run: steps::integration,
    },
    Step {
        name: "torture",
        about: "random flows, every byte checked, over links that lose packets too",
        quick: false,
        run: steps::torture,
    },
    Step {
        name: "vm",
        about: "the kernel relay on other kernels, in virtual machines",
        quick: false,
        run: steps::vm,
    },
    Step {
        name: "package",
        about: "the Debian package: made, installed, upgraded, purged; its service under systemd",
        quick: false,
        run: steps::package,
    },
    Step {
        name: "charts",
        about: "the Helm chart and the Dockerfile, by their own tools",
        quick: false,
        run: steps::charts,
    },
    Step { name: "doc", about: "documentation builds", quick: false, run: steps::doc },
    Step {
        name: "deny",
        about: "licences and sources of dependencies",
        quick: false,
        run: steps::deny,
    },
];

/// Runs the steps asked for.
///
/// # Errors
/// A step failed; the message names all that did.
pub(crate) fn command(args: TestArgs) -> Result<()> {
    if args.list {
        for step in &STEPS {
            let quick = if step.quick { " (--quick)" } else { "" };
            println!("{:12} {}{quick}", step.name, step.about);
        }
        return Ok(());
    }
    let mut context = Context { arguments: args.arguments, ..Context::default() };
    let chosen = STEPS.iter().filter(|step| is_chosen(step, args.quick, &args.only));
    let before = room::free();
    let results: Vec<_> = chosen.map(|step| run(step, &mut context)).collect();

    eprintln!("\n{}", headline("summary"));
    for result in &results {
        eprintln!("{}", result.line());
    }
    if let (Some(before), Some(after)) = (before, room::free()) {
        eprintln!("room on the disk: {before:.1} GiB before, {after:.1} GiB after");
    }
    let failed: Vec<&str> =
        results.iter().filter(|r| r.outcome.is_err()).map(|r| r.step.name).collect();
    if !failed.is_empty() {
        bail!(
            "failed: {}\nhint: `cargo xtask test {}` repeats it",
            failed.join(", "),
            failed.join(" ")
        );
    }
    Ok(())
}

struct Done<'a> {
    step: &'a Step,
    outcome: Result<Outcome>,
    took: Duration,
}

impl Done<'_> {
    fn line(&self) -> String {
        let (verdict, reason) = match &self.outcome {
            Ok(Outcome::Passed) => ("passed", String::new()),
            Ok(Outcome::Skipped(reason)) => ("skipped", format!("  {reason}")),
            Err(error) => {
                let text = format!("{error:#}");
                ("FAILED", format!("  {}", text.lines().next().unwrap_or_default()))
            }
        };
        format!("{verdict:8} {:12} {:6.1} s{reason}", self.step.name, self.took.as_secs_f64())
    }
}

fn run<'a>(step: &'a Step, context: &mut Context) -> Done<'a> {
    eprintln!("\n{}", headline(&format!("{}: {}", step.name, step.about)));
    let start = Instant::now();
    let outcome = (step.run)(context);
    match &outcome {
        Ok(Outcome::Passed) => {}
        Ok(Outcome::Skipped(reason)) => sh::status(format!("skipped: {reason}")),
        Err(error) => eprintln!("error: {error:#}"),
    }
    Done { step, outcome, took: start.elapsed() }
}

fn is_chosen(step: &Step, quick: bool, only: &[String]) -> bool {
    if only.is_empty() {
        return step.quick || !quick;
    }
    // These are tests of the daemon, which therefore is built with them.
    let of_the_daemon =
        |name: &String| ["integration", "torture", "vm", "charts"].contains(&name.as_str());
    let implied = step.name == "daemon" && only.iter().any(of_the_daemon);
    implied || only.iter().any(|name| name == step.name)
}

fn headline(text: &str) -> String {
    format!("── {text} {}", "─".repeat(90_usize.saturating_sub(text.chars().count())))
}

fn step_name(name: &str) -> Result<String, String> {
    if STEPS.iter().any(|step| step.name == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
    Err(format!("no such step; there are: {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn chosen(quick: bool, only: &[&str]) -> Vec<&'static str> {
        let only: Vec<String> = only.iter().map(ToString::to_string).collect();
        STEPS.iter().filter(|step| is_chosen(step, quick, &only)).map(|step| step.name).collect()
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = STEPS.iter().map(|step| step.name).collect();
        assert_eq!(names.len(), STEPS.len());
    }

    #[test]
    fn which_steps_run() {
        assert_eq!(chosen(false, &[]).len(), STEPS.len());
        assert_eq!(chosen(true, &[]), ["fmt", "clippy", "unit"]);
        assert_eq!(chosen(false, &["doc"]), ["doc"]);
        assert_eq!(chosen(false, &["integration"]), ["daemon", "integration"]);
        assert_eq!(chosen(false, &["vm"]), ["daemon", "vm"]);
    }

    #[test]
    fn the_object_is_checked_before_it_is_tested() {
        let place = |name| STEPS.iter().position(|step| step.name == name);
        assert!(place("packages") < place("integration"));
        assert!(place("ebpf") < place("daemon") && place("daemon") < place("integration"));
    }

    #[test]
    fn a_failure_fits_on_one_line_of_the_summary() {
        let outcome = Err(anyhow::anyhow!("first\nhint: second"));
        let done = Done { step: &STEPS[1], outcome, took: Duration::from_millis(1500) };
        assert_eq!(done.line(), "FAILED   fmt             1.5 s  first");
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_known_ones() {
        assert!(step_name("lint").is_err_and(|text| text.contains("clippy")));
        assert_eq!(step_name("fmt"), Ok("fmt".to_owned()));
    }
}
