//! The budget of file descriptors: what the configuration can take, and what there is.

use std::num::NonZeroU32;

use thiserror::Error;

use crate::{
    admin,
    rules::config::{Config, Limits, PacketMode},
};

/// A flow has a client's and an upstream's connection.
const PER_CONNECTION: u64 = 2;
/// Standard streams, logs, BPF maps and program, signals, the keeper, name lookups, with room
/// to spare.
const PER_PROCESS: u64 = 64;
/// The admin sockets: each listens, and has connections.
const PER_ADMIN: u64 = 2 * (1 + admin::CONNECTIONS as u64);
/// epolls, the timer, the wakers of a core, and the accepted connection that waits for a place.
const PER_CORE: u64 = 8;
/// The packet relay: programs, maps, two links on each network device,
const PER_PACKETS: u64 = 64;
/// and a core's own handles to maps, program and routes.
const PER_PACKETS_CORE: u64 = 8;
/// An active check of an endpoint: of a name's addresses, so many are checked at once.
const PER_CHECK: u64 = 4;
/// Pipes that splice(2) needs while bytes are in them, a core; without any, flows are copied.
const PIPES_PER_CORE: u64 = 64;
const PER_PIPE: u64 = 2;

/// What fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Connections at once.
    pub connections: NonZeroU32,
    /// Pipes at once, a core.
    pub pipes_per_core: usize,
}

/// The configuration can need more descriptors than the process may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{connections} connections can need {needed} file descriptors and this process may open {limit}\n\
     hint: raise the hard limit (`ulimit -Hn`, systemd's LimitNOFILE) to {needed}, or set \
     `[limits] max_connections` to at most {fitting}"
)]
pub struct TooFewDescriptors {
    connections: u32,
    needed: u64,
    limit: u64,
    fitting: u64,
}

/// Works the budget out. Where the file does not say how many connections there may be, there may
/// be as many as fit, up to [`Limits::DEFAULT_CONNECTIONS`].
///
/// # Errors
/// [`TooFewDescriptors`].
pub(super) fn work_out(
    config: &Config,
    cores: usize,
    limit: u64,
) -> Result<Budget, TooFewDescriptors> {
    let cores = cores as u64;
    let checked = config.upstreams.iter().filter(|upstream| upstream.health.is_some());
    let checks: usize = checked.map(|upstream| upstream.endpoints.len()).sum();
    let fixed = PER_PROCESS
        // A socket and a handle to it for a successor.
        + cores * (PER_CORE + 2 * config.listeners.len() as u64)
        + if config.admin.is_open() { PER_ADMIN } else { 0 }
        + checks as u64 * PER_CHECK
        + if config.kernel.packet == PacketMode::Off {
            0
        } else {
            PER_PACKETS + cores * PER_PACKETS_CORE
        };
    let free = limit.saturating_sub(fixed);
    let wanted = config.limits.max_connections;
    let pipes = cores * PIPES_PER_CORE * PER_PIPE;
    let connections = wanted.unwrap_or_else(|| {
        let fitting = free.saturating_sub(pipes.min(free / 2)) / PER_CONNECTION;
        let fitting = NonZeroU32::new(u32::try_from(fitting).unwrap_or(u32::MAX));
        fitting.unwrap_or(NonZeroU32::MIN).min(Limits::DEFAULT_CONNECTIONS)
    });
    let needed = u64::from(connections.get()) * PER_CONNECTION;
    if needed > free {
        return Err(TooFewDescriptors {
            connections: connections.get(),
            needed: needed + fixed,
            limit,
            fitting: free / PER_CONNECTION,
        });
    }
    let pipes_per_core = (free - needed) / PER_PIPE / cores.max(1);
    Ok(Budget { connections, pipes_per_core: pipes_per_core as usize })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(max_connections: Option<u32>) -> Config {
        let limits = max_connections
            .map_or(String::new(), |most| format!("[limits]\nmax_connections = {most}\n"));
        let text = format!("listen = '127.0.0.1:0'\n{limits}[[rule]]\nupstream = 80\n");
        crate::rules::parse("x", &text).expect("valid")
    }

    #[test]
    fn the_default_is_what_fits() {
        let of = |limit| work_out(&config(None), 2, limit).expect("it fits");
        assert_eq!(of(1 << 20).connections.get(), 10_000);
        let small = of(1024);
        assert_eq!(small.connections.get(), (1024 - 64 - 2 * 10 - 256) / 2);
        assert_eq!(small.pipes_per_core, 64);
        assert!(of(100).connections.get() < 10);
    }

    #[test]
    fn what_the_file_says_must_fit() {
        let of = |most, limit| work_out(&config(Some(most)), 2, limit);
        let exact = 64 + 2 * 10 + 2 * 1000;
        assert_eq!(of(1000, exact).expect("it fits").pipes_per_core, 0);
        let error = of(1000, exact - 1).expect_err("one too few").to_string();
        assert!(error.starts_with("1000 connections can need 2084 file descriptors"), "{error}");
        assert!(error.ends_with("to at most 999"), "{error}");
    }
}
