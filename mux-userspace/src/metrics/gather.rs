//! The values of a page.

use std::{
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use mux_common::{
    Stats,
    packet::{PacketStats, refusal},
};

use super::{counters::place, families::Family, page::Page, process};
use crate::{
    account::{Counter, Counters, Report},
    admin::{State, limits},
    kernel::books::Way,
    limit::reached::Kind,
    relay::{Mode, control::KeptOut},
    upstream::{Condition, Groups},
};

/// Everything, as text.
pub(crate) fn page(state: &State, reports: Vec<Report>) -> String {
    let mut page = Page::new();
    let mut all = Report::default();
    reports.into_iter().for_each(|report| all.add(report));
    daemon(&mut page, state);
    connections(&mut page, &all);
    routes(&mut page, &all);
    for limit in limits(state) {
        page.add(Family::Limit, &[&limit.name], limit.of);
        page.add(Family::LimitUsed, &[&limit.name], limit.used);
    }
    upstreams(&mut page, &state.shared.current.load().upstreams);
    counters(&mut page, &state.shared.counters);
    relay(&mut page, state);
    process::add(&mut page);
    page.finish(&mut state.memory())
}

fn daemon(page: &mut Page, state: &State) {
    let object = concat!(env!("MUX_EBPF_ORIGIN"), " ", env!("MUX_EBPF_HASH"));
    page.add(Family::Build, &[env!("CARGO_PKG_VERSION"), object], 1);
    page.add(Family::Started, &[], unix_seconds(state.facts.started_at));
    page.add(Family::Accepting, &[], u64::from(!state.is_draining()));
    page.add(Family::Cores, &[], state.cores.len() as u64);
    let current = state.shared.current.load();
    page.add(Family::Generation, &[], current.generation);
    page.add(Family::Loaded, &[], unix_seconds(current.since));
    let failed = state.shared.last_failure.load().is_some();
    page.add(Family::LastReload, &[], u64::from(!failed));
    page.add(Family::Requests, &[], state.requests.load(Ordering::Relaxed));
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn connections(page: &mut Page, all: &Report) {
    page.add(Family::Connections, &[], all.connections);
    page.add(Family::Sniffing, &[], all.sniffing);
    for (reason, count) in &all.closes {
        page.add(Family::Closed, &[reason], *count);
    }
    for mode in Mode::ALL {
        page.add(Family::FlowsAlive, &[mode.name()], all.flows[mode.index()]);
    }
    for way in Way::BOTH {
        page.add(Family::Bytes, &[way.name()], all.bytes[way.index()]);
    }
    page.histogram(Family::SniffSeconds, &all.sniff);
    page.histogram(Family::ConnectSeconds, &all.connect);
    page.histogram(Family::LifetimeSeconds, &all.lifetime);
}

fn routes(page: &mut Page, all: &Report) {
    let mut routes: Vec<_> = all.routes.iter().collect();
    routes.sort_by_key(|(key, _)| *key);
    for ((rule, upstream), route) in routes {
        for mode in Mode::ALL {
            let ended = route.ended[mode.index()];
            page.add(Family::Flows, &[rule, upstream, mode.name()], ended);
        }
        page.add(Family::RouteFlows, &[rule, upstream], route.alive.iter().sum::<u64>());
        for way in Way::BOTH {
            let bytes = route.bytes[way.index()];
            page.add(Family::RouteBytes, &[rule, upstream, way.name()], bytes);
        }
    }
}

fn upstreams(page: &mut Page, groups: &Groups) {
    for group in groups.iter() {
        let name = &*group.config().name;
        let mut flows = 0;
        for endpoint in group.endpoints() {
            let address = endpoint.address().to_string();
            let condition = endpoint.condition();
            let is_up = condition == Condition::Up;
            for state in Condition::STATES {
                let is_it = u64::from(condition.name() == state);
                page.add(Family::EndpointState, &[name, &address, state], is_it);
            }
            let in_use = u64::from(endpoint.in_use());
            flows += in_use;
            page.add(Family::EndpointUp, &[name, &address], u64::from(is_up));
            page.add(Family::EndpointFlows, &[name, &address], in_use);
        }
        page.add(Family::UpstreamFlows, &[name], flows);
        page.add(Family::UpstreamQueue, &[name], group.room().waiting() as u64);
        let tally = group.tally();
        for (family, counts) in [
            (Family::ConnectFailures, tally.failures()),
            (Family::Retries, tally.retries()),
            (Family::Ejections, tally.ejections()),
        ] {
            for (fault, count) in counts.iter() {
                page.add(family, &[name, fault.name()], count);
            }
        }
        for (by, count) in tally.returns() {
            page.add(Family::Returns, &[name, by.name()], count);
        }
    }
}

fn counters(page: &mut Page, counters: &Counters) {
    for &counter in Counter::ALL {
        if let Some((family, label)) = place(counter) {
            page.add(family, label.as_slice(), counters.value(counter));
        }
    }
    for kind in Kind::ALL {
        page.add(Family::LimitReached, &[kind.name()], counters.limits.value(kind));
    }
    let micros = counters.value(Counter::UpstreamQueueMicros);
    page.add(Family::QueuedSeconds, &[], micros as f64 / 1e6);
}

fn relay(page: &mut Page, state: &State) {
    let on = state.shared.unavailable.is_none() && state.kept_out().is_none();
    page.add(Family::KernelRelay, &[], u64::from(on));
    page.add(Family::SwitchedOff, &[], state.switched_off.load(Ordering::Relaxed));
    if let Some(took) = state.facts.self_test {
        page.add(Family::SelfTest, &[], took.as_secs_f64());
    }
    if let Some(stats) = state.verdict() {
        verdict(page, &stats);
    }
    let on = state.shared.no_packets.is_none() && state.kept_out() != Some(KeptOut::Ordered);
    page.add(Family::PacketRelay, &[], u64::from(on));
    // Zeros where the relay is not in force: a series that comes and goes is no counter.
    packets(page, &state.packets().unwrap_or_default());
}

/// By [`mux_common::packet::refusal`].
const NOT_ARMED: [&str; refusal::COUNT] = [
    "none",
    "flags",
    "options",
    "unseen",
    "recent",
    "own_gone",
    "other_gone",
    "busy",
    "sequence",
    "own_unread",
    "own_unacked",
    "other_unread",
    "other_unacked",
    "in_hand",
    "withdrawn",
];

fn packets(page: &mut Page, stats: &PacketStats) {
    let PacketStats {
        // As many as there are flows that are on.
        armed: _,
        translated,
        shortcuts,
        slow_options,
        acks_diverted,
        untranslatable,
        dropped,
        too_big,
        no_socket,
        resets_put_right,
        resets_dropped,
        events_lost,
        refused,
    } = *stats;
    page.add(Family::PacketTranslated, &[], translated);
    for (reason, count) in NOT_ARMED.into_iter().zip(refused).skip(1) {
        page.add(Family::PacketNotArmed, &[reason], count);
    }
    for (what, count) in [
        ("shortcut", shortcuts),
        ("slow_options", slow_options),
        ("ack_diverted", acks_diverted),
        ("untranslatable", untranslatable),
        ("dropped", dropped),
        ("too_long", too_big),
        ("no_socket", no_socket),
        ("reset_put_right", resets_put_right),
        ("reset_dropped", resets_dropped),
        ("event_lost", events_lost),
    ] {
        page.add(Family::PacketOdd, &[what], count);
    }
}

fn verdict(page: &mut Page, stats: &Stats) {
    let Stats {
        redirected,
        redirected_bytes,
        passed_behind,
        passed_no_peer,
        passed_backlog,
        passed_full,
        passed_hold,
        trimmed,
        trimmed_bytes,
        duplicates,
        fins,
        no_slot,
        broken,
        events_lost,
        half_read,
    } = *stats;
    let passed = [
        ("behind", passed_behind),
        ("no_peer", passed_no_peer),
        ("backlog", passed_backlog),
        ("full", passed_full),
        ("hold", passed_hold),
    ];
    for (reason, count) in passed {
        page.add(Family::VerdictPassed, &[reason], count);
    }
    for (family, count) in [
        (Family::VerdictRedirected, redirected),
        (Family::VerdictRedirectedBytes, redirected_bytes),
        (Family::VerdictTrimmed, trimmed),
        (Family::VerdictTrimmedBytes, trimmed_bytes),
        (Family::VerdictDuplicates, duplicates),
        (Family::VerdictFins, fins),
        (Family::VerdictNoSlot, no_slot),
        (Family::VerdictBroken, broken),
        (Family::VerdictEventsLost, events_lost),
        (Family::VerdictHalfRead, half_read),
    ] {
        page.add(family, &[], count);
    }
}
