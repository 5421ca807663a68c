//! The sniff: a timed, bounded read of a connection's first bytes, until a rule is sure.
//!
//! Knows no protocol. The bytes read are kept: they are the prefix that the upstream gets first.

use std::{future::poll_fn, io, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::{
    net::{Peer, Stream},
    relay::pool::Pool,
    route::{Outcome, Phase, Progress, Sniffed, route},
    rules::config::ListenerConfig,
};

/// Reads after which the sniff lets a slow sender's bytes gather: every read looks at all rules
/// anew, so a client that sends byte by byte must not buy more work than time.
const EAGER_READS: u64 = 32;
/// How long it lets them gather.
const GATHER: Duration = Duration::from_millis(1);

/// What the sniff found out.
#[derive(Debug)]
pub struct Sniff {
    /// What is to become of the connection; never [`Outcome::NeedMore`].
    pub outcome: Outcome,
    /// All bytes read, not yet given to anybody.
    pub prefix: Vec<u8>,
    /// Reads that it took.
    pub reads: u64,
    /// How far it got.
    pub phase: Phase,
}

/// Sniffs a connection.
///
/// # Errors
/// read(2)'s: the client is gone.
pub async fn sniff(
    stream: &mut Stream,
    peer: Peer,
    listener: &ListenerConfig,
    pool: &Pool,
) -> io::Result<Sniff> {
    let deadline = Instant::now() + listener.sniff_timeout;
    let mut found =
        Sniff { outcome: Outcome::Close, prefix: Vec::new(), reads: 0, phase: Phase::Open };
    let mut progress = Progress::default();
    loop {
        let sniffed = Sniffed { bytes: &found.prefix, client: peer.ip(), phase: found.phase };
        match route(listener, &sniffed, &mut progress) {
            // In the other phases every rule decides; were there one that does not, waiting would
            // help nobody.
            Outcome::NeedMore(_) if !found.phase.is_open() => return Ok(found),
            Outcome::NeedMore(_) => {}
            outcome @ (Outcome::Routed(_) | Outcome::Close | Outcome::Reset) => {
                found.outcome = outcome;
                return Ok(found);
            }
        }
        if found.reads >= EAGER_READS {
            tokio::time::sleep(GATHER).await;
        }
        let room = listener.sniff_limit - found.prefix.len();
        found.phase = match timeout_at(deadline, read_more(stream, &mut found.prefix, room, pool))
            .await
        {
            Err(_) => Phase::TimedOut,
            Ok(Err(error)) => return Err(error),
            Ok(Ok(0)) => Phase::Ended,
            Ok(Ok(_)) => {
                found.reads += 1;
                if found.prefix.len() >= listener.sniff_limit { Phase::Full } else { Phase::Open }
            }
        };
    }
}

/// Reads once, at most `room` bytes (more than 0).
async fn read_more(
    stream: &mut Stream,
    prefix: &mut Vec<u8>,
    room: usize,
    pool: &Pool,
) -> io::Result<usize> {
    poll_fn(|cx| {
        // Readiness first: a silent client must hold no buffer.
        std::task::ready!(stream.poll_read_ready(cx))?;
        let mut buffer = pool.buffer();
        let most = buffer.len().min(room);
        stream.poll_read(cx, &mut buffer[..most]).map_ok(|read| {
            prefix.extend_from_slice(&buffer[..read]);
            read
        })
    })
    .await
}
