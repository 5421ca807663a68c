//! Where the daemon's listening sockets come from: its predecessor, systemd, or bind(2).

use std::{io, thread, time::Duration};

use tracing::info;

use super::{
    ServeError,
    handover::{self, Offer, Predecessor},
    systemd::Passed,
};
use crate::{
    listener::{self, BindError, Bound, adopt, describe, needs_v6_only},
    rules::config::{Config, ListenAddress},
};

/// How often, and when, to try again to bind to what a predecessor that has died had.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// What the process was started with, besides its arguments.
#[derive(Debug, Default)]
pub struct Started {
    /// Whom it is to succeed.
    pub predecessor: Option<Predecessor>,
    passed: Passed,
}

impl Started {
    /// What the environment says, which forgets it. Call it once, at the start of the process.
    ///
    /// # Errors
    /// It says nonsense.
    pub fn from_environment() -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("MUX_HANDOVER: {error}"));
        Ok(Self {
            predecessor: Predecessor::from_environment().map_err(named)?,
            passed: Passed::from_environment()?,
        })
    }

    /// Tells the predecessor that this process cannot serve.
    pub fn fail(&self, reason: &str) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.fail(reason);
        }
    }
}

/// The listeners' sockets, in their order, and the addresses of those that the predecessor had.
pub(super) fn gather(
    config: &Config,
    cores: usize,
    started: &mut Started,
) -> Result<(Vec<Bound>, Vec<String>), ServeError> {
    let mut offers = started.predecessor.as_ref().map(Predecessor::offers).unwrap_or_default();
    let mut taken = Vec::new();
    let mut all = Vec::new();
    for listener in &config.listeners {
        let timers = listener.timers.or(config.timeouts.tcp);
        let bound = if let Some(offer) = handover::take(&mut offers, &listener.address) {
            let Offer { address, file, sockets } = offer;
            info!(listener = %listener.name, sockets = sockets.len(), "taken over");
            taken.push(address);
            adopt(listener, sockets, file, cores, timers)?
        } else if let ListenAddress::Systemd(name) = &listener.address {
            let sockets = started.passed.take(name).map_err(|reason| ServeError::Passed {
                address: describe(&listener.address),
                reason,
            })?;
            adopt(listener, sockets, None, cores, timers)?
        } else {
            let v6_only = needs_v6_only(listener, &config.listeners);
            bind(started, || listener::bind(listener, cores, v6_only, timers))?
        };
        all.push(bound);
    }
    started.passed.warn_of_the_rest();
    Ok((all, taken))
}

/// Binds. A predecessor that was killed may not have let go of its sockets yet.
fn bind(
    started: &Started,
    bind: impl Fn() -> Result<Bound, BindError>,
) -> Result<Bound, BindError> {
    for _ in 1..TRIES {
        match bind() {
            Err(error)
                if error.source.kind() == io::ErrorKind::AddrInUse
                    && started.predecessor.as_ref().is_some_and(Predecessor::is_gone) =>
            {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
    bind()
}

/// Other handles to all sockets, for a successor.
pub(super) fn spares(config: &Config, bound: &[Bound]) -> io::Result<Vec<Offer>> {
    let all = config.listeners.iter().zip(bound);
    all.map(|(listener, bound)| {
        Ok(Offer {
            address: describe(&listener.address),
            file: bound.file.clone(),
            sockets: bound
                .sockets
                .iter()
                .map(|socket| socket.try_clone())
                .collect::<io::Result<_>>()?,
        })
    })
    .collect()
}
