//! The thread that looks after the groups: it looks up names, checks endpoints, and reports what
//! has changed. One thread for all: a busy core must not make endpoints look slow, and nobody is
//! to be checked once by each core.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::Builder,
    sync::Notify,
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
    source::Manner,
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
}

impl Upkeep {
    /// Starts it, if there is anything to look after.
    ///
    /// # Errors
    /// The runtime's or the thread's: no descriptors, no memory.
    pub fn start(groups: &Groups, counters: &Arc<Counters>) -> io::Result<Option<Self>> {
        if !groups.iter().any(|group| needs_upkeep(group)) {
            return Ok(None);
        }
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(LOOK_UPS)
            .thread_name("mux-lookup")
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let changed = Arc::clone(groups.changed());
        let groups: Vec<Arc<Group>> = groups.iter().cloned().collect();
        let counters = Arc::clone(counters);
        let thread = thread::Builder::new().name("mux-upstreams".into()).spawn(move || {
            runtime.block_on(async {
                let _tasks = look_after(&groups, &counters, &changed);
                stopped.run_until_cancelled(report(&groups, &changed)).await;
            });
            // A resolver cannot be interrupted; its thread ends with the process.
            runtime.shutdown_background();
        })?;
        Ok(Some(Self { thread, stop }))
    }

    /// Ends it.
    pub fn stop(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            warn!("the thread that looks after upstreams panicked");
        }
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
        let config = group.config();
        // From our own address where flows come from their clients': a check has none.
        let manner = Manner {
            source: config.source.as_ref(),
            client: None,
            timers: config.timers,
            counters: &counters,
        };
        let result = check(&endpoint, &manner, &health).await;
        group.checked(&endpoint, &result, &counters);
        sleep_until(next).await;
    }
}

/// What has been reported of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reported {
    is_up: bool,
    has_addresses: bool,
}

/// Writes a line for each change, for ever. What changes back before it is looked at is not
/// reported; the counters have it.
async fn report(groups: &[Arc<Group>], changed: &Notify) {
    let well = Reported { is_up: true, has_addresses: true };
    let mut reported: Vec<Vec<Reported>> =
        groups.iter().map(|group| vec![well; group.endpoints().len()]).collect();
    loop {
        changed.notified().await;
        for (group, reported) in groups.iter().zip(&mut reported) {
            report_group(group, reported);
        }
        sleep(REPORT_PAUSE).await;
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
