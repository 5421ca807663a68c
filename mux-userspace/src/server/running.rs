//! A serving set of cores: what the daemon and an embedding program have in common.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Availability, Budget, Check, ServeError, events, files, find,
    handover::Offered,
    io_error,
    orders::Desk,
    packets::{self, gate},
    privileges,
    reload::{distribute, log_listening},
    transparent,
    worker::{self, Cores, Handles, Sockets, Workers},
};
use crate::{
    accept::Listening,
    account::{
        AccessLog, Counters, Hooks,
        access::{Output, Writer},
    },
    admin::{self, Admin, Facts, Readers, State, view::SecurityStatus},
    errand::Mailbox,
    kernel::{
        self, Kernel, StatsReader,
        packet::{Mechanism, PacketKernel, PacketStatsReader},
    },
    limit::{gate::Gate, sniffing::Crowd},
    listener::{Bound, describe, needs_v6_only},
    rules::config::{AdminConfig, Config, PacketMode, RelayChoice, SecurityConfig},
    shared::{Owners, Shared},
    snapshot::Snapshot,
    throttle::Throttles,
    upstream::Upkeep,
};

/// Everything that was opened while there were privileges to.
#[derive(Debug)]
pub(crate) struct Setup {
    config: Arc<Config>,
    relay: Option<RelayChoice>,
    pub(crate) bound: Vec<Bound>,
    kernel: Option<Kernel>,
    unavailable: Option<String>,
    packets: Option<PacketKernel>,
    no_packets: Option<String>,
    handles: Vec<Handles>,
    budget: Budget,
    counters: Arc<Counters>,
    access: Output,
    checks: Vec<Check>,
    self_test: Option<Duration>,
    stats: Option<StatsReader>,
    packet_stats: Option<PacketStatsReader>,
    /// Where the rules come from, if it is from a file that can be read again.
    pub(super) rules_file: Option<PathBuf>,
}

/// Cores that serve.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
    pub(super) workers: Workers,
    events: Option<events::Reader>,
    pub(super) watcher: Option<files::Watcher>,
    pub(super) upkeep: Option<Upkeep>,
    kernel: Option<Kernel>,
    packets: Option<PacketKernel>,
    /// `[security]` as it was at start.
    pub(super) security: SecurityConfig,
    /// `[admin]` as it was at start.
    pub(super) opened: AdminConfig,
    access_writer: Writer,
    /// What the admin socket is to tell, until it is open.
    telling: Option<Telling>,
    admin: Option<Admin>,
    /// Whether a successor has the socket files.
    succeeded: bool,
}

/// What the admin socket tells beside what the cores share.
#[derive(Debug)]
struct Telling {
    facts: Facts,
    mailboxes: Vec<Mailbox>,
    stats: Readers,
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
        let Found { kernel, unavailable, packets, no_packets, checks, self_test } =
            kernel_relays(&config, relay, &bound)?;
        let stats = kernel.as_ref().map(Kernel::stats_reader).transpose()?;
        let packet_stats = packets.as_ref().map(PacketKernel::stats_reader).transpose()?;
        let handles = (0..cores)
            .map(|_| {
                Ok(Handles {
                    kernel: kernel.as_ref().map(Kernel::handle).transpose()?,
                    packets: packets.as_ref().map(gate).transpose()?,
                })
            })
            .collect::<Result<_, ServeError>>()?;
        let counters = Arc::new(Counters::default());
        let access = open_access_log(&config)?;
        Ok(Self {
            config,
            relay,
            bound,
            kernel,
            unavailable,
            packets,
            no_packets,
            handles,
            budget,
            counters,
            access,
            checks,
            self_test,
            stats,
            packet_stats,
            rules_file: None,
        })
    }

    /// Whether one of the kernel's relays is in force.
    pub(crate) fn has_kernel_relay(&self) -> bool {
        self.kernel.is_some() || self.packets.is_some()
    }

    /// Network devices that keep the packet relay's programs when this process is gone.
    pub(crate) fn devices_to_clear(&self) -> Vec<u32> {
        let attachments = self.packets.iter().flat_map(|packets| packets.attachments());
        attachments
            .filter(|attachment| attachment.mechanism() == Mechanism::Clsact)
            .map(|attachment| attachment.device())
            .collect()
    }

    /// Starts the cores; when this returns, they accept.
    pub(crate) fn start(self, hooks: Hooks) -> Result<Running, ServeError> {
        let Self {
            config,
            relay,
            bound,
            mut kernel,
            unavailable,
            mut packets,
            no_packets,
            handles,
            budget,
            counters,
            access,
            checks,
            self_test,
            stats,
            packet_stats,
            rules_file,
        } = self;
        let (listening, sockets) = listen(&config, bound, handles.len());
        let (access, access_writer) =
            AccessLog::start(config.log.access, access, Arc::clone(&counters))
                .map_err(io_error("starting the access log's thread"))?;
        let shared = Arc::new(Shared {
            relay,
            unavailable,
            no_packets,
            packets: packets.as_ref().map(|packets| Arc::clone(packets.records())),
            books: kernel.as_ref().map(|kernel| Arc::clone(kernel.books())),
            owners: Owners::new(kernel.as_ref().map_or(0, Kernel::capacity)),
            counters,
            access,
            hooks,
            connections: Gate::new(Some(budget.connections)),
            sniffing: Crowd::new(Some(config.limits.sniffing(budget.connections)), handles.len()),
            rules_file,
            last_failure: ArcSwapOption::empty(),
            throttles: Throttles::default(),
            kernel: config.kernel.clone(),
            current: ArcSwap::from_pointee(Snapshot::first(Arc::clone(&config), listening, budget)),
            drain: CancellationToken::new(),
            presence: Arc::default(),
            abort: CancellationToken::new(),
            id_base: u64::from(std::process::id()) << 48,
        });
        let current = shared.current.load_full();
        for (listener, listening) in config.listeners.iter().zip(&current.listening) {
            log_listening(listener, listening);
        }
        let sniffing = current.limits.sniffing;
        info!(connections = budget.connections, sniffing, "limits");
        let network_files = config.network_files.clone();
        let watcher = files::spawn(network_files, Arc::clone(&shared.counters))
            .map_err(io_error("starting the files thread"))?;
        let upkeep = Upkeep::start(&current.upstreams, &shared.counters)
            .map_err(io_error("starting the upstreams' thread"))?;
        let Cores { workers, nudges, mailboxes } = worker::spawn_all(&shared, sockets, handles)?;
        let events = if kernel.is_some() || packets.is_some() {
            let shared = Arc::clone(&shared);
            Some(events::spawn(kernel.as_mut(), packets.as_mut(), shared, nudges)?)
        } else {
            None
        };
        let stats = Readers { verdict: stats, packets: packet_stats };
        let security = config.security.clone();
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let security_status = SecurityStatus::default();
        let facts = Facts { started, started_at, checks, self_test, security: security_status };
        Ok(Running {
            shared,
            workers,
            events,
            watcher,
            upkeep,
            kernel,
            packets,
            security,
            opened: config.admin.clone(),
            access_writer,
            telling: Some(Telling { facts, mailboxes, stats }),
            admin: None,
            succeeded: false,
        })
    }
}

impl Running {
    /// What the cores share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where each core is asked, until the admin sockets are open.
    pub(super) fn mailboxes(&self) -> Vec<Mailbox> {
        self.telling.as_ref().map(|telling| telling.mailboxes.clone()).unwrap_or_default()
    }

    /// Lets others ask and give orders over these sockets; can be done once. `security` is what they
    /// are told of the daemon's privileges.
    pub(crate) fn open_admin(
        &mut self,
        sockets: admin::Sockets,
        desk: Desk,
        security: SecurityStatus,
    ) -> Result<(), ServeError> {
        if let Some(Telling { facts, mailboxes, stats }) = self.telling.take() {
            let facts = Facts { security, ..facts };
            let state = State::new(Arc::clone(&self.shared), mailboxes, desk, facts, stats);
            self.admin = admin::spawn(sockets, state)?;
        }
        Ok(())
    }

    /// Waits until the cores are done, which they are some time after [`Shared::drain`] or
    /// [`Shared::abort`] was cancelled, and clears up.
    pub(crate) fn join(self) {
        let Self {
            shared,
            workers,
            events,
            watcher,
            upkeep,
            kernel,
            packets,
            security: _,
            opened: _,
            access_writer,
            telling: _,
            admin,
            succeeded,
        } = self;
        for worker in workers.threads {
            if worker.join().is_err() {
                warn!("a core's thread panicked; its connections are closed");
            }
        }
        // Not earlier: one can see how the drain goes.
        if let Some(admin) = admin {
            admin.stop(succeeded);
        }
        remove_files(&shared, succeeded);
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
                Ok(stats) => told("verdict", &kernel::summary(&stats)),
                Err(error) => warn!("{error}"),
            }
        }
        if let Some(packets) = &packets {
            match packets.stats_reader().and_then(|reader| reader.read()) {
                Ok(stats) => told("packets", &packets::summary(&stats)),
                Err(error) => warn!("{error}"),
            }
        }
        info!("stopped: {}", shared.counters.summary());
        access_writer.finish(&shared.access);
    }

    /// Removes the files of Unix sockets, so that nobody finds a daemon that no longer accepts.
    pub(crate) fn remove_files(&self) {
        remove_files(&self.shared, self.succeeded);
    }

    /// A successor has the Unix sockets: their files stay where it does.
    pub(super) fn leave_files(&mut self) {
        self.succeeded = true;
    }

    /// What a successor can have.
    pub(super) fn offered(&self) -> Vec<Offered> {
        let current = self.shared.current.load();
        let listeners = current.config.listeners.iter().zip(&current.listening);
        let listeners = listeners.map(|(listener, listening)| Offered {
            address: describe(&listener.address),
            file: listening.file.clone(),
            spares: Arc::clone(&listening.spares),
        });
        let admin = self.admin.iter().flat_map(|admin| admin.offered(&self.opened));
        listeners.chain(admin).collect()
    }
}

/// What came of looking for the kernel's relays.
struct Found {
    kernel: Option<Kernel>,
    unavailable: Option<String>,
    packets: Option<PacketKernel>,
    no_packets: Option<String>,
    checks: Vec<Check>,
    self_test: Option<Duration>,
}

/// Says what a program's counters are; nothing, where it has had nothing to do.
fn told(program: &str, counters: &str) {
    if !counters.is_empty() {
        info!("{program}: {counters}");
    }
}

fn remove_files(shared: &Shared, succeeded: bool) {
    for file in shared.current.load().listening.iter().filter_map(|one| one.file.as_ref()) {
        // The keeper tries again with the privileges to.
        let _ = if succeeded { file.remove_unused() } else { file.remove() };
    }
}

/// The listeners, indexed as the configuration's, and each core's sockets of them.
fn listen(config: &Config, bound: Vec<Bound>, cores: usize) -> (Vec<Arc<Listening>>, Vec<Sockets>) {
    let mut sockets: Vec<Sockets> = (0..cores).map(|_| Vec::new()).collect();
    let all = config.listeners.iter().zip(bound).map(|(listener, bound)| {
        let v6_only = needs_v6_only(listener, &config.listeners);
        let listening = Listening::new(&bound, v6_only, listener, cores);
        distribute(&listening, bound.sockets, &mut sockets);
        listening
    });
    (all.collect(), sockets)
}

/// Loads the kernel's relays if they are wanted and to be had; says once which is in force.
fn kernel_relays(
    config: &Config,
    relay: Option<RelayChoice>,
    bound: &[Bound],
) -> Result<Found, ServeError> {
    if let Some(choice @ (RelayChoice::Copy | RelayChoice::Splice)) = relay {
        let why = format!("--relay {choice}");
        info!("relay: user space ({why})");
        return Ok(Found {
            kernel: None,
            unavailable: Some(why.clone()),
            packets: None,
            no_packets: Some(why),
            checks: Vec::new(),
            self_test: None,
        });
    }
    let Availability { kernel, mut checks, self_test } = find(&config.kernel);
    let unavailable = match (&kernel, checks.iter().find_map(Check::problem)) {
        (Some(_), None) => None,
        (_, why) => Some(why.unwrap_or_else(|| "unknown".into())),
    };
    let listening: Vec<SocketAddr> = bound.iter().filter_map(Bound::ip_address).collect();
    let packets = packets::find(config, Some(&listening));
    let no_packets = packets.why_not();
    let required = match relay {
        Some(RelayChoice::Sockmap) => unavailable.as_ref(),
        Some(RelayChoice::Packet) => no_packets.as_ref(),
        _ => None,
    };
    if let (Some(relay), Some(why)) = (relay, required) {
        let permission = checks.iter().any(Check::is_permission);
        return Err(ServeError::RelayRequired { relay, why: why.clone(), permission });
    }
    let others = unavailable
        .as_ref()
        .map_or("sockmap (the kernel carries established flows)", |_| "user space");
    match (&no_packets, &unavailable) {
        (None, None) => {
            info!(
                "relay: packet (established flows are translated, on {}), then {others}",
                packets.devices()
            );
        }
        (None, Some(why)) => {
            warn!(
                "relay: packet (established flows are translated, on {}), then {others}; sockmap is not in force: {why}",
                packets.devices()
            );
        }
        (Some(why), None) if config.kernel.packet != PacketMode::Off => {
            info!("relay: {others}; packet is not in force: {why}");
        }
        (Some(_), None) => info!("relay: {others}"),
        (Some(_), Some(why)) => {
            warn!("relay: {others}; the kernel relay is not in force: {why}");
        }
    }
    checks.extend(packets.checks);
    Ok(Found { kernel, unavailable, packets: packets.kernel, no_packets, checks, self_test })
}

fn open_access_log(config: &Config) -> Result<Output, ServeError> {
    let path = config.log.access_file.as_deref();
    let owner = privileges::owner_of_files(&config.security.user);
    Output::open(config.log.access, path, owner).map_err(|source| ServeError::AccessLog {
        path: path.map(Into::into).unwrap_or_default(),
        source,
    })
}
