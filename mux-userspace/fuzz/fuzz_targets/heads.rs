//! The parsers inside the probes of TLS and HTTP.

#![no_main]

#[path = "../checks/heads.rs"]
mod heads;

libfuzzer_sys::fuzz_target!(|input: &[u8]| heads::check(input));
