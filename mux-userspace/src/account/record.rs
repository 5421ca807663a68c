//! The record of one connection: what the access log prints.

use std::{
    borrow::Cow,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use crate::{
    net::Peer,
    probe::{Details, Seen},
    relay::{Mode, Tally},
    route::Why,
};

/// One connection from accept to close. Fields that never came to be are `None`.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unique in this process.
    pub id: u64,
    /// When it was accepted.
    pub accepted: Instant,
    /// The same by the wall clock.
    pub time: SystemTime,
    /// Who, as far as it is believed.
    pub client: Peer,
    /// Who connected: another than the client where a proxy told of that.
    pub peer: Peer,
    /// What its PROXY header told, if it was believed.
    pub proxy: Option<Details>,
    /// Where it came in.
    pub listener: Arc<str>,
    /// The rule that took it.
    pub rule: Option<Arc<str>>,
    /// How that came.
    pub why: Option<Why>,
    /// What its probe saw.
    pub seen: Option<Seen>,
    /// The upstream group, or address, of the rule.
    pub upstream: Option<Arc<str>>,
    /// The endpoint connected to.
    pub endpoint: Option<Arc<str>>,
    /// The relay in force when it ended.
    pub relay: Option<Mode>,
    /// Why not a faster one.
    pub relay_note: Cow<'static, str>,
    /// What went through.
    pub tally: Tally,
    /// From accept to the decision.
    pub sniffed: Option<Duration>,
    /// From the decision to the connection.
    pub connected: Option<Duration>,
}

/// A line of the access log. The order of the fields is the order in the line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    id: String,
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<serde_json::Value>,
    listener: &'a str,
    rule: Option<&'a str>,
    why: Option<&'a str>,
    probe: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<serde_json::Value>,
    upstream: Option<&'a str>,
    endpoint: Option<&'a str>,
    relay: Option<&'a str>,
    relay_note: &'a str,
    promotions: u32,
    demotions: u32,
    passes: u32,
    carried: u64,
    trimmed: u64,
    close: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    bytes_up: u64,
    bytes_down: u64,
    sniff_ms: Option<f64>,
    connect_ms: Option<f64>,
    duration_ms: f64,
}

impl Record {
    /// Of a connection that has just been accepted.
    #[must_use]
    pub fn new(id: u64, peer: Peer, listener: Arc<str>) -> Self {
        Self {
            id,
            accepted: Instant::now(),
            time: SystemTime::now(),
            client: peer,
            peer,
            proxy: None,
            listener,
            rule: None,
            why: None,
            seen: None,
            upstream: None,
            endpoint: None,
            relay: None,
            relay_note: Cow::Borrowed(""),
            tally: Tally::default(),
            sniffed: None,
            connected: None,
        }
    }

    /// The id as logs print it.
    #[must_use]
    pub fn id_text(&self) -> String {
        format!("{:016x}", self.id)
    }

    /// Who connected, if that is not the client.
    #[must_use]
    pub fn other_peer(&self) -> Option<String> {
        (self.peer != self.client).then(|| self.peer.to_string())
    }

    fn line<'a>(&'a self, close: &'a str, error: &'a str) -> Line<'a> {
        Line {
            time: humantime::format_rfc3339_millis(self.time).to_string(),
            id: self.id_text(),
            client: self.client.to_string(),
            peer: self.other_peer(),
            proxy: self.proxy.as_ref().map(Details::to_json),
            listener: &self.listener,
            rule: self.rule.as_deref(),
            why: self.why.map(Why::name),
            probe: self.seen.as_ref().map(|seen| seen.probe.name()),
            details: self.seen.as_ref().map(|seen| seen.details.to_json()),
            upstream: self.upstream.as_deref(),
            endpoint: self.endpoint.as_deref(),
            relay: self.relay.map(Mode::name),
            relay_note: &self.relay_note,
            promotions: self.tally.promotions,
            demotions: self.tally.demotions,
            passes: self.tally.passes,
            carried: self.tally.carried,
            trimmed: self.tally.trimmed,
            close,
            error,
            bytes_up: self.tally.up.given,
            bytes_down: self.tally.down.given,
            sniff_ms: self.sniffed.map(milliseconds),
            connect_ms: self.connected.map(milliseconds),
            duration_ms: milliseconds(self.accepted.elapsed()),
        }
    }

    /// The line as one JSON object, with the newline.
    #[must_use]
    pub fn json(&self, close: &str, error: &str) -> String {
        // Numbers, strings and string-keyed objects: serialising cannot fail.
        let mut text = serde_json::to_string(&self.line(close, error)).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The line as `key=value` pairs, with the newline. Values with anything but visible ASCII
    /// other than `"` and `=` are quoted and escaped as in JSON.
    #[must_use]
    pub fn text(&self, close: &str, error: &str) -> String {
        let value = serde_json::to_value(self.line(close, error)).unwrap_or_default();
        let mut text = String::new();
        let Some(fields) = value.as_object() else { return text };
        for key in FIELDS {
            let Some(value) = fields.get(*key).filter(|value| !value.is_null()) else { continue };
            if !text.is_empty() {
                text.push(' ');
            }
            let _ = match value {
                serde_json::Value::String(plain) if is_plain(plain) => {
                    write!(text, "{key}={plain}")
                }
                other => write!(text, "{key}={other}"),
            };
        }
        text.push('\n');
        text
    }
}

/// Field order of the text form (a `serde_json::Value` sorts its keys).
const FIELDS: &[&str] = &[
    "time",
    "id",
    "client",
    "peer",
    "proxy",
    "listener",
    "rule",
    "why",
    "probe",
    "details",
    "upstream",
    "endpoint",
    "relay",
    "relay_note",
    "promotions",
    "demotions",
    "passes",
    "carried",
    "trimmed",
    "close",
    "error",
    "bytes_up",
    "bytes_down",
    "sniff_ms",
    "connect_ms",
    "duration_ms",
];

fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"=\\".contains(&byte))
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let client = Peer::from_ip("192.0.2.7:4711".parse().unwrap());
        let mut record = Record::new(7, client, "edge \"1\"\n".into());
        record.relay = Some(Mode::Sockmap);
        record.tally.up.given = 12;
        record
    }

    #[test]
    fn the_peer_is_told_where_it_is_not_the_client() {
        let mut record = record();
        assert!(!record.json("finished", "").contains("peer"));
        record.client = Peer::from_ip("198.51.100.7:7".parse().unwrap());
        record.proxy = Some(Details::new().with("version", 2_u8));
        let line = record.text("finished", "");
        let told = r#" client=198.51.100.7:7 peer=192.0.2.7:4711 proxy={"version":2} listener="#;
        assert!(line.contains(told), "{line}");
    }

    #[test]
    fn a_json_line_is_one_object_with_the_exact_bytes() {
        let line = record().json("finished", "");
        assert!(line.ends_with("}\n"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["bytes_up"], 12);
        assert_eq!(value["client"], "192.0.2.7:4711");
        assert_eq!(value["rule"], serde_json::Value::Null);
        assert_eq!(value["listener"], "edge \"1\"\n");
    }

    #[test]
    fn a_text_line_stays_one_line_whatever_it_holds() {
        let line = record().text("finished", "odd\nerror");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.contains("relay=sockmap"), "{line}");
        assert!(line.contains(r#"error="odd\nerror""#), "{line}");
        assert!(line.contains(r#"listener="edge \"1\"\n""#), "{line}");
    }

    #[test]
    fn every_field_has_its_place_in_the_text_form() {
        let mut record = record();
        record.client = Peer::Unix;
        record.proxy = Some(Details::new());
        let value = serde_json::to_value(record.line("c", "e")).unwrap();
        for key in value.as_object().unwrap().keys() {
            assert!(FIELDS.contains(&key.as_str()), "{key}");
        }
    }
}
