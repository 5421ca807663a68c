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
    account::Counters,
    rules::config::{Address, HealthConfig},
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
            never = reports.run(changed) => match never {},
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

/// What has been reported of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reported {
    is_up: bool,
    has_addresses: bool,
}

impl Default for Reported {
    /// All is well.
    fn default() -> Self {
        Self { is_up: true, has_addresses: true }
    }
}

/// What has been reported of all endpoints.
#[derive(Default)]
struct Reports {
    groups: Vec<Arc<Group>>,
    /// Indexed as the groups and their endpoints are.
    reported: Vec<Vec<Reported>>,
}

impl Reports {
    /// Goes on with other groups; of an endpoint that stays, nothing is said twice.
    fn follow(&mut self, groups: Vec<Arc<Group>>) {
        let before: HashMap<*const Endpoint, Reported> = self
            .groups
            .iter()
            .flat_map(|group| group.endpoints())
            .map(Arc::as_ptr)
            .zip(self.reported.iter().flatten().copied())
            .collect();
        let of = |endpoint: &Arc<Endpoint>| before.get(&Arc::as_ptr(endpoint)).copied();
        self.reported = groups
            .iter()
            .map(|group| group.endpoints().iter().map(|e| of(e).unwrap_or_default()).collect())
            .collect();
        self.groups = groups;
    }

    /// Writes a line for each change, for ever. What changes back before it is looked at is not
    /// reported; the counters have it.
    async fn run(&mut self, changed: &Notify) -> Infallible {
        loop {
            changed.notified().await;
            for (group, reported) in self.groups.iter().zip(&mut self.reported) {
                report_group(group, reported);
            }
            sleep(REPORT_PAUSE).await;
        }
    }
}

fn report_group(group: &Group, reported: &mut [Reported]) {
    let is_down = |reported: &[Reported]| !reported.iter().any(|endpoint| endpoint.is_up);
    let was_down = is_down(reported);
    for (endpoint, reported) in group.endpoints().iter().zip(&mut *reported) {
        *reported = report_endpoint(&group.config().name, endpoint, *reported);
    }
    let upstream = &group.config().name;
    // Of a group of one, its endpoint's line has said it.
    match (was_down, is_down(reported)) {
        (false, true) if reported.len() > 1 => warn!(%upstream, "no endpoint is up"),
        (true, false) if reported.len() > 1 => info!(%upstream, "an endpoint is up again"),
        (false | true, false | true) => {}
    }
}

fn report_endpoint(upstream: &str, endpoint: &Endpoint, before: Reported) -> Reported {
    let address = endpoint.address();
    let condition = endpoint.condition();
    let problem = endpoint.name().and_then(super::resolve::Name::problem);
    let now = Reported { is_up: condition == Condition::Up, has_addresses: problem.is_none() };
    if now.is_up != before.is_up {
        match condition {
            Condition::Up => info!(upstream, endpoint = %address, "endpoint is up"),
            Condition::Ejected { reason } => {
                warn!(upstream, endpoint = %address, reason, "endpoint is ejected");
            }
            Condition::Down { reason } => {
                warn!(upstream, endpoint = %address, reason, "endpoint is down");
            }
        }
    }
    match (before.has_addresses, &problem) {
        (true, Some(problem)) => {
            warn!(upstream, endpoint = %address, %problem, "name cannot be looked up");
        }
        (false, None) => info!(upstream, endpoint = %address, "name can be looked up again"),
        (true, None) | (false, Some(_)) => {}
    }
    now
}
