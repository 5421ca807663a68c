//! One connection's life, from accept to close: sniff, route, connect, replay, relay.
//!
//! Reads top down as the picture in ARCHITECTURE.md does.

mod translating;

use std::{
    io,
    os::fd::AsFd,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::debug;

use self::translating::{Translating, linger};
use crate::{
    account::{self, Counter, Record, Stage},
    core::{Core, FlowHandle},
    kernel::{InsertError, object},
    limit::{
        Permit,
        reached::Kind,
        sniffing::Sniffing,
        source::{self, Place},
    },
    net::{Peer, Stream},
    proxy::{self, Announcement, Guard, Header},
    relay::{
        Close, Ends, Mode, Plan, Side, Stop,
        demotion::Reason,
        evidence,
        packet::{Packets, eligible::Ineligible},
        plan::{Offering, Unavailable},
        sockmap::{self, Entered, Exit, Refusal, Sizes, Spliced},
        user::{Duplex, Next},
    },
    route::{Decision, Outcome, Phase},
    rules::config::{RelayChoice, Source},
    snapshot::{Service, Snapshot},
    sniff::{Aborted, Sniff, Sniffer},
    sys, throttle,
    upstream::{self, Failure, Places, Refused, Visitor, builtin, opening::Opening},
};

/// How long the connection that did not fail may take to get its peer's acknowledgement of what
/// it was given before, when the other one failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a connection ended before it became a flow.
#[derive(Debug)]
enum Early {
    /// The client was gone before a rule took it.
    SniffAborted(io::Error),
    /// A PROXY header that was not there, not right, or not to be believed.
    ProxyHeader(proxy::Refusal),
    /// No rule took it; true: reset it.
    NoRule { phase: Phase, reset: bool },
    /// Refused at a limit or by an access list.
    Refused(&'static str, Counter),
    /// No upstream to be had.
    NoUpstream(Failure),
    /// Ordered to end.
    Stopped(Stop),
}

/// Serves one accepted connection to its end. `sniffing` are those of its listener's that are being
/// sniffed, if these are limited.
pub async fn serve(
    core: Rc<Core>,
    service: Service,
    client: Stream,
    peer: Peer,
    sniffing: Option<Rc<Sniffing>>,
) {
    let mut record = Record::new(core.next_id(), peer, Arc::clone(&service.listener().name));
    let handle = core.enter(&record);
    core.shared.counters.count(Counter::Accepted);

    // A flow that is open has what it needs: an old configuration is not kept for it.
    let own = sniffing.as_deref();
    match open(&core, service, client, peer, own, &mut record, &handle).await {
        Ok(flow) => {
            if let Some(hook) = &core.shared.hooks.on_connect {
                hook(&account::Flow::new(&record, None));
            }
            let (close, rest) = relay(&core, flow, &mut record, &handle).await;
            account(&core, &record, &close);
            handle.live.set_accounted();
            if let Some(hook) = &core.shared.hooks.on_close {
                hook(&account::Flow::new(&record, Some(close.name())));
            }
            core.shared.access.log(&record, close.name(), &close.error());
            drop(handle);
            linger(&core, rest).await;
        }
        Err(early) => {
            if let Some((kind, name)) = early.limit(&record) {
                core.shared.counters.limits.met(kind, name);
            }
            let (close, error, counter) = early.describe();
            core.totals.closed(close);
            if let Some(counter) = counter {
                core.shared.counters.count(counter);
            }
            core.shared.access.log(&record, close, &error);
        }
    }
}

/// A connected flow, nothing of which has been relayed.
#[derive(Debug)]
struct Flow {
    ends: Ends,
    opening: Opening,
    /// So many bytes of it the upstream has.
    sent: usize,
    guard: Option<Guard>,
    plan: Plan,
    _permit: Permit,
    _place: Option<Place>,
    _places: Places,
}

/// Sniffs, routes and connects. A connection that is refused is closed here.
async fn open(
    core: &Rc<Core>,
    service: Service,
    mut client: Stream,
    peer: Peer,
    own: Option<&Sniffing>,
    record: &mut Record,
    handle: &FlowHandle,
) -> Result<Flow, Early> {
    let Snapshot { config, limits, .. } = &*service.snapshot;
    let entered = enter(core, &service, &mut client, peer, own, record, handle).await;
    let Entrance { place, header, sniff } = match entered {
        Ok(entrance) => entrance,
        Err(early) => {
            if matches!(early, Early::Refused(..)) {
                client.reset();
            }
            return Err(early);
        }
    };
    let sniffed = record.accepted.elapsed();
    record.sniffed = Some(sniffed);
    core.totals.sniffing.observe(sniffed);
    record.tally.up.taken = sniff.prefix.len() as u64;
    record.tally.up.reads = sniff.reads;
    let Sniff { outcome, prefix, phase, guard, .. } = sniff;
    let decision = match outcome {
        Outcome::Routed(decision) => decision,
        Outcome::Close | Outcome::NeedMore(_) => return Err(Early::NoRule { phase, reset: false }),
        Outcome::Reset => {
            client.reset();
            return Err(Early::NoRule { phase, reset: true });
        }
    };

    let rule = &config.rules[decision.rule.0];
    let group = &config.upstreams[rule.upstream.0];
    record.rule = Some(Arc::clone(&rule.name));
    record.why = Some(decision.why);
    record.upstream = Some(Arc::clone(&group.name));
    handle.live.learn(record, Stage::Connecting);
    if !rule.acl.permits(record.client.ip()) {
        record.seen = decision.seen;
        client.reset();
        return Err(Early::Refused("rule-denied", Counter::RuleDenied));
    }
    let permit = limits.rules[decision.rule.0]
        .try_acquire()
        .ok_or(Early::Refused("rule-limit", Counter::RuleLimit))?;

    let start = Instant::now();
    let visitor = Visitor { client: &client, peer: record.client, handle };
    let mut opening = Opening::new(prefix);
    let announce = |version, prefix: &[u8]| {
        let flow = Announcement {
            client: record.client,
            accepted: &client,
            received: header.as_ref(),
            prefix,
            id: &record.id_text(),
        };
        proxy::announce(version, &flow)
    };
    let snapshot = &service.snapshot;
    let connecting =
        upstream::connect(core, snapshot, decision.rule, visitor, &mut opening, announce);
    let connected = or_stopped(handle, pin!(connecting)).await?;
    let connected = match connected {
        Ok(connected) => connected,
        Err(failure) => {
            record.seen = decision.seen;
            // RST: nothing was delivered, and a clean end could pass for an answer.
            if failure.reset {
                client.reset();
            }
            return Err(Early::NoUpstream(failure));
        }
    };
    let took = start.elapsed();
    record.connected = Some(took);
    core.totals.connecting.observe(took);
    record.upstream = Some(connected.upstream);
    record.endpoint = Some(connected.endpoint);
    handle.live.learn(record, Stage::Relaying);
    // `[timeouts] idle` counts from here.
    handle.control.touch();

    let sent = connected.sent;
    record.tally.up.given = sent.saturating_sub(opening.header()) as u64;
    handle.control.set_given(record.tally.up.given, 0);
    let ends = Ends { client, upstream: connected.stream };
    let choice = core.shared.relay.unwrap_or(rule.relay);
    let unavailable = Unavailable {
        packet: core.shared.no_packets.as_deref(),
        sockmap: core.shared.unavailable.as_deref(),
    };
    let mut plan = Plan::new(choice, &ends, connected.builtin.is_some(), unavailable);
    let group = config.rules[connected.rule.0].upstream;
    if plan.packet == Offering::May && config.upstreams[group.0].source == Some(Source::Transparent)
    {
        plan.refuse_packet(Ineligible::Transparent.to_string());
    }
    if let Some((kind, stream)) = connected.builtin {
        let about = about(record, &decision, &plan, &service, handle);
        core.tasks.spawn_local(async move {
            // The flow's other end sees the same error and accounts for it.
            let _ = builtin::serve(kind, stream, about).await;
        });
    }
    handle.live.set_why_not(plan.why_not.clone());
    if choice == RelayChoice::Auto {
        handle.control.set_by_evidence();
    }
    record.seen = decision.seen;
    Ok(Flow {
        ends,
        opening,
        sent,
        guard,
        plan,
        _permit: permit,
        _place: place,
        _places: connected.places,
    })
}

/// A connection that was let in and is sniffed.
struct Entrance {
    place: Option<Place>,
    /// The PROXY header that it began with, if it was believed.
    header: Option<Header>,
    sniff: Sniff,
}

/// Lets a connection in and sniffs it. Of a trusted proxy's the client is known, and let in or
/// not, when its header is read.
async fn enter(
    core: &Core,
    service: &Service,
    stream: &mut Stream,
    peer: Peer,
    own: Option<&Sniffing>,
    record: &mut Record,
    handle: &FlowHandle,
) -> Result<Entrance, Early> {
    let listener = service.listener();
    let trusted = listener.accept_proxy.as_ref().map(|trusted| trusted.includes(peer));
    let mut place = None;
    if trusted != Some(true) {
        place = admit(service, peer)?;
    }
    let _places = [Some(&core.sniffing), own].map(|all| all.map(|all| all.enter(&handle.control)));
    let mut sniffer = Sniffer::new(stream, listener, &core.pool);
    let mut header = None;
    if trusted == Some(true) {
        let believed = or_stopped(handle, pin!(sniffer.header())).await??;
        core.shared.counters.count(Counter::ProxyHeaders);
        record.tally.up.before = believed.length as u64;
        record.client = believed.client(peer);
        record.proxy = Some(believed.details());
        header = Some(believed);
        place = admit(service, record.client)?;
    }
    let guard = (trusted == Some(false)).then(Guard::default);
    let sniff = or_stopped(handle, pin!(sniffer.route(record.client, guard))).await??;
    Ok(Entrance { place, header, sniff })
}

/// Lets a client in whom the listener's access list permits and whose source has a place.
fn admit(service: &Service, client: Peer) -> Result<Option<Place>, Early> {
    if !service.listener().acl.permits(client.ip()) {
        return Err(Early::Refused("listener-denied", Counter::ListenerDenied));
    }
    let (Some(sources), Some(address)) = (&service.snapshot.limits.sources, client.ip()) else {
        return Ok(None);
    };
    sources.admit(address, Instant::now()).map(Some).map_err(|refused| match refused {
        source::Refused::Connections => Early::Refused("source-limit", Counter::SourceLimit),
        source::Refused::Rate => Early::Refused("source-rate", Counter::SourceRate),
    })
}

/// Runs `future` unless the flow is ordered to end first. It is the caller's, who has room for it: an
/// async function has what it is given twice, as its argument and where it polls it.
async fn or_stopped<T>(
    handle: &FlowHandle,
    future: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Early> {
    let stopped = async {
        loop {
            if let Some(stop) = handle.control.stopped() {
                return stop;
            }
            handle.control.wait().await;
        }
    };
    tokio::select! {
        biased;
        value = future => Ok(value),
        stop = stopped => Err(Early::Stopped(stop)),
    }
}

fn about(
    record: &Record,
    decision: &Decision,
    plan: &Plan,
    service: &Service,
    handle: &FlowHandle,
) -> builtin::About {
    let seen = decision.seen.as_ref();
    builtin::About {
        id: record.id_text(),
        client: record.client.to_string(),
        peer: record.other_peer(),
        listener: service.listener().name.to_string(),
        rule: service.snapshot.config.rules[decision.rule.0].name.to_string(),
        why: decision.why.name(),
        probe: seen.map(|seen| seen.probe.name().to_owned()),
        details: seen.map(|seen| seen.details.to_json()),
        details_text: seen.map(|seen| seen.details.to_string()).unwrap_or_default(),
        relay: Mode::Copy.name(),
        relay_note: plan.note(Mode::Copy, &handle.control).into_owned(),
        server: concat!("mux/", env!("CARGO_PKG_VERSION")),
    }
}

/// Relays until the flow is over; both connections are closed on return. What is left of a flow
/// whose packets were translated [lingers](linger).
async fn relay<'a>(
    core: &'a Core,
    flow: Flow,
    record: &mut Record,
    handle: &FlowHandle,
) -> (Close, Option<Packets<'a>>) {
    let Flow { mut ends, opening, sent, guard, mut plan, _permit, _place, _places } = flow;
    let mut duplex = Duplex::new(opening, sent).guarded_by(guard);
    let mut packets = Translating::new(core, handle);
    loop {
        let next = duplex.run(&mut ends, &mut record.tally, &handle.control, &plan, &core.pool);
        match next.await {
            Next::Over(close) => {
                packets.withdraw(&ends, &mut plan, record);
                if packets.is_on() {
                    return packets.end(ends, close, record).await;
                }
                record.relay = Some(duplex.mode());
                record.relay_note = duplex.note(&plan, &handle.control);
                handle.live.set_stage(Stage::Ending);
                end(ends, &close).await;
                return (close, None);
            }
            Next::Offer => {
                packets.offer(&ends, &mut plan, record);
                continue;
            }
            Next::Withdraw => {
                packets.withdraw(&ends, &mut plan, record);
                continue;
            }
            Next::Packet => {
                if let Some(close) = packets.look(&ends, &mut plan, record, duplex.ended()) {
                    return packets.end(ends, close, record).await;
                }
                continue;
            }
            Next::Promote => {}
        }
        let Some(kernel) = &core.kernel else {
            stay(&mut plan, "this core has no kernel relay".into(), handle);
            continue;
        };
        // Segments that came while the flow was in the kernel were not read: no batch is seen then.
        if handle.control.goes_by_evidence()
            && record.tally.promotions == 0
            && sockmap::comes_in_batches(&ends, &record.tally)
        {
            plan.back_off(Reason::Batches);
            handle.live.set_why_not(plan.why_not.clone());
            continue;
        }
        let sizes = Sizes {
            send_buffer: core.shared.kernel.send_buffer,
            backlog_limit: core.shared.kernel.backlog_limit,
        };
        let token = handle.token();
        match sockmap::enter(kernel, &core.watch, token, ends, &record.tally, sizes) {
            // On the heap: most flows never come here, and a task is as large as its largest part.
            Entered::In(spliced) => {
                if handle.control.goes_by_evidence() {
                    evidence::enters();
                }
                record.relay_note = plan.note(Mode::Sockmap, &handle.control);
                match Box::pin(relay_spliced(core, spliced, record, handle)).await {
                    // Until it may come back: `Control::is_to_leave_kernel`, `Plan::wants_sockmap`.
                    Ok(back) => {
                        ends = back;
                        if let Some(reason) = handle.control.take_demotion() {
                            core.shared.counters.count(Counter::DemotedByEvidence);
                            plan.back_off(reason);
                            handle.live.set_why_not(plan.why_not.clone());
                        }
                    }
                    Err(close) => return (close, None),
                }
            }
            Entered::Out(back, Refusal::Busy) => {
                ends = back;
                plan.try_later(&record.tally);
            }
            Entered::Out(back, refusal) => {
                ends = back;
                refused(core, &mut plan, &refusal, record, handle);
            }
            Entered::Lost(error) => {
                return (Close::Failed { side: Side::Downstream, error }, None);
            }
        }
    }
}

fn refused(core: &Core, plan: &mut Plan, refusal: &Refusal, record: &Record, handle: &FlowHandle) {
    core.shared.counters.count(Counter::PromotionRefused);
    if let Refusal::Insert(InsertError::Full) = refusal {
        core.shared.counters.limits.met(Kind::KernelFlows, None);
    }
    debug!(id = record.id_text(), %refusal, "stays in user space");
    stay(plan, refusal.to_string(), handle);
}

/// Keeps the flow in user space for good.
fn stay(plan: &mut Plan, why: String, handle: &FlowHandle) {
    plan.stay(why);
    handle.live.set_why_not(plan.why_not.clone());
}

/// Accompanies a flow in the kernel; its ends come back if it was ordered out.
async fn relay_spliced(
    core: &Core,
    mut spliced: Spliced<'_>,
    record: &mut Record,
    handle: &FlowHandle,
) -> Result<Ends, Close> {
    record.relay = Some(Mode::Sockmap);
    record.tally.promotions += 1;
    core.shared.counters.count(Counter::Promoted);
    handle.spliced(spliced.pair());
    let mut close = match spliced.run(&handle.control, &core.pool, &core.shared.counters).await {
        Exit::Over(close) => close,
        Exit::Left => match spliced.audit_left() {
            Ok(()) => {
                settle(&spliced, record, handle);
                return spliced
                    .into_user_space()
                    .map_err(|error| Close::Failed { side: Side::Downstream, error });
            }
            Err(imbalance) => imbalance,
        },
    };
    handle.live.set_stage(Stage::Ending);
    match &close {
        Close::Finished => {
            if let Err(imbalance) = spliced.finish() {
                close = imbalance;
            }
        }
        Close::Failed { .. } | Close::Stopped(_) | Close::Forged | Close::Torn { .. } => {
            let audit = spliced.audit_cut_short();
            spliced.abort(close.failed(), PATIENCE).await;
            if let Err(imbalance) = audit.and_then(|()| spliced.audit_cut_short()) {
                close = imbalance;
            }
        }
        Close::Broken { .. } | Close::Imbalance { .. } => spliced.abort(None, PATIENCE).await,
    }
    settle(&spliced, record, handle);
    Err(close)
}

/// Brings the flow's counts up to date with the books, which are another flow's after that.
fn settle(spliced: &Spliced<'_>, record: &mut Record, handle: &FlowHandle) {
    spliced.settle(&mut record.tally);
    handle.unspliced();
    handle.control.set_given(record.tally.up.given, record.tally.down.given);
}

/// Closes both connections of a flow in user space, as its end asks for.
async fn end(ends: Ends, close: &Close) {
    let Ends { client, upstream } = ends;
    match close {
        Close::Finished => {}
        Close::Failed { side, .. } => {
            // The reset follows the bytes that came before it, as it would without us.
            let survivor = match side {
                Side::Downstream => &upstream,
                Side::Upstream => &client,
            };
            // What was to leave with an end that does not come.
            survivor.without_delay();
            delivered(survivor).await;
            client.reset();
            upstream.reset();
        }
        // RST: a clean end in the middle of a stream could pass for its end.
        Close::Stopped(_)
        | Close::Forged
        | Close::Broken { .. }
        | Close::Imbalance { .. }
        | Close::Torn { .. } => {
            client.reset();
            upstream.reset();
        }
    }
}

/// Waits until the peer has acknowledged everything, or our patience is over.
async fn delivered(stream: &Stream) {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    while Instant::now() < deadline {
        match sys::unacknowledged(stream.as_fd()) {
            Ok(0) | Err(_) => return,
            Ok(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn account(core: &Core, record: &Record, close: &Close) {
    let counters = &core.shared.counters;
    counters.count(Counter::Flows);
    counters.add(Counter::BytesUp, record.tally.up.given);
    counters.add(Counter::BytesDown, record.tally.down.given);
    counters.add(Counter::Passes, u64::from(record.tally.passes));
    core.totals.ended(record);
    core.totals.closed(close.name());
    let mut known = "";
    let counter = match close {
        Close::Forged => {
            counters.count(proxy::Refusal::Untrusted.counter());
            return;
        }
        Close::Torn { .. } => {
            counters.count(Counter::Torn);
            return;
        }
        Close::Broken { .. } => Counter::Broken,
        Close::Imbalance { known: all, .. } => {
            known = all;
            Counter::Imbalance
        }
        Close::Finished | Close::Failed { .. } | Close::Stopped(_) => return,
    };
    // Neither can be caused from outside: not a peer's misbehaviour, but ours or the kernel's.
    counters.count(counter);
    let Some(held) = core.shared.throttles.books.admit(Instant::now()) else {
        counters.count(Counter::LogSuppressed);
        return;
    };
    tracing::error!(
        id = record.id_text(),
        tally = ?record.tally,
        known,
        kernel = kernel(),
        object = object::HASH,
        suppressed = throttle::some(held),
        "the kernel relay's books: {close}; please report this"
    );
}

/// The running kernel, for a report.
fn kernel() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.release().to_string_lossy(), uname.version().to_string_lossy())
}

impl From<Aborted> for Early {
    fn from(aborted: Aborted) -> Self {
        match aborted {
            Aborted::Gone(error) => Self::SniffAborted(error),
            Aborted::Refused(refusal) => Self::ProxyHeader(refusal),
        }
    }
}

impl Early {
    /// The limit that was met, and whose it is. Those of upstreams are counted where they are met: a
    /// connection may wait there, and be served.
    fn limit<'a>(&'a self, record: &'a Record) -> Option<(Kind, Option<&'a str>)> {
        match self {
            Self::Refused(_, Counter::SourceLimit) => Some((Kind::Source, None)),
            Self::Refused(_, Counter::SourceRate) => Some((Kind::Rate, None)),
            Self::Refused(_, Counter::RuleLimit) => Some((Kind::Rule, record.rule.as_deref())),
            Self::Stopped(Stop::Evicted) => Some((Kind::Sniffing, None)),
            Self::NoUpstream(Failure { refused: Refused::RuleFull(rule), .. }) => {
                Some((Kind::Rule, Some(rule)))
            }
            Self::SniffAborted(_)
            | Self::ProxyHeader(_)
            | Self::NoRule { .. }
            | Self::Refused(..)
            | Self::NoUpstream(_)
            | Self::Stopped(_) => None,
        }
    }

    /// Close reason, error text, counter.
    fn describe(&self) -> (&'static str, String, Option<Counter>) {
        match self {
            Self::SniffAborted(error) => {
                ("client-reset", error.to_string(), Some(Counter::SniffAborted))
            }
            Self::ProxyHeader(refusal) => {
                (proxy::CLOSE, refusal.to_string(), Some(refusal.counter()))
            }
            Self::NoRule { phase: Phase::TimedOut, .. } => {
                ("sniff-timeout", String::new(), Some(Counter::SniffTimeout))
            }
            Self::NoRule { reset, .. } => {
                let name = if *reset { "no-match-reset" } else { "no-match" };
                (name, String::new(), Some(Counter::NoMatch))
            }
            Self::Refused(name, counter) => (name, String::new(), Some(*counter)),
            Self::NoUpstream(failure) => {
                let refused = &failure.refused;
                (refused.name(), failure.error.clone(), Some(refused.counter()))
            }
            Self::Stopped(Stop::Evicted) => {
                (Stop::Evicted.name(), String::new(), Some(Counter::SniffingLimit))
            }
            Self::Stopped(stop) => (stop.name(), String::new(), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, E, F: Future>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// Every connection's task is allocated, moved there, and freed. It has 3.3 KiB, and had 5.6 before futures stopped
    /// being arguments of async functions that poll them. What makes it larger belongs on the heap, if few need it.
    #[test]
    fn a_connections_task_does_not_grow() {
        let size = size(serve);
        assert!(size <= 4 * 1024, "{size} bytes");
    }
}
