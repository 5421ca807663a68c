//! The run in one table, or in one JSON object.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::atomic::Ordering,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    board::{Board, Flow},
    daemon::{Entry, Remains},
    expect::Expect,
    judge::{Fault, judge},
    memory::Peaks,
    script::{Peer, Script},
};

/// Faults that are told of one by one.
const SHOWN: usize = 12;

/// Everything that was found out.
#[derive(Debug)]
pub(crate) struct Report {
    begun: u64,
    resets: u64,
    bytes: [u64; 2],
    promoted: u64,
    promotions: u64,
    demotions: u64,
    carried: u64,
    passes: u64,
    trimmed: u64,
    relays: BTreeMap<String, u64>,
    notes: BTreeMap<String, u64>,
    closes: BTreeMap<String, u64>,
    verdict: HashMap<String, u64>,
    faults: Vec<(u64, Fault, String)>,
    strangers: u64,
    complaints: Vec<String>,
    daemon: String,
    unclean_exit: bool,
    surroundings: Surroundings,
    slowest: String,
    expected: Vec<Expect>,
}

/// What is known of the run besides its flows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    pub(crate) peaks: Peaks,
    pub(crate) took: Duration,
    /// Times that the relay was switched.
    pub(crate) flips: u64,
    /// Packets that later ones overtook.
    pub(crate) overtaken: u64,
}

impl Report {
    /// Judges every flow that was begun.
    pub(crate) fn new(
        board: &Board,
        begun: u64,
        remains: &Remains,
        surroundings: Surroundings,
        expected: Vec<Expect>,
    ) -> Self {
        let entries: HashMap<SocketAddr, &Entry> =
            remains.access.iter().filter_map(|entry| Some((entry.client?, entry))).collect();
        let mut report = Self {
            begun,
            resets: 0,
            bytes: [0; 2],
            promoted: 0,
            promotions: 0,
            demotions: 0,
            carried: 0,
            passes: 0,
            trimmed: 0,
            relays: BTreeMap::new(),
            notes: BTreeMap::new(),
            closes: BTreeMap::new(),
            verdict: remains.counters("verdict: "),
            faults: Vec::new(),
            strangers: board.strangers.load(Ordering::Relaxed),
            complaints: remains.complaints().cloned().collect(),
            daemon: remains.status.map_or("had to be killed".into(), |status| status.to_string()),
            unclean_exit: remains.status.is_none_or(|status| !status.success()),
            surroundings,
            slowest: slowest(board),
            expected,
        };
        for flow in board.flows.iter().take(begun as usize) {
            let entry = flow.address().and_then(|address| entries.get(&address).copied());
            report.add(flow, entry);
        }
        report
    }

    fn add(&mut self, flow: &Flow, entry: Option<&Entry>) {
        self.resets += u64::from(flow.script.resets());
        for (bytes, receiver) in self.bytes.iter_mut().zip([Peer::Server, Peer::Client]) {
            *bytes += flow.outcome(receiver).map_or(0, |outcome| outcome.received);
        }
        if let Some(entry) = entry {
            self.promoted += u64::from(entry.promotions > 0);
            self.promotions += entry.promotions;
            self.demotions += entry.demotions;
            self.carried += entry.carried;
            self.passes += entry.passes;
            self.trimmed += entry.trimmed;
            *self.relays.entry(entry.relay.clone()).or_default() += 1;
            if !entry.note.is_empty() {
                *self.notes.entry(entry.note.clone()).or_default() += 1;
            }
            *self.closes.entry(entry.close.clone()).or_default() += 1;
        }
        if let Some(fault) = judge(flow, entry) {
            let script = &flow.script;
            let about = format!(
                "{:?}, {:?}, short sniff: {}, client {:?}, buffers {} and {}; daemon: {}",
                script.shape,
                script.end,
                script.short_sniff,
                flow.address(),
                script.client,
                script.server,
                entry.map_or("no line".to_owned(), |entry| format!("{entry:?}")),
            );
            self.faults.push((flow.number, fault, about));
        }
    }

    fn count(&self, kind: &str) -> u64 {
        self.faults.iter().filter(|(_, fault, _)| fault.name() == kind).count() as u64
    }

    fn verdict(&self, name: &str) -> u64 {
        self.verdict.get(name).copied().unwrap_or(0)
    }

    /// What should have happened and did not.
    fn missed(&self) -> Vec<Expect> {
        let happened = |expect: &Expect| match expect {
            Expect::Promotions => self.promotions > 0 && self.verdict("redirected_bytes") > 0,
            Expect::Passes => self.passes > 0,
            Expect::Overlaps => self.verdict("trimmed") > 0,
            Expect::Demotions => self.demotions > 0,
            Expect::Overtaking => self.surroundings.overtaken > 0,
        };
        self.expected.iter().copied().filter(|expect| !happened(expect)).collect()
    }

    /// Whether nothing is wrong, and everything happened that the run is there to prove something of.
    pub(crate) fn is_good(&self) -> bool {
        self.faults.is_empty()
            && self.strangers == 0
            && self.complaints.is_empty()
            && !self.unclean_exit
            && self.verdict("broken") == 0
            && self.missed().is_empty()
    }

    /// What is wrong, one by one.
    pub(crate) fn print_faults(&self) {
        for (flow, fault, about) in self.faults.iter().take(SHOWN) {
            eprintln!("flow {flow} {}: {}\n    {about}", fault.name(), fault.text());
        }
        if self.faults.len() > SHOWN {
            eprintln!("… and {} more", self.faults.len() - SHOWN);
        }
        for complaint in self.complaints.iter().take(SHOWN) {
            eprintln!("daemon: {complaint}");
        }
        for missed in self.missed() {
            eprintln!("no {missed}: the run proves nothing about them");
        }
    }

    /// The table.
    pub(crate) fn print(&self) {
        let Surroundings { peaks, took, flips, overtaken } = self.surroundings;
        let seconds = took.as_secs_f64();
        let total = self.bytes[0] + self.bytes[1];
        let rows = [
            ("flows", format!("{} ({} of them end with a reset)", self.begun, self.resets)),
            (
                "bytes checked",
                format!(
                    "{} up, {} down, {}/s",
                    mib(self.bytes[0]),
                    mib(self.bytes[1]),
                    mib((total as f64 / seconds) as u64)
                ),
            ),
            ("relays", list(&self.relays)),
            ("not in the kernel", list(&self.notes)),
            ("closes", list(&self.closes)),
            ("promotions", format!("{} of {} flows", self.promotions, self.promoted)),
            ("demotions", format!("{} by {flips} flips", self.demotions)),
            ("passes (edges)", format!("{}; {} carried", self.passes, mib(self.carried))),
            (
                "passed messages",
                format!(
                    "{} backlog, {} full, {} behind, {} no peer, {} hold",
                    self.verdict("passed_backlog"),
                    self.verdict("passed_full"),
                    self.verdict("passed_behind"),
                    self.verdict("passed_no_peer"),
                    self.verdict("passed_hold")
                ),
            ),
            (
                "redirected",
                format!(
                    "{} messages, {}",
                    self.verdict("redirected"),
                    mib(self.verdict("redirected_bytes"))
                ),
            ),
            (
                "overlaps trimmed",
                format!(
                    "{} bytes in {} messages ({} whole duplicates); access log: {} bytes",
                    self.verdict("trimmed_bytes"),
                    self.verdict("trimmed"),
                    self.verdict("duplicates"),
                    self.trimmed
                ),
            ),
            ("half-read", format!("{} segments", self.verdict("half_read"))),
            ("overtaken packets", overtaken.to_string()),
            ("bare FINs", self.verdict("fins").to_string()),
            ("events lost", self.verdict("events_lost").to_string()),
            (
                "memory peaks",
                format!(
                    "system +{}, TCP {}, daemon {}, this program {}",
                    mib(peaks.system),
                    mib(peaks.tcp),
                    mib(peaks.daemon),
                    mib(peaks.own)
                ),
            ),
            ("time", format!("{seconds:.1} s; daemon: {}", self.daemon)),
            ("slowest", self.slowest.clone()),
            ("wrong", self.count("wrong").to_string()),
            ("hung", self.count("hung").to_string()),
            ("failed", self.count("failed").to_string()),
            ("imbalance", self.count("imbalance").to_string()),
            ("broken, strangers", format!("{}, {}", self.verdict("broken"), self.strangers)),
            ("verdict", if self.is_good() { "GOOD" } else { "BAD" }.to_owned()),
        ];
        for (name, value) in rows {
            println!("{name:18} {value}");
        }
    }

    /// The same as JSON.
    pub(crate) fn json(&self) -> Value {
        let Surroundings { peaks, took, flips, overtaken } = self.surroundings;
        json!({
            "good": self.is_good(),
            "flows": self.begun,
            "resets": self.resets,
            "bytes_up": self.bytes[0],
            "bytes_down": self.bytes[1],
            "relays": self.relays,
            "notes": self.notes,
            "closes": self.closes,
            "promoted": self.promoted,
            "promotions": self.promotions,
            "passes": self.passes,
            "trimmed_bytes": self.trimmed,
            "verdict": self.verdict,
            "wrong": self.count("wrong"),
            "hung": self.count("hung"),
            "failed": self.count("failed"),
            "imbalance": self.count("imbalance"),
            "strangers": self.strangers,
            "complaints": self.complaints,
            "missed": self.missed().iter().map(Expect::to_string).collect::<Vec<_>>(),
            "demotions": self.demotions,
            "carried": self.carried,
            "flips": flips,
            "overtaken": overtaken,
            "memory_system": peaks.system,
            "memory_tcp": peaks.tcp,
            "memory_daemon": peaks.daemon,
            "memory_own": peaks.own,
            "seconds": took.as_secs_f64(),
        })
    }
}

/// The flows that took longest: what a run's time is spent on.
fn slowest(board: &Board) -> String {
    let took = |flow: &Flow| flow.took.load(Ordering::Relaxed);
    let mut flows: Vec<&Flow> = board.flows.iter().collect();
    flows.sort_unstable_by_key(|flow| std::cmp::Reverse(took(flow)));
    let seconds = |flow: &&Flow| {
        let Script { shape, up, down, client, server, .. } = &flow.script;
        format!(
            "flow {} {:.1} s ({shape:?}, {} up, {} down, buffers {client} and {server})",
            flow.number,
            took(flow) as f64 / 1000.0,
            mib(up.total),
            mib(down.total),
        )
    };
    flows.iter().take(3).map(seconds).collect::<Vec<_>>().join(",\n                   ")
}

fn list(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
