//! Any bytes as sslh's configuration: a rules file that loads, or a report.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use mux::{
    import::{Lookup, import_text},
    rules,
};

/// Knows one host and one service, without asking anybody.
struct Known;

impl Lookup for Known {
    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        if host == "localhost" { vec![[127, 0, 0, 1].into()] } else { Vec::new() }
    }

    fn port(&self, service: &str) -> Option<u16> {
        (service == "ssh").then_some(22)
    }
}

fuzz_target!(|text: &[u8]| {
    // What it includes would be files of the machine that this runs on.
    if text.windows(8).any(|window| window == b"@include") {
        return;
    }
    match import_text("sslh.cfg", text, &Known) {
        Ok(imported) => {
            if let Err(error) = rules::parse("rules.toml", &imported.rules) {
                panic!("{error}\n{}", imported.rules);
            }
        }
        Err(error) => assert!(error.to_string().contains("sslh.cfg"), "{error}"),
    }
});
