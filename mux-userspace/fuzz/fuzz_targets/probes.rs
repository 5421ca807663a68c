//! Every probe on any first bytes.

#![no_main]

#[path = "../checks/probes.rs"]
mod probes;

libfuzzer_sys::fuzz_target!(|input: &[u8]| probes::check(input));
