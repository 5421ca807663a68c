//! What mux tells an upstream of a flow.

use std::os::{fd::AsFd, unix::ffi::OsStrExt};

use socket2::SockRef;

use super::{Extras, Header, Origin, SUN_PATH, UnixPair, Version, write};
use crate::{
    net::{Peer, Stream},
    probe::{Probe, Value},
};

/// Longest host name that is passed on; SNI has DNS names (RFC 6066 3).
const MAX_AUTHORITY: usize = 255;

/// What is known of a flow when its upstream is connected.
#[derive(Clone, Copy, Debug)]
pub struct Announcement<'a> {
    /// The client, as it is believed to be.
    pub client: Peer,
    /// The connection that was accepted.
    pub accepted: &'a Stream,
    /// The header that it began with, if it was believed.
    pub received: Option<&'a Header>,
    /// The stream's first bytes.
    pub prefix: &'a [u8],
    /// The flow's id, as logs print it.
    pub id: &'a str,
}

/// The header for a flow's upstream.
///
/// A header that was received is passed on: its addresses, and those of its extras that the
/// flow's own bytes do not tell better.
#[must_use]
pub fn announce(version: Version, flow: &Announcement<'_>) -> Vec<u8> {
    let extras = match version {
        Version::V1 => Extras::default(),
        Version::V2 => extras(flow),
    };
    write::header(version, &origin(flow), &extras)
}

fn origin(flow: &Announcement<'_>) -> Origin {
    match flow.received.map(|header| &header.origin) {
        Some(told @ (Origin::Tcp { .. } | Origin::Unix(_))) => told.clone(),
        Some(Origin::Own) | None => accepted(flow.client, flow.accepted),
    }
}

/// From what the socket says: its own address is where the client connected to.
fn accepted(client: Peer, stream: &Stream) -> Origin {
    // It fails on a dead descriptor only; then there is nothing to say.
    let Ok(local) = SockRef::from(&stream.as_fd()).local_addr() else { return Origin::Own };
    match (client, local.as_socket()) {
        (Peer::Ip(client), Some(local)) => Origin::tcp(client, local),
        (Peer::Unix, None) => {
            let mut destination = [0; SUN_PATH];
            let path = local.as_pathname().map(|path| path.as_os_str().as_bytes());
            for (place, byte) in destination.iter_mut().zip(path.unwrap_or_default()) {
                *place = *byte;
            }
            Origin::Unix(Box::new(UnixPair { source: [0; SUN_PATH], destination }))
        }
        (Peer::Ip(_), None) | (Peer::Unix, Some(_)) => Origin::Own,
    }
}

fn extras(flow: &Announcement<'_>) -> Extras {
    let told = flow.received.map(|header| header.extras.clone()).unwrap_or_default();
    let (authority, alpn) = tls_names(flow.prefix);
    Extras {
        authority: authority.or(told.authority),
        alpn: alpn.or(told.alpn),
        unique_id: told.unique_id.or_else(|| Some(flow.id.as_bytes().into())),
    }
}

/// The host name of a ClientHello, and the protocol that it prefers: it offers them in that order
/// (RFC 7301 3.1), and which one is chosen only the upstream will know.
fn tls_names(prefix: &[u8]) -> (Option<Box<[u8]>>, Option<Box<[u8]>>) {
    let Some(tls) = Probe::from_name("tls").filter(|tls| tls.examine(prefix).is_match()) else {
        return (None, None);
    };
    let details = tls.details(prefix);
    let mut names = (None, None);
    // The field is UTF-8 (2.2.2), and a longer name may have been cut.
    if let Some(Value::Text(name)) = details.get("sni")
        && name.as_bytes().len() <= MAX_AUTHORITY
        && str::from_utf8(name.as_bytes()).is_ok()
    {
        names.0 = Some(name.as_bytes().into());
    }
    if let Some(Value::Texts(offered)) = details.get("alpn") {
        names.1 = offered.first().map(|first| first.as_bytes().into());
    }
    names
}
