//! The command: the rules file goes to standard output, what it does not do to standard error.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;

use super::{ImportError, import};
use crate::{cli::exit, rules::Style};

/// Its arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// sslh's configuration; `-` is standard input
    #[arg(value_name = "SSLH.CFG")]
    file: PathBuf,
}

/// Imports, and prints the rules file.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let imported = match import(&arguments.file) {
        Ok(imported) => imported,
        Err(error) => {
            let style = if io::stderr().is_terminal() { Style::Coloured } else { Style::Plain };
            eprintln!("{}", error.render(style).trim_end());
            return match error {
                ImportError::Io { .. } | ImportError::Invalid(_) => exit::CONFIG.into(),
                ImportError::Unloadable(_) => exit::OTHER.into(),
            };
        }
    };
    for warning in &imported.warnings {
        eprintln!("warning: {warning}");
    }
    match io::stdout().lock().write_all(imported.rules.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot write the rules: {error}");
            exit::OTHER.into()
        }
    }
}
