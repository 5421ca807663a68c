//! Any first bytes, in any chunks, among many rules.

#![no_main]

#[path = "../checks/route.rs"]
mod route;

libfuzzer_sys::fuzz_target!(|input: &[u8]| route::check(input));
