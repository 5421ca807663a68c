//! `protocols`: what sslh looks for, and where it goes.

use super::{
    super::{libconfig::Kind, source::Span},
    Fields, Text,
};

/// One protocol.
#[derive(Debug)]
pub(in super::super) struct Protocol {
    pub(in super::super) place: Span,
    /// The group as one line.
    pub(in super::super) quote: String,
    /// Of the probe, in sslh 1.12 to 1.17 any. Not unique.
    pub(in super::super) name: String,
    pub(in super::super) probe: Probe,
    /// A name, an IP address, or the path of a Unix socket.
    pub(in super::super) host: Text,
    /// A number or a service's name; nothing for a Unix socket.
    pub(in super::super) port: String,
    pub(in super::super) udp: bool,
    pub(in super::super) unix: bool,
    pub(in super::super) keepalive: bool,
    pub(in super::super) transparent: bool,
    /// 1 or 2: a header of that version is sent. 0: one that was received is taken off.
    pub(in super::super) proxy_protocol: Option<i64>,
    pub(in super::super) max_connections: Option<u32>,
    /// Fewest bytes that the probe is tried on; 0 and 1 are the same.
    pub(in super::super) min_length: u64,
    pub(in super::super) notes: Vec<String>,
}

/// What sslh looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Probe {
    /// What mux has a probe for, and its name there.
    Named(&'static str),
    /// First bytes.
    Prefix(&'static str),
    /// TLS, with globs of host names and application protocols; no globs: any.
    Tls { sni: Vec<Pattern>, alpn: Vec<Pattern> },
    /// Perl's regular expressions, of which one matches.
    Regex(Vec<Pattern>),
    /// All that sends anything.
    Any,
    /// A protocol that there is over UDP only.
    Udp,
    /// Not a probe of sslh.
    Unknown,
}

/// A pattern, in bytes, and where it stands.
pub(in super::super) type Pattern = (Vec<u8>, Span);

/// Reads one; `None`: it is wrong, and the log says how.
pub(super) fn protocol(mut fields: Fields<'_, '_>) -> Option<Protocol> {
    let (place, quote) = (fields.place(), fields.quote());
    let unix = fields.is("is_unix");
    let name = fields.required("name");
    let host = fields.required("host");
    let port = if unix { fields.string("port") } else { fields.required("port") };
    let probe = name.as_ref().map(|name| probe(&mut fields, &name.text));
    let udp = fields.is("is_udp");
    let keepalive = keepalive(&mut fields);
    let transparent = fields.is("transparent");
    let proxy_protocol = fields.integer("proxyprotocol").map(|(version, _)| version);
    let max_connections = fields.count("max_connections");
    let min_length = fields.integer("minlength").map_or(0, |(length, _)| length);
    without_equal(&mut fields);
    let notes = fields.finish();
    let port = port.map(|port| port.text);
    Some(Protocol {
        place,
        quote,
        name: name?.text,
        probe: probe?,
        host: host?,
        port: if unix { port.unwrap_or_default() } else { port? },
        udp,
        unix,
        keepalive,
        transparent,
        proxy_protocol,
        max_connections,
        min_length: u64::try_from(min_length).unwrap_or(0),
        notes,
    })
}

/// `name`, and what belongs to it.
fn probe(fields: &mut Fields<'_, '_>, name: &str) -> Probe {
    let sni = fields.strings("sni_hostnames");
    let alpn = fields.strings("alpn_protocols");
    let patterns = fields.strings("regex_patterns");
    // sslh 1.12 to 1.17: `probe: "builtin"`, or the patterns, under any name.
    if let Some(setting) = fields.take("probe") {
        match &setting.value.kind {
            Kind::Array(_) | Kind::List(_) => return Probe::Regex(fields.members(setting)),
            Kind::String(text) if text == b"builtin" => {}
            _ => fields.warn(setting, "sslh ignores it: left out"),
        }
    }
    match name {
        "ssh" => Probe::Named("ssh"),
        "openvpn" => Probe::Named("openvpn"),
        "tinc" => Probe::Named("tinc"),
        "xmpp" => Probe::Named("xmpp"),
        "http" => Probe::Named("http"),
        "adb" => Probe::Named("adb"),
        "socks5" => Probe::Named("socks5"),
        "syslog" => Probe::Named("syslog"),
        "msrdp" => Probe::Named("rdp"),
        // `ssl` until 1.20, and `sni_alpn` until 1.19.
        "tls" | "ssl" | "sni_alpn" => Probe::Tls { sni, alpn },
        "regex" => Probe::Regex(patterns),
        "anyprot" | "timeout" => Probe::Any,
        "teamspeak" => Probe::Prefix("TS3INIT1"),
        "wireguard" => Probe::Udp,
        _ => Probe::Unknown,
    }
}

/// `keepalive`, of which mux has no equal.
pub(super) fn keepalive(fields: &mut Fields<'_, '_>) -> bool {
    let Some((true, setting)) = fields.boolean("keepalive") else { return false };
    fields.note(setting, "mux sends no TCP keepalive; `[timeouts] idle` ends dead connections");
    true
}

/// Settings of which mux has no equal, and what to do about it.
fn without_equal(fields: &mut Fields<'_, '_>) {
    if let Some(setting) = fields.take("service") {
        fields.warn(
            setting,
            "mux does not ask libwrap (hosts.allow, hosts.deny); if it kept clients away, use \
             `match = { client = […] }` or a firewall",
        );
    }
    if let Some((level, setting)) = fields.integer("log_level")
        && level != 1
    {
        fields.note(setting, "the access log has every connection; `[log] access` is for all");
    }
    for (name, remark) in [
        ("fork", "nothing to set; mux has one thread a core and no process a connection"),
        ("tfo_ok", "nothing to set; mux does not use TCP Fast Open"),
        ("resolve_on_forward", "nothing to set; mux looks names up when it connects"),
    ] {
        if let Some((true, setting)) = fields.boolean(name) {
            fields.note(setting, remark);
        }
    }
    if let Some(setting) = fields.take("udp_timeout") {
        fields.note(setting, "mux routes TCP, not UDP");
    }
}
