//! Connecting to an upstream: which endpoint, whether there is a place, all addresses of a name, a
//! timeout each, the next one when one fails.
//!
//! Touches no byte of the flow but the first ones, which an endpoint is given once it is connected: a failed
//! endpoint costs the client nothing but time.
//!
//! | file | what it is |
//! |---|---|
//! | `group` | a group at run time: seats, tiers, the queue |
//! | `balance` | whose turn it is; pure |
//! | `endpoint`, `health` | an endpoint's state; the pure part of its ups and downs |
//! | `dial`, `eyeballs`, `addresses` | one attempt; a race of addresses; their order, and what is known of each |
//! | `opening` | what an upstream is given first |
//! | `source` | from which address, and with which timers |
//! | `upkeep`, `resolve`, `check` | the thread that looks up names, checks endpoints, reports changes |
//! | `tally` | what happened at a group's endpoints, by reason |
//! | `builtin` | the servers in the daemon itself |

mod addresses;
mod balance;
pub mod builtin;
mod check;
mod dial;
mod endpoint;
mod eyeballs;
mod group;
mod health;
pub mod opening;
mod random;
mod resolve;
pub mod source;
mod tally;
mod upkeep;

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{net::UnixStream, time::Instant};
use tracing::warn;

use self::{dial::Failures, endpoint::Seat, group::Admission, opening::Opening, source::Manner};
pub use self::{
    endpoint::{Condition, Endpoint},
    group::{Group, Groups},
    tally::{By, ByFault, Fault, Tally},
    upkeep::Upkeep,
};
use crate::{
    account::Counter,
    core::{Core, FlowHandle},
    limit::{Permit, room::Place},
    net::{Peer, Stream},
    proxy::Version,
    relay::{packet::eligible::longest_segment, watch::Interest},
    rules::config::{Builtin, HalfClosed, Otherwise, RelayChoice, RuleId},
    snapshot::Snapshot,
    sys, throttle,
};

/// Pause before a group's only endpoint is tried again; doubled each time.
const ONLY_ENDPOINT_PAUSE: Duration = Duration::from_millis(100);

/// A connection to an upstream.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: Stream,
    /// So many bytes of the [`Opening`] it was given already.
    pub sent: usize,
    /// The rule whose upstream it is of: the flow's, or one that stands in for it.
    pub rule: RuleId,
    /// The group, or the address, that it is of.
    pub upstream: Arc<str>,
    /// Which endpoint, as the access log prints it.
    pub endpoint: Arc<str>,
    /// The other end, if the endpoint is in this process: to be served.
    pub builtin: Option<(Builtin, UnixStream)>,
    /// The flow's places; for as long as it lasts.
    pub places: Places,
}

/// What a flow holds of its upstream; given back by `Drop`.
#[derive(Debug)]
pub struct Places {
    _seat: Seat,
    _place: Option<Place>,
    /// Under the limits of the rules that stand in for its own.
    _permits: Vec<Permit>,
}

/// Who wants to be connected.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// The client's connection; it is watched while it waits in a queue.
    pub client: &'a Stream,
    /// Its address, as far as it is believed.
    pub peer: Peer,
    /// The flow's place in the core's table.
    pub handle: &'a FlowHandle,
}

/// Why a flow has no upstream.
#[derive(Debug, Error)]
pub enum Refused {
    /// No endpoint that was tried could be connected to.
    #[error("{}", .0.iter().map(|(endpoint, error)| format!("{endpoint}: {error}")).collect::<Vec<_>>().join("; "))]
    Unreachable(Vec<(String, io::Error)>),
    /// No endpoint is up; what is the matter with each.
    #[error("{0}")]
    NoneUp(String),
    /// The group, or each of its endpoints that is up, has as many flows as it may.
    #[error("")]
    Full,
    /// The same, and the queue is full.
    #[error("")]
    QueueFull,
    /// The same, and no place came free in time.
    #[error("")]
    QueueTimeout,
    /// The client went away while it waited.
    #[error("")]
    ClientLeft,
    /// The rule that was to stand in has as many flows as it may.
    #[error("rule {0} has as many flows as it may")]
    RuleFull(Arc<str>),
}

impl Refused {
    /// Its stable name in the access log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::NoneUp(_) => "no-upstream",
            Self::Full => "upstream-limit",
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::ClientLeft => "client-left",
            Self::RuleFull(_) => "rule-limit",
        }
    }

    /// What counts it.
    #[must_use]
    pub const fn counter(&self) -> Counter {
        match self {
            Self::Unreachable(_) => Counter::Unreachable,
            Self::NoneUp(_) => Counter::NoUpstream,
            Self::Full => Counter::UpstreamLimit,
            Self::QueueFull => Counter::UpstreamQueueFull,
            Self::QueueTimeout => Counter::UpstreamQueueTimeout,
            Self::ClientLeft => Counter::UpstreamQueueLeft,
            Self::RuleFull(_) => Counter::RuleLimit,
        }
    }

    /// Whether the endpoints are to blame, rather than a limit or the client.
    const fn is_no_upstream(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::NoneUp(_) => true,
            Self::Full
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::ClientLeft
            | Self::RuleFull(_) => false,
        }
    }
}

/// A flow that has to be refused.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub refused: Refused,
    /// What each upstream said that was tried, the rule's own and those that stood in for it.
    pub error: String,
    /// Whether to reset the client's connection rather than close it.
    pub reset: bool,
}

/// Connects to the rule's upstream, and where that cannot be had does what the rule's
/// `on_no_upstream` says. `announce` makes the PROXY header of a flow that begins with these bytes, for a rule
/// that wants one; the opening then has that of the rule whose upstream it is.
///
/// # Errors
/// [`Failure`].
pub async fn connect(
    core: &Core,
    snapshot: &Snapshot,
    mut rule: RuleId,
    visitor: Visitor<'_>,
    opening: &mut Opening,
    announce: impl Fn(Version, &[u8]) -> Vec<u8>,
) -> Result<Connected, Failure> {
    let mut errors = Vec::new();
    let mut permits = Vec::new();
    loop {
        let config = &snapshot.config.rules[rule.0];
        let group = &snapshot.upstreams[config.upstream];
        let header = config.proxy_protocol.map(|version| announce(version, opening.prefix()));
        opening.announce(header);
        let segment = segment(core, visitor, config.relay);
        let first = (opening.bytes(), segment);
        let connected = connect_to(core, rule, group, visitor, first, &mut permits).await;
        let refused = match connected {
            Ok(connected) => return Ok(connected),
            Err(refused) => refused,
        };
        let is_no_upstream = refused.is_no_upstream();
        let said = refused.to_string();
        if is_no_upstream {
            match core.shared.throttles.upstreams.admit(Instant::now().into_std()) {
                Some(held) => {
                    let (upstream, suppressed) = (&group.config().name, throttle::some(held));
                    warn!(%upstream, error = said, suppressed, "no endpoint can be had");
                }
                None => core.shared.counters.count(Counter::LogSuppressed),
            }
        }
        errors.extend((!said.is_empty()).then_some(said));
        let reset = match config.on_no_upstream {
            // An upstream is behind its rule's access list, whichever way one comes to it.
            Otherwise::Rule(next)
                if is_no_upstream
                    && snapshot.config.rules[next.0].acl.permits(visitor.peer.ip()) =>
            {
                let Some(permit) = snapshot.limits.rules[next.0].try_acquire() else {
                    let refused =
                        Refused::RuleFull(Arc::clone(&snapshot.config.rules[next.0].name));
                    errors.push(refused.to_string());
                    return Err(Failure { refused, error: errors.join("; "), reset: false });
                };
                permits.push(permit);
                core.shared.counters.count(Counter::UpstreamFallbacks);
                rule = next;
                continue;
            }
            Otherwise::Reset | Otherwise::Rule(_) => is_no_upstream,
            Otherwise::Close => false,
        };
        return Err(Failure { refused, error: errors.join("; "), reset });
    }
}

/// The longest segment that an upstream of this client's is to send, where its packets may come to be
/// translated.
fn segment(core: &Core, visitor: Visitor<'_>, choice: RelayChoice) -> Option<u32> {
    let choice = core.shared.relay.unwrap_or(choice);
    let may = core.packets.is_some()
        && matches!(choice, RelayChoice::Auto | RelayChoice::Packet)
        && visitor.client.is_tcp();
    may.then(|| sys::tcp_terms(visitor.client.as_fd()).ok())
        .flatten()
        .and_then(|terms| longest_segment(&terms))
}

/// Connects to a group: to at most 1 + `retries` endpoints, one after the other. The flow's places
/// take over the permits.
async fn connect_to(
    core: &Core,
    rule: RuleId,
    group: &Group,
    visitor: Visitor<'_>,
    (first, segment): (&[u8], Option<u32>),
    permits: &mut Vec<Permit>,
) -> Result<Connected, Refused> {
    let counters = &core.shared.counters;
    let mut flow = Admission { source: visitor.peer.ip(), ..Admission::default() };
    let mut failures = Failures::new();
    let mut retries = group.config().retries;
    // For the only endpoint, whose attempts share its timeout.
    let mut pause = ONLY_ENDPOINT_PAUSE;
    let mut deadline = None;
    loop {
        let left = || left(core, visitor, group);
        let (index, mut seat) = match group.admit(&mut flow, counters, left).await {
            Ok(seat) => seat,
            Err(refused) if failures.is_empty() || !after_failures(&refused) => {
                return Err(refused);
            }
            Err(_) => return Err(Refused::Unreachable(failures)),
        };
        let mut time = group.connect_timeout(index);
        if group.has_one_endpoint() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + time);
            time = deadline.saturating_duration_since(Instant::now());
        }
        let manner = group.manner(Some(visitor.peer), counters);
        let manner = Manner { segment, ..manner };
        let fault = match dial::dial(seat.endpoint(), time, &manner, first).await {
            Ok(dialled) => {
                group.succeeded(&mut seat, counters);
                return Ok(Connected {
                    stream: dialled.stream,
                    sent: dialled.sent,
                    rule,
                    upstream: Arc::clone(&group.config().name),
                    endpoint: dialled.endpoint,
                    builtin: dialled.builtin,
                    places: Places {
                        _seat: seat,
                        _place: flow.place,
                        _permits: std::mem::take(permits),
                    },
                });
            }
            Err(said) => {
                let fault = group.failed(&mut seat, &said, counters);
                failures.extend(said);
                fault
            }
        };
        flow.tried.push(index);
        let is_late = deadline.is_some_and(|deadline| Instant::now() + pause >= deadline);
        if retries == 0 || is_late {
            return Err(Refused::Unreachable(failures));
        }
        retries -= 1;
        group.retries(fault, counters);
        drop(seat);
        if group.has_one_endpoint() {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// Whether a refusal after failed attempts is told as the failure of these.
const fn after_failures(refused: &Refused) -> bool {
    match refused {
        Refused::Unreachable(_) | Refused::NoneUp(_) | Refused::Full | Refused::QueueFull => true,
        Refused::QueueTimeout | Refused::ClientLeft | Refused::RuleFull(_) => false,
    }
}

/// Ends when the client of a flow in the queue is gone. Watches its socket while it is polled; the
/// bytes that have come stay unread.
async fn left(core: &Core, visitor: Visitor<'_>, group: &Group) {
    let waits = group.config().queue.map(|queue| queue.half_closed) == Some(HalfClosed::Waits);
    let gone = libc::EPOLLHUP | libc::EPOLLERR | if waits { 0 } else { libc::EPOLLRDHUP };
    let control = &visitor.handle.control;
    let Ok(_watched) = Watched::new(core, visitor) else {
        // No memory for another watch: then the timeout is what ends it.
        return std::future::pending().await;
    };
    loop {
        let mail = control.wait().await;
        if mail.client & gone.cast_unsigned() != 0 {
            return;
        }
        if control.stopped().is_some() {
            // The flow's task ends us, and would find nothing to do if we went on asking.
            return std::future::pending().await;
        }
    }
}

/// A client's socket in the core's private epoll; taken out by `Drop`.
struct Watched<'a> {
    core: &'a Core,
    visitor: Visitor<'a>,
}

impl<'a> Watched<'a> {
    fn new(core: &'a Core, visitor: Visitor<'a>) -> io::Result<Self> {
        core.watch.add(visitor.client, visitor.handle.token(), Interest::default())?;
        Ok(Self { core, visitor })
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        // It was added, and its descriptor is still open.
        let _ = self.core.watch.remove(self.visitor.client);
        // Who watches it next is told anew.
        self.visitor.handle.control.take();
    }
}
