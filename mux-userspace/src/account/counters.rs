//! Counters of what happened, peers' misbehaviour above all: it is counted, not logged.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::limit::reached::Reached;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)*) => {
        /// A counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Counter {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it counts, in words.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)*
                }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    Accepted = "accepted",
    /// accept(2) failed for lack of descriptors or memory; it was tried again later.
    AcceptExhausted = "accept_exhausted",
    /// accept(2) failed for that one connection.
    AcceptAborted = "accept_aborted",
    /// accept(2) failed as nobody has foreseen; it was tried again later.
    AcceptFailed = "accept_failed",
    /// Reset: there was no place for them when their listener was closed.
    ListenerClosed = "listener_closed",
    /// Closed: sniffed for longest when a new connection needed a place (`[limits] max_sniffing`).
    SniffingLimit = "sniffing_limit",
    /// Reset: `[limits] per_source` connections.
    SourceLimit = "source_limit",
    /// Reset: `[limits] per_source` rate.
    SourceRate = "source_rate",
    /// Reset: the listener's `allow` and `deny`.
    ListenerDenied = "listener_denied",
    /// Reset: the rule's `allow` and `deny`.
    RuleDenied = "rule_denied",
    /// Files of networks that had changed and were read again.
    NetworkFileRead = "network_file_read",
    /// Files of networks that had changed and could not be used.
    NetworkFileFailed = "network_file_failed",
    /// Refused: a rule's `max_connections`.
    RuleLimit = "rule_limit",
    /// Refused: `max_connections` of an upstream, or of each of its endpoints that is up; there is
    /// no queue.
    UpstreamLimit = "upstream_limit",
    /// No rule took the connection.
    NoMatch = "no_match",
    /// The sniff timeout passed and no rule took the connection.
    SniffTimeout = "sniff_timeout",
    /// The client went away before a rule took the connection.
    SniffAborted = "sniff_aborted",
    /// PROXY headers that were believed.
    ProxyHeaders = "proxy_headers",
    /// Refused: a trusted proxy sent no PROXY header.
    ProxyMissing = "proxy_missing",
    /// Refused: a trusted proxy's PROXY header was malformed.
    ProxyMalformed = "proxy_malformed",
    /// Refused: a trusted proxy's PROXY header was too long.
    ProxyTooLong = "proxy_too_long",
    /// Refused: a trusted proxy's PROXY header had a wrong checksum.
    ProxyChecksum = "proxy_checksum",
    /// Refused: a trusted proxy sent no whole PROXY header in time.
    ProxyTimeout = "proxy_timeout",
    /// Refused: a PROXY header from a peer that is not trusted.
    ProxyUntrusted = "proxy_untrusted",
    /// Attempts not made: an upstream's `source` has no address of the endpoint's family.
    SourceMismatch = "source_mismatch",
    /// Connecting to an endpoint failed; another may have been tried.
    ConnectFailed = "connect_failed",
    /// Flows that found no endpoint: each that was tried failed.
    Unreachable = "unreachable",
    /// Flows that found no endpoint: none was up, so that none was tried.
    NoUpstream = "no_upstream",
    /// Times that another rule's upstream stood in (`on_no_upstream`).
    UpstreamFallbacks = "upstream_fallbacks",
    /// Attempts after one that had failed.
    UpstreamRetries = "upstream_retries",
    /// Endpoints ejected because connections to them failed, each time anew.
    UpstreamEjections = "upstream_ejections",
    /// Endpoints that came back after an ejection: an attempt or a check succeeded.
    UpstreamReturns = "upstream_returns",
    /// Active checks that passed.
    UpstreamChecksPassed = "upstream_checks_passed",
    /// Active checks that failed.
    UpstreamChecksFailed = "upstream_checks_failed",
    /// Endpoints that active checks brought up.
    UpstreamUp = "upstream_up",
    /// Endpoints that active checks took down.
    UpstreamDown = "upstream_down",
    /// Connections that went into an upstream's queue.
    UpstreamQueued = "upstream_queued",
    /// Time spent in queues by those that have left them, microseconds.
    UpstreamQueueMicros = "upstream_queue_micros",
    /// Refused: the queue was full.
    UpstreamQueueFull = "upstream_queue_full",
    /// Refused: no place came free while the connection was in the queue.
    UpstreamQueueTimeout = "upstream_queue_timeout",
    /// Clients that went away while they were in a queue.
    UpstreamQueueLeft = "upstream_queue_left",
    /// Names looked up.
    Resolved = "resolved",
    /// Look-ups of names that failed; the last good answer stays in use.
    ResolveFailed = "resolve_failed",
    /// Flows that were relayed and have ended.
    Flows = "flows",
    /// Bytes to upstreams.
    BytesUp = "bytes_up",
    /// Bytes to clients.
    BytesDown = "bytes_down",
    /// Flows that went to the kernel.
    Promoted = "promoted",
    /// Flows that left the kernel while they were alive.
    Demoted = "demoted",
    /// Flows among them that user space served better by then.
    DemotedByEvidence = "demoted_by_evidence",
    /// Flows that should have gone to the kernel and were refused there.
    PromotionRefused = "promotion_refused",
    /// Flows that were offered to the packet relay.
    PacketOffered = "packet_offered",
    /// Flows that were not, because of what they are.
    PacketIneligible = "packet_ineligible",
    /// Flows whose packets came to be translated.
    PacketOn = "packet_on",
    /// Flows that were offered in vain: there was no moment without a byte under way.
    PacketWithdrawn = "packet_withdrawn",
    /// Times that user space carried what still came to a socket of a flow whose packets were
    /// translated.
    PacketLate = "packet_late",
    /// Flows reset because a packet was too long for its way out.
    PacketTooLong = "packet_too_long",
    /// Edges into passing.
    Passes = "passes",
    /// Flows reset because the kernel's books were broken.
    Broken = "broken",
    /// Flows whose books contradicted the kernel's counts.
    Imbalance = "relay_imbalance",
    /// Flows reset because a stream ended in the microseconds in which they left the kernel.
    Torn = "relay_torn",
    /// Times that the rules were loaded again and came into force.
    Reloads = "reloads",
    /// Times that they were not: they were wrong, or something that they ask for was not to be had.
    ReloadFailures = "reload_failures",
    /// Successors that took over.
    Upgrades = "upgrades",
    /// Upgrades that failed before the successor served, and successors that died while this
    /// process was still there.
    UpgradeFailures = "upgrade_failures",
    /// Access-log lines dropped because the log could not keep up.
    AccessDropped = "access_dropped",
    /// Messages of the daemon's log that were not written because there were too many of their kind.
    LogSuppressed = "log_suppressed",
}

/// All counters, shared by the cores.
#[derive(Debug)]
pub struct Counters {
    shares: Box<[Share]>,
    /// How often each kind of limit was met.
    pub limits: Reached,
}

impl Default for Counters {
    fn default() -> Self {
        let share = || Share([const { AtomicU64::new(0) }; Counter::ALL.len()]);
        Self { shares: (0..SHARES).map(|_| share()).collect(), limits: Reached::default() }
    }
}

/// A thread's part of the counters, on cache lines of its own: a line that all cores write is one that each has to
/// fetch from another.
#[derive(Debug)]
#[repr(align(128))]
struct Share([AtomicU64; Counter::ALL.len()]);

/// Parts; threads beyond share one with another.
const SHARES: usize = 16;

thread_local! {
    static OURS: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SHARES
    };
}

impl Counters {
    /// Adds.
    pub fn add(&self, counter: Counter, amount: u64) {
        let ours = OURS.try_with(|ours| *ours).unwrap_or_default();
        self.shares[ours].0[counter as usize].fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Its value.
    #[must_use]
    pub fn value(&self, counter: Counter) -> u64 {
        let value = self.shares.iter().fold(0_u64, |sum, share| {
            sum.wrapping_add(share.0[counter as usize].load(Ordering::Relaxed))
        });
        let others = matches!(counter, Counter::LogSuppressed).then(|| self.limits.suppressed());
        value + others.unwrap_or(0)
    }

    /// Those that are not zero, `name=value` each.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for &counter in Counter::ALL {
            let value = self.value(counter);
            if value > 0 {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(&format!("{}={value}", counter.name()));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_what_happened_only() {
        let counters = Counters::default();
        counters.add(Counter::BytesUp, 5);
        counters.count(Counter::Accepted);
        assert_eq!(counters.summary(), "accepted=1 bytes_up=5");
    }

    #[test]
    fn what_all_threads_count_is_summed() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARES {
                scope.spawn(|| (0..100).for_each(|_| counters.count(Counter::Flows)));
            }
        });
        assert_eq!(counters.value(Counter::Flows), 200 * SHARES as u64);
    }
}
