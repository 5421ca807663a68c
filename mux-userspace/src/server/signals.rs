//! Signals and orders: SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reloads, SIGUSR2
//! upgrades.

use std::{io, sync::Arc};

use nix::sys::signal::SigSet;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{error, info};

use super::orders::{Action, Orders, Outcome};
use crate::shared::Shared;

/// The signals, caught from here on.
pub(super) struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user2: Signal,
}

/// Does what is ordered.
pub(super) trait Operator {
    /// Reads the rules again.
    fn reload(&mut self) -> Outcome;
    /// Begins to have a new process take over; `reply` takes the outcome.
    fn upgrade(&mut self, who: &'static str, reply: Option<Reply>);
    /// Goes on with what takes time; returns when another process has taken over and nothing is
    /// left to do here. Can be dropped and called again at any time.
    async fn finished(&mut self);
    /// The daemon drains now.
    fn drain(&mut self);
}

/// Begins to catch the signals: before the daemon says that it is ready, since one that comes
/// earlier kills it.
pub(super) fn catch() -> io::Result<Signals> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let [terminate, interrupt, hangup, user2] = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::user_defined2())?,
    ];
    drop(guard);
    // The keeper, which starts successors, has them blocked. A signal that came since the start is
    // not lost by that.
    SigSet::all().thread_unblock()?;
    Ok(Signals { runtime, terminate, interrupt, hangup, user2 })
}

impl Signals {
    /// The next thing to do, who wants it, and where the outcome is awaited; `None`: nothing any
    /// more.
    fn next(&mut self, orders: &mut Orders, operator: &mut impl Operator) -> Option<Next> {
        let Self { runtime, terminate, interrupt, hangup, user2 } = self;
        runtime.block_on(async {
            Some(tokio::select! {
                _ = terminate.recv() => (Action::Drain, "SIGTERM", None),
                _ = interrupt.recv() => (Action::Drain, "SIGINT", None),
                _ = hangup.recv() => (Action::Reload, "SIGHUP", None),
                _ = user2.recv() => (Action::Upgrade, "SIGUSR2", None),
                Some(order) = orders.recv() => (order.action, "an order", Some(order.reply)),
                () = operator.finished() => return None,
            })
        })
    }
}

type Next = (Action, &'static str, Option<Reply>);

/// Where an outcome is awaited.
pub(super) type Reply = tokio::sync::oneshot::Sender<Outcome>;

/// Does what signals and orders say until one is to drain, and has the cores do that; returns then.
/// A thread stays to wait for the second signal.
pub(super) fn wait(
    mut signals: Signals,
    mut orders: Orders,
    shared: &Arc<Shared>,
    operator: &mut impl Operator,
) -> io::Result<()> {
    let (who, reply) = loop {
        let Some((action, who, reply)) = signals.next(&mut orders, operator) else {
            break ("no connection is left", None);
        };
        let outcome = match action {
            Action::Drain => break (who, reply),
            Action::Reload => operator.reload(),
            Action::Upgrade => {
                operator.upgrade(who, reply);
                continue;
            }
        };
        if let Err(reason) = &outcome {
            for line in reason.lines() {
                error!("{who}: {} failed, nothing has changed: {line}", action.name());
            }
        }
        if let Some(reply) = reply {
            // Who asked may be gone.
            let _ = reply.send(outcome);
        }
    };
    operator.drain();
    // Before the log says so: who reads the line can rely on it.
    shared.drain.cancel();
    let deadline = shared.current.load().config.timeouts.drain.as_secs_f64();
    info!(deadline_seconds = deadline, "{who}: draining; once more ends at once");
    if let Some(reply) = reply {
        let _ = reply.send(Ok(format!("draining, for at most {deadline} s")));
    }
    let Signals { runtime, mut terminate, mut interrupt, .. } = signals;
    let abort = shared.abort.clone();
    std::thread::Builder::new().name("mux-signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        info!("again: ending at once");
        abort.cancel();
    })?;
    Ok(())
}
