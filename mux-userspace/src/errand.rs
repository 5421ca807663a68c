//! What a core can be asked from outside: how much it carries, which flows it has, to end one, to
//! leave the kernel relay.
//!
//! The table of flows is the core's own, so whoever wants to know sends an [`Errand`] and waits for
//! the answer, with a deadline. A core looks at a slice of its table at a time: flows go on in
//! between.

use std::{
    borrow::Cow,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::{
    mpsc::{self, Receiver, Sender},
    oneshot,
};

use crate::{
    account::{Live, Report, live::Route},
    core::Core,
    net::Peer,
    relay::{Control, Mode, Stop},
};

/// Flows looked at before the core does something else.
const SLICE: usize = 512;
/// Errands that may wait for a core.
const WAITING: usize = 64;

/// Something asked of a core.
#[derive(Debug)]
pub enum Errand {
    /// To say that it is alive.
    Ping(oneshot::Sender<()>),
    /// How much it carries.
    Report(oneshot::Sender<Report>),
    /// Which flows it has.
    Flows(Arc<Filter>, oneshot::Sender<Vec<Flow>>),
    /// To end the flow of this id; whether there was one.
    Kill(u64, oneshot::Sender<bool>),
    /// To let flows into the kernel, or to take them out; how many were in it.
    Kernel {
        /// Whether they may go there.
        allowed: bool,
        /// Takes the answer.
        reply: oneshot::Sender<usize>,
    },
}

/// A flow, as its core knows it.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Unique in this process.
    pub id: u64,
    /// Who connected.
    pub client: Peer,
    /// Where it came in.
    pub listener: Arc<str>,
    /// Where it goes.
    pub route: Route,
    /// How far it is.
    pub state: &'static str,
    /// How its bytes go; `None` before it is a flow.
    pub relay: Option<Mode>,
    /// Why not by the kernel.
    pub relay_note: Cow<'static, str>,
    /// Since it was accepted.
    pub age: Duration,
    /// Bytes given to the upstream and to the client.
    pub bytes: [u64; 2],
}

/// Which flows are asked for; all of the conditions that are there.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Of this rule.
    pub rule: Option<String>,
    /// To this upstream.
    pub upstream: Option<String>,
    /// Carried so.
    pub relay: Option<Mode>,
    /// From these clients.
    pub client: Option<IpNet>,
    /// At most so many.
    pub limit: usize,
}

impl Filter {
    fn takes(&self, live: &Live, control: &Control) -> bool {
        let route = live.route();
        let same = |wanted: &Option<String>, is: &Option<Arc<str>>| {
            wanted.as_deref().is_none_or(|wanted| is.as_deref() == Some(wanted))
        };
        same(&self.rule, &route.rule)
            && same(&self.upstream, &route.upstream)
            && self.relay.is_none_or(|relay| relay_of(live, control) == Some(relay))
            && self
                .client
                .is_none_or(|network| live.client().ip().is_some_and(|ip| network.contains(&ip)))
    }
}

impl Errand {
    /// Does it. An answer that nobody waits for any more is dropped.
    pub async fn run(self, core: &Rc<Core>) {
        match self {
            Self::Ping(reply) => drop(reply.send(())),
            Self::Report(reply) => drop(reply.send(report(core).await)),
            Self::Flows(filter, reply) => drop(reply.send(flows(core, &filter).await)),
            Self::Kill(id, reply) => drop(reply.send(kill(core, id).await)),
            Self::Kernel { allowed, reply } => drop(reply.send(core.switch_kernel(allowed))),
        }
    }
}

/// Looks at each flow of the table, a slice at a time; `false` ends it.
async fn each(core: &Core, mut look: impl FnMut(&Live, &Control) -> bool) {
    let mut key = 0;
    while key < core.table_end() {
        if core.look(key, &mut look) == Some(false) {
            return;
        }
        key += 1;
        if key.is_multiple_of(SLICE) {
            tokio::task::yield_now().await;
        }
    }
}

/// A core's report. What is over is counted first: a flow that ends while the table is looked at is
/// missing in the sum then, never in it twice.
async fn report(core: &Core) -> Report {
    let mut report = ended(core);
    each(core, |live, control| {
        add(core, &mut report, live, control);
        true
    })
    .await;
    report
}

fn ended(core: &Core) -> Report {
    let config = &core.shared.current.load().config;
    let is_there = |name: &str| config.rules.iter().any(|rule| *rule.name == *name);
    let mut report = core.totals.report(|(rule, _)| is_there(rule));
    report.connections = core.flow_count() as u64;
    report.sniffing = core.sniffing.len() as u64;
    report
}

fn add(core: &Core, report: &mut Report, live: &Live, control: &Control) {
    if let Some(mode) = relay_of(live, control)
        && !live.is_accounted()
    {
        report.add_flow(live.route(), mode, core.given(control));
    }
}

async fn flows(core: &Core, filter: &Filter) -> Vec<Flow> {
    let mut found = Vec::new();
    each(core, |live, control| {
        if filter.takes(live, control) {
            found.push(flow(core, live, control));
        }
        found.len() < filter.limit
    })
    .await;
    found
}

fn flow(core: &Core, live: &Live, control: &Control) -> Flow {
    let relay = relay_of(live, control);
    let relay_note = relay.map_or_else(Cow::default, |mode| live.note(mode, control));
    let state = match control.stopped() {
        Some(_) => "ending",
        None if control.half_closed() => "half-closed",
        None => live.stage().name(),
    };
    Flow {
        id: live.id,
        client: live.client(),
        listener: Arc::clone(&live.listener),
        route: live.route(),
        state,
        relay,
        relay_note,
        age: live.accepted.elapsed(),
        bytes: core.given(control),
    }
}

/// How the bytes of a flow go; `None` of a connection that is none yet.
fn relay_of(live: &Live, control: &Control) -> Option<Mode> {
    use crate::account::Stage;
    match live.stage() {
        Stage::Sniffing | Stage::Connecting => None,
        Stage::Relaying | Stage::Ending => Some(control.mode()),
    }
}

async fn kill(core: &Core, id: u64) -> bool {
    let mut found = false;
    each(core, |live, control| {
        if live.id == id {
            control.stop(Stop::Killed);
            found = true;
        }
        !found
    })
    .await;
    found
}

/// A core, to those who ask it.
#[derive(Clone, Debug)]
pub struct Mailbox {
    errands: Sender<Errand>,
    last: Arc<OnceLock<Report>>,
}

/// A core's own end of its [`Mailbox`].
#[derive(Debug)]
pub struct Inbox {
    /// What is asked.
    pub errands: Receiver<Errand>,
    /// What the core leaves behind when it ends.
    pub last: Arc<OnceLock<Report>>,
}

/// Why a core gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoAnswer {
    /// Too many others ask.
    #[error("it has too many questions waiting")]
    Busy,
    /// It did not come in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    /// It has ended: the daemon drains, and it had no flows any more.
    #[error("it has ended")]
    Ended,
}

impl Inbox {
    /// An inbox, and where to write to.
    #[must_use]
    pub fn new() -> (Mailbox, Self) {
        let (sender, errands) = mpsc::channel(WAITING);
        let last = Arc::new(OnceLock::new());
        (Mailbox { errands: sender, last: Arc::clone(&last) }, Self { errands, last })
    }
}

impl Mailbox {
    /// Asks, and waits for at most so long.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn ask<T>(
        &self,
        patience: Duration,
        errand: impl FnOnce(oneshot::Sender<T>) -> Errand,
    ) -> Result<T, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        self.errands.try_send(errand(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoAnswer::Busy,
            mpsc::error::TrySendError::Closed(_) => NoAnswer::Ended,
        })?;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(NoAnswer::Ended),
            Err(_) => Err(NoAnswer::Late(patience)),
        }
    }

    /// Its report; of a core that has ended, its last one.
    ///
    /// # Errors
    /// [`NoAnswer::Busy`], [`NoAnswer::Late`]; [`NoAnswer::Ended`] in the moment of its ending.
    pub async fn report(&self, patience: Duration) -> Result<Report, NoAnswer> {
        match self.ask(patience, Errand::Report).await {
            Err(NoAnswer::Ended) => self.last.get().cloned().ok_or(NoAnswer::Ended),
            other => other,
        }
    }
}

/// What a core that ends leaves behind.
#[must_use]
pub fn last_report(core: &Core) -> Report {
    let mut report = ended(core);
    for key in 0..core.table_end() {
        core.look(key, |live, control| add(core, &mut report, live, control));
    }
    // They are reset now.
    report.flows = <_>::default();
    report.routes.values_mut().for_each(|route| route.alive = <_>::default());
    report.connections = 0;
    report.sniffing = 0;
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_core_that_is_busy_is_not_waited_for_for_ever() {
        let (mailbox, inbox) = Inbox::new();
        assert_eq!(mailbox.ask(SOON, Errand::Ping).await, Err(NoAnswer::Late(SOON)));
        let mut asked = 1;
        while mailbox.ask(Duration::ZERO, Errand::Ping).await != Err(NoAnswer::Busy) {
            asked += 1;
        }
        assert_eq!(asked, WAITING, "so many questions wait, and no more");
        drop(inbox);
        assert_eq!(mailbox.ask(SOON, Errand::Ping).await, Err(NoAnswer::Ended));
    }

    #[tokio::test(start_paused = true)]
    async fn a_core_that_has_ended_has_left_its_report() {
        let (mailbox, Inbox { errands, last }) = Inbox::new();
        let waits = tokio::spawn({
            let mailbox = mailbox.clone();
            async move { mailbox.report(SOON).await }
        });
        tokio::task::yield_now().await;
        last.set(Report { bytes: [7, 8], ..Report::default() }).expect("the first");
        drop(errands);
        // Who asked before it ended and who asks after that get the same.
        assert_eq!(waits.await.expect("no panic").map(|report| report.bytes), Ok([7, 8]));
        assert_eq!(mailbox.report(SOON).await.map(|report| report.bytes), Ok([7, 8]));
    }
}
