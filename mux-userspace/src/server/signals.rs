//! Signals: SIGTERM and SIGINT drain; a second one ends at once.

use std::{io, sync::Arc};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{info, warn};

use crate::shared::Shared;

/// The signals, caught from here on.
pub(super) struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user2: Signal,
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
    Ok(Signals { runtime, terminate, interrupt, hangup, user2 })
}

/// Waits for the signal to stop, and has the cores drain; returns then. A thread stays to wait for
/// the second signal.
pub(super) fn wait(signals: Signals, shared: &Arc<Shared>) -> io::Result<()> {
    let Signals { runtime, mut terminate, mut interrupt, mut hangup, mut user2 } = signals;
    let name = runtime.block_on(async {
        loop {
            tokio::select! {
                _ = terminate.recv() => return "SIGTERM",
                _ = interrupt.recv() => return "SIGINT",
                // Their default is to kill, which nobody who sends them means.
                _ = hangup.recv() => warn!("SIGHUP: this version of mux cannot reload; restart it"),
                _ = user2.recv() => warn!("SIGUSR2: this version of mux cannot upgrade; restart it"),
            }
        }
    });
    info!(
        deadline_seconds = shared.config.timeouts.drain.as_secs_f64(),
        "{name}: draining; once more ends at once"
    );
    shared.drain.cancel();
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
