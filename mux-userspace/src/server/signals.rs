//! Signals: SIGTERM and SIGINT drain; a second one ends at once.

use std::{io, sync::Arc};

use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};

use crate::shared::Shared;

/// Waits for the signal to stop, and has the cores drain; returns then. A thread stays to wait for
/// the second signal.
pub(super) fn wait(shared: &Arc<Shared>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        Ok::<_, io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    let name = runtime.block_on(async {
        let (mut hangup, mut user2) =
            (signal(SignalKind::hangup())?, signal(SignalKind::user_defined2())?);
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok::<_, io::Error>("SIGTERM"),
                _ = interrupt.recv() => return Ok("SIGINT"),
                // Their default is to kill, which nobody who sends them means.
                _ = hangup.recv() => warn!("SIGHUP: this version of mux cannot reload; restart it"),
                _ = user2.recv() => warn!("SIGUSR2: this version of mux cannot upgrade; restart it"),
            }
        }
    })?;
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
