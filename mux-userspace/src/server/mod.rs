//! The daemon: assembly at start, threads, signals, drain.
//!
//! `run` is a timeline: whatever needs privileges comes first, then they are dropped, then the
//! first connection is accepted.

mod availability;
mod events;
mod janitor;
pub mod privileges;
pub mod selftest;
mod signals;
mod worker;

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::{
    availability::{Availability, Check, Status, find},
    janitor::{ARGUMENT as JANITOR, run as run_janitor},
};
use crate::{
    account::{AccessLog, Counters},
    kernel::{self, Handle, Kernel, KernelError},
    listener::{self, BindError, Bound},
    rules::config::{Config, RelayChoice},
    shared::{Limits, Owners, Shared},
    upstream::{Groups, Upkeep},
};

/// How the daemon is started.
#[derive(Debug)]
pub struct Options {
    /// The rules.
    pub config: Config,
    /// `--relay`.
    pub relay: Option<RelayChoice>,
    /// `--threads`; `None`: one a CPU that we may run on.
    pub threads: Option<usize>,
}

/// Why the daemon could not serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// `--relay sockmap`, and it is not to be had.
    #[error(
        "the sockmap relay was required and is not to be had: {why}\nhint: `mux doctor` says what it needs"
    )]
    RelayRequired {
        /// Why not.
        why: String,
        /// Whether privileges would do.
        permission: bool,
    },
    /// The kernel refused after it had agreed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Privileges could not be dropped.
    #[error(transparent)]
    Privileges(#[from] privileges::DropError),
    /// The access log's file.
    #[error("cannot open the access log {}: {source}", .path.display())]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another system call.
    #[error("{action}: {source}")]
    Io {
        /// What was done.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Io { action, source }
}

/// Serves until a signal ends it and its flows are over.
///
/// # Errors
/// [`ServeError`], before the first connection is accepted.
pub fn run(options: Options) -> Result<(), ServeError> {
    let Options { config, relay, threads } = options;
    let config = Arc::new(config);
    let cores = threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    privileges::raise_descriptor_limit();

    let bound = bind_all(&config, cores)?;
    let (kernel, unavailable) = kernel_relay(&config, relay)?;
    let handles = handles(kernel.as_ref(), cores)?;
    let counters = Arc::new(Counters::default());
    let (access, access_writer) = open_access_log(&config, &counters)?;
    let janitor = janitor::start(&bound).map_err(io_error("starting the janitor"))?;
    privileges::drop_all(&config.security.user, kernel.is_some())?;

    let shared = Arc::new(Shared {
        relay,
        unavailable,
        books: kernel.as_ref().map(|kernel| Arc::clone(kernel.books())),
        owners: Owners::new(kernel.as_ref().map_or(0, Kernel::capacity)),
        counters,
        access,
        limits: Limits::new(&config),
        upstreams: Groups::new(&config),
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
        id_base: u64::from(std::process::id()) << 48,
        config,
    });
    for (listener, bound) in shared.config.listeners.iter().zip(&bound) {
        info!(listener = %listener.name, address = %listener::describe(&bound.address), "listening");
    }
    serve(&shared, bound, kernel, handles)?;

    drop(janitor);
    info!("stopped: {}", shared.counters.summary());
    // The log's writer ends when the last handle to it is gone.
    drop(shared);
    access_writer.finish();
    Ok(())
}

/// Runs the cores until they are done.
fn serve(
    shared: &Arc<Shared>,
    bound: Vec<Bound>,
    mut kernel: Option<Kernel>,
    handles: Vec<Option<Handle>>,
) -> Result<(), ServeError> {
    let files: Vec<_> = bound.iter().filter_map(|bound| bound.file.clone()).collect();
    let upkeep = Upkeep::start(&shared.upstreams, &shared.counters)
        .map_err(io_error("starting the upstreams' thread"))?;
    let (workers, nudges) = worker::spawn_all(shared, bound, handles)?;
    let events = match &mut kernel {
        Some(kernel) => Some(events::spawn(kernel, Arc::clone(shared), nudges)?),
        None => None,
    };
    let signals = signals::catch().map_err(io_error("catching signals"))?;
    info!("ready");
    signals::wait(signals, shared).map_err(io_error("waiting for signals"))?;
    for file in files {
        // The janitor tries again with the privileges to.
        let _ = file.remove();
    }
    for worker in workers {
        if worker.join().is_err() {
            warn!("a core's thread panicked; its connections are closed");
        }
    }
    if let Some(upkeep) = upkeep {
        upkeep.stop();
    }
    if let Some(events) = events {
        events.stop();
    }
    if let Some(kernel) = &kernel {
        match kernel.stats() {
            Ok(stats) => info!("verdict: {}", kernel::summary(&stats)),
            Err(error) => warn!("{error}"),
        }
    }
    Ok(())
}

fn bind_all(config: &Config, cores: usize) -> Result<Vec<Bound>, ServeError> {
    config
        .listeners
        .iter()
        .map(|listener| {
            let v6_only = listener::needs_v6_only(listener, &config.listeners);
            listener::bind(listener, cores, v6_only).map_err(Into::into)
        })
        .collect()
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

fn handles(kernel: Option<&Kernel>, cores: usize) -> Result<Vec<Option<Handle>>, ServeError> {
    (0..cores).map(|_| kernel.map(Kernel::handle).transpose().map_err(Into::into)).collect()
}

fn open_access_log(
    config: &Config,
    counters: &Arc<Counters>,
) -> Result<(AccessLog, crate::account::access::Writer), ServeError> {
    let path = config.log.access_file.as_deref();
    AccessLog::open(config.log.access, path, Arc::clone(counters)).map_err(|source| {
        ServeError::AccessLog { path: path.map(Into::into).unwrap_or_default(), source }
    })
}
