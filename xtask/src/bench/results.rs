//! What was found, as it is saved: every round of every subject of every work, and where.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    environment::Environment,
    network::Network,
    stats,
    subjects::Role,
    work::{Headline, Unit, Work},
};

/// Of the saved form; another one cannot be read.
const FORM: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    form: u32,
    pub(crate) environment: Environment,
    pub(crate) settings: Settings,
    pub(crate) subjects: Vec<About>,
    pub(crate) works: Vec<Measured>,
}

/// How the run was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Where everybody was; runs that were saved before there was a choice were on loopback.
    #[serde(default)]
    pub(crate) network: Network,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) warm_up: f64,
    pub(crate) load_threads: usize,
    pub(crate) backend_threads: usize,
    pub(crate) workers: usize,
}

/// A subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) about: String,
}

/// A work, and what each subject made of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) about: String,
    /// One unit, and many.
    pub(crate) unit: (String, String),
    /// At once.
    #[serde(default)]
    pub(crate) connections: u32,
    /// Whether what counts is memory, and not the rate.
    pub(crate) memory: bool,
    /// What the machine did by itself, seconds of processor a second.
    pub(crate) background: f64,
    /// Whether it was measured after the others, in a run of its own.
    #[serde(default)]
    pub(crate) again: bool,
    pub(crate) cells: Vec<Cell>,
}

/// A subject's part in a work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) subject: String,
    /// Those that count.
    pub(crate) rounds: Vec<Round>,
    /// Why there are none, or not all.
    pub(crate) trouble: Option<Trouble>,
}

/// Why a subject has no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "why")]
pub(crate) enum Trouble {
    /// It cannot do the work.
    Cannot(String),
    /// A round went wrong, and so did its repetitions.
    Failed(String),
}

/// A round. Times are microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) round: u32,
    /// Attempts before it that went wrong.
    pub(crate) void: u32,
    pub(crate) seconds: f64,
    /// Units a second.
    pub(crate) rate: f64,
    pub(crate) latency: Option<Latency>,
    /// The whole machine's seconds of processor a second, without what it does by itself.
    pub(crate) machine_cpu: f64,
    /// The subject's own, as far as it is accounted to its processes.
    pub(crate) own_cpu: Option<f64>,
    /// Memory of the subject's processes; what they share counts for each.
    pub(crate) resident_kib: Option<f64>,
    /// The same; what they share counts once.
    pub(crate) proportional_kib: Option<f64>,
    /// That, divided by the connections.
    pub(crate) flow_kib: Option<f64>,
    /// How much it has grown since the subject was started, divided by the connections. Less than
    /// a connection takes, where start left memory that can be used again.
    pub(crate) growth_kib: Option<f64>,
    /// How much less memory the machine has available, for each connection.
    pub(crate) machine_flow_kib: f64,
    /// Part of the time that the hypervisor gave to others.
    pub(crate) stolen: f64,
    /// Share of the flows that the packet relay has after a second under load: of a subject that uses it, in a work
    /// of requests and answers. Looked at apart, on connections that are not measured.
    #[serde(default)]
    pub(crate) packet_share: Option<f64>,
}

/// How long units took, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Results {
    pub(crate) fn new(environment: Environment, settings: Settings, subjects: Vec<About>) -> Self {
        Self { form: FORM, environment, settings, subjects, works: Vec::new() }
    }

    /// The same with the works of another run in place of its own. A work's figures are compared with each other, and
    /// with no other work's.
    ///
    /// # Errors
    /// The other run is of another source, machine, kernel, or setting, or has a work that this one has not.
    pub(crate) fn measured_again(mut self, other: Self) -> Result<Self> {
        let same = Environment {
            date: self.environment.date.clone(),
            load: self.environment.load,
            ..other.environment
        };
        ensure!(same == self.environment, "another source or machine: {same:?}");
        ensure!(other.settings == self.settings, "other settings: {:?}", other.settings);
        ensure!(other.subjects == self.subjects, "other subjects: {:?}", other.subjects);
        for work in other.works {
            let name = work.name.clone();
            let own = self.works.iter_mut().find(|own| own.name == name);
            *own.with_context(|| format!("{name} is not in it"))? =
                Measured { again: true, ..work };
        }
        Ok(self)
    }

    /// Reads a saved run.
    ///
    /// # Errors
    /// It is not there, or of another form.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let results: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no run that was saved", path.display()))?;
        ensure!(results.form == FORM, "{} is of form {}", path.display(), results.form);
        Ok(results)
    }

    /// Saves the run.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// A line for each subject's part in a work that went wrong each time.
    pub(crate) fn failures(&self) -> Vec<String> {
        let cells =
            self.works.iter().flat_map(|work| work.cells.iter().map(move |cell| (work, cell)));
        cells
            .filter_map(|(work, cell)| match &cell.trouble {
                Some(Trouble::Failed(why)) => {
                    Some(format!("{}, {}: {why}", work.name, cell.subject))
                }
                Some(Trouble::Cannot(_)) | None => None,
            })
            .collect()
    }

    /// The role of a subject; of one that is not among them, a peer's.
    pub(crate) fn role(&self, subject: &str) -> Role {
        self.subjects.iter().find(|about| about.name == subject).map_or(Role::Peer, |it| it.role)
    }

    /// Direct access's part in a work.
    pub(crate) fn direct<'a>(&self, work: &'a Measured) -> Option<&'a Cell> {
        work.cells.iter().find(|cell| self.role(&cell.subject) == Role::Direct)
    }

    /// The best part of another multiplexer in a work.
    pub(crate) fn best_peer<'a>(&self, work: &'a Measured) -> Option<&'a Cell> {
        let peers = work.cells.iter().filter(|cell| self.role(&cell.subject) == Role::Peer);
        peers
            .filter_map(|cell| Some((cell, work.headline(cell)?)))
            .reduce(|best, other| if work.is_better(other.1, best.1) { other } else { best })
            .map(|(cell, _)| cell)
    }
}

impl Measured {
    /// A subject's part.
    pub(crate) fn cell(&self, subject: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.subject == subject)
    }

    /// A work of which nothing was measured yet.
    pub(crate) fn new(work: &dyn Work, background: f64) -> Self {
        let Unit { one, many, .. } = work.unit();
        Self {
            name: work.name(),
            about: work.about(),
            unit: (one.to_owned(), many.to_owned()),
            connections: work.connections(),
            memory: work.headline() == Headline::Memory,
            background,
            again: false,
            cells: Vec::new(),
        }
    }

    /// What counts, of a round.
    pub(crate) fn value(&self, round: &Round) -> Option<f64> {
        if self.memory { round.flow_kib } else { Some(round.rate) }
    }

    /// What counts, of a subject: the median of its rounds, if all of them went well.
    pub(crate) fn headline(&self, cell: &Cell) -> Option<f64> {
        cell.median(|round| self.value(round))
    }

    /// Whether a value is better than another.
    pub(crate) fn is_better(&self, value: f64, other: f64) -> bool {
        if self.memory { value < other } else { value > other }
    }

    /// A subject's value as a multiple of another one's, round by round.
    pub(crate) fn ratio(&self, cell: &Cell, other: &Cell) -> Option<f64> {
        if cell.trouble.is_some() || other.trouble.is_some() {
            return None;
        }
        stats::paired_ratio(&self.values(cell), &self.values(other))
    }

    fn values(&self, cell: &Cell) -> Vec<(u32, f64)> {
        cell.rounds.iter().filter_map(|it| Some((it.round, self.value(it)?))).collect()
    }
}

impl Cell {
    /// Whether the subject is not able to do the work.
    pub(crate) const fn cannot(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Cannot(_)))
    }

    /// The median over the rounds; `None` where a round failed, or has no such value.
    pub(crate) fn median(&self, value: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        stats::median(&self.all(value)?)
    }

    /// As [`Self::median`], how far the rounds are apart.
    pub(crate) fn spread(&self, value: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        stats::spread(&self.all(value)?)
    }

    fn all(&self, value: impl Fn(&Round) -> Option<f64>) -> Option<Vec<f64>> {
        if self.trouble.is_some() {
            return None;
        }
        self.rounds.iter().map(value).collect()
    }
}

/// A made-up run, for the tests of what reads one.
#[cfg(test)]
pub(crate) mod example {
    use super::*;

    /// A round with a rate, and everything else derived from it.
    pub(crate) fn round(round: u32, rate: f64) -> Round {
        Round {
            round,
            void: 0,
            seconds: 2.0,
            rate,
            latency: Some(Latency { p50: 15.0, p90: 16.0, p99: 30.0, p999: 60.0, max: 900.0 }),
            machine_cpu: 1.5,
            own_cpu: Some(0.5),
            resident_kib: Some(5000.0),
            proportional_kib: Some(4000.0),
            flow_kib: Some(rate / 1000.0),
            growth_kib: Some(rate / 2000.0),
            machine_flow_kib: 12.0,
            stolen: 0.0,
            packet_share: None,
        }
    }

    /// A subject's part, with a round for each rate.
    pub(crate) fn cell(subject: &str, rates: &[f64]) -> Cell {
        let rounds = (0..).zip(rates).map(|(index, rate)| round(index, *rate)).collect();
        Cell { subject: subject.to_owned(), rounds, trouble: None }
    }

    /// Direct access, mux, two peers of which one failed, and one that cannot.
    pub(crate) fn results() -> Results {
        let about =
            |name: &str, role| About { name: name.to_owned(), role, about: format!("{name} 1.0") };
        let settings = Settings {
            network: Network::Loopback,
            rounds: 3,
            seconds: 2.0,
            warm_up: 0.5,
            load_threads: 1,
            backend_threads: 1,
            workers: 2,
        };
        let subjects = vec![
            about("direct", Role::Direct),
            about("mux", Role::Mux),
            about("haproxy", Role::Peer),
            about("nginx", Role::Peer),
            about("sslh", Role::Peer),
        ];
        let failed = Cell {
            trouble: Some(Trouble::Failed("connection reset (1)".to_owned())),
            ..cell("nginx", &[99_000.0])
        };
        let cannot = Cell {
            trouble: Some(Trouble::Cannot("no Unix sockets".to_owned())),
            ..cell("sslh", &[])
        };
        let work = Measured {
            name: "http-keep-1".to_owned(),
            about: "HTTP, keep-alive, 1 connection".to_owned(),
            unit: ("request".to_owned(), "requests".to_owned()),
            connections: 1,
            memory: false,
            background: 0.01,
            again: false,
            cells: vec![
                cell("direct", &[60_000.0, 30_000.0, 62_000.0]),
                cell("mux", &[45_000.0, 24_000.0, 46_500.0]),
                cell("haproxy", &[50_000.0, 25_000.0, 50_000.0]),
                failed,
                cannot,
            ],
        };
        let mut results = Results::new(Environment::default(), settings, subjects);
        results.works.push(work);
        results
    }
}

#[cfg(test)]
mod tests {
    use super::{example::*, *};

    #[test]
    fn a_saved_run_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/results.json");
        let results = results();
        results.save(&path).unwrap();
        let again = Results::load(&path).unwrap();
        assert_eq!(again.works[0].cells[1].rounds, results.works[0].cells[1].rounds);
        assert_eq!(again.works[0].cells[3].trouble, results.works[0].cells[3].trouble);

        fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"form\": 1", "\"form\": 9"))
            .unwrap();
        assert!(Results::load(&path).unwrap_err().to_string().contains("form 9"));
    }

    #[test]
    fn works_are_measured_again_by_the_same_source_and_settings() {
        let mut other = results();
        other.environment.date = "2026-12-02".to_owned();
        other.works[0].cells[1].rounds.truncate(1);
        let again = results().measured_again(other.clone()).unwrap();
        assert!(again.works[0].again && again.environment.date.is_empty());
        assert_eq!(again.works[0].cells[1].rounds.len(), 1);

        other.works[0].name = "echo-64-1".to_owned();
        let error = results().measured_again(other.clone()).unwrap_err();
        assert!(error.to_string().contains("echo-64-1 is not in it"), "{error}");
        other.settings.rounds += 1;
        let error = results().measured_again(other.clone()).unwrap_err();
        assert!(error.to_string().contains("other settings"), "{error}");
        other.environment.commit = "later".to_owned();
        let error = results().measured_again(other).unwrap_err();
        assert!(error.to_string().contains("another source"), "{error}");
    }

    #[test]
    fn a_run_saved_before_there_were_networks_was_on_loopback() {
        let mut saved = serde_json::to_value(results()).unwrap();
        assert_eq!(saved["settings"]["network"], "loopback");
        saved["settings"].as_object_mut().unwrap().remove("network");
        saved["works"][0]["cells"][0]["rounds"][0].as_object_mut().unwrap().remove("packet_share");
        let again: Results = serde_json::from_value(saved).unwrap();
        assert_eq!(again.settings.network, Network::Loopback);
    }

    #[test]
    fn a_failed_subject_is_no_best_peer_and_has_no_median() {
        let results = results();
        let work = &results.works[0];
        assert_eq!(results.best_peer(work).unwrap().subject, "haproxy");
        assert_eq!(work.headline(&work.cells[3]), None);
        assert_eq!(work.ratio(&work.cells[3], &work.cells[0]), None);
        assert_eq!(results.failures(), ["http-keep-1, nginx: connection reset (1)"]);
        assert_eq!(work.headline(&work.cells[4]), None);
    }

    #[test]
    fn ratios_are_paired() {
        let results = results();
        let work = &results.works[0];
        assert_eq!(work.ratio(&work.cells[1], results.direct(work).unwrap()), Some(0.75));
    }

    #[test]
    fn less_memory_is_better() {
        let mut results = results();
        results.works[0].memory = true;
        results.works[0].cells[3].trouble = None;
        let best = results.best_peer(&results.works[0]).unwrap();
        assert_eq!(best.subject, "haproxy");
        assert!(results.works[0].is_better(1.0, 2.0));
    }
}
