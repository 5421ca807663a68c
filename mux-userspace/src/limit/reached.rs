//! That a limit was reached: counted each time, and said at a bounded rate.
//!
//! One table of all limits, so that none is without a name, a count and a line in the log; what
//! happens at each is told in docs/reference/rules.md.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use tracing::warn;

use crate::throttle::{self, Throttle};

/// A kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[limits] max_connections`.
    Connections,
    /// A listener's `max_connections`.
    Listener,
    /// `[limits] max_sniffing`.
    Sniffing,
    /// `[limits] per_source` connections.
    Source,
    /// `[limits] per_source` rate.
    Rate,
    /// A rule's `max_connections`.
    Rule,
    /// An upstream's `max_connections`.
    Upstream,
    /// `max_connections` of each endpoint that is up.
    Endpoint,
    /// The length of an upstream's queue.
    Queue,
    /// `[kernel] flows`.
    KernelFlows,
    /// Open files.
    Descriptors,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Connections,
        Self::Listener,
        Self::Sniffing,
        Self::Source,
        Self::Rate,
        Self::Rule,
        Self::Upstream,
        Self::Endpoint,
        Self::Queue,
        Self::KernelFlows,
        Self::Descriptors,
    ];

    /// Its stable name in metrics and in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Listener => "listener",
            Self::Sniffing => "sniffing",
            Self::Source => "source",
            Self::Rate => "rate",
            Self::Rule => "rule",
            Self::Upstream => "upstream",
            Self::Endpoint => "endpoint",
            Self::Queue => "queue",
            Self::KernelFlows => "kernel_flows",
            Self::Descriptors => "descriptors",
        }
    }
}

/// Counts and bounded messages of all limits.
#[derive(Debug, Default)]
pub struct Reached {
    kinds: [One; Kind::ALL.len()],
    /// Messages that were not written.
    suppressed: AtomicU64,
}

#[derive(Debug, Default)]
struct One {
    count: AtomicU64,
    said: Throttle,
}

impl Reached {
    /// A connection met a limit: of all, or of the listener, the rule, the upstream of this name.
    pub fn met(&self, kind: Kind, name: Option<&str>) {
        if let Some(suppressed) = self.count(kind) {
            let suppressed = throttle::some(suppressed);
            warn!(limit = kind.name(), name, suppressed, "a limit is reached");
        }
    }

    /// The same, for what has a message of its own: how many of those before were not written, if
    /// this one may be.
    pub fn count(&self, kind: Kind) -> Option<u64> {
        let one = &self.kinds[kind as usize];
        one.count.fetch_add(1, Ordering::Relaxed);
        let admitted = one.said.admit(Instant::now());
        if admitted.is_none() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// How many messages were not written.
    #[must_use]
    pub fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    /// How often a limit was met.
    #[must_use]
    pub fn value(&self, kind: Kind) -> u64 {
        self.kinds[kind as usize].count.load(Ordering::Relaxed)
    }

    /// Says how many messages were not written, once that is over.
    pub fn settle(&self, now: Instant) {
        for kind in Kind::ALL {
            if let Some(suppressed) = self.kinds[kind as usize].said.overdue(now) {
                let limit = kind.name();
                warn!(
                    limit,
                    suppressed, "messages like \"a limit is reached\" that were not written"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_listed_in_their_order_under_names_of_their_own() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{}", kind.name());
            assert!(Kind::ALL.iter().filter(|other| other.name() == kind.name()).count() == 1);
        }
    }

    #[test]
    fn every_meeting_counts_and_few_are_said() {
        let reached = Reached::default();
        let said = (0..100).filter(|_| reached.count(Kind::Rule).is_some()).count();
        assert_eq!((said, reached.value(Kind::Rule), reached.value(Kind::Rate)), (10, 100, 0));
        assert_eq!(reached.suppressed(), 90);
    }
}
