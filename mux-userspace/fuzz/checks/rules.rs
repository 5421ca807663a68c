//! Any text as a rules file: a configuration or a report that names the file, never a panic.

use mux::rules::{self, Files, Style, Surroundings};

/// The check.
pub(crate) fn check(text: &str) {
    // What it names would be files of the machine that this runs on.
    let surroundings = Surroundings { files: Files::Unread, ..Surroundings::default() };
    match rules::parse_in("fuzzed.toml", text, surroundings) {
        Ok(config) => assert!(!config.rules.is_empty() && !config.listeners.is_empty()),
        Err(error) => {
            let report = error.to_string();
            assert!(report.contains("fuzzed.toml"), "{report}");
            let _ = error.render(Style::Coloured);
        }
    }
}
