//! What is known of each flow while the run goes on; both ends write here.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    autopsy::Autopsy,
    random::Pattern,
    script::{Peer, Script, Sizes},
};

/// All flows.
#[derive(Debug)]
pub(crate) struct Board {
    /// By number.
    pub(crate) flows: Vec<Flow>,
    /// Connections that reached the server and belong to no flow.
    pub(crate) strangers: AtomicU64,
    /// How long a flow may move no byte.
    pub(crate) deadline: Duration,
    /// What is found out about one that does so.
    pub(crate) autopsy: Autopsy,
}

/// A flow.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) number: u64,
    pub(crate) seed: u64,
    pub(crate) script: Script,
    /// Packets get lost on the way.
    pub(crate) lossy: bool,
    /// Changes with every byte that moves, at either end.
    pub(crate) progress: AtomicU64,
    /// How long the client's end took, milliseconds.
    pub(crate) took: AtomicU64,
    address: Mutex<Option<SocketAddr>>,
    outcomes: [Mutex<Option<Outcome>>; 2],
}

/// How a flow went at one end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Bytes that the socket took.
    pub(crate) sent: u64,
    /// Bytes received, all of them right but for `wrong`.
    pub(crate) received: u64,
    /// The peer's stream ended.
    pub(crate) ended: bool,
    /// This end reset the connection, as its script says.
    pub(crate) reset: bool,
    /// A system call failed.
    pub(crate) error: Option<String>,
    /// A wrong byte came.
    pub(crate) wrong: Option<String>,
    /// Nothing moved for as long as the deadline.
    pub(crate) hung: bool,
}

impl Board {
    /// `count` flows that have not begun.
    pub(crate) fn new(
        seed: u64,
        count: u64,
        sizes: Sizes,
        lossy: bool,
        deadline: Duration,
        autopsy: Autopsy,
    ) -> Self {
        let flow = |number| Flow {
            number,
            seed,
            script: Script::new(seed, number, sizes),
            lossy,
            progress: AtomicU64::new(0),
            took: AtomicU64::new(0),
            address: Mutex::default(),
            outcomes: Default::default(),
        };
        Self {
            flows: (0..count).map(flow).collect(),
            strangers: AtomicU64::new(0),
            deadline,
            autopsy,
        }
    }
}

impl Flow {
    /// Says where the client's end is.
    pub(crate) fn set_address(&self, address: SocketAddr) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Where the client's end was, as the access log names it.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it went, or goes, at one end; `None`: it never got there.
    pub(crate) fn outcome(&self, peer: Peer) -> Option<Outcome> {
        self.slot(peer).lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records how it went at one end.
    pub(crate) fn record(&self, peer: Peer, outcome: Outcome) {
        *self.slot(peer).lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    const fn slot(&self, peer: Peer) -> &Mutex<Option<Outcome>> {
        match peer {
            Peer::Client => &self.outcomes[0],
            Peer::Server => &self.outcomes[1],
        }
    }

    /// The bytes that this end sends.
    pub(crate) fn pattern(&self, sender: Peer) -> Pattern {
        match sender {
            Peer::Client => Pattern::up(self.seed, self.number),
            Peer::Server => Pattern::down(self.seed, self.number),
        }
    }

    /// Ends when nothing has moved for `deadline`.
    pub(crate) async fn stuck(&self, deadline: Duration) {
        let look = (deadline / 20).max(Duration::from_millis(10));
        let mut seen = self.progress.load(Ordering::Relaxed);
        let mut since = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(look).await;
            let now = self.progress.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, tokio::time::Instant::now());
            } else if since.elapsed() >= deadline {
                return;
            }
        }
    }
}
