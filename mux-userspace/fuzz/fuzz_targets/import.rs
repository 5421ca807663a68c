//! Any bytes as sslh's configuration.

#![no_main]

#[path = "../checks/import.rs"]
mod import;

libfuzzer_sys::fuzz_target!(|input: &[u8]| import::check(input));
