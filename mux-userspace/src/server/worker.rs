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
    sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::LocalSet,
    time::timeout,
};
use tracing::{error, info};

use super::{ServeError, io_error};
use crate::{
    core::Core,
    errand::{self, Errand, Inbox, Mailbox},
    kernel::Handle,
    listener::{self, Bound},
    relay::Stop,
    shared::Shared,
};

/// How long flows may take to end once they were ordered to.
const LAST_ORDERS: Duration = Duration::from_secs(3);

/// Where the events thread sends the keys of flows that want a look; one a core.
pub(super) type Nudges = Vec<UnboundedSender<u32>>;

/// Cores that accept.
pub(super) struct Cores {
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) nudges: Nudges,
    pub(super) mailboxes: Vec<Mailbox>,
}

/// Starts a thread for each core; returns when all of them accept.
pub(super) fn spawn_all(
    shared: &Arc<Shared>,
    bound: Vec<Bound>,
    handles: Vec<Option<Handle>>,
) -> Result<Cores, ServeError> {
    let mut sockets: Vec<Vec<Socket>> = handles.iter().map(|_| Vec::new()).collect();
    for listener in bound {
        for (core, socket) in sockets.iter_mut().zip(listener.sockets) {
            core.push(socket);
        }
    }
    let mut workers = Vec::new();
    let mut nudges = Vec::new();
    let mut mailboxes = Vec::new();
    let (started, starting) = mpsc::channel();
    for (index, (sockets, handle)) in sockets.into_iter().zip(handles).enumerate() {
        let (nudge, nudged) = unbounded_channel();
        nudges.push(nudge);
        let (mailbox, inbox) = Inbox::new();
        mailboxes.push(mailbox);
        let shared = Arc::clone(shared);
        let started = started.clone();
        let worker = thread::Builder::new()
            .name(format!("mux-core-{index}"))
            .spawn(move || {
                let result = run(index as u16, &shared, handle, sockets, (nudged, inbox), &started);
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
    Ok(Cores { threads: workers, nudges, mailboxes })
}

type Started = mpsc::Sender<io::Result<()>>;

fn run(
    index: u16,
    shared: &Arc<Shared>,
    handle: Option<Handle>,
    sockets: Vec<Socket>,
    (nudged, inbox): (UnboundedReceiver<u32>, Inbox),
    started: &Started,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let core = Core::new(index, Arc::clone(shared), handle)?;
    let Inbox { errands, last } = inbox;
    let serving = serve(Rc::clone(&core), sockets, nudged, errands, started);
    let result = local.block_on(&runtime, serving);
    // Closes whatever did not end in time. It also ends the task that answers, whose channel is
    // what tells others that there will be no more answers, so the last one comes before.
    let _ = last.set(errand::last_report(&core));
    drop(local);
    result
}

async fn serve(
    core: Rc<Core>,
    sockets: Vec<Socket>,
    nudged: UnboundedReceiver<u32>,
    errands: Receiver<Errand>,
    started: &Started,
) -> io::Result<()> {
    let ready = core.readiness()?;
    let watch = tokio::task::spawn_local(Rc::clone(&core).run_watch(ready));
    tokio::task::spawn_local(Rc::clone(&core).run_nudges(nudged));
    tokio::task::spawn_local(Rc::clone(&core).run_timers());
    tokio::task::spawn_local(Rc::clone(&core).run_errands(errands));
    let listeners = core.shared.config.listeners.iter();
    for (index, (listener, socket)) in listeners.zip(sockets).enumerate() {
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
