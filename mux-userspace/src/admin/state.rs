//! Whom the admin thread asks.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use mux_common::{Stats, packet::PacketStats};
use tokio::{sync::oneshot, task::JoinSet};

use super::view::SecurityStatus;
use crate::{
    account::Report,
    errand::{Errand, Filter, Flow, Mailbox, NoAnswer},
    kernel::{StatsReader, packet::PacketStatsReader},
    metrics::Memory,
    relay::control::KeptOut,
    rules::config::SockmapMode,
    server::{Check, orders::Desk},
    shared::Shared,
};

/// How long a core may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What was found and made when the daemon started.
#[derive(Debug)]
pub(crate) struct Facts {
    /// When it began to serve.
    pub(crate) started: Instant,
    /// The same by the wall clock.
    pub(crate) started_at: SystemTime,
    /// What was found about the kernel relay.
    pub(crate) checks: Vec<Check>,
    /// How long the self-test took, if it passed.
    pub(crate) self_test: Option<Duration>,
    /// What the daemon may do.
    pub(crate) security: SecurityStatus,
}

/// Readers of the counters of the kernel's programs, as far as they are in force.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    /// The verdict's.
    pub(crate) verdict: Option<StatsReader>,
    /// The packet relay's.
    pub(crate) packets: Option<PacketStatsReader>,
}

/// Everything that can be asked.
#[derive(Debug)]
pub(crate) struct State {
    /// What all cores share.
    pub(crate) shared: Arc<Shared>,
    /// The cores.
    pub(crate) cores: Vec<Mailbox>,
    /// Where orders are given.
    pub(crate) desk: Desk,
    /// What does not change.
    pub(crate) facts: Facts,
    /// The counters of the kernel's programs.
    pub(crate) stats: Readers,
    /// `mux relay off`.
    pub(crate) relay_off: AtomicBool,
    /// Times that the kernel relay was switched off.
    pub(crate) switched_off: AtomicU64,
    /// Requests answered.
    pub(crate) requests: AtomicU64,
    /// What `/metrics` said last.
    pub(crate) memory: Mutex<Memory>,
}

/// A core that gave no answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silent {
    /// Its number.
    pub(crate) core: usize,
    /// Why.
    pub(crate) why: NoAnswer,
}

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "core {}: {}", self.core, self.why)
    }
}

impl State {
    /// Of a daemon that has just begun to serve.
    pub(crate) fn new(
        shared: Arc<Shared>,
        cores: Vec<Mailbox>,
        desk: Desk,
        facts: Facts,
        stats: Readers,
    ) -> Self {
        Self {
            shared,
            cores,
            desk,
            facts,
            stats,
            relay_off: AtomicBool::new(false),
            switched_off: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            memory: Mutex::default(),
        }
    }

    /// Whether the daemon no longer accepts.
    pub(crate) fn is_draining(&self) -> bool {
        self.shared.drain.is_cancelled()
    }

    /// Why flows are kept out of the kernel relay, which is loaded.
    pub(crate) fn kept_out(&self) -> Option<KeptOut> {
        let configured = self.shared.current.load().config.kernel.sockmap == SockmapMode::Off;
        if configured && self.shared.books.is_some() {
            return Some(KeptOut::Configured);
        }
        self.relay_off.load(Ordering::Acquire).then_some(KeptOut::Ordered)
    }

    /// The verdict's counters.
    pub(crate) fn verdict(&self) -> Option<Stats> {
        // Only a map that is no array any more could fail here, and it has been opened as one.
        self.stats.verdict.as_ref().and_then(|stats| stats.read().ok())
    }

    /// The packet relay's.
    pub(crate) fn packets(&self) -> Option<PacketStats> {
        self.stats.packets.as_ref().and_then(|stats| stats.read().ok())
    }

    /// What `/metrics` said last.
    pub(crate) fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each core's report. A core that panicked has none.
    pub(crate) async fn reports(&self) -> Result<Vec<Report>, Silent> {
        let answers = each(&self.cores, |core| async move {
            match core.report(PATIENCE).await {
                Err(NoAnswer::Ended) => Ok(Report::default()),
                other => other,
            }
        });
        answers.await
    }

    /// Whether each core answers.
    pub(crate) async fn alive(&self) -> Result<(), Silent> {
        alive(&self.cores, self.is_draining()).await
    }

    /// The flows that `filter` asks for, oldest first.
    pub(crate) async fn flows(&self, filter: Filter) -> Result<Vec<Flow>, Silent> {
        let filter = Arc::new(filter);
        let answers = self.ask_each(|| {
            let filter = Arc::clone(&filter);
            move |reply| Errand::Flows(filter, reply)
        });
        let mut flows: Vec<Flow> = answers.await?.into_iter().flatten().collect();
        flows.sort_by_key(|flow| std::cmp::Reverse(flow.age));
        Ok(flows)
    }

    /// Ends a flow; whether there was one of this id.
    pub(crate) async fn kill(&self, id: u64) -> Result<bool, Silent> {
        let answers = self.ask_each(|| move |reply| Errand::Kill(id, reply)).await?;
        Ok(answers.contains(&true))
    }

    /// Lets flows into the kernel or takes them out; how many were in it.
    pub(crate) async fn switch_kernel(&self, allowed: bool) -> Result<usize, Silent> {
        let was_off = self.relay_off.swap(!allowed, Ordering::AcqRel);
        if !allowed && !was_off {
            self.switched_off.fetch_add(1, Ordering::Relaxed);
        }
        let answers = self.ask_each(|| move |reply| Errand::Kernel { allowed, reply }).await?;
        Ok(answers.into_iter().sum())
    }

    /// Asks each core; one that has ended has nothing to say.
    async fn ask_each<T, E>(&self, errand: impl Fn() -> E) -> Result<Vec<T>, Silent>
    where
        T: Default + Send + 'static,
        E: FnOnce(oneshot::Sender<T>) -> Errand + Send + 'static,
    {
        let answers = each(&self.cores, |core| {
            let errand = errand();
            async move {
                match core.ask(PATIENCE, errand).await {
                    Err(NoAnswer::Ended) => Ok(T::default()),
                    other => other,
                }
            }
        });
        answers.await
    }
}

/// Whether each of these cores answers.
pub(crate) async fn alive(cores: &[Mailbox], draining: bool) -> Result<(), Silent> {
    let answers = each(cores, move |core| async move {
        match core.ask(PATIENCE, Errand::Ping).await {
            // It had nothing more to do.
            Err(NoAnswer::Ended) if draining => Ok(()),
            other => other,
        }
    });
    answers.await.map(drop)
}

/// Has something done for each core at once; the answers, in the cores' order.
async fn each<T, F>(cores: &[Mailbox], ask: impl Fn(Mailbox) -> F) -> Result<Vec<T>, Silent>
where
    T: Send + 'static,
    F: Future<Output = Result<T, NoAnswer>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for (core, mailbox) in cores.iter().enumerate() {
        let answer = ask(mailbox.clone());
        asked.spawn(async move { (core, answer.await) });
    }
    let mut answers = Vec::new();
    for (core, answer) in asked.join_all().await {
        answers.push((core, answer.map_err(|why| Silent { core, why })?));
    }
    answers.sort_by_key(|(core, _)| *core);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
