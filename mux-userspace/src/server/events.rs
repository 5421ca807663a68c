//! The thread that reads the verdict's events and sends each to the core of its flow.
//!
//! The ring has one reader, flows live on many cores. Events are rare: one for each edge into
//! passing.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tracing::error;

use super::{ServeError, io_error, worker::Nudges};
use crate::{
    kernel::{Events, Kernel, ProgramLogReader, books::way_of},
    shared::Shared,
};

/// The running thread.
#[derive(Debug)]
pub(super) struct Reader {
    thread: JoinHandle<()>,
    stop: Arc<OwnedFd>,
}

/// Starts it.
pub(super) fn spawn(
    kernel: &mut Kernel,
    shared: Arc<Shared>,
    nudges: Nudges,
) -> Result<Reader, ServeError> {
    let events = kernel.take_events()?;
    let program_log = kernel.take_program_log()?;
    let stop =
        eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| io_error("eventfd")(error.into()))?;
    let stop = Arc::new(stop);
    let until = Arc::clone(&stop);
    let thread = thread::Builder::new()
        .name("mux-events".into())
        .spawn(move || read(events, program_log, &until, &shared, &nudges))
        .map_err(io_error("starting the events thread"))?;
    Ok(Reader { thread, stop })
}

fn read(
    mut events: Events,
    mut program_log: Option<ProgramLogReader>,
    stop: &OwnedFd,
    shared: &Shared,
    nudges: &Nudges,
) {
    loop {
        if let Some(log) = &mut program_log {
            log.flush();
        }
        events.drain(|event| {
            let (pair, _) = way_of(event.slot);
            // The flow may be over, or its pair another's already: a look too many is harmless.
            if let Some((core, key)) = shared.owners.find(pair)
                && let Some(nudge) = nudges.get(usize::from(core))
            {
                // A core that has ended has no flows.
                let _ = nudge.send(key);
            }
        });
        let ring = events.as_fd();
        let mut waits = vec![PollFd::new(stop, PollFlags::IN), PollFd::new(&ring, PollFlags::IN)];
        let log = program_log.as_ref().map(ProgramLogReader::as_fd);
        if let Some(log) = &log {
            waits.push(PollFd::new(log, PollFlags::IN));
        }
        match poll(&mut waits, None) {
            Ok(_) if !waits[0].revents().is_empty() => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // The timers of the cores find uneven books, slower.
                error!(%error, "cannot wait for the verdict's events");
                return;
            }
        }
    }
}

impl Reader {
    /// Ends the thread.
    pub(super) fn stop(self) {
        // An eventfd of this process takes a 1.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        let _ = self.thread.join();
    }
}
