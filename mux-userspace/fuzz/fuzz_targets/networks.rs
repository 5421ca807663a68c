//! Any bytes as a file of networks.

#![no_main]

#[path = "../checks/networks.rs"]
mod networks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| networks::check(input));
