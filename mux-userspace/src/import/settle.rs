//! What mux refuses is left out, until it takes the result. The judge is mux's own reading of rules
//! files, so that nothing here has to know what it takes.

use std::{collections::HashSet, ops::Range};

use super::{
    ImportError,
    conditions::Condition,
    listeners::Listener,
    log::Log,
    plan::{self, Planned},
    rules::Entry,
    sslh::{Access, Globals, Text},
    write::{self, Settings, Written},
};
use crate::rules::{Diagnostic, LoadError};

/// Takes away settings with values that mux does not take.
pub(super) fn globals(globals: &mut Globals, log: &Log) {
    let mut refused = |table: &str, key: &str, text: &Text| {
        let value = toml::Value::from(text.text.as_str());
        let file =
            format!("listen = \"[::1]:1\"\n[[rule]]\nupstream = 1\n[{table}]\n{key} = {value}\n");
        let refusal = match crate::rules::parse("", &file) {
            Err(LoadError::Invalid(report)) => report.diagnostics().first().map(reason)?,
            Err(_) | Ok(_) => return None,
        };
        let message = format!("`{key} = {value}` is left out: {refusal}");
        log.warn(text.place, &*message);
        globals.notes.push(message);
        Some(())
    };
    if let Some(user) = &globals.user
        && refused("security", "user", user).is_some()
    {
        globals.user = None;
    }
    if let Access::File(path) = &globals.access
        && refused("log", "access_file", path).is_some()
    {
        globals.access = Access::Default;
    }
}

/// Plans and writes, until mux takes the result: what it refuses is left out. `None`: nothing is
/// left of the listeners, or of the entries.
pub(super) fn settle(
    settings: &Settings<'_>,
    listeners: &mut [Listener],
    entries: &mut [Entry],
    on_timeout: &str,
) -> Result<Option<String>, ImportError> {
    // Every round leaves something out, or is the last.
    loop {
        if listeners.iter().all(|listener| listener.address.is_err()) {
            return Ok(None);
        }
        let plan = match plan::plan(entries, on_timeout) {
            Planned::Plan(plan) => plan,
            Planned::Nothing => return Ok(None),
            Planned::Unused(unused) => {
                for (index, reason) in unused {
                    if let Some(entry) = entries.get_mut(index) {
                        entry.rule = Err(reason);
                    }
                }
                continue;
            }
        };
        let written = write::write(settings, listeners, entries, &plan);
        let error = match crate::rules::parse("rules.toml", &written.text) {
            Ok(_) => return Ok(Some(written.text)),
            Err(error) => error,
        };
        let LoadError::Invalid(report) = &error else {
            return Err(ImportError::Unloadable(Box::new(error)));
        };
        // One complaint each: what else is wrong may be gone with it.
        let mut seen = HashSet::new();
        for diagnostic in report.diagnostics() {
            let Some(part) = part(&written, diagnostic.span.start) else {
                return Err(ImportError::Unloadable(Box::new(error)));
            };
            if seen.insert(part) && !leave_out(part, listeners, entries, reason(diagnostic)) {
                return Err(ImportError::Unloadable(Box::new(error)));
            }
        }
    }
}

/// A part of the rules file, by index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Listener(usize),
    Rule(usize),
}

/// The part that stands here.
fn part(written: &Written, at: usize) -> Option<Part> {
    let among = |places: &[Range<usize>]| places.iter().position(|place| place.contains(&at));
    let rule = || among(&written.rules).map(Part::Rule);
    among(&written.listeners).map(Part::Listener).or_else(rule)
}

/// Leaves a part out; of a rule at first only the condition, so that it can still be what a listener
/// falls back to. Says whether there was something to leave out.
fn leave_out(
    part: Part,
    listeners: &mut [Listener],
    entries: &mut [Entry],
    reason: String,
) -> bool {
    match part {
        Part::Listener(index) => {
            let address = listeners.get_mut(index).map(|listener| &mut listener.address);
            let Some(address) = address.filter(|address| address.is_ok()) else { return false };
            *address = Err(reason);
        }
        Part::Rule(index) => match entries.get_mut(index).map(|entry| &mut entry.rule) {
            Some(Ok(rule)) if !matches!(rule.condition, Condition::Never(_)) => {
                rule.condition = Condition::Never(reason);
            }
            Some(rule @ Ok(_)) => *rule = Err(reason),
            Some(Err(_)) | None => return false,
        },
    }
    true
}

/// What mux says, in a line.
fn reason(diagnostic: &Diagnostic) -> String {
    let hint = diagnostic.hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default();
    format!("{}{hint}", diagnostic.message)
}
