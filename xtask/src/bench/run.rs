//! The rounds of a run.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    backend::{self, Backends},
    environment::Environment,
    load,
    network::{Network, Places},
    progress::Progress,
    results::{About, Cell, Measured, Results, Round, Settings, Trouble},
    stats::{self, Outcome, Void},
    subjects::{Stage, Subject},
    usage,
    work::{Headline, Service, Work},
};

/// How long the machine is watched before a work.
const WATCH: Duration = Duration::from_secs(1);
/// A machine that does more than this by itself, seconds of processor a second, is not quiet.
pub(crate) const QUIET: f64 = 0.05;
/// A round of which the hypervisor gave more than this part to others is void.
const STOLEN: f64 = 0.02;
/// How long connections are in full use before it is seen which of them the packet relay has.
const SHARED_AFTER: Duration = Duration::from_secs(1);
/// Rounds of a work about memory, which hardly differ and take long.
const MEMORY_ROUNDS: u32 = 3;

/// What is built.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// The daemon.
    pub(crate) mux: PathBuf,
    /// `mux-bench`.
    pub(crate) ends: PathBuf,
}

/// What to do.
pub(crate) struct Plan {
    pub(crate) works: Vec<Box<dyn Work>>,
    pub(crate) subjects: Vec<Box<dyn Subject>>,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) warm_up: f64,
    /// Of the generator, and of the server.
    pub(crate) threads: usize,
    pub(crate) processors: usize,
    /// Whether the network namespace is the run's own.
    pub(crate) namespace: bool,
    pub(crate) network: Network,
    pub(crate) programs: Programs,
}

/// Does all works, each with all subjects in turn.
///
/// # Errors
/// The servers do not start, or /proc is not there. What goes wrong with a subject is in the results.
pub(crate) fn run(plan: &Plan) -> Result<Results> {
    raise_descriptor_limit();
    let scratch = scratch()?;
    let places = Places::new(plan.network)?;
    let around = (plan.network, &places);
    let mut backends = Backends::start(&plan.programs.ends, plan.threads, scratch.path(), around)?;
    if plan.works.iter().any(|work| work.service() == Service::Tls) {
        backends.start_tls(scratch.path(), &places)?;
    }
    let about = |subject: &dyn Subject| About {
        name: subject.name().to_owned(),
        role: subject.role(),
        about: subject.about(),
    };
    let mut results = Results::new(
        Environment::here(plan.namespace, plan.processors),
        Settings {
            network: plan.network,
            rounds: plan.rounds,
            seconds: plan.seconds,
            warm_up: plan.warm_up,
            load_threads: plan.threads,
            backend_threads: plan.threads,
            workers: plan.processors,
        },
        plan.subjects.iter().map(|subject| about(subject.as_ref())).collect(),
    );
    let rounds =
        plan.works.iter().map(|work| u64::from(plan.rounds_of(work.as_ref()))).sum::<u64>();
    let progress = Progress::new(rounds * plan.subjects.len() as u64);
    for work in &plan.works {
        let bench = Bench { plan, places: &places, backends: &backends, progress: &progress };
        results.works.push(bench.measure(work.as_ref())?);
    }
    Ok(results)
}

impl Plan {
    fn rounds_of(&self, work: &dyn Work) -> u32 {
        match work.headline() {
            Headline::Rate => self.rounds,
            Headline::Memory => self.rounds.min(MEMORY_ROUNDS),
        }
    }
}

struct Bench<'a> {
    plan: &'a Plan,
    places: &'a Places,
    backends: &'a Backends,
    progress: &'a Progress,
}

impl Bench<'_> {
    /// Makes all rounds of a work.
    fn measure(&self, work: &dyn Work) -> Result<Measured> {
        let name = work.name();
        self.progress.work(&name, &work.about());
        let background = usage::background(WATCH, self.plan.processors)?;
        if background > QUIET {
            self.progress.say(&format!(
                "{name}: the machine is not quiet: {:.0} % of a processor is busy",
                100.0 * background
            ));
        }
        let mut measured = Measured::new(work, background);
        measured.cells =
            self.plan.subjects.iter().map(|subject| cell(subject.as_ref(), work)).collect();
        let rounds = self.plan.rounds_of(work);
        for round in 0..rounds {
            for index in stats::order(self.plan.subjects.len(), round) {
                let subject = self.plan.subjects.get(index).zip(measured.cells.get_mut(index));
                if let Some((subject, cell)) = subject {
                    self.round(work, subject.as_ref(), cell, round, background);
                }
                self.progress.done(1);
            }
        }
        Ok(measured)
    }

    /// Makes one round with one subject, unless it has failed already.
    fn round(
        &self,
        work: &dyn Work,
        subject: &dyn Subject,
        cell: &mut Cell,
        round: u32,
        background: f64,
    ) {
        if cell.trouble.is_some() {
            return;
        }
        self.progress.round(&work.name(), subject.name(), round);
        let outcome = stats::attempts(|| {
            self.attempt(work, subject, background).inspect_err(|void| {
                let (work, subject, why) = (work.name(), subject.name(), void.why());
                self.progress.say(&format!("void: {work}, {subject}: {why}"));
            })
        });
        match outcome {
            Outcome::Counts { value, void } => cell.rounds.push(Round { round, void, ..value }),
            Outcome::Failed(why) => cell.trouble = Some(Trouble::Failed(why)),
        }
    }

    /// Starts the subject, does the work, ends the subject.
    fn attempt(
        &self,
        work: &dyn Work,
        subject: &dyn Subject,
        background: f64,
    ) -> Result<Round, Void> {
        let scratch = scratch()?;
        let stage = Stage {
            directory: scratch.path(),
            address: backend::free_address(self.plan.network.edge())?,
            backends: self.backends,
            service: work.service(),
            workers: self.plan.processors,
        };
        let running = subject.start(&stage)?;
        let settings = load::Settings {
            places: self.places,
            ends: &self.plan.programs.ends,
            threads: self.plan.threads,
            warm_up: self.plan.warm_up,
            seconds: self.plan.seconds,
            processors: self.plan.processors,
            background,
        };
        let process = running.program.as_ref().map(super::child::Program::id);
        let mut round =
            load::run(&settings, work, &running.target, process).with_context(|| {
                let said =
                    running.program.as_ref().map(super::child::Program::said).unwrap_or_default();
                if said.is_empty() { "a round".to_owned() } else { format!("a round ({said})") }
            })?;
        subject.verify(&stage, work)?;
        if round.stolen > STOLEN {
            let part = 100.0 * round.stolen;
            return Err(Void::Disturbed(format!(
                "{part:.1} % of it were given to other virtual machines"
            )));
        }
        if subject.has_packet_flows(work) {
            // Not in the round itself, which the question would disturb.
            let look = || subject.packet_share(&stage, work);
            let share = load::look_under_load(&settings, work, &running.target, SHARED_AFTER, look);
            round.packet_share = Some(share.context("looking at the packet relay's share")?);
        }
        Ok(round)
    }
}

/// A subject's place in a work's results, with nothing in it yet.
fn cell(subject: &dyn Subject, work: &dyn Work) -> Cell {
    Cell {
        subject: subject.name().to_owned(),
        rounds: Vec::new(),
        trouble: subject.hindrance(work).map(Trouble::Cannot),
    }
}

/// A directory that programs can enter which have become another user.
///
/// # Errors
/// The file system's.
pub(crate) fn scratch() -> Result<tempfile::TempDir> {
    let directory = tempfile::Builder::new().prefix("mux-bench-").tempdir()?;
    open_to_all(directory.path())?;
    Ok(directory)
}

fn open_to_all(directory: &Path) -> Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
        .with_context(|| directory.display().to_string())
}

/// For all that we start: an idle flow takes two descriptors, and there are thousands.
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Refused: what needs more says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
