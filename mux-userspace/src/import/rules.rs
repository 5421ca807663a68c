//! sslh's protocols → rules, one for one; which of them are tried, and when, is `plan`'s matter.

use std::collections::{HashMap, HashSet};

use super::{
    conditions::{Condition, condition, sure_after},
    log::Log,
    lookup::Lookup,
    source::Span,
    sslh::{Probe, Protocol},
};
use crate::rules::parse_address;

/// Longest name of a rule.
const MAX_NAME: usize = 64;

/// A protocol, and what became of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Span,
    /// The protocol's name, which is not unique.
    pub(super) protocol: String,
    /// The protocol as one line of sslh's configuration.
    pub(super) quote: String,
    pub(super) notes: Vec<String>,
    /// The error says why it is left out.
    pub(super) rule: Result<Rule, String>,
}

/// A rule of mux.
#[derive(Debug)]
pub(super) struct Rule {
    /// Unique.
    pub(super) name: String,
    pub(super) condition: Condition,
    /// Bytes from which on sslh's probe is sure; before, it waits for more. At least 1.
    pub(super) sure_after: u64,
    pub(super) upstream: String,
    pub(super) transparent: bool,
    /// `v1` or `v2`.
    pub(super) proxy_protocol: Option<&'static str>,
    pub(super) max_connections: Option<u32>,
}

/// What is the same for all protocols.
pub(super) struct Surroundings<'a> {
    /// `transparent` outside of all protocols.
    pub(super) transparent: bool,
    /// Whether some listener expects a PROXY header, which sslh passes on unless told otherwise.
    pub(super) passes_header: bool,
    pub(super) lookup: &'a dyn Lookup,
    pub(super) log: &'a Log,
}

/// Translates the protocols.
pub(super) fn entries(protocols: Vec<Protocol>, surroundings: &Surroundings<'_>) -> Vec<Entry> {
    let mut names = Names::default();
    protocols.into_iter().map(|protocol| entry(protocol, surroundings, &mut names)).collect()
}

fn entry(protocol: Protocol, surroundings: &Surroundings<'_>, names: &mut Names) -> Entry {
    let Surroundings { transparent, passes_header, lookup, log } = *surroundings;
    let mut notes = protocol.notes.clone();
    let rule = if protocol.udp || protocol.probe == Probe::Udp {
        Err("it is UDP, and mux routes TCP".to_owned())
    } else if protocol.probe == Probe::Unknown {
        Err(format!("mux knows no probe `{}` of sslh's", protocol.name))
    } else {
        upstream(&protocol, lookup).map(|upstream| Rule {
            name: names.unique(&protocol.name),
            condition: condition(&protocol, &mut notes, log),
            sure_after: sure_after(&protocol),
            upstream,
            transparent: (transparent || protocol.transparent) && !protocol.unix,
            proxy_protocol: proxy_protocol(&protocol, passes_header, &mut notes, log),
            max_connections: protocol.max_connections,
        })
    };
    let Protocol { place, quote, name, .. } = protocol;
    Entry { place, protocol: name, quote, notes, rule }
}

/// The names that rules have.
#[derive(Default)]
struct Names {
    taken: HashSet<String>,
    /// How often each was asked for.
    asked: HashMap<String, usize>,
}

impl Names {
    /// A name of mux that no other rule has.
    fn unique(&mut self, name: &str) -> String {
        let base = plain(name);
        let asked = self.asked.entry(base.clone()).or_default();
        loop {
            *asked += 1;
            let name = if *asked == 1 { base.clone() } else { format!("{base}-{asked}") };
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

/// A name that mux takes, with room for a number.
fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain = name.chars().map(|c| if is_plain(c) { c } else { '-' });
    let mut plain: String = plain.take(MAX_NAME - 16).collect();
    // Words and numbers that mean something else where a rule's name can stand.
    if plain.bytes().all(|byte| byte.is_ascii_digit()) || matches!(&*plain, "close" | "reset") {
        plain.insert_str(0, "sslh-");
    }
    plain
}

/// The address, as a rule writes it.
fn upstream(protocol: &Protocol, lookup: &dyn Lookup) -> Result<String, String> {
    let host = protocol.host.text.as_str();
    let address = if protocol.unix {
        format!("unix:{host}")
    } else {
        let port = port(&protocol.port, lookup).filter(|port| *port != 0).ok_or_else(|| {
            format!("its port, `{}`, is neither a number nor in /etc/services", protocol.port)
        })?;
        format!("{}:{port}", bracketed(host))
    };
    match parse_address(&address) {
        Ok(_) => Ok(address),
        Err(error) => Err(format!("`{address}` is no address for mux: {error}")),
    }
}

/// A port by number or by name.
pub(super) fn port(port: &str, lookup: &dyn Lookup) -> Option<u16> {
    if port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) {
        port.parse().ok()
    } else {
        lookup.port(port)
    }
}

/// A host as it stands before `:port`. sslh takes IPv6 addresses with brackets and without.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// The PROXY header that the upstream gets.
fn proxy_protocol(
    protocol: &Protocol,
    passes_header: bool,
    notes: &mut Vec<String>,
    log: &Log,
) -> Option<&'static str> {
    match protocol.proxy_protocol {
        Some(1) => Some("v1"),
        Some(2) => Some("v2"),
        Some(0) => None,
        Some(other) => {
            let message = format!("`proxyprotocol: {other}`: there are versions 1 and 2: left out");
            log.warn(protocol.place, &*message);
            notes.push(format!("sslh's {message}"));
            None
        }
        None if passes_header => {
            let message = "sslh passes the client's PROXY header on; mux sends one of its own, of \
                           version 2: write \"v1\" if the upstream wants that";
            notes.push(message.to_owned());
            Some("v2")
        }
        None => None,
    }
}
