//! Moving bytes: packets, sockmap, splice(2) and copy, behind one choice per flow.
//!
//! A flow starts in user space, where the sniffed prefix is replayed ([`user`]), and goes to
//! the kernel when it should ([`sockmap`], [`packet`]; `LIFECYCLE.md` and
//! `packet/PACKET-LIFECYCLE.md` say who owns which byte when).
//! Nothing here writes logs: what happened is in the [`Tally`] and the [`Close`].

pub mod control;
pub mod demotion;
pub mod evidence;
pub mod ledger;
pub mod packet;
pub mod plan;
pub mod pool;
mod pump;
pub mod sockmap;
pub mod user;
pub mod watch;

use std::{fmt, io};

pub use self::{
    control::{Control, Stop},
    plan::{Mode, Plan},
};
pub use crate::kernel::books::Way;
use crate::{
    net::Stream,
    proxy::{self, Refusal},
};

/// The two connections of a flow.
#[derive(Debug)]
pub struct Ends {
    /// The downstream connection.
    pub client: Stream,
    /// The upstream connection.
    pub upstream: Stream,
}

impl Ends {
    /// One of them.
    #[must_use]
    pub const fn end(&self, side: Side) -> &Stream {
        match side {
            Side::Downstream => &self.client,
            Side::Upstream => &self.upstream,
        }
    }
}

/// What went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of the stream taken from the source: read by us, or redirected by the kernel.
    pub taken: u64,
    /// Bytes of the stream that the destination's socket has accepted.
    pub given: u64,
    /// Reads that returned bytes (in user space only): evidence for choosing a relay.
    pub reads: u64,
    /// Bytes that the source's connection brought before the stream, and nobody is given: a PROXY
    /// header. They are in no other count of ours, and in TCP's.
    pub before: u64,
}

/// What went both ways, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Client to upstream.
    pub up: Traffic,
    /// Upstream to client.
    pub down: Traffic,
    /// Times the flow went to the kernel, to either of its relays.
    pub promotions: u32,
    /// Times it left the kernel alive.
    pub demotions: u32,
    /// Bytes that user space carried while the flow was in the kernel.
    pub carried: u64,
    /// Edges into passing: times user space had to carry bytes of a spliced flow.
    pub passes: u32,
    /// Bytes of overlaps that the verdict cut off.
    pub trimmed: u64,
}

impl Tally {
    /// Reads that returned bytes, both ways' together.
    #[must_use]
    pub const fn reads(&self) -> u64 {
        self.up.reads + self.down.reads
    }

    /// One way's.
    #[must_use]
    pub const fn way(&self, way: Way) -> &Traffic {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// One way's.
    pub const fn way_mut(&mut self, way: Way) -> &mut Traffic {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}

/// Which connection of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The upstream's.
    Upstream,
}

impl Side {
    /// Where a way starts.
    #[must_use]
    pub const fn source(way: Way) -> Self {
        match way {
            Way::Up => Self::Downstream,
            Way::Down => Self::Upstream,
        }
    }

    /// Where a way ends.
    #[must_use]
    pub const fn destination(way: Way) -> Self {
        Self::source(way.back())
    }

    /// The other connection.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }
}

/// Why a flow's relaying ended.
#[derive(Debug)]
pub enum Close {
    /// Both streams ended and were delivered.
    Finished,
    /// A connection failed: reset, timed out, unreachable.
    Failed {
        /// Which.
        side: Side,
        /// How.
        error: io::Error,
    },
    /// From outside the flow.
    Stopped(Stop),
    /// The client, which is no trusted proxy, sent a PROXY header.
    Forged,
    /// The kernel's books are broken: a wrong byte would have been delivered.
    Broken {
        /// A reason of [`mux_common::broken`].
        reason: u32,
    },
    /// The kernel's counts contradict the books: mux has a bug, or the kernel.
    Imbalance {
        /// Which way.
        way: Way,
        /// What contradicts what.
        imbalance: ledger::Imbalance,
        /// Everything known of the flow at that moment, for the log.
        known: Box<str>,
    },
    /// A stream ended in the microseconds without a verdict in which the flow was leaving the kernel
    /// relay, with bytes whose order cannot be told (L6).
    Torn {
        /// What the kernel said.
        reason: String,
    },
}

impl Close {
    /// Its stable name in the access log and in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed { side, error } => match (side, is_reset(error)) {
                (Side::Downstream, true) => "client-reset",
                (Side::Downstream, false) => "client-error",
                (Side::Upstream, true) => "upstream-reset",
                (Side::Upstream, false) => "upstream-error",
            },
            Self::Stopped(stop) => stop.name(),
            Self::Forged => proxy::CLOSE,
            Self::Broken { .. } => "broken",
            Self::Imbalance { .. } => "imbalance",
            Self::Torn { .. } => "relay-torn",
        }
    }
}

impl Close {
    /// The side that failed, if one did.
    #[must_use]
    pub const fn failed(&self) -> Option<Side> {
        match self {
            Self::Failed { side, .. } => Some(*side),
            Self::Finished
            | Self::Stopped(_)
            | Self::Forged
            | Self::Broken { .. }
            | Self::Imbalance { .. }
            | Self::Torn { .. } => None,
        }
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished | Self::Stopped(_) => f.write_str(self.name()),
            Self::Failed { .. }
            | Self::Forged
            | Self::Broken { .. }
            | Self::Imbalance { .. }
            | Self::Torn { .. } => {
                write!(f, "{}: {}", self.name(), self.error())
            }
        }
    }
}

impl Close {
    /// The error behind it, as the access log prints it; empty where there is none.
    #[must_use]
    pub fn error(&self) -> String {
        match self {
            Self::Finished | Self::Stopped(_) => String::new(),
            Self::Failed { error, .. } => error.to_string(),
            Self::Forged => Refusal::Untrusted.to_string(),
            Self::Broken { reason } => format!("reason {reason}"),
            Self::Imbalance { way, imbalance, .. } => format!("{}: {imbalance}", way.name()),
            Self::Torn { reason } => reason.clone(),
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
    )
}
