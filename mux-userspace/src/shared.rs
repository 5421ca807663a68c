//! What all cores share: the configuration in force, counters, the state of the kernel relay.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio_util::sync::CancellationToken;

use crate::{
    account::{AccessLog, Counters, Hooks},
    kernel::{books::Books, packet::Records},
    limit::{gate::Gate, sniffing::Crowd},
    presence::Presence,
    rules::config::{KernelConfig, RelayChoice},
    snapshot::Snapshot,
    throttle::Throttles,
};

/// Shared by all cores; lives as long as the daemon serves.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force. Whatever serves a connection uses the connection's own.
    pub current: ArcSwap<Snapshot>,
    /// Where the rules come from; `None` in a program that brings its own.
    pub rules_file: Option<PathBuf>,
    /// Why the rules could not be loaded again the last time; `None`: they could.
    pub last_failure: ArcSwapOption<LoadFailure>,
    /// `[kernel]` as it was at start: the maps and the program are of it.
    pub kernel: KernelConfig,
    /// `--relay`, which goes before what rules say.
    pub relay: Option<RelayChoice>,
    /// Why the sockmap relay is not in force; `None`: it is.
    pub unavailable: Option<String>,
    /// Why the packet relay is not in force; `None`: it is.
    pub no_packets: Option<String>,
    /// The packet relay's records, if it is.
    pub packets: Option<Arc<Records>>,
    /// The kernel's books, if it is.
    pub books: Option<Arc<Books>>,
    /// Who owns which pair of records.
    pub owners: Owners,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Bounds for what the cores log.
    pub throttles: Throttles,
    /// The access log.
    pub access: AccessLog,
    /// The embedding program's callbacks.
    pub hooks: Hooks,
    /// Connections of all listeners; accepting waits for a place.
    pub connections: Gate,
    /// Connections that are being sniffed; a new one takes the oldest's place.
    pub sniffing: Arc<Crowd>,
    /// Stop accepting, let flows end.
    pub drain: CancellationToken,
    /// Connections and accept loops.
    pub presence: Arc<Presence>,
    /// End at once.
    pub abort: CancellationToken,
    /// The upper part of flow ids: differs between processes.
    pub id_base: u64,
}

/// Rules that did not come into force.
#[derive(Clone, Debug)]
pub struct LoadFailure {
    /// When they were loaded.
    pub at: SystemTime,
    /// Why not, with file, line and column where it is the text that is wrong.
    pub reason: String,
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
