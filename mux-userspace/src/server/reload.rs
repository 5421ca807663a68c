//! Loading the rules again: all of the file is read, compiled and checked, and what it needs is
//! opened; only then it comes into force, at once. Until then nothing has changed.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use socket2::Socket;
use thiserror::Error;
use tracing::{info, warn};

use super::{
    Running, ServeError,
    diff::Diff,
    files, io_error,
    orders::Outcome,
    privileges, transparent,
    worker::{Follow, Sockets},
};
use crate::{
    accept::Listening,
    account::{Counter, access::Output},
    listener::{self, BindError, SocketFile, needs_v6_only},
    probe::Probes,
    rules::{
        self,
        config::{Config, ListenAddress, ListenerConfig, LogConfig},
    },
    shared::LoadFailure,
    snapshot::Snapshot,
    upstream::Upkeep,
};

/// How long the cores may take to go over to new rules, which they do between two connections.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the daemon's rules come from.
#[derive(Debug)]
pub struct Origin {
    /// The rules file; absolute.
    pub path: PathBuf,
    /// `--listen`.
    pub listen: Vec<ListenAddress>,
}

/// Why a configuration that is right did not come into force.
#[derive(Debug, Error)]
pub(super) enum ReloadError {
    /// Something that it asks for is not to be had.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A listener on `[::]` has IPv4 connections, too, that another one is to have.
    #[error(
        "listener {name}: {address} is bound for IPv4, too, and cannot give that up while mux runs\n\
         hint: restart mux"
    )]
    DualStack {
        /// The listener that there is.
        name: Arc<str>,
        /// Where it listens.
        address: SocketAddr,
    },
}

impl Origin {
    /// Reads the rules again, and logs what is odd about them.
    ///
    /// # Errors
    /// What is wrong with them, a line each.
    pub(super) fn load(&self) -> Result<Config, String> {
        let file = rules::open(&self.path, &Probes::default()).map_err(|error| {
            let problems = error.problems();
            let lines: Vec<String> =
                problems.iter().map(|problem| problem.line(&self.path)).collect();
            lines.join("\n")
        })?;
        for problem in file.report(file.warnings()).problems() {
            warn!("{}", problem.line(&self.path));
        }
        Ok(file.config.with_listen(&self.listen))
    }
}

/// The listeners of the next configuration.
struct Listeners {
    /// Indexed as the configuration's.
    all: Vec<Arc<Listening>>,
    /// Those among them that are new: indices.
    new: Vec<usize>,
    /// The cores' sockets of these.
    sockets: Vec<Sockets>,
    /// Their socket files.
    files: Files,
}

/// Socket files that have been made; removed by `Drop`, unless they are kept.
#[derive(Default)]
struct Files(Vec<SocketFile>);

impl Drop for Files {
    fn drop(&mut self) {
        for file in &self.0 {
            // We have made it just now.
            let _ = file.remove();
        }
    }
}

impl Listeners {
    /// Keeps those that are on the same address, and binds the others.
    fn new(before: &Snapshot, config: &Config, cores: usize) -> Result<Self, ReloadError> {
        let kept = keep(before, config);
        let mut listeners = Self {
            all: Vec::new(),
            new: Vec::new(),
            sockets: (0..cores).map(|_| Vec::new()).collect(),
            files: Files::default(),
        };
        for (index, (listener, kept)) in config.listeners.iter().zip(kept).enumerate() {
            let v6_only = needs_v6_only(listener, &config.listeners);
            let listening = match kept {
                Some(kept) => {
                    stays_dual_stack(listener, &kept, v6_only)?;
                    kept
                }
                None => {
                    listeners.new.push(index);
                    listeners.bind(before, config, listener, v6_only)?
                }
            };
            listeners.all.push(listening);
        }
        Ok(listeners)
    }

    fn bind(
        &mut self,
        before: &Snapshot,
        config: &Config,
        listener: &ListenerConfig,
        v6_only: bool,
    ) -> Result<Arc<Listening>, ReloadError> {
        let timers = listener.timers.or(config.timeouts.tcp);
        let bound = listener::bind(listener, self.sockets.len(), v6_only, timers)
            .map_err(|error| ServeError::Bind(with_hint(error, listener, before)))?
            .with_spares()
            .map_err(io_error("keeping sockets"))?;
        self.files.0.extend(bound.file.clone());
        let listening = Listening::new(&bound, v6_only, listener, self.sockets.len());
        distribute(&listening, bound.sockets, &mut self.sockets);
        Ok(listening)
    }
}

/// For each listener of the configuration the one that there is on its address. Addresses with port
/// 0 may stand several times: of these, names decide.
fn keep(before: &Snapshot, config: &Config) -> Vec<Option<Arc<Listening>>> {
    let mut left: Vec<_> = before.config.listeners.iter().zip(&before.listening).collect();
    let mut kept: Vec<Option<Arc<Listening>>> = vec![None; config.listeners.len()];
    for by_name in [true, false] {
        for (listener, kept) in config.listeners.iter().zip(&mut kept) {
            let same = |(other, _): &(&Arc<ListenerConfig>, _)| {
                other.address == listener.address && (!by_name || other.name == listener.name)
            };
            if kept.is_none()
                && let Some(at) = left.iter().position(same)
            {
                *kept = Some(Arc::clone(left.remove(at).1));
            }
        }
    }
    kept
}

fn stays_dual_stack(
    listener: &ListenerConfig,
    kept: &Listening,
    v6_only: bool,
) -> Result<(), ReloadError> {
    let ListenAddress::Tcp(address) = kept.address else { return Ok(()) };
    match (kept.v6_only, v6_only) {
        (false, true) => Err(ReloadError::DualStack { name: Arc::clone(&listener.name), address }),
        (true, false) => {
            warn!(listener = %listener.name, %address, "stays without IPv4 until mux is restarted");
            Ok(())
        }
        (false, false) | (true, true) => Ok(()),
    }
}

/// A hint for who reloads, where the usual one does not hold.
fn with_hint(error: BindError, listener: &ListenerConfig, before: &Snapshot) -> BindError {
    let port = |address: &ListenAddress| match address {
        ListenAddress::Tcp(address) => Some(address.port()),
        ListenAddress::Unix(_) | ListenAddress::Systemd(_) => None,
    };
    let wanted = port(&listener.address);
    let is_ours = wanted.is_some()
        && before.listening.iter().any(|listening| port(&listening.address) == wanted);
    match error.source.kind() {
        io::ErrorKind::PermissionDenied => error.with_hint(
            "\nhint: mux has given up the right to (a port below 1024, another user's directory, a file in a directory that the rules did not name at start): use `mux upgrade`, or restart it",
        ),
        io::ErrorKind::AddrInUse if is_ours => error.with_hint(
            "\nhint: another listener of mux has the port: remove that one with a first reload, or restart mux",
        ),
        // Foreign and open-ended.
        _ => error,
    }
}

/// Gives each core its socket; where there are more, several.
pub(super) fn distribute(listening: &Arc<Listening>, sockets: Vec<Socket>, cores: &mut [Sockets]) {
    let count = cores.len().max(1);
    for (number, socket) in sockets.into_iter().enumerate() {
        if let Some(core) = cores.get_mut(number % count) {
            core.push((Arc::clone(listening), socket));
        }
    }
}

impl Running {
    /// Loads the rules again, and opens the access log again in any case. The outcome is told in
    /// the log, too, unless it is an error.
    pub(super) fn reload(&mut self, origin: &Origin) -> Outcome {
        let loaded = origin
            .load()
            .and_then(|config| self.replace(config).map_err(|error| error.to_string()));
        let shared = self.shared();
        let outcome = match loaded {
            Ok(summary) => {
                shared.counters.count(Counter::Reloads);
                shared.last_failure.store(None);
                Ok(summary)
            }
            Err(reason) => {
                shared.counters.count(Counter::ReloadFailures);
                let failure = LoadFailure { at: SystemTime::now(), reason: reason.clone() };
                shared.last_failure.store(Some(Arc::new(failure)));
                Err(reason)
            }
        };
        self.reopen_access_log();
        if let Ok(summary) = &outcome {
            info!("reloaded: {summary}");
        }
        outcome
    }

    /// Puts a configuration in force; gives a summary of what is different.
    fn replace(&mut self, config: Config) -> Result<String, ReloadError> {
        let shared = Arc::clone(self.shared());
        let before = shared.current.load_full();
        let config = Arc::new(config);
        let cores = self.workers.followers.len();
        let budget = super::budget(&config, cores)?;
        transparent::permitted(&config)?;
        let mut listeners = Listeners::new(&before, &config, cores)?;
        let upkeep = match self.upkeep.take() {
            Some(upkeep) => upkeep,
            None => Upkeep::spawn(&before.upstreams, &shared.counters)
                .map_err(io_error("starting the upstreams' thread"))?,
        };
        let upkeep = &*self.upkeep.insert(upkeep);
        let watcher = files::spawn(config.network_files.clone(), Arc::clone(&shared.counters))
            .map_err(io_error("starting the files thread"))?;

        // Nothing fails from here on.
        listeners.files.0.clear();
        let all = std::mem::take(&mut listeners.all);
        let after = Arc::new(before.succeeded_by(Arc::clone(&config), all, budget));
        shared.connections.resize(Some(budget.connections));
        shared.sniffing.resize(after.limits.sniffing);
        for (listening, listener) in after.listening.iter().zip(&config.listeners) {
            listening.gate.resize(listener.max_connections);
        }
        shared.current.store(Arc::clone(&after));
        let removed = removed(&before, &after);
        for (_, listening) in &removed {
            remove_file(listening);
            listening.spares.release();
        }
        upkeep.follow(&after.upstreams);
        if let Some(watcher) = std::mem::replace(&mut self.watcher, watcher) {
            watcher.stop();
        }
        self.have_cores_follow(std::mem::take(&mut listeners.sockets));

        for (listener, listening) in removed {
            let address = listener::describe(&listening.address);
            info!(listener = %listener.name, %address, "no longer listening");
        }
        for index in &listeners.new {
            log_listening(&config.listeners[*index], &after.listening[*index]);
        }
        self.warn_of_what_stays(&config);
        let diff = Diff::new(&before.config, &config);
        diff.log();
        Ok(format!("{diff} (generation {})", after.generation))
    }

    /// Returns when they do, and have closed what is no listener any more.
    fn have_cores_follow(&self, sockets: Vec<Sockets>) {
        let (done, followed) = mpsc::channel();
        for (core, new) in self.workers.followers.iter().zip(sockets) {
            // One that has ended serves nobody.
            let _ = core.send(Follow { new, done: done.clone() });
        }
        drop(done);
        if followed.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            warn!("a core is busy; it goes over to the new rules when it comes to it");
        }
    }

    fn warn_of_what_stays(&self, config: &Config) {
        let loaded = self.shared().books.is_some();
        let settings = (&self.shared().kernel, &self.security, &self.opened);
        let fixed = Diff::fixed(settings, loaded, config);
        for key in fixed {
            warn!("{key} has changed, and stays as it was until mux is restarted");
        }
    }

    /// Opens the access log anew: it may have been renamed, or be another one now.
    fn reopen_access_log(&self) {
        let shared = self.shared();
        let current = shared.current.load();
        let LogConfig { access, access_file, .. } = &current.config.log;
        let owner = privileges::owner_of_files(&self.security.user);
        match Output::open(*access, access_file.as_deref(), owner) {
            Ok(output) => {
                if !shared.access.change(*access, output) {
                    warn!("the access log's writer is held up; it takes the new file when it can");
                }
            }
            Err(error) => {
                let path = access_file.as_deref().unwrap_or("".as_ref()).display();
                warn!(
                    "cannot open the access log {path}: {error}; lines go where they went before"
                );
            }
        }
    }
}

type Removed<'a> = Vec<(&'a Arc<ListenerConfig>, &'a Arc<Listening>)>;

/// Listeners that the next configuration does not have.
fn removed<'a>(before: &'a Snapshot, after: &Snapshot) -> Removed<'a> {
    let stays = |listening: &Arc<Listening>| {
        after.listening.iter().any(|other| Arc::ptr_eq(other, listening))
    };
    let all = before.config.listeners.iter().zip(&before.listening);
    all.filter(|(_, listening)| !stays(listening)).collect()
}

fn remove_file(listening: &Listening) {
    if let Some(file) = &listening.file
        && let Err(error) = file.remove()
    {
        let path = file.path().display();
        warn!("cannot remove {path}: {error}; it is removed when mux ends");
    }
}

pub(super) fn log_listening(listener: &ListenerConfig, listening: &Listening) {
    let address = listener::describe(&listening.address);
    info!(listener = %listener.name, %address, "listening");
}
