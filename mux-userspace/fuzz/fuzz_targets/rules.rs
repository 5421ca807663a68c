//! Any text as a rules file.

#![no_main]

#[path = "../checks/rules.rs"]
mod rules;

libfuzzer_sys::fuzz_target!(|input: &str| rules::check(input));
