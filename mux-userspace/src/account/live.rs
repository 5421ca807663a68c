//! What can be asked of a connection while it is alive: who it is, where it goes, how far it is.
//!
//! One a connection, in its core's table. Written a few times in a connection's life, by its task;
//! read by the same thread, when somebody asks over the admin socket.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    sync::Arc,
    time::Instant,
};

use super::Record;
use crate::{
    net::Peer,
    relay::{Control, Mode, plan::WhyNot},
};

/// How far a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Its first bytes are awaited.
    #[default]
    Sniffing,
    /// A rule took it; an upstream is connected to, or a place there is awaited.
    Connecting,
    /// It is a flow.
    Relaying,
    /// The flow is over, and its last bytes are on their way.
    Ending,
}

impl Stage {
    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sniffing => "sniffing",
            Self::Connecting => "connecting",
            Self::Relaying => "relaying",
            Self::Ending => "ending",
        }
    }

    /// Whether it is a flow: silence before that is for the sniff timeout, the connect timeout and
    /// the queue's to end.
    #[must_use]
    pub const fn is_flow(self) -> bool {
        match self {
            Self::Sniffing | Self::Connecting => false,
            Self::Relaying | Self::Ending => true,
        }
    }
}

/// Where a connection goes, as far as that is known.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// The rule that took it.
    pub rule: Option<Arc<str>>,
    /// The group, or the address.
    pub upstream: Option<Arc<str>>,
    /// The endpoint connected to.
    pub endpoint: Option<Arc<str>>,
}

/// A connection, to those who ask.
#[derive(Debug)]
pub struct Live {
    /// Unique in this process.
    pub id: u64,
    /// When it was accepted.
    pub accepted: Instant,
    /// Where it came in.
    pub listener: Arc<str>,
    client: Cell<Peer>,
    stage: Cell<Stage>,
    route: RefCell<Route>,
    why_not: RefCell<WhyNot>,
    accounted: Cell<bool>,
}

impl Live {
    /// Of a connection that has just been accepted.
    #[must_use]
    pub fn new(record: &Record) -> Self {
        Self {
            id: record.id,
            accepted: record.accepted,
            listener: Arc::clone(&record.listener),
            client: Cell::new(record.client),
            stage: Cell::default(),
            route: RefCell::default(),
            why_not: RefCell::default(),
            accounted: Cell::new(false),
        }
    }

    /// Takes over what its record has come to know.
    pub fn learn(&self, record: &Record, stage: Stage) {
        self.client.set(record.client);
        self.stage.set(stage);
        *self.route.borrow_mut() = Route {
            rule: record.rule.clone(),
            upstream: record.upstream.clone(),
            endpoint: record.endpoint.clone(),
        };
    }

    /// Who it is, as far as it is believed.
    #[must_use]
    pub fn client(&self) -> Peer {
        self.client.get()
    }

    /// How far it is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Says how far it is.
    pub fn set_stage(&self, stage: Stage) {
        self.stage.set(stage);
    }

    /// Where it goes.
    #[must_use]
    pub fn route(&self) -> Route {
        self.route.borrow().clone()
    }

    /// Says why it is not on a faster relay.
    pub fn set_why_not(&self, why_not: WhyNot) {
        *self.why_not.borrow_mut() = why_not;
    }

    /// Why it is not on a faster relay, if it is relayed so.
    #[must_use]
    pub fn note(&self, mode: Mode, control: &Control) -> Cow<'static, str> {
        self.why_not.borrow().note(mode, control)
    }

    /// Says that its bytes are in the totals from now on.
    pub fn set_accounted(&self) {
        self.accounted.set(true);
    }

    /// Whether its bytes are in the totals.
    #[must_use]
    pub fn is_accounted(&self) -> bool {
        self.accounted.get()
    }
}
