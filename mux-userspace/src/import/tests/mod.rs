//! Whole configurations.

mod errors;
mod fixtures;
mod hostile;
pub(super) mod oracle;
mod routes;
mod settings;

use std::net::IpAddr;

use super::{ImportError, Imported, Lookup, import_text};
use crate::rules::{self, Config};

/// Knows a few names and no more, so that results do not depend on the machine.
struct Known;

impl Lookup for Known {
    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        let addresses: &[&str] = match host {
            "edge.example" => &["10.0.0.9", "2001:db8::9"],
            "localhost" => &["127.0.0.1"],
            _ => &[],
        };
        addresses.iter().map(|address| address.parse().expect("an address")).collect()
    }

    fn port(&self, service: &str) -> Option<u16> {
        match service {
            "daytime" => Some(13),
            "ssh" => Some(22),
            "https" => Some(443),
            "xmpp-client" => Some(5222),
            _ => None,
        }
    }
}

fn try_import(text: &str) -> Result<Imported, ImportError> {
    import_text("sslh.cfg", text.as_bytes(), &Known)
}

/// Imports a configuration; what comes of it must load.
#[track_caller]
fn import(text: &str) -> (Imported, Config) {
    let imported = try_import(text).unwrap_or_else(|error| panic!("{error}"));
    let config = rules::parse("rules.toml", &imported.rules)
        .unwrap_or_else(|error| panic!("{error}\n{}", imported.rules));
    (imported, config)
}

/// A configuration with these protocols.
fn with_protocols(protocols: &str) -> String {
    format!(
        "listen: ( {{ host: \"127.0.0.1\"; port: \"443\"; }} );\nprotocols: (\n{protocols}\n);\n"
    )
}

/// The warnings, without their places.
fn messages(imported: &Imported) -> Vec<&str> {
    imported.warnings.iter().map(|warning| warning.message.as_str()).collect()
}

/// The lines of the rules file that are neither empty nor comments.
fn lines(imported: &Imported) -> Vec<&str> {
    let says = |line: &&str| !line.is_empty() && !line.starts_with('#');
    imported.rules.lines().filter(says).collect()
}
