//! One configuration in force: what it says, and what is counted and kept for it.

use std::{num::NonZeroU32, sync::Arc, time::SystemTime};

use tokio::sync::Semaphore;

use crate::{
    limit::{Limit, source::Sources},
    rules::config::{Config, ListenerConfig},
    server::Budget,
    upstream::Groups,
};

/// A configuration in force. A connection takes the one that is in force when it is accepted and
/// keeps it: its rules, its limits and its upstreams are those.
#[derive(Debug)]
pub struct Snapshot {
    /// 1 at start; one more each time that another configuration comes into force.
    pub generation: u64,
    /// When it came into force.
    pub since: SystemTime,
    /// What the rules file says.
    pub config: Arc<Config>,
    /// What is limited.
    pub limits: Limits,
    /// The upstreams' state, indexed as the configuration's.
    pub upstreams: Groups,
}

/// Everything that a configuration limits, but for the connections of all listeners
/// ([`crate::shared::Shared::connections`]).
#[derive(Debug)]
pub struct Limits {
    /// Connections a listener; accepting waits for a place. Indexed as the listeners are.
    pub listeners: Vec<Option<Arc<Semaphore>>>,
    /// Connections a source; refused beyond. `None`: not limited.
    pub sources: Option<Arc<Sources>>,
    /// Connections being sniffed, a core; beyond, the oldest is closed.
    pub sniffing_per_core: NonZeroU32,
    /// Pipes for splice(2), a core; beyond, flows are copied.
    pub pipes_per_core: usize,
    /// Flows a rule; refused beyond. Indexed as the rules are.
    pub rules: Vec<Limit>,
}

impl Snapshot {
    /// The first configuration: all places are free, all endpoints are up.
    #[must_use]
    pub fn first(config: Arc<Config>, budget: Budget, cores: usize) -> Self {
        Self {
            generation: 1,
            since: SystemTime::now(),
            limits: Limits::new(&config, budget, cores),
            upstreams: Groups::new(&config),
            config,
        }
    }
}

/// What serves a connection: the configuration that was in force when it was accepted, and where it
/// came in.
#[derive(Clone, Debug)]
pub struct Service {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// The listener, an index into [`Config::listeners`].
    listener: usize,
}

impl Service {
    /// By the listener of this number.
    ///
    /// # Errors
    /// The configuration has no such listener.
    pub fn new(snapshot: Arc<Snapshot>, listener: usize) -> Result<Self, Arc<Snapshot>> {
        match snapshot.config.listeners.len() {
            count if listener < count => Ok(Self { snapshot, listener }),
            _ => Err(snapshot),
        }
    }

    /// The listener.
    ///
    /// # Panics
    /// Never: it was looked for.
    #[must_use]
    pub fn listener(&self) -> &Arc<ListenerConfig> {
        &self.snapshot.config.listeners[self.listener]
    }
}

impl Limits {
    fn new(config: &Config, budget: Budget, cores: usize) -> Self {
        let semaphore = |most: NonZeroU32| Arc::new(Semaphore::new(most.get() as usize));
        Self {
            listeners: config
                .listeners
                .iter()
                .map(|listener| listener.max_connections.map(semaphore))
                .collect(),
            sources: Sources::new(config.limits.per_source),
            sniffing_per_core: sniffing_per_core(config, cores),
            pipes_per_core: budget.pipes_per_core,
            rules: config.rules.iter().map(|rule| Limit::new(rule.max_connections)).collect(),
        }
    }
}

fn sniffing_per_core(config: &Config, cores: usize) -> NonZeroU32 {
    let cores = NonZeroU32::new(cores as u32).unwrap_or(NonZeroU32::MIN);
    let share = config.limits.max_sniffing.get().div_ceil(cores.get());
    NonZeroU32::new(share).unwrap_or(NonZeroU32::MIN)
}
