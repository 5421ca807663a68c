//! The sniff: a timed, bounded read of a connection's first bytes, until a rule is sure.
//!
//! Knows no protocol but PROXY, which comes before all others. The bytes read are kept: they are
//! the prefix that the upstream gets first.

use std::{future::poll_fn, io, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::{
    net::{Peer, Stream},
    proxy::{self, Examined, Guard, Header, Refusal},
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
    /// All bytes read of the stream, not yet given to anybody.
    pub prefix: Vec<u8>,
    /// Reads that it took.
    pub reads: u64,
    /// How far it got.
    pub phase: Phase,
    /// What is still to be looked at, for PROXY headers of one who is not trusted.
    pub(crate) guard: Option<Guard>,
}

/// Why there is nothing to route.
#[derive(Debug)]
pub enum Aborted {
    /// read(2)'s error: the client is gone.
    Gone(io::Error),
    /// A PROXY header that was to be there and is not, or the other way round.
    Refused(Refusal),
}

/// A connection that is being sniffed.
#[derive(Debug)]
pub struct Sniffer<'a> {
    stream: &'a mut Stream,
    listener: &'a ListenerConfig,
    pool: &'a Pool,
    deadline: Instant,
    /// Bytes read and not yet found to be a header.
    prefix: Vec<u8>,
    reads: u64,
    /// Whether there can be more.
    phase: Phase,
}

impl<'a> Sniffer<'a> {
    /// Begins; from here on the listener's `sniff_timeout` runs.
    #[must_use]
    pub fn new(stream: &'a mut Stream, listener: &'a ListenerConfig, pool: &'a Pool) -> Self {
        Self {
            stream,
            deadline: Instant::now() + listener.sniff_timeout,
            listener,
            pool,
            prefix: Vec::new(),
            reads: 0,
            phase: Phase::Open,
        }
    }

    /// Takes the PROXY header with which a trusted proxy's connection has to begin.
    ///
    /// # Errors
    /// [`Aborted`]: there is no such header, or the proxy is gone.
    pub async fn header(&mut self) -> Result<Header, Aborted> {
        let header = loop {
            match proxy::examine(&self.prefix).map_err(Aborted::Refused)? {
                Examined::Complete(header) => break header,
                Examined::NeedMore(_) => {}
            }
            match self.phase {
                Phase::Open => self.read(proxy::MAX_HEADER).await?,
                Phase::TimedOut => return Err(Aborted::Refused(Refusal::TimedOut)),
                Phase::Ended if self.prefix.is_empty() => {
                    return Err(Aborted::Refused(Refusal::Missing));
                }
                // A header that fills its room is decided.
                Phase::Ended | Phase::Full => {
                    return Err(Aborted::Refused(Refusal::Malformed("it is cut off")));
                }
            }
        };
        // What follows was read with it, and is the stream's.
        self.prefix.drain(..header.length);
        self.reads = u64::from(!self.prefix.is_empty());
        self.phase = self.phase_of(self.listener.sniff_limit);
        Ok(header)
    }

    /// Finds the rule for the stream of `client`, whose PROXY headers are refused if there is a
    /// guard.
    ///
    /// # Errors
    /// [`Aborted`]: there was such a header, or the client is gone.
    pub(crate) async fn route(
        mut self,
        client: Peer,
        mut guard: Option<Guard>,
    ) -> Result<Sniff, Aborted> {
        let mut guarded = 0;
        let mut progress = Progress::default();
        loop {
            let new = self.prefix.get(guarded..).unwrap_or_default();
            match guard.as_mut().and_then(|guard| guard.look(new)) {
                Some(true) => return Err(Aborted::Refused(Refusal::Untrusted)),
                Some(false) => guard = None,
                None => guarded = self.prefix.len(),
            }
            let limit = self.listener.sniff_limit;
            let bytes = self.prefix.get(..limit).unwrap_or(&self.prefix);
            let sniffed = Sniffed { bytes, client: client.ip(), phase: self.phase };
            let outcome = match route(self.listener, &sniffed, &mut progress) {
                // In the other phases every rule decides; were there one that does not, waiting
                // would help nobody.
                Outcome::NeedMore(_) if !self.phase.is_open() => Outcome::Close,
                Outcome::NeedMore(_) => {
                    self.read(limit).await?;
                    continue;
                }
                outcome @ (Outcome::Routed(_) | Outcome::Close | Outcome::Reset) => outcome,
            };
            let Self { prefix, reads, phase, .. } = self;
            return Ok(Sniff { outcome, prefix, reads, phase, guard });
        }
    }

    /// Reads once, so that there are at most `limit` bytes, which there are not yet.
    async fn read(&mut self, limit: usize) -> Result<(), Aborted> {
        if self.reads >= EAGER_READS {
            tokio::time::sleep(GATHER).await;
        }
        let room = limit - self.prefix.len();
        let read = read_more(self.stream, &mut self.prefix, room, self.pool);
        self.phase = match timeout_at(self.deadline, read).await {
            Err(_) => Phase::TimedOut,
            Ok(Err(error)) => return Err(Aborted::Gone(error)),
            Ok(Ok(0)) => Phase::Ended,
            Ok(Ok(_)) => {
                self.reads += 1;
                self.phase_of(limit)
            }
        };
        Ok(())
    }

    const fn phase_of(&self, limit: usize) -> Phase {
        if self.prefix.len() >= limit { Phase::Full } else { Phase::Open }
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
