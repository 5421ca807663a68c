//! A core's thread: its runtime, its accept loops, its drain, and how it is told of new rules.

use std::{
    io,
    rc::{Rc, Weak},
    sync::{Arc, OnceLock, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::Socket;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use tracing::{debug, error, info};

use super::{ServeError, io_error};
use crate::{
    accept::{Acceptor, Listening},
    account::Report,
    core::{Core, Nudge},
    errand::{self, Errand, Inbox, Mailbox},
    kernel::Handle,
    relay::{Stop, evidence, packet::Gate},
    shared::Shared,
};

/// How long flows may take to end once they were ordered to.
const LAST_ORDERS: Duration = Duration::from_secs(3);

/// Where the events thread sends the keys of flows that want a look; one a core.
pub(super) type Nudges = Vec<UnboundedSender<Nudge>>;

/// A core's ways to the kernel, as far as its relays are in force.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    pub(super) kernel: Option<Handle>,
    pub(super) packets: Option<Gate>,
}

/// Cores that accept.
pub(super) struct Cores {
    pub(super) workers: Workers,
    pub(super) nudges: Nudges,
    pub(super) mailboxes: Vec<Mailbox>,
}

/// That a core is to go on as the configuration that is now in force says.
#[derive(Debug)]
pub(super) struct Follow {
    /// Its sockets of new listeners.
    pub(super) new: Sockets,
    /// Dropped when it does, and what is no listener any more is closed.
    pub(super) done: mpsc::Sender<()>,
}

/// A core's sockets, and whose they are.
pub(super) type Sockets = Vec<(Arc<Listening>, Socket)>;

/// The cores' threads.
#[derive(Debug)]
pub(super) struct Workers {
    pub(super) threads: Vec<JoinHandle<()>>,
    /// How each is told of new rules.
    pub(super) followers: Vec<UnboundedSender<Follow>>,
}

/// Starts a thread for each core, with these sockets; returns when all of them accept.
pub(super) fn spawn_all(
    shared: &Arc<Shared>,
    sockets: Vec<Sockets>,
    handles: Vec<Handles>,
) -> Result<Cores, ServeError> {
    let mut workers = Workers { threads: Vec::new(), followers: Vec::new() };
    let mut nudges = Vec::new();
    let mut mailboxes = Vec::new();
    let (started, starting) = mpsc::channel();
    for (index, (sockets, handles)) in sockets.into_iter().zip(handles).enumerate() {
        let (nudge, nudged) = unbounded_channel();
        nudges.push(nudge);
        let (mailbox, inbox) = Inbox::new();
        mailboxes.push(mailbox);
        let (follow, orders) = unbounded_channel();
        workers.followers.push(follow);
        let shared = Arc::clone(shared);
        let started = started.clone();
        let worker = thread::Builder::new()
            .name(format!("mux-core-{index}"))
            .spawn(move || {
                let mail = Mail { nudged, orders, errands: inbox.errands };
                let last = inbox.last;
                let result = run(index as u16, &shared, handles, sockets, mail, (&started, &last));
                if let Err(error) = result {
                    // Its sender is gone with it, which ends the wait below.
                    error!(core = index, %error, "a core cannot serve");
                    let _ = started.send(Err(error));
                }
            })
            .map_err(io_error("starting a core's thread"))?;
        workers.threads.push(worker);
    }
    drop(started);
    for _ in &workers.threads {
        if let Ok(Err(source)) = starting.recv() {
            return Err(ServeError::Io { action: "starting a core", source });
        }
    }
    Ok(Cores { workers, nudges, mailboxes })
}

type Started = mpsc::Sender<io::Result<()>>;

/// What others send a core.
struct Mail {
    nudged: UnboundedReceiver<Nudge>,
    orders: UnboundedReceiver<Follow>,
    errands: Receiver<Errand>,
}

fn run(
    index: u16,
    shared: &Arc<Shared>,
    handles: Handles,
    sockets: Sockets,
    mail: Mail,
    (started, last): (&Started, &OnceLock<Report>),
) -> io::Result<()> {
    // Not a `LocalSet` in a runtime: that is a scheduler in a scheduler, and a flow's task is woken by both.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(evidence::rests)
        .build_local(LocalOptions::default())?;
    let Handles { kernel, packets } = handles;
    let core = Core::new(index, Arc::clone(shared), kernel, packets)?;
    let result = runtime.block_on(serve(Rc::clone(&core), sockets, mail, started));
    // Closes whatever did not end in time. It also ends the task that answers, whose channel is
    // what tells others that there will be no more answers, so the last one comes before.
    let _ = last.set(errand::last_report(&core));
    drop(runtime);
    result
}

async fn serve(core: Rc<Core>, sockets: Sockets, mail: Mail, started: &Started) -> io::Result<()> {
    let Mail { nudged, orders, errands } = mail;
    let ready = core.readiness()?;
    let watch = tokio::task::spawn_local(Rc::clone(&core).run_watch(ready));
    tokio::task::spawn_local(Rc::clone(&core).run_nudges(nudged));
    tokio::task::spawn_local(Rc::clone(&core).run_timers());
    tokio::task::spawn_local(Rc::clone(&core).run_sniffing());
    tokio::task::spawn_local(Rc::clone(&core).run_errands(errands));
    let mut listeners = Listeners { core: Rc::clone(&core), open: Vec::new() };
    listeners.open(sockets)?;
    tokio::task::spawn_local(listeners.run(orders));
    let _ = started.send(Ok(()));

    let shared = Arc::clone(&core.shared);
    tokio::select! {
        () = shared.drain.cancelled() => {}
        failed = watch => {
            error!(?failed, "the private epoll failed; this core drains");
        }
    }
    core.tasks.close();
    let drain = shared.current.load().config.timeouts.drain;
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

/// A core's accept loops.
struct Listeners {
    core: Rc<Core>,
    /// An acceptor is its task's: its socket is closed when that ends.
    open: Vec<(Weak<Acceptor>, tokio::task::JoinHandle<()>)>,
}

impl Listeners {
    /// Follows the configurations that come into force, for ever.
    async fn run(mut self, mut orders: UnboundedReceiver<Follow>) {
        while let Some(Follow { new, done }) = orders.recv().await {
            if let Err(error) = self.open(new) {
                error!(core = self.core.index, %error, "a listener failed");
            }
            self.follow().await;
            drop(done);
        }
    }

    fn open(&mut self, sockets: Sockets) -> io::Result<()> {
        let current = self.core.shared.current.load_full();
        for (listening, socket) in sockets {
            let acceptor = Acceptor::new(&self.core, &current, listening, socket)?;
            self.open.extend(acceptor.map(|acceptor| {
                let acceptor = Rc::new(acceptor);
                let open = Rc::downgrade(&acceptor);
                (open, self.core.tasks.spawn_local(acceptor.run(Rc::clone(&self.core))))
            }));
        }
        Ok(())
    }

    async fn follow(&mut self) {
        let current = self.core.shared.current.load_full();
        self.core.pool.resize(current.limits.pipes_per_core);
        let leaving = self.core.follow_kernel_setting(current.config.kernel.sockmap);
        if leaving > 0 {
            debug!(core = self.core.index, leaving, "[kernel] sockmap: flows leave the kernel");
        }
        for (acceptor, accepting) in std::mem::take(&mut self.open) {
            let is_closing = acceptor.upgrade().is_none_or(|acceptor| {
                acceptor.follow(&current);
                acceptor.is_closing()
            });
            if is_closing {
                // Its socket is closed with its task.
                let _ = accepting.await;
            } else {
                self.open.push((acceptor, accepting));
            }
        }
    }
}
