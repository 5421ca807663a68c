//! The daemon: assembly at start, threads, signals, drain.
//!
//! `run` is a timeline: whatever needs privileges comes first, then they are dropped, then the
//! first connection is accepted.

mod availability;
mod budget;
mod channel;
mod confined;
mod devices;
mod diff;
mod events;
mod files;
mod handover;
mod keeper;
pub(crate) mod orders;
pub mod packets;
mod packettest;
pub mod privileges;
mod reload;
mod running;
pub mod sandbox;
pub mod selftest;
mod signals;
mod sockets;
mod systemd;
pub(crate) mod transparent;
mod upgrade;
mod watchdog;
mod worker;

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;
use tracing::info;

pub use self::{
    availability::{Availability, Check, Status, find},
    budget::{Budget, TooFewDescriptors},
    handover::Predecessor,
    keeper::{ARGUMENT as KEEPER, run as run_keeper},
    privileges::Needs,
    reload::Origin,
    sandbox::Sandbox,
    sockets::Started,
};
pub(crate) use self::{
    handover::Offered,
    running::{Running, Setup},
};
use self::{sockets::Gathered, upgrade::Upgrades};
use crate::{
    account::Hooks,
    kernel::{KernelError, packet::PacketError},
    listener::{self, BindError, Bound},
    metrics,
    rules::config::{Config, KeeperMode, RelayChoice},
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
    /// `--relay packet` or `sockmap`, and it is not to be had.
    #[error(
        "the {relay} relay was required and is not to be had: {why}\nhint: `mux doctor` says what it needs"
    )]
    RelayRequired {
        /// Which.
        relay: RelayChoice,
        /// Why not.
        why: String,
        /// Whether privileges would do.
        permission: bool,
    },
    /// The kernel refused after it had agreed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The same, of the packet relay's half.
    #[error(transparent)]
    Packets(#[from] PacketError),
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
    /// The daemon that this process was to succeed does not want that any more.
    #[error("the daemon before this one has changed its mind")]
    Cancelled,
    /// A socket that systemd should have passed.
    #[error("cannot listen on {address}: {reason}")]
    Passed {
        /// The listener's.
        address: String,
        /// Why not.
        reason: String,
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
pub fn run(options: Options, mut started: Started) -> Result<(), ServeError> {
    let Options { config, relay, threads, origin, level } = options;
    let config = Arc::new(config);
    let cores = threads.unwrap_or_else(default_threads);
    let descriptors = privileges::raise_descriptor_limit();

    let budget = budget::work_out(&config, cores, descriptors)?;
    let Gathered { listeners, admin, taken } = sockets::gather(&config, cores, &mut started)?;
    let mut setup = Setup::new(Arc::clone(&config), relay, listeners, cores, budget)?;
    setup.rules_file = Some(origin.path.clone());
    let listeners = setup.bound.iter().filter_map(|bound| bound.file.as_ref());
    let files = listeners.chain(admin.unix.as_ref().map(|(_, file)| file));
    let keeper = match config.security.keeper {
        KeeperMode::Auto => {
            let keeper = keeper::start(files, &setup.devices_to_clear());
            Some(keeper.map_err(io_error("starting the keeper"))?)
        }
        KeeperMode::Off => None,
    };
    let needs = Needs {
        maps: setup.has_kernel_relay(),
        transparent: config.transparent().next().is_some(),
    };
    metrics::process::learn();
    let sandbox = Sandbox::prepare(&config, &origin.path);
    privileges::drop_all(&config.security.user, needs)?;
    let security = sandbox.enter();

    let mut running = setup.start(Hooks::default())?;
    let signals = signals::catch().map_err(io_error("catching signals"))?;
    let (desk, orders) = orders::Desk::new();
    let cores = running.mailboxes();
    running.open_admin(admin, desk.clone(), security)?;
    info!("ready");
    systemd::serving(running.shared());
    watchdog::start(running.shared(), cores);
    let predecessor = started.predecessor;
    if let Some(predecessor) = &predecessor {
        predecessor.serving(taken);
        predecessor.listen(desk).map_err(io_error("listening to the old daemon"))?;
    }
    let shared = Arc::clone(running.shared());
    let upgrades = Upgrades::new(Arc::clone(&shared), keeper, predecessor);
    let mut daemon = Daemon { running, origin, level, upgrades };
    signals::wait(signals, orders, &shared, &mut daemon)
        .map_err(io_error("waiting for signals"))?;
    let Daemon { mut running, upgrades, .. } = daemon;
    if upgrades.is_succeeded() {
        running.leave_files();
    }
    running.remove_files();
    running.join();
    // The keeper goes last: it removes what is left of the files.
    drop(upgrades);
    Ok(())
}

/// Does what the daemon is told while it serves.
struct Daemon {
    running: Running,
    origin: Origin,
    level: SetLevel,
    upgrades: Upgrades,
}

impl signals::Operator for Daemon {
    fn reload(&mut self) -> orders::Outcome {
        let obstacle = self.upgrades.obstacle();
        if self.upgrades.is_succeeded() {
            // The service manager's business is with the successor.
            return Err(obstacle.unwrap_or_default().into());
        }
        // Whoever sent SIGHUP may wait for both messages, whatever comes of it.
        systemd::reloading();
        let outcome = obstacle.map_or_else(|| self.read_again(), |why| Err(why.into()));
        systemd::reloaded(self.running.shared(), &outcome);
        outcome
    }

    fn upgrade(&mut self, who: &'static str, reply: Option<signals::Reply>) {
        self.upgrades.start(self.running.offered(), who, reply);
    }

    async fn finished(&mut self) {
        self.upgrades.finished().await;
    }

    fn drain(&mut self) {
        self.upgrades.leave_predecessor();
        if !self.upgrades.is_succeeded() {
            systemd::stopping();
        }
        self.upgrades.drain();
        for offered in self.running.offered() {
            offered.spares.release();
        }
    }
}

impl Daemon {
    fn read_again(&mut self) -> orders::Outcome {
        let before = self.running.offered();
        let outcome = self.running.reload(&self.origin);
        (self.level.0)(&self.running.shared().current.load().config.log.level);
        let after = self.running.offered();
        let stays = |one: &Offered| after.iter().any(|other| one.is_same(other));
        if !before.iter().all(stays) {
            // What is closed here is open as long as the predecessor has it.
            self.upgrades.leave_predecessor();
        }
        outcome
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
