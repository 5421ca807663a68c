//! The thread that reads the kernel's events and sends each to the core of its flow.
//!
//! A ring has one reader, flows live on many cores. Events are rare: one for each edge into
//! passing of a spliced flow, two in the life of one whose packets are translated.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tracing::error;

use super::{ServeError, io_error, worker::Nudges};
use crate::{
    core::Nudge,
    kernel::{
        Events, Kernel, ProgramLogReader,
        books::way_of,
        packet::{PacketEvents, PacketKernel},
    },
    relay::packet,
    shared::Shared,
};

/// The running thread.
#[derive(Debug)]
pub(super) struct Reader {
    thread: JoinHandle<()>,
    stop: Arc<OwnedFd>,
}

/// What it reads; what is not in force is not there.
struct Rings {
    verdict: Option<Events>,
    log: Option<ProgramLogReader>,
    packets: Option<PacketEvents>,
}

/// Starts it.
pub(super) fn spawn(
    kernel: Option<&mut Kernel>,
    packets: Option<&mut PacketKernel>,
    shared: Arc<Shared>,
    nudges: Nudges,
) -> Result<Reader, ServeError> {
    let mut rings = Rings { verdict: None, log: None, packets: None };
    if let Some(kernel) = kernel {
        rings.verdict = Some(kernel.take_events()?);
        rings.log = kernel.take_program_log()?;
    }
    if let Some(packets) = packets {
        rings.packets = Some(packets.take_events()?);
    }
    let stop =
        eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| io_error("eventfd")(error.into()))?;
    let stop = Arc::new(stop);
    let until = Arc::clone(&stop);
    let thread = thread::Builder::new()
        .name("mux-events".into())
        .spawn(move || read(rings, &until, &shared, &nudges))
        .map_err(io_error("starting the events thread"))?;
    Ok(Reader { thread, stop })
}

fn read(mut rings: Rings, stop: &OwnedFd, shared: &Shared, nudges: &Nudges) {
    // The flow may be over, or its records another's already: a look too many is harmless. A core
    // that has ended has no flows.
    let send = |core: u16, nudge| {
        if let Some(to) = nudges.get(usize::from(core)) {
            let _ = to.send(nudge);
        }
    };
    loop {
        if let Some(log) = &mut rings.log {
            log.flush();
        }
        if let Some(events) = &mut rings.verdict {
            events.drain(|event| {
                let (pair, _) = way_of(event.slot);
                if let Some((core, key)) = shared.owners.find(pair) {
                    send(core, Nudge::Books(key));
                }
            });
        }
        if let Some(events) = &mut rings.packets {
            events.drain(|report| {
                let (core, _) = packet::address(report.cookie);
                send(core, Nudge::Packets(report));
            });
        }
        let verdict = rings.verdict.as_ref().map(AsFd::as_fd);
        let log = rings.log.as_ref().map(ProgramLogReader::as_fd);
        let packets = rings.packets.as_ref().map(AsFd::as_fd);
        let mut waits = vec![PollFd::new(stop, PollFlags::IN)];
        for ring in [&verdict, &log, &packets].into_iter().flatten() {
            waits.push(PollFd::new(ring, PollFlags::IN));
        }
        match poll(&mut waits, None) {
            Ok(_) if !waits[0].revents().is_empty() => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // The timers of the cores find uneven books and ended flows, slower.
                error!(%error, "cannot wait for the kernel's events");
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
