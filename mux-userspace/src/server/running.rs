//! A serving set of cores: what the daemon and an embedding program have in common.

use std::{sync::Arc, thread::JoinHandle};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Availability, Budget, Check, ServeError, events, files, find, io_error, transparent, worker,
};
use crate::{
    account::{AccessLog, Counters, Hooks, access::Writer},
    kernel::{self, Handle, Kernel},
    listener::{Bound, SocketFile},
    rules::config::{Config, RelayChoice},
    shared::{Limits, Owners, Shared},
    upstream::{Groups, Upkeep},
};

/// Everything that was opened while there were privileges to.
#[derive(Debug)]
pub(crate) struct Setup {
    config: Arc<Config>,
    relay: Option<RelayChoice>,
    pub(crate) bound: Vec<Bound>,
    kernel: Option<Kernel>,
    unavailable: Option<String>,
    handles: Vec<Option<Handle>>,
    budget: Budget,
    counters: Arc<Counters>,
    access: AccessLog,
    access_writer: Writer,
}

/// Cores that serve.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    events: Option<events::Reader>,
    watcher: Option<files::Watcher>,
    upkeep: Option<Upkeep>,
    kernel: Option<Kernel>,
    files: Vec<SocketFile>,
    access_writer: Writer,
}

impl Setup {
    /// Loads the kernel relay and opens the access log. `bound` are the listeners' sockets, in
    /// the order of the configuration, `cores` of each.
    pub(crate) fn new(
        config: Arc<Config>,
        relay: Option<RelayChoice>,
        bound: Vec<Bound>,
        cores: usize,
        budget: Budget,
    ) -> Result<Self, ServeError> {
        transparent::permitted(&config)?;
        let (kernel, unavailable) = kernel_relay(&config, relay)?;
        let handles = (0..cores)
            .map(|_| kernel.as_ref().map(Kernel::handle).transpose())
            .collect::<Result<_, _>>()?;
        let counters = Arc::new(Counters::default());
        let (access, access_writer) = open_access_log(&config, &counters)?;
        Ok(Self {
            config,
            relay,
            bound,
            kernel,
            unavailable,
            handles,
            budget,
            counters,
            access,
            access_writer,
        })
    }

    /// Whether the kernel relay is in force.
    pub(crate) fn has_kernel_relay(&self) -> bool {
        self.kernel.is_some()
    }

    /// Starts the cores; when this returns, they accept.
    pub(crate) fn start(self, hooks: Hooks) -> Result<Running, ServeError> {
        let Self {
            config,
            relay,
            bound,
            mut kernel,
            unavailable,
            handles,
            budget,
            counters,
            access,
            access_writer,
        } = self;
        let shared = Arc::new(Shared {
            relay,
            unavailable,
            books: kernel.as_ref().map(|kernel| Arc::clone(kernel.books())),
            owners: Owners::new(kernel.as_ref().map_or(0, Kernel::capacity)),
            counters,
            access,
            hooks,
            limits: Limits::new(&config, budget, handles.len()),
            upstreams: Groups::new(&config),
            drain: CancellationToken::new(),
            presence: Arc::default(),
            abort: CancellationToken::new(),
            id_base: u64::from(std::process::id()) << 48,
            config,
        });
        for (listener, bound) in shared.config.listeners.iter().zip(&bound) {
            let address = crate::listener::describe(&bound.address);
            info!(listener = %listener.name, %address, "listening");
        }
        let most = shared.limits.connections.available_permits();
        info!(connections = most, sniffing_a_core = shared.limits.sniffing_per_core, "limits");
        let network_files = shared.config.network_files.clone();
        let watcher = files::spawn(network_files, Arc::clone(&shared.counters))
            .map_err(io_error("starting the files thread"))?;
        let upkeep = Upkeep::start(&shared.upstreams, &shared.counters)
            .map_err(io_error("starting the upstreams' thread"))?;
        let files = bound.iter().filter_map(|bound| bound.file.clone()).collect();
        let (workers, nudges) = worker::spawn_all(&shared, bound, handles)?;
        let events = match &mut kernel {
            Some(kernel) => Some(events::spawn(kernel, Arc::clone(&shared), nudges)?),
            None => None,
        };
        Ok(Running { shared, workers, events, watcher, upkeep, kernel, files, access_writer })
    }
}

impl Running {
    /// What the cores share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits until the cores are done, which they are some time after [`Shared::drain`] or
    /// [`Shared::abort`] was cancelled, and clears up.
    pub(crate) fn join(self) {
        let Self { shared, workers, events, watcher, upkeep, kernel, files, access_writer } = self;
        for worker in workers {
            if worker.join().is_err() {
                warn!("a core's thread panicked; its connections are closed");
            }
        }
        for file in files {
            // Without the right to, it is the keeper's to do.
            let _ = file.remove();
        }
        if let Some(events) = events {
            events.stop();
        }
        if let Some(watcher) = watcher {
            watcher.stop();
        }
        if let Some(upkeep) = upkeep {
            upkeep.stop();
        }
        if let Some(kernel) = &kernel {
            match kernel.stats() {
                Ok(stats) => info!("verdict: {}", kernel::summary(&stats)),
                Err(error) => warn!("{error}"),
            }
        }
        info!("stopped: {}", shared.counters.summary());
        // The log's writer ends when the last handle to it is gone.
        drop(shared);
        access_writer.finish();
    }

    /// Leaves the files of Unix sockets: they are a successor's now.
    pub(crate) fn leave_files(&mut self) {
        self.files.clear();
    }

    /// Removes the files of Unix sockets, so that nobody finds a daemon that no longer accepts.
    pub(crate) fn remove_files(&self) {
        for file in &self.files {
            // The keeper tries again with the privileges to.
            let _ = file.remove();
        }
    }
}

/// Loads the kernel relay if it is wanted and to be had; says once which relay is in force.
fn kernel_relay(
    config: &Config,
    relay: Option<RelayChoice>,
) -> Result<(Option<Kernel>, Option<String>), ServeError> {
    if matches!(relay, Some(RelayChoice::Copy | RelayChoice::Splice)) {
        let why = format!("--relay {}", relay.unwrap_or_default());
        info!("relay: user space ({why})");
        return Ok((None, Some(why)));
    }
    let Availability { kernel, checks } = find(&config.kernel);
    let why_not = checks.iter().find_map(Check::problem);
    match (kernel, why_not) {
        (Some(kernel), None) => {
            info!("relay: sockmap (the kernel carries established flows)");
            Ok((Some(kernel), None))
        }
        (_, why) => {
            let why = why.unwrap_or_else(|| "unknown".into());
            if relay == Some(RelayChoice::Sockmap) {
                let permission = checks.iter().any(Check::is_permission);
                return Err(ServeError::RelayRequired { why, permission });
            }
            warn!("relay: user space; the kernel relay is not in force: {why}");
            Ok((None, Some(why)))
        }
    }
}

fn open_access_log(
    config: &Config,
    counters: &Arc<Counters>,
) -> Result<(AccessLog, Writer), ServeError> {
    let path = config.log.access_file.as_deref();
    AccessLog::open(config.log.access, path, Arc::clone(counters)).map_err(|source| {
        ServeError::AccessLog { path: path.map(Into::into).unwrap_or_default(), source }
    })
}
