//! A protocol's probe → a rule's `match`.

use toml::{Table, Value};

use super::{
    log::Log,
    pattern::{Glob, glob, perl, traits},
    sslh::{Pattern, Probe, Protocol},
};

/// Most bytes that `minlength` can ask for: the default of `sniff_limit`.
const MAX_MIN_LENGTH: u64 = 64 << 10;

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
    /// For a match, which can still come after many bytes.
    ForAMatch,
}

/// What the protocol's probe looks for. Remarks go to `notes`.
pub(super) fn condition(protocol: &Protocol, notes: &mut Vec<String>, log: &Log) -> Condition {
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
pub(super) fn sure_after(protocol: &Protocol) -> u64 {
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

/// A name of an application protocol. sslh takes globs here too; mux has names.
fn application((name, place): &Pattern, notes: &mut Vec<String>, log: &Log) -> Option<Value> {
    let text = std::str::from_utf8(name).ok();
    let text = text.filter(|text| !text.contains(['*', '?', '[', '\\']));
    if text.is_none() {
        let shown = shown(name);
        let message =
            format!("`{shown}` of `alpn_protocols` is a pattern, and mux has names: left out");
        log.warn(*place, &*message);
        notes.push(message);
    }
    text.map(Value::from)
}

/// Bytes as a message quotes them: a backslash by itself, because a pattern has many.
fn shown(bytes: &[u8]) -> String {
    let quote = |byte: &u8| match *byte {
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(quote).collect()
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
        let shown = shown(pattern);
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
                reasons.push((*place, message));
            }
        }
    }
    if patterns.is_empty() {
        return Err("it has no pattern".to_owned());
    }
    if members.is_empty() {
        let reasons: Vec<String> = reasons.into_iter().map(|(_, reason)| reason).collect();
        return Err(reasons.join("; "));
    }
    for (place, reason) in reasons {
        log.warn(place, &*reason);
        notes.push(reason);
    }
    let value = match members.len() {
        1 => members.remove(0),
        _ => table("any", Value::Array(members)),
    };
    Ok(Some(Sentence { value: Some(value), waits, empty }))
}
