//! The daemon: assembly at start, threads, signals, drain.
//!
//! `run` is a timeline: whatever needs privileges comes first, then they are dropped, then the
//! first connection is accepted.

mod availability;
mod budget;
mod diff;
mod events;
mod files;
mod janitor;
pub(crate) mod orders;
pub mod privileges;
mod reload;
mod running;
pub mod sandbox;
pub mod selftest;
mod signals;
pub(crate) mod transparent;
mod worker;

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;
use tracing::info;

pub(crate) use self::running::{Running, Setup};
pub use self::{
    availability::{Availability, Check, Status, find},
    budget::{Budget, TooFewDescriptors},
    janitor::{ARGUMENT as JANITOR, run as run_janitor},
    privileges::Needs,
    reload::Origin,
    sandbox::Sandbox,
};
use crate::{
    account::Hooks,
    admin,
    kernel::KernelError,
    listener::{self, BindError, Bound},
    metrics,
    rules::config::{Config, RelayChoice},
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
    /// Where the rules come from, to read them again.
    pub origin: Origin,
    /// Changes the log's level.
    pub level: SetLevel,
}

/// Changes the level of the daemon's log to that of `[log] level`, unless something that goes
/// before it has set the level.
pub struct SetLevel(pub Box<dyn Fn(&str)>);

impl std::fmt::Debug for SetLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SetLevel")
    }
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
    /// The limit of open files.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// Privileges could not be dropped.
    #[error(transparent)]
    Privileges(#[from] privileges::DropError),
    /// `source = "transparent"`, and others' addresses are not to be had.
    #[error(
        "[[upstream]] {upstream}: source = \"transparent\": {source}\nhint: it needs CAP_NET_RAW or CAP_NET_ADMIN; `mux doctor --rules FILE` says what else"
    )]
    Transparent {
        /// The upstream's name.
        upstream: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The access log's file.
    #[error("cannot open the access log {}: {source}", .path.display())]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The admin socket's file.
    #[error("[admin] socket {}: {action}: {source}", .path.display())]
    AdminSocket {
        /// The file.
        path: PathBuf,
        /// What was done.
        action: String,
        /// What the system said.
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
    let Options { config, relay, threads, origin, level } = options;
    let config = Arc::new(config);
    let cores = threads.unwrap_or_else(default_threads);
    let descriptors = privileges::raise_descriptor_limit();

    let budget = budget::work_out(&config, cores, descriptors)?;
    let bound = bind_all(&config, cores)?;
    let sockets = admin::bind(&config.admin)?;
    let mut setup = Setup::new(Arc::clone(&config), relay, bound, cores, budget)?;
    setup.rules_file = Some(origin.path.clone());
    let listeners = setup.bound.iter().filter_map(|bound| bound.file.as_ref());
    let files = listeners.chain(sockets.unix.as_ref().map(|(_, file)| file));
    let janitor = janitor::start(files).map_err(io_error("starting the janitor"))?;
    let needs = Needs {
        maps: setup.has_kernel_relay(),
        transparent: config.transparent().next().is_some(),
    };
    metrics::process::learn();
    let sandbox = Sandbox::prepare(&config, &origin.path);
    privileges::drop_all(&config.security.user, needs)?;
    sandbox.enter();

    let mut running = setup.start(Hooks::default())?;
    let signals = signals::catch().map_err(io_error("catching signals"))?;
    let (desk, orders) = orders::Desk::new();
    running.open_admin(sockets, desk)?;
    info!("ready");
    let shared = Arc::clone(running.shared());
    let mut daemon = Daemon { running, origin, level };
    signals::wait(signals, orders, &shared, &mut daemon)
        .map_err(io_error("waiting for signals"))?;
    let Daemon { running, .. } = daemon;
    running.remove_files();
    running.join();
    drop(janitor);
    Ok(())
}

/// Does what the daemon is told while it serves.
struct Daemon {
    running: Running,
    origin: Origin,
    level: SetLevel,
}

impl signals::Operator for Daemon {
    fn reload(&mut self) -> orders::Outcome {
        let outcome = self.running.reload(&self.origin);
        (self.level.0)(&self.running.shared().current.load().config.log.level);
        outcome
    }

    fn upgrade(&mut self) -> orders::Outcome {
        Err("this version of mux cannot; restart it".into())
    }
}

/// What fits under the limit of open files, which is left as it is.
pub(crate) fn budget(config: &Config, cores: usize) -> Result<Budget, ServeError> {
    Ok(budget::work_out(config, cores, privileges::descriptor_limit())?)
}

/// One a CPU that we may run on.
pub(crate) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Binds all listeners, in their order.
pub(crate) fn bind_all(config: &Config, cores: usize) -> Result<Vec<Bound>, ServeError> {
    config
        .listeners
        .iter()
        .map(|listener| {
            let v6_only = listener::needs_v6_only(listener, &config.listeners);
            let timers = listener.timers.or(config.timeouts.tcp);
            listener::bind(listener, cores, v6_only, timers).map_err(Into::into)
        })
        .collect()
}
