//! systemd's watchdog (sd_watchdog_enabled(3)): it is told that the daemon lives for as long as every
//! core does what it is asked. It must never tell so for a process that a successor has relieved.

use std::{env, sync::Arc, thread, time::Duration};

use tokio::{runtime::Builder, time::sleep};
use tracing::{debug, warn};

use super::systemd;
use crate::{admin, errand::Mailbox, presence::until_paused, shared::Shared};

/// Whose watchdog it is.
pub(super) const PID: &str = "WATCHDOG_PID";
/// How often the service manager wants to be told, in microseconds.
const PERIOD: &str = "WATCHDOG_USEC";

/// Whether the service manager watches this process, by name.
pub(super) fn is_for_this_process() -> bool {
    env::var(PID).is_ok_and(|pid| is_ours(Some(&pid)))
}

/// A keeper takes the variable out of a successor's environment, if it was its daemon's.
fn is_ours(pid: Option<&str>) -> bool {
    pid.is_none_or(|pid| pid == std::process::id().to_string())
}

/// Half of the time after which the service manager ends a process that is silent, as
/// sd_watchdog_enabled(3) advises; `None`: it does not watch this one.
fn interval(period: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let period: u64 = period?.parse().ok().filter(|period| *period > 0)?;
    is_ours(pid).then(|| Duration::from_micros(period / 2).max(Duration::from_millis(1)))
}

/// Starts the thread that does it, if the service manager wants to be told; it ends with the process,
/// which drains under its eye, too.
pub(super) fn start(shared: &Arc<Shared>, cores: Vec<Mailbox>) {
    let [period, pid] = [PERIOD, PID].map(|name| env::var(name).ok());
    let Some(interval) = interval(period.as_deref(), pid.as_deref()) else { return };
    let shared = Arc::clone(shared);
    let watched = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        thread::Builder::new()
            .name("mux-watchdog".into())
            .spawn(move || runtime.block_on(watch(&shared, &cores, interval)))
    });
    match watched {
        Ok(_) => debug!(?interval, "watchdog"),
        // Without a ping this process will be ended and started again: it is said why.
        Err(error) => warn!("cannot start the watchdog's thread: {error}"),
    }
}

async fn watch(shared: &Shared, cores: &[Mailbox], interval: Duration) {
    let mut orders = shared.presence.orders();
    loop {
        // A successor tells for itself. If it dies, this process has to tell at once.
        until_paused(&mut orders, false).await;
        match admin::alive(cores, shared.drain.is_cancelled()).await {
            Ok(()) => systemd::alive(),
            Err(silent) => warn!("the watchdog is not told that all is well: {silent}"),
        }
        tokio::select! {
            () = sleep(interval) => {}
            () = until_paused(&mut orders, true) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_meant_tells() {
        let ours = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(interval(Some("2000000"), Some(&ours)), second);
        // After an upgrade nobody is named.
        assert_eq!(interval(Some("2000000"), None), second);
        assert_eq!(interval(Some("2000000"), Some("1")), None);
        for none in [None, Some(""), Some("0"), Some("-1"), Some("soon")] {
            assert_eq!(interval(none, Some(&ours)), None, "{none:?}");
        }
    }
}
