//! What the server does, and what its threads need for it.

use std::{collections::HashMap, sync::Arc};

use crate::wire::{self, Persistence};

/// Largest answer to an HTTP request, bytes: a request is not to order memory without bound.
const LARGEST: usize = 64 << 20;
/// Bytes read at once.
const READ: usize = 64 * 1024;

/// A service; each has a port of its own, so that wrong routing shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// HTTP/1.1: as many bytes as the path says.
    Http,
    /// Every byte back.
    Echo,
    /// Bytes without end, once asked.
    Source,
    /// Counts bytes, answers with their number.
    Sink,
    /// Reads one TLS record, answers with an alert.
    Hello,
}

/// All of them.
pub(crate) const SERVICES: [Service; 5] =
    [Service::Http, Service::Echo, Service::Source, Service::Sink, Service::Hello];

impl Service {
    /// Its name in the printed addresses.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Echo => "echo",
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Hello => "hello",
        }
    }
}

/// What the connections of a thread share.
pub(crate) struct Tools {
    /// For reading into.
    pub(crate) buffer: Box<[u8]>,
    /// What the source sends.
    pub(crate) pattern: Box<[u8]>,
    responses: HashMap<(usize, bool), Arc<[u8]>>,
}

impl Default for Tools {
    fn default() -> Self {
        Self { buffer: vec![0; READ].into(), pattern: wire::pattern(), responses: HashMap::new() }
    }
}

impl Tools {
    /// The answer to a request, made once; `None`: too large.
    pub(crate) fn response(&mut self, size: usize, persistence: Persistence) -> Option<Arc<[u8]>> {
        if size > LARGEST {
            return None;
        }
        let key = (size, persistence == Persistence::Close);
        let made = self.responses.entry(key).or_insert_with(|| wire::response(size, persistence));
        Some(Arc::clone(made))
    }
}
