//! `listen`: where sslh listens.

use super::{super::source::Span, Fields, Text};

/// One address, or one name that may have several.
#[derive(Debug)]
pub(in super::super) struct Listen {
    pub(in super::super) place: Span,
    /// The group as one line.
    pub(in super::super) quote: String,
    /// An IP address, also in brackets; a name; or the path of a Unix socket.
    pub(in super::super) host: Text,
    /// A number or a service's name; nothing for a Unix socket.
    pub(in super::super) port: String,
    pub(in super::super) udp: bool,
    pub(in super::super) unix: bool,
    pub(in super::super) keepalive: bool,
    /// Whether clients send a PROXY header.
    pub(in super::super) proxy_protocol: bool,
    pub(in super::super) max_connections: Option<u32>,
    pub(in super::super) notes: Vec<String>,
}

/// Reads one; `None`: it is wrong, and the log says how.
pub(super) fn listen(mut fields: Fields<'_, '_>) -> Option<Listen> {
    let (place, quote) = (fields.place(), fields.quote());
    let unix = fields.is("is_unix");
    let host = fields.required("host");
    let port = if unix { fields.string("port") } else { fields.required("port") };
    let udp = fields.is("is_udp");
    let keepalive = super::protocol::keepalive(&mut fields);
    let proxy_protocol = fields.is("proxyprotocol");
    let max_connections = fields.count("max_connections");
    let notes = fields.finish();
    let port = port.map(|port| port.text);
    Some(Listen {
        place,
        quote,
        host: host?,
        port: if unix { port.unwrap_or_default() } else { port? },
        udp,
        unix,
        keepalive,
        proxy_protocol,
        max_connections,
        notes,
    })
}
