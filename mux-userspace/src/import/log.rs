//! What is found out on the way: errors, which end the import, and warnings, which do not.

use std::{cell::RefCell, fmt};

use super::source::{Place, Problem, Sources, Span};

/// Something that the rules file does not do as sslh did, or does not do at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where in sslh's configuration.
    pub place: Place,
    /// What it is, in one line.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Collects them. Reading goes on after an error, to find the others too.
#[derive(Debug, Default)]
pub(super) struct Log {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<(Span, String)>>,
}

impl Log {
    pub(super) fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn warn(&self, place: Span, message: impl Into<String>) {
        self.warnings.borrow_mut().push((place, message.into()));
    }

    /// The errors so far; none are left.
    pub(super) fn take_problems(&self) -> Vec<Problem> {
        self.problems.take()
    }

    /// The warnings, in the order of the text.
    pub(super) fn into_warnings(self, sources: &Sources) -> Vec<Warning> {
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by_key(|&(place, _)| place);
        let warning = |(span, message): (Span, String)| Warning {
            place: sources.place(span),
            message: one_line(&message),
        };
        warnings.into_iter().map(warning).collect()
    }
}

/// A text in which control characters, which a terminal would obey, are escapes.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_debug());
        } else {
            line.push(character);
        }
    }
    line
}
