//! Which family, and which sample of it, a counter is.

use super::families::Family;
use crate::account::Counter;

/// A counter's family and the value of that family's label, if it has one. `None`: other values
/// tell the same, and more.
pub(super) const fn place(counter: Counter) -> Option<(Family, Option<&'static str>)> {
    use Counter as C;
    use Family as F;
    Some(match counter {
        C::Accepted => (F::Accepted, None),
        C::AcceptExhausted => (F::AcceptErrors, Some("exhausted")),
        C::AcceptAborted => (F::AcceptErrors, Some("aborted")),
        C::AcceptFailed => (F::AcceptErrors, Some("other")),
        C::ListenerClosed
        | C::SniffingLimit
        | C::SourceLimit
        | C::SourceRate
        | C::ListenerDenied
        | C::RuleDenied
        | C::RuleLimit
        | C::UpstreamLimit
        | C::NoMatch
        | C::SniffTimeout
        | C::SniffAborted
        | C::ProxyMissing
        | C::ProxyMalformed
        | C::ProxyTooLong
        | C::ProxyChecksum
        | C::ProxyTimeout
        | C::ProxyUntrusted
        | C::Unreachable
        | C::NoUpstream
        | C::UpstreamQueueFull
        | C::UpstreamQueueTimeout
        | C::UpstreamQueueLeft => (F::Refused, Some(counter.name())),
        C::Reloads => (F::Reloads, Some("ok")),
        C::ReloadFailures => (F::Reloads, Some("failed")),
        C::Upgrades => (F::Upgrades, Some("ok")),
        C::UpgradeFailures => (F::Upgrades, Some("failed")),
        C::NetworkFileRead => (F::NetworkFiles, Some("ok")),
        C::NetworkFileFailed => (F::NetworkFiles, Some("failed")),
        C::ProxyHeaders => (F::ProxyHeaders, None),
        C::SourceMismatch => (F::SourceMismatches, None),
        C::UpstreamFallbacks => (F::Fallbacks, None),
        C::UpstreamChecksPassed => (F::Checks, Some("passed")),
        C::UpstreamChecksFailed => (F::Checks, Some("failed")),
        C::UpstreamUp => (F::CheckChanges, Some("up")),
        C::UpstreamDown => (F::CheckChanges, Some("down")),
        C::UpstreamQueued => (F::Queued, None),
        C::Resolved => (F::Resolutions, Some("ok")),
        C::ResolveFailed => (F::Resolutions, Some("failed")),
        C::Promoted => (F::Promotions, None),
        C::Demoted => (F::Demotions, None),
        C::DemotedByEvidence => (F::DemotionsByEvidence, None),
        C::PromotionRefused => (F::PromotionsRefused, None),
        C::PacketOffered
        | C::PacketIneligible
        | C::PacketOn
        | C::PacketWithdrawn
        | C::PacketTooLong => (F::PacketFlows, Some(counter.name())),
        C::PacketLate => (F::PacketLate, None),
        C::Passes => (F::Passes, None),
        C::Broken => (F::Broken, None),
        C::Imbalance => (F::Imbalances, None),
        C::Torn => (F::Torn, None),
        C::AccessDropped => (F::AccessDropped, None),
        C::LogSuppressed => (F::LogSuppressed, None),
        // In seconds, and with flows that are alive.
        C::UpstreamQueueMicros | C::Flows | C::BytesUp | C::BytesDown => return None,
        // By upstream and reason: its tally.
        C::ConnectFailed | C::UpstreamRetries | C::UpstreamEjections | C::UpstreamReturns => {
            return None;
        }
    })
}
