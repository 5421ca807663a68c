//! `mux check`: what is wrong with a rules file, and what is odd about it and its surroundings.
//!
//! What is wrong is what the daemon would say. What is odd can be used: names that do not resolve
//! and sockets that are not there may be there later.

mod surroundings;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use serde::Serialize;

use crate::{
    cli::exit,
    probe::Probes,
    rules::{self, LoadError, Problem, RulesFile, Style, config::Config},
};

/// Its arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The rules file
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// Take warnings for errors
    #[arg(long)]
    strict: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Findings {
    file: String,
    /// Whether the daemon would take the file.
    ok: bool,
    /// How much is in it; `None` for a file that is not taken.
    #[serde(flatten)]
    size: Option<Size>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Size {
    listeners: usize,
    rules: usize,
    upstreams: usize,
}

/// Checks, and prints what it finds.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    match rules::open(&arguments.rules, &Probes::default()) {
        Ok(file) => odd(arguments, &file),
        Err(error) => wrong(arguments, &error),
    }
}

/// The style for standard error.
pub(crate) fn style() -> Style {
    if io::stderr().is_terminal() { Style::Coloured } else { Style::Plain }
}

fn wrong(arguments: &Arguments, error: &LoadError) -> ExitCode {
    if arguments.json {
        print(&Findings {
            file: arguments.rules.display().to_string(),
            ok: false,
            size: None,
            errors: error.problems(),
            warnings: Vec::new(),
        });
    } else {
        eprintln!("{}", error.render(style()).trim_end());
    }
    exit::CONFIG.into()
}

fn odd(arguments: &Arguments, file: &RulesFile) -> ExitCode {
    let mut warnings = file.warnings();
    warnings.extend(surroundings::warnings(file.addresses()));
    let count = warnings.len();
    let report = file.report(warnings);
    let name = arguments.rules.display().to_string();
    let size = Size::of(&file.config);
    let is_refused = arguments.strict && count > 0;

    if arguments.json {
        let warnings = report.problems();
        print(&Findings { file: name, ok: true, size: Some(size), errors: Vec::new(), warnings });
    } else {
        if count > 0 {
            eprintln!("{}\n", report.render(style()).trim_end());
        }
        let plural = if count == 1 { "" } else { "s" };
        if is_refused {
            eprintln!("error: {name} has {count} warning{plural}, and `--strict` allows none");
        } else {
            let odd = if count > 0 { format!(", {count} warning{plural}") } else { String::new() };
            let Size { listeners, rules, upstreams } = size;
            // A closed standard output is no reason to fail.
            let _ = writeln!(
                io::stdout(),
                "{name}: ok: {listeners} listener(s), {rules} rule(s), {upstreams} upstream(s){odd}",
            );
        }
    }
    if is_refused { exit::CONFIG.into() } else { ExitCode::SUCCESS }
}

impl Size {
    fn of(config: &Config) -> Self {
        Self {
            listeners: config.listeners.len(),
            rules: config.rules.len(),
            upstreams: config.upstreams.len(),
        }
    }
}

fn print(findings: &Findings) {
    let mut output = io::stdout().lock();
    // Strings and numbers can be serialised; a closed standard output is no reason to fail.
    let _ = serde_json::to_writer_pretty(&mut output, findings)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(output));
}
