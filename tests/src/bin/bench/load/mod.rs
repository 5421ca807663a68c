//! The load generator: a closed loop. Each connection waits for its answer before it asks again, so that
//! a slow subject is asked less, and what is compared is how long an answer takes and how much
//! work it is.
//!
//! `drive` opens connections and turns readiness into steps; `talk` is what is said on a
//! connection, one file a kind; `clock` says when to count; `report` is what comes out. `idle` is apart:
//! nothing happens there.

mod clock;
mod drive;
mod idle;
mod report;
mod talk;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;

use self::talk::{
    ahead::Ahead, connect::Connect, exchange::Exchange, stream::Source, tiny::Tiny, tls::Handshake,
};
use crate::{
    poll::{Nagle, Target},
    wire::{self, Persistence},
};

/// `mux-bench load`.
#[derive(clap::Args, Debug)]
pub(crate) struct LoadArgs {
    /// Where to connect to: IP:PORT or unix:PATH
    #[arg(long)]
    target: Target,
    /// Connections at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Threads; at most one a connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Seconds before counting begins
    #[arg(long, default_value_t = 0.2, value_parser = seconds)]
    warm_up: f64,
    /// Seconds to count
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Do so many units of work, however long it takes, in place of the times
    #[arg(long)]
    count: Option<u64>,
    #[command(subcommand)]
    work: Work,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
enum Work {
    /// Requests and answers of HTTP/1.1
    Http {
        /// Bytes of an answer's body
        #[arg(long, default_value_t = 128)]
        size: usize,
        /// One connection for each request
        #[arg(long)]
        close: bool,
        /// One connection for so many requests
        #[arg(long, conflicts_with = "close", value_parser = clap::value_parser!(u32).range(2..))]
        each: Option<u32>,
    },
    /// Messages that come back
    Echo {
        /// Bytes of a message; at least 4
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Messages that are sent before the first one is back
        #[arg(long, value_parser = clap::value_parser!(u32).range(2..=4096))]
        ahead: Option<u32>,
    },
    /// Bytes from the server, without end
    Bulk,
    /// Small writes to the server, without end
    Tiny {
        /// Bytes of a write; at least 4
        #[arg(long, default_value_t = 32)]
        size: usize,
    },
    /// Connections without a byte
    Connect,
    /// TLS ClientHellos, answered by an alert; one connection for each
    Hello {
        /// Server names, asked for in turn
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        names: u16,
    },
    /// TLS handshake, request, answer, end; one connection for each
    Tls {
        /// Server names, asked for in turn
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        names: u16,
    },
    /// Connections that say something at first and at last, and are silent between
    Idle {
        /// Exchanges of 64 bytes on each connection at first
        #[arg(long, default_value_t = 20)]
        exchanges: u32,
    },
}

/// Does the work and prints what was found.
///
/// # Errors
/// The work could not be begun. What goes wrong in the course of it is in the report.
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    let names = |count: u16| (0..usize::from(count)).map(wire::server_name).collect::<Vec<_>>();
    let report = match &args.work {
        Work::Http { size, close, each } => {
            let persistence = if *close { Persistence::Close } else { Persistence::Keep };
            drive::drive(args, Nagle::Off, |_| match each {
                Some(each) => Exchange::http_each(*size, *each),
                None => Exchange::http(*size, persistence),
            })
        }
        Work::Echo { size, ahead: Some(ahead) } if *size >= wire::ECHO.len() => {
            drive::drive(args, Nagle::Off, |_| Ahead::new(*size, *ahead))
        }
        Work::Echo { size, ahead: None } if *size >= wire::ECHO.len() => {
            drive::drive(args, Nagle::Off, |_| Exchange::echo(*size))
        }
        Work::Tiny { size } if *size >= wire::TINY.len() => {
            drive::drive(args, Nagle::Off, |_| Tiny::new(*size))
        }
        Work::Echo { .. } | Work::Tiny { .. } => bail!("a message needs 4 bytes at least"),
        Work::Bulk if args.count.is_some() => bail!("bytes without end have no count"),
        Work::Bulk => drive::drive(args, Nagle::Off, |_| Source::new()),
        Work::Connect => drive::drive(args, Nagle::On, |_| Connect::new()),
        Work::Hello { names: count } => {
            let hellos = talk::tls::hellos(&names(*count))?;
            drive::drive(args, Nagle::On, move |index| Exchange::hello(&hellos, index))
        }
        Work::Tls { names: count } => {
            let plan = talk::tls::Plan::new(&names(*count))?;
            drive::drive(args, Nagle::Off, move |index| Handshake::new(&plan, index))
        }
        Work::Idle { exchanges } => idle::hold(args, *exchanges),
    }?;
    report.print()
}

impl LoadArgs {
    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("from 0 to a day's 86400".to_owned())
    }
}
