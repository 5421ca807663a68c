//! Any text as a rules file: a configuration or a report that names the file, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mux::rules::{self, Style};

fuzz_target!(|text: &str| {
    match rules::parse("fuzzed.toml", text) {
        Ok(config) => assert!(!config.rules.is_empty() && !config.listeners.is_empty()),
        Err(error) => {
            let report = error.to_string();
            assert!(report.contains("fuzzed.toml"), "{report}");
            let _ = error.render(Style::Coloured);
        }
    }
});
