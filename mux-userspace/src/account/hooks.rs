//! Callbacks of the program that embeds mux: at a flow's beginning and at its end.

use std::{fmt, sync::Arc, time::Duration};

use super::Record;
use crate::{net::Peer, probe::Seen};

/// What is called; nothing by default.
#[derive(Clone, Default)]
pub struct Hooks {
    /// When the upstream is connected, before a byte is passed on to it.
    pub on_connect: Option<Hook>,
    /// When the flow has ended.
    pub on_close: Option<Hook>,
}

/// A callback. It runs on the core that carries the flow, and no other flow of that core moves
/// meanwhile: it must not block. A panic closes the flow.
pub type Hook = Arc<dyn Fn(&Flow<'_>) + Send + Sync>;

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_connect", &self.on_connect.is_some())
            .field("on_close", &self.on_close.is_some())
            .finish()
    }
}

/// A flow, as a callback sees it.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    record: &'a Record,
    close: Option<&'a str>,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(record: &'a Record, close: Option<&'a str>) -> Self {
        Self { record, close }
    }

    /// Unique in this process; as the access log prints it in hexadecimal.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.record.id
    }

    /// Who connected, or who it is that a trusted proxy connected for.
    #[must_use]
    pub fn client(&self) -> Peer {
        self.record.client
    }

    /// Who connected.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.record.peer
    }

    /// The listener's name.
    #[must_use]
    pub fn listener(&self) -> &'a str {
        &self.record.listener
    }

    /// The rule's name.
    #[must_use]
    pub fn rule(&self) -> &'a str {
        self.record.rule.as_deref().unwrap_or_default()
    }

    /// The endpoint connected to: an address, with the name that it was found by.
    #[must_use]
    pub fn upstream(&self) -> &'a str {
        self.record.endpoint.as_deref().unwrap_or_default()
    }

    /// What the rule's probe saw.
    #[must_use]
    pub fn seen(&self) -> Option<&'a Seen> {
        self.record.seen.as_ref()
    }

    /// Bytes that the upstream was given; 0 before the end.
    #[must_use]
    pub fn bytes_up(&self) -> u64 {
        self.record.tally.up.given
    }

    /// Bytes that the client was given; 0 before the end.
    #[must_use]
    pub fn bytes_down(&self) -> u64 {
        self.record.tally.down.given
    }

    /// The relay in force at the end: `copy`, `splice`, `sockmap` or `packet`.
    #[must_use]
    pub fn relay(&self) -> Option<&'static str> {
        self.record.relay.map(|relay| relay.name())
    }

    /// Why it ended, as the access log says it; `None` at its beginning.
    #[must_use]
    pub fn close(&self) -> Option<&'a str> {
        self.close
    }

    /// Since it was accepted.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.record.accepted.elapsed()
    }
}
