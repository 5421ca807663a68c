//! What `/status` says.

use std::collections::BTreeMap;

use super::{
    state::{Facts, State},
    view::{
        ByRelay, CheckStatus, CoreStatus, EndpointStatus, LimitStatus, ListenerStatus, RelayStatus,
        Relayed, RuleStatus, Status, UpstreamStatus,
    },
};
use crate::{
    account::{Counter, Report},
    listener, logging,
    relay::control::KeptOut,
    rules::config::Config,
    server,
    shared::Shared,
    snapshot::Snapshot,
    upstream::{Condition, Group},
};

/// The whole of it, from each core's report.
pub(super) fn status(state: &State, reports: Vec<Report>) -> Status {
    let shared = &state.shared;
    let current = shared.current.load_full();
    let Snapshot { generation, config, listening, upstreams, .. } = &*current;
    let Facts { started, started_at, checks: _, self_test: _, security } = &state.facts;
    let cores = reports.iter().enumerate().map(core).collect();
    let mut all = Report::default();
    reports.into_iter().for_each(|report| all.add(report));
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        object: concat!(env!("MUX_EBPF_ORIGIN"), " ", env!("MUX_EBPF_HASH")).into(),
        pid: std::process::id(),
        state: if state.is_draining() { "draining" } else { "serving" }.into(),
        started: humantime::format_rfc3339_millis(*started_at).to_string(),
        uptime_seconds: started.elapsed().as_secs_f64(),
        generation: *generation,
        reload_failure: shared.last_failure.load().as_ref().map(|failure| failure.reason.clone()),
        log_level: logging::level(),
        relay: relay(state),
        security: security.clone(),
        cores,
        connections: all.connections,
        sniffing: all.sniffing,
        flows: ByRelay::new(all.flows),
        bytes: all.bytes.into(),
        relayed: Relayed::new(all.relayed),
        listeners: config
            .listeners
            .iter()
            .zip(listening)
            .map(|(listener, listening)| ListenerStatus {
                name: listener.name.to_string(),
                address: listener::describe(&listening.address),
            })
            .collect(),
        rules: rules(config, &all),
        upstreams: upstreams.iter().map(|group| upstream(group)).collect(),
        limits: limits(state),
        counters: Counter::ALL
            .iter()
            .map(|&counter| (counter.name().to_owned(), shared.counters.value(counter)))
            .collect(),
        closed: all.closes.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect(),
    }
}

fn core((core, report): (usize, &Report)) -> CoreStatus {
    CoreStatus { core, connections: report.connections, flows: ByRelay::new(report.flows) }
}

fn relay(state: &State) -> RelayStatus {
    let check = |check: &server::Check| CheckStatus {
        name: check.name.into(),
        status: check.status.name().into(),
        found: check.found.clone(),
    };
    let why_not = state.shared.unavailable.clone();
    let no_packets = state.shared.no_packets.clone();
    let in_force = match (&no_packets, &why_not) {
        (None, _) => "packet",
        (Some(_), None) => "sockmap",
        (Some(_), Some(_)) => "user space",
    };
    RelayStatus {
        in_force: in_force.into(),
        why_not,
        no_packets,
        switch: match state.kept_out() {
            None => "auto",
            Some(KeptOut::Ordered) => "off",
            Some(KeptOut::Configured) => "off-by-rules",
        }
        .into(),
        self_test_milliseconds: state.facts.self_test.map(|took| took.as_secs_f64() * 1e3),
        checks: state.facts.checks.iter().map(check).collect(),
    }
}

/// Each rule of the file, also one without flows, and rules of an earlier file that have some.
fn rules(config: &Config, all: &Report) -> Vec<RuleStatus> {
    let mut routes: BTreeMap<(usize, String, String), RuleStatus> = BTreeMap::new();
    for (number, rule) in config.rules.iter().enumerate() {
        let upstream = &config.upstreams[rule.upstream.0].name;
        let (rule, upstream) = (rule.name.to_string(), upstream.to_string());
        let status =
            RuleStatus { rule: rule.clone(), upstream: upstream.clone(), ..RuleStatus::default() };
        routes.insert((number, rule, upstream), status);
    }
    for ((rule, upstream), route) in &all.routes {
        let number = config.rules.iter().position(|known| known.name == *rule);
        let (rule, upstream) = (rule.to_string(), upstream.to_string());
        let key = (number.unwrap_or(usize::MAX), rule.clone(), upstream.clone());
        let status = RuleStatus {
            rule,
            upstream,
            flows: ByRelay::new(route.alive),
            ended: ByRelay::new(route.ended),
            bytes: route.bytes.into(),
        };
        routes.insert(key, status);
    }
    routes.into_values().collect()
}

fn upstream(group: &Group) -> UpstreamStatus {
    let config = group.config();
    let endpoints = group.endpoints().iter().zip(&config.endpoints);
    UpstreamStatus {
        name: config.name.to_string(),
        flows: endpoints.clone().map(|(endpoint, _)| u64::from(endpoint.in_use())).sum(),
        limit: config.max_connections.map(|most| most.get().into()),
        queue: group.room().waiting() as u64,
        endpoints: endpoints
            .map(|(endpoint, config)| {
                let condition = endpoint.condition();
                let state = condition.name();
                let reason = match condition {
                    Condition::Up => String::new(),
                    Condition::Ejected { reason } | Condition::Down { reason } => reason,
                };
                EndpointStatus {
                    address: endpoint.address().to_string(),
                    state: state.into(),
                    reason,
                    flows: endpoint.in_use().into(),
                    limit: config.max_connections.map(|most| most.get().into()),
                    weight: config.weight,
                    backup: config.backup,
                }
            })
            .collect(),
    }
}

/// The limits that there are, and how much of them is used.
pub(crate) fn limits(state: &State) -> Vec<LimitStatus> {
    let Shared { current, connections, sniffing, books, packets, .. } = &*state.shared;
    let current = current.load_full();
    let Snapshot { config, limits, listening, upstreams, .. } = &*current;
    let most = limits.connections.get().into();
    let mut list = vec![
        limit("connections", connections.in_use().into(), most),
        limit("sniffing", sniffing.in_use().into(), limits.sniffing.get().into()),
    ];
    if let Some(books) = books {
        list.push(limit("kernel_flows", books.in_use() as u64, books.pairs() as u64));
    }
    if let Some(packets) = packets {
        list.push(limit("packet_flows", packets.in_use() as u64, packets.pairs() as u64));
    }
    for (listener, listening) in config.listeners.iter().zip(listening) {
        if let Some(most) = listening.gate.most() {
            let name = format!("listener {}", listener.name);
            list.push(limit(&name, listening.gate.in_use().into(), most.get().into()));
        }
    }
    for (rule, counted) in config.rules.iter().zip(&limits.rules) {
        if let Some(most) = rule.max_connections {
            let name = format!("rule {}", rule.name);
            list.push(limit(&name, counted.in_use().into(), most.get().into()));
        }
    }
    if let (Some(sources), Some(most)) = (&limits.sources, config.limits.per_source.connections) {
        list.push(limit("source", sources.fullest().into(), most.get().into()));
    }
    upstreams.iter().for_each(|group| list.extend(upstream_limits(group)));
    list
}

/// Those of a group, its queue and its endpoints.
fn upstream_limits(group: &Group) -> Vec<LimitStatus> {
    let config = group.config();
    let (upstream, room) = (&config.name, group.room());
    let own = config.max_connections.map(|most| {
        limit(&format!("upstream {upstream}"), room.in_use().into(), most.get().into())
    });
    let queue = config.queue.map(|queue| {
        limit(&format!("queue {upstream}"), room.waiting() as u64, queue.length.into())
    });
    let endpoints = group.endpoints().iter().zip(&config.endpoints);
    let endpoints = endpoints.filter_map(|(endpoint, config)| {
        let name = format!("endpoint {upstream} {}", endpoint.address());
        let most = config.max_connections?;
        Some(limit(&name, endpoint.in_use().into(), most.get().into()))
    });
    own.into_iter().chain(queue).chain(endpoints).collect()
}

fn limit(name: &str, used: u64, of: u64) -> LimitStatus {
    LimitStatus { name: name.into(), used, of }
}
