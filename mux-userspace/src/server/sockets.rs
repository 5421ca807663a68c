//! Where the daemon's listening sockets come from: its predecessor, systemd, or bind(2).

use std::{io, thread, time::Duration};

use tracing::info;

use super::{
    ServeError,
    handover::{self, Offer, Predecessor},
    io_error,
    systemd::Passed,
};
use crate::{
    admin,
    listener::{self, Bound, adopt, describe, needs_v6_only},
    rules::config::{AdminConfig, Config, ListenAddress},
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

/// What the daemon listens on.
#[derive(Debug)]
pub(super) struct Gathered {
    /// The listeners', in their order.
    pub(super) listeners: Vec<Bound>,
    pub(super) admin: admin::Sockets,
    /// What of it the predecessor had.
    pub(super) taken: Vec<String>,
}

/// Gets all sockets: first what the predecessor has, then what was passed; binds the rest.
pub(super) fn gather(
    config: &Config,
    cores: usize,
    started: &mut Started,
) -> Result<Gathered, ServeError> {
    let mut offers = match &started.predecessor {
        Some(predecessor) => predecessor.offers().ok_or(ServeError::Cancelled)?,
        None => Vec::new(),
    };
    let mut taken = Vec::new();
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let timers = listener.timers.or(config.timeouts.tcp);
        let name = describe(&listener.address);
        let bound = if let Some(offer) = handover::take(&mut offers, &name, &listener.address) {
            let Offer { address, file, sockets } = offer;
            info!(listener = %listener.name, sockets = sockets.len(), "taken over");
            taken.push(address);
            adopt(listener, sockets, file, cores, timers)?
        } else if let ListenAddress::Systemd(passed) = &listener.address {
            let sockets = started
                .passed
                .take(passed)
                .map_err(|reason| ServeError::Passed { address: name, reason })?;
            adopt(listener, sockets, None, cores, timers)?
        } else {
            let v6_only = needs_v6_only(listener, &config.listeners);
            patiently(started, || Ok(listener::bind(listener, cores, v6_only, timers)?))?
        };
        listeners.push(bound.with_spares().map_err(io_error("keeping sockets"))?);
    }
    started.passed.warn_of_the_rest();
    let admin = gather_admin(&config.admin, started, &mut offers, &mut taken)?;
    Ok(Gathered { listeners, admin, taken })
}

fn gather_admin(
    config: &AdminConfig,
    started: &Started,
    offers: &mut Vec<Offer>,
    taken: &mut Vec<String>,
) -> Result<admin::Sockets, ServeError> {
    let mut take = |name: String, address| {
        let Offer { file, mut sockets, .. } = handover::take(offers, &name, &address)?;
        info!(socket = name, "taken over");
        taken.push(name);
        Some((sockets.pop()?, file))
    };
    let unix = config.socket.as_ref().and_then(|socket| {
        let address = ListenAddress::Unix(socket.path.clone());
        let (unix, file) = take(admin::socket_name(&socket.path), address)?;
        Some((unix, file?))
    });
    let tcp = config.metrics.and_then(|address| {
        let (tcp, _) = take(admin::metrics_name(address), ListenAddress::Tcp(address))?;
        Some(tcp)
    });
    // Another attempt is made once the predecessor is gone, and does without.
    let mut there = admin::Sockets { unix, tcp };
    patiently(started, || admin::bind(config, std::mem::take(&mut there)))
}

/// Binds. A predecessor that was killed may not have let go of its sockets yet.
fn patiently<T>(
    started: &Started,
    mut bind: impl FnMut() -> Result<T, ServeError>,
) -> Result<T, ServeError> {
    for _ in 1..TRIES {
        match bind() {
            Err(ServeError::Bind(error))
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
