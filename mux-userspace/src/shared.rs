//! What all cores share: the configuration in force, limits, counters, the state of the kernel
//! relay.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    account::{AccessLog, Counters, Hooks},
    kernel::books::Books,
    limit::{Limit, source::Sources},
    presence::Presence,
    rules::config::{Config, RelayChoice},
    server::Budget,
    upstream::Groups,
};

/// Shared by all cores; lives as long as the daemon serves.
#[derive(Debug)]
pub struct Shared {
    /// The rules in force.
    pub config: Arc<Config>,
    /// `--relay`, which goes before what rules say.
    pub relay: Option<RelayChoice>,
    /// Why the kernel relay is not in force; `None`: it is.
    pub unavailable: Option<String>,
    /// The kernel's books, if it is.
    pub books: Option<Arc<Books>>,
    /// Who owns which pair of records.
    pub owners: Owners,
    /// Counters.
    pub counters: Arc<Counters>,
    /// The access log.
    pub access: AccessLog,
    /// The embedding program's callbacks.
    pub hooks: Hooks,
    /// Limits.
    pub limits: Limits,
    /// The upstreams' state, indexed as the configuration's.
    pub upstreams: Groups,
    /// Stop accepting, let flows end.
    pub drain: CancellationToken,
    /// Connections and accept loops.
    pub presence: Arc<Presence>,
    /// End at once.
    pub abort: CancellationToken,
    /// The upper part of flow ids: differs between processes.
    pub id_base: u64,
}

/// Everything that is limited.
#[derive(Debug)]
pub struct Limits {
    /// Connections; accepting waits for a place.
    pub connections: Arc<Semaphore>,
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

impl Limits {
    /// Those of a configuration, all places free.
    #[must_use]
    pub fn new(config: &Config, budget: Budget, cores: usize) -> Self {
        let cores = NonZeroU32::new(cores as u32).unwrap_or(NonZeroU32::MIN);
        let semaphore = |most: NonZeroU32| Arc::new(Semaphore::new(most.get() as usize));
        Self {
            connections: semaphore(budget.connections),
            listeners: config
                .listeners
                .iter()
                .map(|listener| listener.max_connections.map(semaphore))
                .collect(),
            sources: Sources::new(config.limits.per_source),
            sniffing_per_core: NonZeroU32::new(
                config.limits.max_sniffing.get().div_ceil(cores.get()),
            )
            .unwrap_or(NonZeroU32::MIN),
            pipes_per_core: budget.pipes_per_core,
            rules: config.rules.iter().map(|rule| Limit::new(rule.max_connections)).collect(),
        }
    }
}

/// Which core's which flow a pair of records belongs to, so that the verdict's events find it.
#[derive(Debug)]
pub struct Owners(Box<[AtomicU64]>);

/// No flow.
const NOBODY: u64 = u64::MAX;

impl Owners {
    /// For so many pairs.
    #[must_use]
    pub fn new(pairs: u32) -> Self {
        Self((0..pairs).map(|_| AtomicU64::new(NOBODY)).collect())
    }

    /// Gives a pair to a flow: its core and its key there.
    pub fn set(&self, pair: u32, core: u16, key: u32) {
        if let Some(owner) = self.0.get(pair as usize) {
            owner.store(u64::from(core) << 32 | u64::from(key), Ordering::Release);
        }
    }

    /// Takes a pair from its flow.
    pub fn clear(&self, pair: u32) {
        if let Some(owner) = self.0.get(pair as usize) {
            owner.store(NOBODY, Ordering::Release);
        }
    }

    /// The core and the key there.
    #[must_use]
    pub fn find(&self, pair: u32) -> Option<(u16, u32)> {
        let owner = self.0.get(pair as usize)?.load(Ordering::Acquire);
        (owner != NOBODY).then_some(((owner >> 32) as u16, owner as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_found_until_it_is_cleared() {
        let owners = Owners::new(2);
        assert_eq!(owners.find(1), None);
        owners.set(1, 3, 0xffff_fff0);
        assert_eq!(owners.find(1), Some((3, 0xffff_fff0)));
        owners.clear(1);
        assert_eq!(owners.find(1), None);
        assert_eq!(owners.find(2), None);
    }
}
