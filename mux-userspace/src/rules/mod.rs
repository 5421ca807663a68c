//! Rules files: from TOML text to a [`Config`] that cannot be wrong.
//!
//! | step | file |
//! |---|---|
//! | text → TOML values with spans | the `toml` crate |
//! | tables → keys, each taken once; the rest are unknown | `table`, `values`, `units`, `address` |
//! | keys → raw shapes | `raw`, `identity`, `settings`, `matches`, `heads`, `names`, `upstream` |
//! | names → indices | `compile` |
//! | rules that can never be used | `lint` |
//! | what may be meant otherwise | `warn`, `places` |
//! | what went wrong → a report with file, line, column, caret and hint | `diagnostic`, `suggest` |
//!
//! Every step goes on after a problem, so that a report has all of them. Nothing here
//! touches the network; a name in a file is looked up when it is connected to.

mod address;
mod compile;
pub mod config;
mod diagnostic;
mod heads;
mod identity;
mod lint;
mod matches;
mod names;
mod places;
mod raw;
mod settings;
mod suggest;
mod table;
mod units;
mod upstream;
mod values;
mod warn;

#[cfg(test)]
mod tests;

use std::{
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use thiserror::Error;
use toml::de::DeTable;

pub(crate) use self::suggest::did_you_mean_or_list;
pub use self::{
    address::{AddressError, parse_address, parse_listen},
    config::Config,
    diagnostic::{Diagnostic, Place, Problem, Report, Severity, Style},
    units::{UnitError, parse_duration, parse_size},
};
use self::{places::Places, table::Problems};
use crate::probe::Probes;

/// Why there is no configuration. Its `Display` is the whole report, for people.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("error: cannot read {}: {source}\n  = hint: {}", path.display(), remedy(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not text.
    #[error("error: {name}:{line}:{column}: this is not UTF-8\n  = hint: {NOT_UTF8_HINT}")]
    NotUtf8 {
        /// The file.
        name: String,
        /// Line of the first such byte, from 1.
        line: usize,
        /// Its column in bytes, from 1.
        column: usize,
    },
    /// The text says something wrong.
    #[error("{0}")]
    Invalid(Report),
}

const NOT_UTF8_HINT: &str =
    "save the file as UTF-8, and write other bytes in `prefix_hex`, or as \\xNN in a `regex`";

impl LoadError {
    /// What is wrong, as data.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let whole = |message, place, hint: String| {
            vec![Problem { message, place, label: None, hint: Some(hint) }]
        };
        match self {
            Self::Invalid(report) => report.problems(),
            Self::Io { path, source } => {
                let message = format!("cannot read {}: {source}", path.display());
                whole(message, None, remedy(source).to_string())
            }
            Self::NotUtf8 { name: _, line, column } => {
                let place = Place { line: *line, column: *column };
                whole("this is not UTF-8".into(), Some(place), NOT_UTF8_HINT.into())
            }
        }
    }

    /// The whole report in a style; [`Style::Plain`] is what `Display` gives.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        match self {
            Self::Invalid(report) => report.render(style),
            Self::Io { .. } | Self::NotUtf8 { .. } => self.to_string(),
        }
    }
}

/// What to do about a file that cannot be read.
fn remedy(error: &io::Error) -> impl fmt::Display {
    match error.kind() {
        io::ErrorKind::NotFound => "name a file that is there: `--rules rules.toml`",
        io::ErrorKind::PermissionDenied => "let the user who starts mux read the file",
        io::ErrorKind::IsADirectory => "name a file in this directory",
        // Foreign and open-ended: the system's own words have to do.
        _ => "check the path given to `--rules`",
    }
}

/// What a rules file can refer to beside itself.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The probes that it can name.
    pub probes: Probes,
    /// Where files that it names by relative paths are; empty: the working directory.
    pub directory: PathBuf,
    /// Whether files that it names are read.
    pub files: Files,
}

/// What becomes of `file:` in a rules file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Files {
    /// The file is read.
    #[default]
    Read,
    /// It is taken for an empty one, unread: for text that is not the administrator's.
    Unread,
}

/// A rules file that is right, and its text, to point at what may be meant otherwise.
#[derive(Debug)]
pub struct RulesFile {
    /// What it says.
    pub config: Config,
    name: String,
    text: String,
}

impl RulesFile {
    /// What can be seen from the file alone that hardly can be meant.
    #[must_use]
    pub fn warnings(&self) -> Vec<Diagnostic> {
        warn::warnings(&self.config, &Places::of(&self.text))
    }

    /// Every address of an upstream that stands in it, and where, in the order of the text.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Range<usize>, config::Address)> {
        Places::of(&self.text).addresses()
    }

    /// A report of what was found in it.
    #[must_use]
    pub fn report(&self, diagnostics: Vec<Diagnostic>) -> Report {
        Report::new(&self.name, &self.text, diagnostics)
    }
}

/// Reads and compiles a rules file, which may name these probes.
///
/// # Errors
/// [`LoadError`]: the file cannot be read, is not UTF-8, or says something wrong.
pub fn load(path: &Path, probes: &Probes) -> Result<Config, LoadError> {
    open(path, probes).map(|file| file.config)
}

/// The same, and keeps the text.
///
/// # Errors
/// As [`load`].
pub fn open(path: &Path, probes: &Probes) -> Result<RulesFile, LoadError> {
    let bytes = fs::read(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
    let name = path.display().to_string();
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        LoadError::NotUtf8 {
            name: name.clone(),
            line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
            column: before.len() - line_start + 1,
        }
    })?;
    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
    let surroundings = Surroundings { probes: probes.clone(), directory, files: Files::Read };
    let config = parse_in(&name, text, surroundings)?;
    Ok(RulesFile { config, text: text.to_owned(), name })
}

/// Compiles the text of a rules file that names mux's own probes and files relative to the
/// working directory; `name` is what reports call it.
///
/// # Errors
/// [`LoadError::Invalid`]: the text is not TOML or says something wrong.
pub fn parse(name: &str, text: &str) -> Result<Config, LoadError> {
    parse_in(name, text, Surroundings::default())
}

/// Compiles the text of a rules file; `name` is what reports call it.
///
/// # Errors
/// [`LoadError::Invalid`]: the text is not TOML or says something wrong.
pub fn parse_in(name: &str, text: &str, surroundings: Surroundings) -> Result<Config, LoadError> {
    let invalid = |diagnostics| LoadError::Invalid(Report::new(name, text, diagnostics));
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What could be recovered has holes: it would only be complained about twice.
        return Err(invalid(errors.iter().map(syntax_error).collect()));
    }

    let problems = Problems::new(surroundings);
    let raw = raw::read(root, &problems);
    let (config, places) = compile::compile(raw, &problems);
    if problems.len() == 0 {
        lint::lint(&config, &places, &problems);
    }
    match problems.into_inner() {
        diagnostics if diagnostics.is_empty() => Ok(config),
        diagnostics => Err(invalid(diagnostics)),
    }
}

fn syntax_error(error: &toml::de::Error) -> Diagnostic {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    Diagnostic::new(error.span().unwrap_or(0..0), message)
        .hint("this is not TOML: see https://toml.io for its syntax")
}
