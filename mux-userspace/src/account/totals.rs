//! What a core has carried so far: bytes, flows by rule, close reasons, and how long things took.
//!
//! A core's own, so that nothing here is atomic. Who wants to know asks the core for a [`Report`].

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
    time::Duration,
};

use super::{Record, live::Route};
use crate::relay::Mode;

/// A core's totals.
#[derive(Debug)]
pub struct Totals {
    /// By relay, of flows that are over.
    bytes: [[Cell<u64>; 2]; Mode::ALL.len()],
    closes: RefCell<Vec<(&'static str, u64)>>,
    routes: RefCell<HashMap<Key, Ended>>,
    /// From accept to the decision.
    pub sniffing: Histogram,
    /// From the decision to the connection.
    pub connecting: Histogram,
    /// From accept to close, of flows.
    pub lifetime: Histogram,
}

/// The rule and the upstream of a flow.
pub type Key = (Arc<str>, Arc<str>);

/// Flows that are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ended {
    flows: [u64; Mode::ALL.len()],
    bytes: [u64; 2],
}

/// What a core tells of itself.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Connections in its table.
    pub connections: u64,
    /// Those that are being sniffed.
    pub sniffing: u64,
    /// Flows, by relay, in the order of [`Mode::ALL`].
    pub flows: [u64; Mode::ALL.len()],
    /// Bytes given to upstreams and to clients, by flows that are over and that are alive.
    pub bytes: [u64; 2],
    /// The same by the relay that a flow ended on, or is on: all of its bytes move with it.
    pub relayed: [[u64; 2]; Mode::ALL.len()],
    /// Connections that are over, by close reason.
    pub closes: Vec<(&'static str, u64)>,
    /// The same by rule and upstream.
    pub routes: HashMap<Key, RouteReport>,
    /// From accept to the decision.
    pub sniff: Distribution,
    /// From the decision to the connection.
    pub connect: Distribution,
    /// From accept to close.
    pub lifetime: Distribution,
}

/// The flows of a rule to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteReport {
    /// That are alive, by relay.
    pub alive: [u64; Mode::ALL.len()],
    /// That are over, by the relay they ended on.
    pub ended: [u64; Mode::ALL.len()],
    /// Bytes up and down, of both.
    pub bytes: [u64; 2],
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            bytes: Default::default(),
            closes: RefCell::default(),
            routes: RefCell::default(),
            sniffing: Histogram::new(&WAITS),
            connecting: Histogram::new(&WAITS),
            lifetime: Histogram::new(&LIFETIMES),
        }
    }
}

impl Totals {
    /// Counts the end of a connection, flow or not.
    pub fn closed(&self, reason: &'static str) {
        let mut closes = self.closes.borrow_mut();
        match closes.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => closes.push((reason, 1)),
        }
    }

    /// Counts a flow that is over.
    pub fn ended(&self, record: &Record) {
        let given = [record.tally.up.given, record.tally.down.given];
        let mode = record.relay.unwrap_or(Mode::Copy);
        self.carried(mode, given);
        self.lifetime.observe(record.accepted.elapsed());
        let (Some(rule), Some(upstream)) = (&record.rule, &record.upstream) else { return };
        let mut routes = self.routes.borrow_mut();
        let ended = routes.entry((Arc::clone(rule), Arc::clone(upstream))).or_default();
        ended.flows[mode.index()] += 1;
        add(&mut ended.bytes, given);
    }

    /// Counts bytes of a flow that is no longer there to be asked.
    pub fn carried(&self, mode: Mode, given: [u64; 2]) {
        for (total, given) in self.bytes[mode.index()].iter().zip(given) {
            total.set(total.get().wrapping_add(given));
        }
    }

    /// What there is without the connections that are alive. Forgets rules for which `keep` does
    /// not hold: of a configuration that is gone.
    pub fn report(&self, keep: impl Fn(&Key) -> bool) -> Report {
        let mut routes = self.routes.borrow_mut();
        routes.retain(|key, _| keep(key));
        let route = |ended: &Ended| RouteReport {
            alive: [0; Mode::ALL.len()],
            ended: ended.flows,
            bytes: ended.bytes,
        };
        let relayed = self.bytes.each_ref().map(|ways| ways.each_ref().map(Cell::get));
        let mut bytes = [0; 2];
        relayed.iter().for_each(|ways| add(&mut bytes, *ways));
        Report {
            bytes,
            relayed,
            closes: self.closes.borrow().clone(),
            routes: routes.iter().map(|(key, ended)| (key.clone(), route(ended))).collect(),
            sniff: self.sniffing.distribution(),
            connect: self.connecting.distribution(),
            lifetime: self.lifetime.distribution(),
            ..Report::default()
        }
    }
}

impl Report {
    /// Adds a flow that is alive.
    pub fn add_flow(&mut self, route: Route, mode: Mode, given: [u64; 2]) {
        self.flows[mode.index()] += 1;
        add(&mut self.bytes, given);
        add(&mut self.relayed[mode.index()], given);
        if let (Some(rule), Some(upstream)) = (route.rule, route.upstream) {
            let route = self.routes.entry((rule, upstream)).or_default();
            route.alive[mode.index()] += 1;
            add(&mut route.bytes, given);
        }
    }

    /// Adds another core's.
    pub fn add(&mut self, other: Self) {
        let Self {
            connections,
            sniffing,
            flows,
            bytes,
            relayed,
            closes,
            routes,
            sniff,
            connect,
            lifetime,
        } = other;
        self.connections += connections;
        self.sniffing += sniffing;
        add(&mut self.flows, flows);
        add(&mut self.bytes, bytes);
        for (sum, more) in self.relayed.iter_mut().zip(relayed) {
            add(sum, more);
        }
        for (reason, count) in closes {
            match self.closes.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, sum)) => *sum += count,
                None => self.closes.push((reason, count)),
            }
        }
        for (key, route) in routes {
            let sum = self.routes.entry(key).or_default();
            add(&mut sum.alive, route.alive);
            add(&mut sum.ended, route.ended);
            add(&mut sum.bytes, route.bytes);
        }
        self.sniff.add(&sniff);
        self.connect.add(&connect);
        self.lifetime.add(&lifetime);
    }
}

fn add<const N: usize>(sum: &mut [u64; N], more: [u64; N]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.wrapping_add(more);
    }
}

/// Upper bounds of what takes a round trip or a client's patience, seconds.
const WAITS: [f64; 13] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Upper bounds of flows' lifetimes, seconds.
const LIFETIMES: [f64; 9] = [0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0];

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds.
    counts: Box<[Cell<u64>]>,
    sum: Cell<f64>,
}

/// What a histogram has seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Upper bounds, seconds, and how many were at most that and above the bound before; the last
    /// bound is infinite. Empty: nobody has told yet.
    pub buckets: Vec<(f64, u64)>,
    /// Of all, seconds.
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Cell::new(0)).collect();
        Self { bounds, counts, sum: Cell::new(0.0) }
    }

    /// Takes one more.
    pub fn observe(&self, took: Duration) {
        let took = took.as_secs_f64();
        let index = self.bounds.partition_point(|bound| *bound < took);
        if let Some(count) = self.counts.get(index) {
            count.set(count.get() + 1);
        }
        self.sum.set(self.sum.get() + took);
    }

    /// What it has seen.
    #[must_use]
    pub fn distribution(&self) -> Distribution {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets = bounds.zip(self.counts.iter().map(Cell::get)).collect();
        Distribution { buckets, sum: self.sum.get() }
    }
}

impl Distribution {
    /// Adds another one, with the same bounds.
    pub fn add(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            *self = other.clone();
            return;
        }
        for ((_, sum), (_, more)) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += more;
        }
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Peer;

    fn record(rule: &str, relay: Mode, up: u64, down: u64) -> Record {
        let mut record = Record::new(1, Peer::Unix, "l".into());
        record.rule = Some(rule.into());
        record.upstream = Some("u".into());
        record.relay = Some(relay);
        record.tally.up.given = up;
        record.tally.down.given = down;
        record
    }

    #[test]
    fn ended_and_live_flows_are_one_sum() {
        let totals = Totals::default();
        totals.ended(&record("a", Mode::Copy, 10, 1));
        totals.ended(&record("a", Mode::Sockmap, 20, 2));
        totals.ended(&record("gone", Mode::Copy, 5, 5));
        let mut report = totals.report(|(rule, _)| &**rule == "a");
        let route = Route { rule: Some("a".into()), upstream: Some("u".into()), endpoint: None };
        report.add_flow(route, Mode::Splice, [100, 200]);
        assert_eq!(report.bytes, [135, 208]);
        assert_eq!(report.relayed, [[15, 6], [100, 200], [20, 2], [0, 0]]);
        assert_eq!(report.flows, [0, 1, 0, 0]);
        assert_eq!(report.routes.len(), 1, "the other rule is of an earlier file");
        let all = &report.routes[&("a".into(), "u".into())];
        assert_eq!((all.alive, all.ended, all.bytes), ([0, 1, 0, 0], [1, 0, 1, 0], [130, 203]));

        let mut twice = report.clone();
        twice.add(report);
        assert_eq!(twice.bytes, [270, 416]);
        assert_eq!(twice.relayed, [[30, 12], [200, 400], [40, 4], [0, 0]]);
        assert_eq!(twice.lifetime.buckets.iter().map(|(_, count)| count).sum::<u64>(), 6);
    }

    #[test]
    fn a_bucket_has_what_is_at_most_its_bound() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for seconds in [0.25, 0.5, 0.75, 2.0] {
            histogram.observe(Duration::from_secs_f64(seconds));
        }
        let seen = histogram.distribution();
        assert_eq!(seen.buckets, [(0.5, 2), (1.0, 1), (f64::INFINITY, 1)]);
        assert!((seen.sum - 3.5).abs() < 1e-9);
    }

    #[test]
    fn close_reasons_are_counted_by_name() {
        let totals = Totals::default();
        for reason in ["finished", "killed", "finished"] {
            totals.closed(reason);
        }
        assert_eq!(totals.report(|_| true).closes, [("finished", 2), ("killed", 1)]);
    }
}
