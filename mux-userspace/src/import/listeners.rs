//! sslh's `listen` → listeners: addresses, which mux needs, for names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{log::Log, lookup::Lookup, rules::port, source::Span, sslh::Listen};
use crate::rules::parse_listen;

/// A listener, or what became of it.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) place: Span,
    pub(super) notes: Vec<String>,
    /// As mux writes it; the error says why it is left out.
    pub(super) address: Result<String, String>,
    /// The group as one line of sslh's configuration.
    pub(super) quote: String,
    pub(super) proxy_protocol: bool,
    pub(super) max_connections: Option<u32>,
}

/// Translates `listen`.
pub(super) fn listeners(listen: Vec<Listen>, lookup: &dyn Lookup, log: &Log) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for listen in listen {
        for (address, note) in addresses(&listen, lookup, log) {
            let mut notes = listen.notes.clone();
            notes.extend(note);
            let is_there =
                |earlier: &Listener| earlier.address.is_ok() && earlier.address == address;
            let address = if listeners.iter().any(is_there) {
                Err("a listener before it has this address".to_owned())
            } else {
                address
            };
            if listen.proxy_protocol {
                notes.push(BELIEVED.to_owned());
            }
            listeners.push(Listener {
                place: listen.place,
                notes,
                address,
                quote: listen.quote.clone(),
                proxy_protocol: listen.proxy_protocol,
                max_connections: listen.max_connections,
            });
        }
    }
    remark_on_families(&mut listeners);
    listeners
}

/// Remark on `proxyprotocol` of a listener.
pub(super) const BELIEVED: &str = "sslh believes the PROXY header of every client; name your proxies in \
                        `accept_proxy_protocol`, and see what PROXY header each rule sends on";

/// Addresses, each with a remark, if there is one to be made.
type Addresses = Vec<(Result<String, String>, Option<String>)>;

fn addresses(listen: &Listen, lookup: &dyn Lookup, log: &Log) -> Addresses {
    let left_out = |reason: String| vec![(Err(reason), None)];
    let host = listen.host.text.as_str();
    if listen.udp {
        return left_out("it is UDP, and mux routes TCP".to_owned());
    }
    if listen.unix {
        let address = format!("unix:{host}");
        return match parse_listen(&address) {
            Ok(_) => vec![(Ok(address), None)],
            Err(error) => left_out(format!("`{address}` is no address for mux: {error}")),
        };
    }
    let Some(port) = port(&listen.port, lookup) else {
        let port = &listen.port;
        return left_out(format!("its port, `{port}`, is neither a number nor in /etc/services"));
    };
    let socket = |ip: IpAddr| Ok(SocketAddr::new(ip, port).to_string());
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return vec![(socket(ip), None)];
    }
    let found = lookup.addresses(bare);
    if found.is_empty() {
        let message = format!(
            "`{host}` has no address here and now; 127.0.0.1 stands in for it: write the address \
             to listen on"
        );
        log.warn(listen.host.place, &*message);
        return vec![(socket(Ipv4Addr::LOCALHOST.into()), Some(message))];
    }
    let note = format!("sslh listens on `{host}`, which has this address here and now");
    found.into_iter().map(|ip| (socket(ip), Some(note.clone()))).collect()
}

/// sslh's `[::]` is for IPv6 only; mux's is too where another listener has the port on IPv4.
fn remark_on_families(listeners: &mut [Listener]) {
    let ipv4: Vec<u16> =
        sockets(listeners).filter(|(_, it)| it.is_ipv4()).map(|(_, it)| it.port()).collect();
    let any: Vec<usize> = sockets(listeners)
        .filter(|(_, it)| it.is_ipv6() && it.ip().is_unspecified() && !ipv4.contains(&it.port()))
        .map(|(index, _)| index)
        .collect();
    for index in any {
        if let Some(listener) = listeners.get_mut(index) {
            let note = "sslh takes IPv6 clients here; mux takes IPv4 ones too";
            listener.notes.push(note.to_owned());
        }
    }
}

/// The TCP listeners and their indices.
fn sockets(listeners: &[Listener]) -> impl Iterator<Item = (usize, SocketAddr)> {
    listeners.iter().enumerate().filter_map(|(index, listener)| {
        Some((index, listener.address.as_ref().ok()?.parse::<SocketAddr>().ok()?))
    })
}
