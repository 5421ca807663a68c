//! What `mux top` shows.

use std::collections::{HashMap, VecDeque};

use super::table::{self, Rows};
use crate::admin::view::{FlowStatus, Flows, Status, Ways};

/// Seconds of rates that are kept.
const HISTORY: usize = 240;

/// What the daemon said at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) status: Status,
    pub(super) flows: Flows,
}

/// One of the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum View {
    #[default]
    Rules,
    Upstreams,
    Relays,
    Flows,
}

impl View {
    pub(super) const ALL: [Self; 4] = [Self::Rules, Self::Upstreams, Self::Relays, Self::Flows];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Upstreams => "upstreams",
            Self::Relays => "relays",
            Self::Flows => "flows",
        }
    }

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Rules => 0,
            Self::Upstreams => 1,
            Self::Relays => 2,
            Self::Flows => 3,
        }
    }
}

/// What the last line is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Prompt {
    /// The keys.
    #[default]
    None,
    /// A filter is being typed; what it was before.
    Filter(String),
    /// Whether to kill this flow, of this client.
    Kill { id: String, client: String },
}

/// How a table is ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// The column; `None`: as the daemon has it.
    pub(super) column: Option<usize>,
    pub(super) reversed: bool,
}

/// Bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) up: f64,
    pub(super) down: f64,
}

/// One rate over time, whole numbers a second, the newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<u64>);

impl History {
    fn push(&mut self, rate: f64) {
        if self.0.len() == HISTORY {
            self.0.pop_front();
        }
        self.0.push_back(rate.round() as u64);
    }

    pub(super) fn last(&self) -> u64 {
        self.0.back().copied().unwrap_or(0)
    }

    /// The newest ones, as many as there is room for.
    pub(super) fn newest(&self, room: usize) -> Vec<u64> {
        self.0.iter().skip(self.0.len().saturating_sub(room)).copied().collect()
    }
}

/// Everything that is on the screen.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) socket: String,
    pub(super) sample: Sample,
    pub(super) accepted: History,
    pub(super) up: History,
    pub(super) down: History,
    /// By rule and upstream.
    pub(super) rule_rates: HashMap<(String, String), Rate>,
    /// By upstream, whatever rule its flows came by.
    pub(super) upstream_rates: HashMap<String, Rate>,
    /// By relay. What a flow has carried goes with it to another one: that is no rate.
    pub(super) relay_rates: HashMap<&'static str, Rate>,
    /// By id.
    pub(super) flow_rates: HashMap<String, Rate>,
    pub(super) view: View,
    pub(super) orders: [Order; View::ALL.len()],
    pub(super) filter: String,
    /// The line that is marked, of those shown.
    pub(super) selected: usize,
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) prompt: Prompt,
    /// What an order came to.
    pub(super) message: Option<String>,
    /// Why there is no newer sample.
    pub(super) lost: Option<String>,
}

impl Model {
    /// Of the daemon behind this socket, of which nothing is known.
    pub(super) fn new(socket: String) -> Self {
        Self { socket, ..Self::default() }
    }

    /// Takes a new sample.
    pub(super) fn update(&mut self, sample: Sample) {
        self.lost = None;
        if self.paused {
            return;
        }
        let marked = self.marked();
        let before = std::mem::replace(&mut self.sample, sample);
        self.measure(&before);
        // The mark stays with its line, wherever that has gone.
        let found =
            marked.and_then(|marked| self.rows().lines.iter().position(|line| line.name == marked));
        self.select(found.unwrap_or(self.selected));
    }

    /// Works the rates out, if both samples are of the same process.
    fn measure(&mut self, before: &Sample) {
        self.rule_rates.clear();
        self.upstream_rates.clear();
        self.relay_rates.clear();
        self.flow_rates.clear();
        let (then, now) = (&before.status, &self.sample.status);
        let seconds = now.uptime_seconds - then.uptime_seconds;
        if now.pid != then.pid || seconds <= 0.0 {
            (self.accepted, self.up, self.down) = <_>::default();
            return;
        }
        let accepted = |status: &Status| status.counters.get("accepted").copied().unwrap_or(0);
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let rate = |now: Ways, then: Ways| Rate {
            up: each(now.up, then.up),
            down: each(now.down, then.down),
        };
        let all = rate(now.bytes, then.bytes);
        self.accepted.push(each(accepted(now), accepted(then)));
        self.up.push(all.up);
        self.down.push(all.down);
        for rule in &now.rules {
            let known = |other: &&_| same_route(rule, other);
            let bytes = then.rules.iter().find(known).map_or(Ways::default(), |other| other.bytes);
            let key = (rule.rule.clone(), rule.upstream.clone());
            let rate = rate(rule.bytes, bytes);
            self.rule_rates.insert(key, rate);
            let upstream = self.upstream_rates.entry(rule.upstream.clone()).or_default();
            upstream.up += rate.up;
            upstream.down += rate.down;
        }
        self.measure_relays(before, seconds);
        let earlier = &before.flows.flows;
        let bytes: HashMap<&str, Ways> =
            earlier.iter().map(|flow| (&*flow.id, ways(flow))).collect();
        for flow in &self.sample.flows.flows {
            // One that was not there before has carried all in this time.
            let then = bytes.get(&*flow.id).copied().unwrap_or_default();
            self.flow_rates.insert(flow.id.clone(), rate(ways(flow), then));
        }
    }

    fn measure_relays(&mut self, before: &Sample, seconds: f64) {
        let (then, now) = (&before.status.relayed, &self.sample.status.relayed);
        let mut moved: HashMap<&str, Rate> = HashMap::new();
        let earlier: HashMap<&str, &FlowStatus> =
            before.flows.flows.iter().map(|flow| (&*flow.id, flow)).collect();
        for flow in &self.sample.flows.flows {
            let Some(other) = earlier.get(&*flow.id) else { continue };
            let (Some(from), Some(to)) = (&other.relay, &flow.relay) else { continue };
            // A flow takes along what it has carried.
            let Ways { up, down } = ways(other);
            for (relay, sign) in [(&**from, -1.0), (&**to, 1.0)] {
                let sum = moved.entry(relay).or_default();
                sum.up += sign * up as f64;
                sum.down += sign * down as f64;
            }
        }
        for (relay, now, then) in [
            ("copy", now.copy, then.copy),
            ("splice", now.splice, then.splice),
            ("sockmap", now.sockmap, then.sockmap),
        ] {
            let moved = moved.get(relay).copied().unwrap_or_default();
            let each = |now: u64, then: u64, moved: f64| {
                ((now as f64 - then as f64 - moved) / seconds).max(0.0)
            };
            let rate = Rate {
                up: each(now.up, then.up, moved.up),
                down: each(now.down, then.down, moved.down),
            };
            self.relay_rates.insert(relay, rate);
        }
    }

    /// The rows of the view: filtered, in order.
    pub(super) fn rows(&self) -> Rows {
        table::rows(self)
    }

    /// What the marked line is about.
    pub(super) fn marked(&self) -> Option<String> {
        self.rows().lines.get(self.selected).map(|line| line.name.clone())
    }

    /// Marks a line; the last one, if there are not so many.
    pub(super) fn select(&mut self, line: usize) {
        self.selected = line.min(self.rows().lines.len().saturating_sub(1));
    }

    /// The view's order.
    pub(super) const fn order(&self) -> Order {
        self.orders[self.view.index()]
    }

    /// The view's order, to be changed.
    pub(super) const fn order_mut(&mut self) -> &mut Order {
        &mut self.orders[self.view.index()]
    }

    /// Tells what an order came to.
    pub(super) fn say(&mut self, said: String) {
        self.message = Some(said);
    }

    /// Tells why there is no new sample.
    pub(super) fn lose(&mut self, why: &str) {
        self.lost = Some(why.lines().next().unwrap_or_default().to_owned());
    }
}

fn same_route(
    one: &crate::admin::view::RuleStatus,
    other: &crate::admin::view::RuleStatus,
) -> bool {
    one.rule == other.rule && one.upstream == other.upstream
}

const fn ways(flow: &FlowStatus) -> Ways {
    Ways { up: flow.bytes_up, down: flow.bytes_down }
}
