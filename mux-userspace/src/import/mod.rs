//! `mux import`: sslh's configuration → a rules file.
//!
//! | step | file |
//! |---|---|
//! | files, places in them | `source` |
//! | text → libconfig's values | `libconfig/` |
//! | sslh's command line in `/etc/default/sslh` → the same values | `options` |
//! | values → sslh's settings | `sslh/` |
//! | names → addresses and ports | `lookup` |
//! | Perl's and the shell's patterns → mux's | `pattern/` |
//! | settings → listeners and rules, one for one | `listeners`, `rules`, `conditions` |
//! | which rules are tried, and where the rest goes | `plan` |
//! | listeners and rules → text | `write` |
//! | what mux refuses of it is left out | `settle` |
//!
//! What has no equal is left out, with a comment where it would stand, and with a warning where it
//! matters who gets in or where a connection goes. The result is a file that [`crate::rules::parse`] takes:
//! what that refuses is left out too. Never changes a file, and knows nothing that sslh does not say
//! in its configuration.

mod command;
mod conditions;
pub mod libconfig;
mod listeners;
mod log;
mod lookup;
mod options;
mod pattern;
mod plan;
mod rules;
mod settle;
pub mod source;
mod sslh;
mod write;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

pub use self::{
    command::{Arguments, run},
    log::Warning,
    lookup::{Lookup, System},
};
use self::{
    conditions::Condition,
    listeners::Listener,
    log::Log,
    rules::{Entry, Rule, Surroundings},
    source::{Problem, Sources, Span},
    sslh::{Globals, Sslh},
    write::Settings,
};
use crate::rules::{LoadError, Report, Style};

/// sslh's `timeout` where its configuration has none, seconds; 2 before 1.21.
const DEFAULT_TIMEOUT: i64 = 5;
/// mux's longest duration, seconds.
const MAX_TIMEOUT: i64 = 366 * 86_400;
/// sslh's `on_timeout` where its configuration has none.
const DEFAULT_ON_TIMEOUT: &str = "ssh";

/// A rules file, and what it does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The rules file.
    pub rules: String,
    /// In the order of sslh's configuration.
    pub warnings: Vec<Warning>,
}

/// Why there is no rules file.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The file could not be read.
    #[error("cannot read {}: {source}\n  = hint: name sslh's configuration, or `-` for standard input", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file, or one that it includes, says something wrong. A report for each file.
    #[error("{}", render(.0, Style::Plain))]
    Invalid(Vec<Report>),
    /// A mistake of this module: what it has written is no rules file.
    #[error("{0}\n  = hint: what was read is fine; please report this")]
    Unloadable(Box<LoadError>),
}

impl ImportError {
    /// The whole report in a style; [`Style::Plain`] is what `Display` gives.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        match self {
            Self::Invalid(reports) => render(reports, style),
            Self::Io { .. } | Self::Unloadable(_) => self.to_string(),
        }
    }
}

fn render(reports: &[Report], style: Style) -> String {
    let rendered: Vec<String> = reports.iter().map(|report| report.render(style)).collect();
    rendered.join("\n\n")
}

/// Reads sslh's configuration (`-`: standard input) and the files that it includes, and looks
/// hosts up that sslh is to listen on.
///
/// # Errors
/// [`ImportError`]: the file cannot be read, or is not a configuration of sslh.
pub fn import(path: &Path) -> Result<Imported, ImportError> {
    let mut sources = Sources::default();
    let file =
        sources.open(path).map_err(|source| ImportError::Io { path: path.to_owned(), source })?;
    translate(sources, file, &System)
}

/// Translates a configuration that is no file; what it includes is looked for from the working
/// directory on. `name` is what reports call it.
///
/// # Errors
/// [`ImportError`]: it is too large, or not a configuration of sslh.
pub fn import_text(name: &str, text: &[u8], lookup: &dyn Lookup) -> Result<Imported, ImportError> {
    let mut sources = Sources::default();
    let file = sources
        .add(name.to_owned(), PathBuf::new(), text.into())
        .map_err(|source| ImportError::Io { path: name.into(), source })?;
    translate(sources, file, lookup)
}

/// Translates a file of these sources.
fn translate(
    mut sources: Sources,
    file: usize,
    lookup: &dyn Lookup,
) -> Result<Imported, ImportError> {
    let invalid = |sources: &Sources, problems| ImportError::Invalid(sources.reports(problems));
    let start = Span::new(file, 0, 0);
    let name = sources.place(start).file;
    let log = Log::default();
    let parsed = if options::are_in(&sources.bytes(file)) {
        options::parse(&mut sources, file).map(|(settings, warnings)| {
            warnings.into_iter().for_each(|(place, warning)| log.warn(place, warning));
            settings
        })
    } else {
        libconfig::parse(&mut sources, file)
    };
    let settings = match parsed {
        Ok(settings) => settings,
        Err(problem) => return Err(invalid(&sources, vec![problem])),
    };

    let sslh = sslh::read(&settings, start, &log);
    let problems = log.take_problems();
    if !problems.is_empty() {
        return Err(invalid(&sources, problems));
    }
    match rules_file(&name, sslh, lookup, &log)? {
        Ok(rules) => Ok(Imported { rules, warnings: log.into_warnings(&sources) }),
        Err(nothing) => {
            let problem = Problem::new(start, nothing.message).hint(nothing.reasons);
            Err(invalid(&sources, vec![problem]))
        }
    }
}

/// There is no rules file without a listener and a rule.
struct Nothing {
    message: &'static str,
    /// Why each of what was there is left out.
    reasons: String,
}

impl Nothing {
    fn new<'a>(message: &'static str, reasons: impl Iterator<Item = &'a String>) -> Self {
        let mut all: Vec<&str> = reasons.map(String::as_str).collect();
        all.dedup();
        Self { message, reasons: all.join("; ") }
    }
}

/// Writes the rules file of these settings.
fn rules_file(
    name: &str,
    sslh: Sslh,
    lookup: &dyn Lookup,
    log: &Log,
) -> Result<Result<String, Nothing>, ImportError> {
    let Sslh { mut globals, listen, protocols } = sslh;
    let passes_header = listen.iter().any(|listen| listen.proxy_protocol && !listen.udp);
    settle::globals(&mut globals, log);
    let (sniff_timeout, sniff_note) = sniff_timeout(&globals);
    let settings = Settings {
        name,
        notes: &globals.notes,
        sniff_timeout,
        sniff_note,
        user: globals.user.as_ref().map(|user| user.text.as_str()),
        access: &globals.access,
    };
    let on_timeout = globals.on_timeout.as_ref().map_or(DEFAULT_ON_TIMEOUT, |name| &name.text);
    let transparent = globals.transparent;
    let mut listeners = listeners::listeners(listen, lookup, log);
    let surroundings = Surroundings { transparent, passes_header, lookup, log };
    let mut entries = rules::entries(protocols, &surroundings);
    let rules = settle::settle(&settings, &mut listeners, &mut entries, on_timeout)?;
    if let Some(rules) = rules {
        warn(&listeners, &entries, log);
        return Ok(Ok(rules));
    }
    let listened: Vec<&String> =
        listeners.iter().filter_map(|listener| listener.address.as_ref().err()).collect();
    Ok(Err(if listened.len() == listeners.len() {
        Nothing::new("nothing that is listened on here is for mux", listened.into_iter())
    } else {
        let reasons = entries.iter().filter_map(|entry| entry.rule.as_ref().err());
        Nothing::new("none of the protocols here is for mux", reasons)
    }))
}

/// Warns of what is left out, and of whom the rules file trusts.
fn warn(listeners: &[Listener], entries: &[Entry], log: &Log) {
    for Listener { place, address, proxy_protocol, .. } in listeners {
        match address {
            Err(reason) => log.warn(*place, format!("left out: {reason}")),
            Ok(_) if *proxy_protocol => log.warn(*place, listeners::BELIEVED),
            Ok(_) => {}
        }
    }
    for Entry { place, rule, .. } in entries {
        match rule {
            Err(reason) => log.warn(*place, format!("left out: {reason}")),
            Ok(Rule { condition: Condition::Never(reason), .. }) => {
                log.warn(*place, format!("its condition is left out: {reason}"));
            }
            Ok(_) => {}
        }
    }
}

/// `sniff_timeout`, and a remark on it.
fn sniff_timeout(globals: &Globals) -> (String, Option<String>) {
    match globals.timeout {
        None => {
            let note = "sslh's default since 1.21; it was 2 s before.";
            (format!("{DEFAULT_TIMEOUT}s"), Some(note.to_owned()))
        }
        Some(seconds @ 1..=MAX_TIMEOUT) => (format!("{seconds}s"), None),
        Some(seconds) => {
            let nearest = if seconds < 1 { "1ms".to_owned() } else { format!("{MAX_TIMEOUT}s") };
            (nearest, Some(format!("sslh's `timeout: {seconds}`, as near as mux comes to it.")))
        }
    }
}
