//! A core's thread: its runtime, its accept loops, its drain.

use std::{
    io,
    rc::Rc,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::Socket;
use tokio::{
    runtime::Builder,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::LocalSet,
    time::timeout,
};
use tracing::{error, info};

use super::{ServeError, io_error};
use crate::{
    core::Core,
    kernel::Handle,
    listener::{self, Bound},
    relay::Stop,
    shared::Shared,
};

/// How long flows may take to end once they were ordered to.
const LAST_ORDERS: Duration = Duration::from_secs(3);

/// Where the events thread sends the keys of flows that want a look; one a core.
pub(super) type Nudges = Vec<UnboundedSender<u32>>;

/// A core's sockets, and the index of each one's listener.
type Sockets = Vec<(usize, Socket)>;

/// Starts a thread for each core; returns when all of them accept.
pub(super) fn spawn_all(
    shared: &Arc<Shared>,
    bound: Vec<Bound>,
    handles: Vec<Option<Handle>>,
) -> Result<(Vec<JoinHandle<()>>, Nudges), ServeError> {
    let mut sockets: Vec<Sockets> = handles.iter().map(|_| Vec::new()).collect();
    let cores = sockets.len().max(1);
    for (listener, bound) in bound.into_iter().enumerate() {
        // Where there are more than cores, a core gets several.
        for (number, socket) in bound.sockets.into_iter().enumerate() {
            if let Some(core) = sockets.get_mut(number % cores) {
                core.push((listener, socket));
            }
        }
    }
    let mut workers = Vec::new();
    let mut nudges = Vec::new();
    let (started, starting) = mpsc::channel();
    for (index, (sockets, handle)) in sockets.into_iter().zip(handles).enumerate() {
        let (nudge, nudged) = unbounded_channel();
        nudges.push(nudge);
        let shared = Arc::clone(shared);
        let started = started.clone();
        let worker = thread::Builder::new()
            .name(format!("mux-core-{index}"))
            .spawn(move || {
                let result = run(index as u16, &shared, handle, sockets, nudged, &started);
                if let Err(error) = result {
                    // Its sender is gone with it, which ends the wait below.
                    error!(core = index, %error, "a core cannot serve");
                    let _ = started.send(Err(error));
                }
            })
            .map_err(io_error("starting a core's thread"))?;
        workers.push(worker);
    }
    drop(started);
    for _ in &workers {
        if let Ok(Err(source)) = starting.recv() {
            return Err(ServeError::Io { action: "starting a core", source });
        }
    }
    Ok((workers, nudges))
}

type Started = mpsc::Sender<io::Result<()>>;

fn run(
    index: u16,
    shared: &Arc<Shared>,
    handle: Option<Handle>,
    sockets: Sockets,
    nudged: UnboundedReceiver<u32>,
    started: &Started,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let core = Core::new(index, Arc::clone(shared), handle)?;
    local.block_on(&runtime, serve(core, sockets, nudged, started))
    // Dropping the set closes whatever did not end in time.
}

async fn serve(
    core: Rc<Core>,
    sockets: Sockets,
    nudged: UnboundedReceiver<u32>,
    started: &Started,
) -> io::Result<()> {
    let ready = core.readiness()?;
    let watch = tokio::task::spawn_local(Rc::clone(&core).run_watch(ready));
    tokio::task::spawn_local(Rc::clone(&core).run_nudges(nudged));
    tokio::task::spawn_local(Rc::clone(&core).run_timers());
    for (index, socket) in sockets {
        let Some(listener) = core.shared.config.listeners.get(index) else { continue };
        let accepting = listener::run(Rc::clone(&core), index, Arc::clone(listener), socket);
        core.tasks.spawn_local(async move {
            if let Err(error) = accepting.await {
                error!(%error, "a listener failed");
            }
        });
    }
    let _ = started.send(Ok(()));

    let shared = Arc::clone(&core.shared);
    tokio::select! {
        () = shared.drain.cancelled() => {}
        failed = watch => {
            error!(?failed, "the private epoll failed; this core drains");
        }
    }
    core.tasks.close();
    let drain = shared.config.timeouts.drain;
    tokio::select! {
        () = core.tasks.wait() => return Ok(()),
        () = shared.abort.cancelled() => {}
        () = tokio::time::sleep(drain) => {
            info!(core = core.index, left = core.flow_count(), "the drain deadline has passed");
        }
    }
    core.stop_all(Stop::Drain);
    // What does not end in time is ended by dropping its task.
    let _ = timeout(LAST_ORDERS, core.tasks.wait()).await;
    Ok(())
}
