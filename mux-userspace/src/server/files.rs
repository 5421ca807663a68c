//! The thread that reads files of networks again when they have changed.

use std::{
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    account::{Counter, Counters},
    route::NetworkFile,
};

/// How soon a change is seen.
const PERIOD: Duration = Duration::from_secs(1);

/// The running thread.
#[derive(Debug)]
pub(super) struct Watcher {
    thread: JoinHandle<()>,
    /// Dropped: it ends.
    stop: mpsc::Sender<()>,
}

/// Starts it, if there are files.
pub(super) fn spawn(
    files: Vec<Arc<NetworkFile>>,
    counters: Arc<Counters>,
) -> io::Result<Option<Watcher>> {
    if files.is_empty() {
        return Ok(None);
    }
    let (stop, stopped) = mpsc::channel();
    let thread = thread::Builder::new().name("mux-files".into()).spawn(move || {
        for file in &files {
            if let Err(error) = std::fs::File::open(file.path()) {
                let path = file.path().display();
                warn!("cannot read {path} any more: {error}; its networks stay as they are now");
            }
        }
        while stopped.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
            files.iter().for_each(|file| refresh(file, &counters));
        }
    })?;
    Ok(Some(Watcher { thread, stop }))
}

fn refresh(file: &NetworkFile, counters: &Counters) {
    match file.refresh() {
        Ok(false) => {}
        Ok(true) => {
            counters.count(Counter::NetworkFileRead);
            info!("{} has changed and is in force", file.path().display());
        }
        // Told once a change of the file.
        Err(error) => {
            counters.count(Counter::NetworkFileFailed);
            warn!("{error}; its networks stay as they were");
        }
    }
}

impl Watcher {
    /// Ends the thread.
    pub(super) fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}
