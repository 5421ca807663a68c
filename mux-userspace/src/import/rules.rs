//! sslh's protocols → rules, one for one; which of them are tried, and when, is `plan`'s matter.

use std::collections::HashSet;

use toml::{Table, Value};

use super::{
    log::Log,
    lookup::Lookup,
    pattern::{Glob, glob, perl, traits},
    source::Span,
    sslh::{Pattern, Probe, Protocol},
};
use crate::rules::parse_address;

/// Longest name of a rule.
const MAX_NAME: usize = 64;
/// Most bytes that `minlength` can ask for: the default of `sniff_limit`.
const MAX_MIN_LENGTH: u64 = 64 << 10;

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

/// When a rule matches.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    /// All that sends anything.
    Any,
    /// What `match` says.
    When { value: Value, waits: Waits },
    /// It cannot be said, for this reason; the rule can be a place to fall back to all the same.
    Never(String),
}

/// Whether mux waits for more where sslh's probe says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// No longer than sslh.
    No,
    /// For the end of a request line, where sslh goes by its first word.
    ForALine,
    /// For a match, which can always still come.
    ForAMatch,
}

/// Translates the protocols. `transparent` is the setting for all of them; `passes_header`: some
/// listener expects a PROXY header, which sslh passes on unless told otherwise.
pub(super) fn entries(
    protocols: Vec<Protocol>,
    transparent: bool,
    passes_header: bool,
    lookup: &dyn Lookup,
    log: &Log,
) -> Vec<Entry> {
    let mut names = HashSet::new();
    protocols
        .into_iter()
        .map(|protocol| entry(protocol, transparent, passes_header, &mut names, lookup, log))
        .collect()
}

fn entry(
    protocol: Protocol,
    transparent: bool,
    passes_header: bool,
    names: &mut HashSet<String>,
    lookup: &dyn Lookup,
    log: &Log,
) -> Entry {
    let mut notes = protocol.notes.clone();
    let rule = if protocol.udp || protocol.probe == Probe::Udp {
        Err("it is UDP, and mux routes TCP".to_owned())
    } else if protocol.probe == Probe::Unknown {
        Err(format!("mux knows no probe `{}` of sslh's", protocol.name))
    } else {
        upstream(&protocol, lookup).map(|upstream| Rule {
            name: unique(&protocol.name, names),
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

/// A name of mux that no other rule has.
fn unique(name: &str, names: &mut HashSet<String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut base: String =
        name.chars().map(|c| if is_plain(c) { c } else { '-' }).take(MAX_NAME - 8).collect();
    // Words and numbers that mean something else where a rule's name can stand.
    if base.bytes().all(|byte| byte.is_ascii_digit()) || matches!(&*base, "close" | "reset") {
        base.insert_str(0, "sslh-");
    }
    let numbered = |number: usize| match number {
        1 => base.clone(),
        _ => format!("{base}-{number}"),
    };
    let unused = (1..).map(numbered).find(|name| !names.contains(name)).unwrap_or_default();
    names.insert(unused.clone());
    unused
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

fn condition(protocol: &Protocol, notes: &mut Vec<String>, log: &Log) -> Condition {
    let sentence = match &protocol.probe {
        Probe::Named(name @ "http") => {
            Sentence { waits: Waits::ForALine, ..Sentence::certain(Value::from(*name)) }
        }
        Probe::Named(name) => Sentence::certain(Value::from(*name)),
        Probe::Prefix(prefix) => Sentence::certain(table("prefix", *prefix)),
        Probe::Tls { sni, alpn } => match tls(sni, alpn, notes, log) {
            Ok(value) => Sentence::certain(value),
            Err(reason) => return Condition::Never(reason),
        },
        Probe::Regex(patterns) => match regex(patterns, notes, log) {
            Ok(Some(sentence)) => sentence,
            Ok(None) => Sentence::anything(),
            Err(reason) => return Condition::Never(reason),
        },
        Probe::Any => Sentence::anything(),
        Probe::Udp | Probe::Unknown => return Condition::Never("it is not for TCP".to_owned()),
    };
    at_least(sentence, protocol.min_length)
}

/// From which byte on sslh's probe says yes or no (probe.c: what is less is `PROBE_AGAIN`).
fn sure_after(protocol: &Protocol) -> u64 {
    let probe = match &protocol.probe {
        Probe::Named("ssh") => 4,
        Probe::Named("openvpn" | "tinc" | "socks5") => 2,
        Probe::Named("http") => 7,
        Probe::Named("xmpp") => 50,
        Probe::Named("adb") => 54,
        Probe::Tls { .. } => 5,
        Probe::Named(_)
        | Probe::Prefix(_)
        | Probe::Regex(_)
        | Probe::Any
        | Probe::Udp
        | Probe::Unknown => 1,
    };
    probe.max(protocol.min_length.min(MAX_MIN_LENGTH))
}

/// What a condition says.
struct Sentence {
    /// `None`: anything.
    value: Option<Value>,
    waits: Waits,
    /// It can hold without a byte; no probe of sslh can.
    empty: bool,
}

impl Sentence {
    const fn certain(value: Value) -> Self {
        Self { value: Some(value), waits: Waits::No, empty: false }
    }

    const fn anything() -> Self {
        Self { value: None, waits: Waits::No, empty: true }
    }
}

/// The same, once there are so many bytes.
fn at_least(sentence: Sentence, length: u64) -> Condition {
    if length > MAX_MIN_LENGTH {
        return Condition::Never(format!(
            "it wants {length} bytes, and mux looks at {MAX_MIN_LENGTH}"
        ));
    }
    let Sentence { value, waits, empty } = sentence;
    let Some(value) = value else {
        return match length {
            0 | 1 => Condition::Any,
            _ => Condition::When { value: bytes(length), waits: Waits::No },
        };
    };
    if length <= 1 && !empty {
        return Condition::When { value, waits };
    }
    let both = Value::Array(vec![value, bytes(length.max(1))]);
    Condition::When { value: table("all", both), waits }
}

/// So many bytes, whatever they are.
pub(super) fn bytes(length: u64) -> Value {
    match length {
        1 => table("regex", r"(?s)^."),
        _ => table("regex", format!("(?s)^.{{{length}}}")),
    }
}

fn table(key: &str, value: impl Into<Value>) -> Value {
    Value::Table(Table::from_iter([(key.to_owned(), value.into())]))
}

/// `sni_hostnames` and `alpn_protocols`.
fn tls(
    sni: &[Pattern],
    alpn: &[Pattern],
    notes: &mut Vec<String>,
    log: &Log,
) -> Result<Value, String> {
    let mut tls = Table::new();
    if !sni.is_empty() {
        let names: Vec<Value> = sni.iter().map(|(name, _)| host_name(name)).collect();
        tls.insert("sni".to_owned(), Value::Array(names));
    }
    if !alpn.is_empty() {
        let protocols: Vec<Value> =
            alpn.iter().filter_map(|pattern| application(pattern, notes, log)).collect();
        if protocols.is_empty() {
            return Err("none of its `alpn_protocols` can be said in mux".to_owned());
        }
        tls.insert("alpn".to_owned(), Value::Array(protocols));
    }
    Ok(if tls.is_empty() { Value::from("tls") } else { table("tls", Value::Table(tls)) })
}

/// A glob of host names. mux's `*.a.example` stands for names of any depth, as sslh's does.
fn host_name(name: &[u8]) -> Value {
    match glob(name) {
        Glob::Exact(name) | Glob::Suffix(name) => Value::from(name),
        Glob::Regex(pattern) => table("regex", pattern),
    }
}

/// A protocol's name. sslh takes globs here too; mux has names.
fn application((name, place): &Pattern, notes: &mut Vec<String>, log: &Log) -> Option<Value> {
    let text = std::str::from_utf8(name).ok();
    let name = text.filter(|name| !name.contains(['*', '?', '[', '\\']));
    if name.is_none() {
        let shown = name_of(text.map_or(&b"\xff"[..], str::as_bytes));
        let message = format!("the application protocol `{shown}` is a pattern: left out");
        log.warn(*place, &*message);
        notes.push(message);
    }
    name.map(Value::from)
}

fn name_of(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// `regex_patterns`; `None`: they match anything.
fn regex(
    patterns: &[Pattern],
    notes: &mut Vec<String>,
    log: &Log,
) -> Result<Option<Sentence>, String> {
    let mut members = Vec::new();
    let (mut waits, mut empty) = (Waits::No, false);
    let mut reasons = Vec::new();
    for (pattern, place) in patterns {
        let shown = name_of(pattern);
        if pattern.contains(&0) {
            let message = format!(
                "`{shown}` has a NUL byte, which libconfig leaves out, or ends the string at: sslh \
                 goes by another pattern than what is written, and mux by this"
            );
            log.warn(*place, &*message);
            notes.push(message);
        }
        let translated = perl(pattern).map_err(|error| error.to_string()).and_then(|regex| {
            let traits = traits(&regex).map_err(|error| error.to_string())?;
            Ok((regex, traits))
        });
        match translated {
            Ok((_, traits)) if traits.always => return Ok(None),
            Ok((regex, traits)) => {
                if traits.waits {
                    waits = Waits::ForAMatch;
                }
                empty |= traits.empty;
                members.push(table("regex", regex));
            }
            Err(reason) => {
                let message = format!("mux has no equal of the pattern `{shown}`: {reason}");
                log.warn(*place, &*message);
                reasons.push(message);
            }
        }
    }
    if members.is_empty() {
        return Err(match patterns.is_empty() {
            true => "it has no pattern".to_owned(),
            false => reasons.join("; "),
        });
    }
    notes.extend(reasons);
    let value = match members.len() {
        1 => members.remove(0),
        _ => table("any", Value::Array(members)),
    };
    Ok(Some(Sentence { value: Some(value), waits, empty }))
}
