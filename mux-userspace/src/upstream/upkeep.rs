//! The thread that looks after the groups: it looks up names, checks endpoints, and reports what
//! has changed. One thread for all: a busy core must not make endpoints look slow, and nobody is
//! to be checked once by each core.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::Builder,
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    check::check,
    endpoint::{Condition, Endpoint},
    group::{Group, Groups},
    random::Random,
    resolve::look_up,
};
use crate::{
    account::{Counter, Counters},
    rules::config::{Address, HealthConfig},
    throttle::{self, Window},
};

/// Look-ups at once: each takes a thread for as long as the resolver takes.
const LOOK_UPS: usize = 8;
/// Least time between two reports, which bounds what a flapping endpoint can write.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// The running thread.
#[derive(Debug)]
pub struct Upkeep {
    thread: JoinHandle<()>,
    stop: CancellationToken,
    groups: watch::Sender<Vec<Arc<Group>>>,
}

impl Upkeep {
    /// Starts it, if there is anything to look after.
    ///
    /// # Errors
    /// The runtime's or the thread's: no descriptors, no memory.
    pub fn start(groups: &Groups, counters: &Arc<Counters>) -> io::Result<Option<Self>> {
        let has_work = groups.iter().any(|group| needs_upkeep(group));
        has_work.then(|| Self::spawn(groups, counters)).transpose()
    }

    /// Starts it, whether or not there is anything to look after yet.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn spawn(groups: &Groups, counters: &Arc<Counters>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(LOOK_UPS)
            .thread_name("mux-lookup")
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let changed = Arc::clone(groups.changed());
        let (sender, receiver) = watch::channel(groups.iter().cloned().collect());
        let counters = Arc::clone(counters);
        let thread = thread::Builder::new().name("mux-upstreams".into()).spawn(move || {
            let work = work(receiver, &counters, &changed);
            runtime.block_on(stopped.run_until_cancelled(work));
            // A resolver cannot be interrupted; its thread ends with the process.
            runtime.shutdown_background();
        })?;
        Ok(Self { thread, stop, groups: sender })
    }

    /// Looks after the groups of another configuration from now on, which has succeeded the last.
    pub fn follow(&self, groups: &Groups) {
        self.groups.send_replace(groups.iter().cloned().collect());
    }

    /// Ends it.
    pub fn stop(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            warn!("the thread that looks after upstreams panicked");
        }
    }
}

/// Looks after the groups of one configuration after the other.
async fn work(
    mut groups: watch::Receiver<Vec<Arc<Group>>>,
    counters: &Arc<Counters>,
    changed: &Arc<Notify>,
) {
    let mut reports = Reports::default();
    loop {
        let current = groups.borrow_and_update().clone();
        let _tasks = look_after(&current, counters, changed);
        reports.follow(current);
        tokio::select! {
            never = reports.run(changed, counters) => match never {},
            next = groups.changed() => if next.is_err() { return },
        }
        // Whatever was not reported yet.
        changed.notify_one();
    }
}

fn needs_upkeep(group: &Group) -> bool {
    let config = group.config();
    config.health.is_some()
        || config.eject.is_some()
        || group.endpoints().iter().any(|endpoint| endpoint.name().is_some())
}

/// Starts what is done for each endpoint; dropping the set ends it.
fn look_after(
    groups: &[Arc<Group>],
    counters: &Arc<Counters>,
    changed: &Arc<Notify>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let random = Arc::new(Random::new());
    for group in groups {
        for endpoint in group.endpoints() {
            if endpoint.name().is_some() {
                tasks.spawn(keep_name(
                    Arc::clone(endpoint),
                    group.config().resolve,
                    Arc::clone(&random),
                    Arc::clone(counters),
                    Arc::clone(changed),
                ));
            }
            // What is built in is as well as we are.
            if let (Some(health), false) =
                (&group.config().health, matches!(endpoint.address(), Address::Builtin(_)))
            {
                tasks.spawn(keep_checking(
                    Arc::clone(group),
                    Arc::clone(endpoint),
                    health.clone(),
                    Arc::clone(&random),
                    Arc::clone(counters),
                ));
            }
        }
    }
    tasks
}

async fn keep_name(
    endpoint: Arc<Endpoint>,
    interval: Duration,
    random: Arc<Random>,
    counters: Arc<Counters>,
    changed: Arc<Notify>,
) {
    if let Some(name) = endpoint.name() {
        name.keep_up(interval, &random, &counters, &changed, look_up).await;
    }
}

async fn keep_checking(
    group: Arc<Group>,
    endpoint: Arc<Endpoint>,
    health: HealthConfig,
    random: Arc<Random>,
    counters: Arc<Counters>,
) {
    // Not all at once at the start; soon all the same, since the first answers count most.
    sleep(health.interval.mul_f64(random.fraction() / 10.0)).await;
    loop {
        let next = Instant::now() + health.interval.mul_f64(random.jitter());
        let manner = group.manner(None, &counters);
        let header = group.config().proxy_protocol;
        let result = check(&endpoint, &health, &manner, header).await;
        group.checked(&endpoint, &result, &counters);
        sleep_until(next).await;
    }
}

/// What has been said of something that is well or not.
#[derive(Clone, Copy, Debug)]
struct Said {
    is_well: bool,
    /// Changes since.
    changes: u64,
    window: Window,
}

impl Default for Said {
    /// All is well.
    fn default() -> Self {
        Self { is_well: true, changes: 0, window: Window::default() }
    }
}

impl Said {
    /// Takes how it is now. `Some`: that is to be said, and so many changes before it were not.
    fn look(&mut self, is_well: bool, now: Instant) -> Option<u64> {
        self.changes += u64::from(is_well != self.is_well);
        self.is_well = is_well;
        if self.changes == 0 || !self.window.admits(now.into_std()) {
            return None;
        }
        Some(std::mem::take(&mut self.changes) - 1)
    }

    /// When there is something to say that could not be said at `now`.
    fn due(&self, now: Instant) -> Option<Instant> {
        let opens = self.window.opens(now.into_std()).map_or(now, Instant::from_std);
        (self.changes > 0).then_some(opens)
    }
}

/// What has been said of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Reported {
    condition: Said,
    name: Said,
}

/// What has been said of a group and, in their order, of its endpoints.
#[derive(Clone, Debug, Default)]
struct ReportedGroup {
    group: Said,
    endpoints: Vec<Reported>,
}

/// What has been said of all groups.
#[derive(Default)]
struct Reports {
    groups: Vec<Arc<Group>>,
    /// Indexed as the groups are.
    reported: Vec<ReportedGroup>,
}

impl Reports {
    /// Goes on with other groups; of an endpoint that stays, nothing is said twice.
    fn follow(&mut self, groups: Vec<Arc<Group>>) {
        let old = || self.groups.iter().zip(&self.reported);
        let known_groups: HashMap<&str, Said> =
            old().map(|(group, reported)| (&*group.config().name, reported.group)).collect();
        let known: HashMap<*const Endpoint, Reported> = old()
            .flat_map(|(group, reported)| group.endpoints().iter().zip(&reported.endpoints))
            .map(|(endpoint, reported)| (Arc::as_ptr(endpoint), *reported))
            .collect();
        let of = |endpoint| known.get(&Arc::as_ptr(endpoint)).copied().unwrap_or_default();
        let reported = groups.iter().map(|group| ReportedGroup {
            group: known_groups.get(&*group.config().name).copied().unwrap_or_default(),
            endpoints: group.endpoints().iter().map(of).collect(),
        });
        self.reported = reported.collect();
        self.groups = groups;
    }

    /// Writes a line for each change, for ever. What changes back before it is looked at is not
    /// reported; the counters have it.
    async fn run(&mut self, changed: &Notify, counters: &Counters) -> Infallible {
        loop {
            let due = self.due();
            tokio::select! {
                () = changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            for (group, reported) in self.groups.iter().zip(&mut self.reported) {
                report_group(group, reported, counters);
            }
            sleep(REPORT_PAUSE).await;
        }
    }

    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let endpoints = self.reported.iter().flat_map(|group| &group.endpoints);
        let said = endpoints.flat_map(|endpoint| [&endpoint.condition, &endpoint.name]);
        said.chain(self.reported.iter().map(|group| &group.group))
            .filter_map(|said| said.due(now))
            .min()
    }
}

fn report_group(group: &Group, reported: &mut ReportedGroup, counters: &Counters) {
    let upstream = &group.config().name;
    let now = Instant::now();
    for (endpoint, reported) in group.endpoints().iter().zip(&mut reported.endpoints) {
        report_endpoint((upstream, endpoint), reported, counters, now);
    }
    // Of a group of one, its endpoint's line has said it.
    if reported.endpoints.len() < 2 {
        return;
    }
    let is_up = reported.endpoints.iter().any(|endpoint| endpoint.condition.is_well);
    if let Some(held) = reported.group.look(is_up, now) {
        let suppressed = untold(held, counters);
        if is_up {
            info!(%upstream, suppressed, "an endpoint is up again");
        } else {
            warn!(%upstream, suppressed, "no endpoint is up");
        }
    }
}

/// The changes that were not told before this one, for the log; counts them.
fn untold(held: u64, counters: &Counters) -> Option<u64> {
    counters.add(Counter::LogSuppressed, held);
    throttle::some(held)
}

fn report_endpoint(
    (upstream, endpoint): (&str, &Endpoint),
    reported: &mut Reported,
    counters: &Counters,
    now: Instant,
) {
    let address = endpoint.address();
    let condition = endpoint.condition();
    if let Some(held) = reported.condition.look(condition == Condition::Up, now) {
        let suppressed = untold(held, counters);
        match condition {
            Condition::Up => info!(upstream, endpoint = %address, suppressed, "endpoint is up"),
            Condition::Ejected { reason } => {
                warn!(upstream, endpoint = %address, reason, suppressed, "endpoint is ejected");
            }
            Condition::Down { reason } => {
                warn!(upstream, endpoint = %address, reason, suppressed, "endpoint is down");
            }
        }
    }
    let problem = endpoint.name().and_then(super::resolve::Name::problem);
    if let Some(held) = reported.name.look(problem.is_none(), now) {
        let suppressed = untold(held, counters);
        match &problem {
            Some(problem) => {
                warn!(upstream, endpoint = %address, %problem, suppressed, "name cannot be looked up");
            }
            None => {
                info!(upstream, endpoint = %address, suppressed, "name can be looked up again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint that flaps each second for ten minutes.
    #[tokio::test(start_paused = true)]
    async fn a_flapping_endpoint_is_told_of_so_many_times_and_then_how_often_it_was() {
        let mut said = Said::default();
        let (mut lines, mut suppressed) = (0, 0);
        for second in 0..600_u32 {
            if let Some(held) = said.look(second % 2 == 1, Instant::now()) {
                lines += 1;
                suppressed += held;
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, 10 * 10, "10 a minute");
        // What is held back is told when that is allowed, though nothing changes any more.
        let due = said.due(Instant::now()).expect("50 changes");
        sleep_until(due).await;
        let held = said.look(true, Instant::now()).expect("it is due");
        assert_eq!(lines + suppressed + 1 + held, 600, "every change is told or counted");
        assert_eq!(said.due(Instant::now()), None);
    }
}
