//! The sniff: a timed, bounded read of a connection's first bytes, until a rule is sure.
//!
//! Knows no protocol but PROXY, which comes before all others. The bytes read are kept: they are
//! the prefix that the upstream gets first.

use std::{future::poll_fn, io, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::{
    net::{Peer, Stream, Taken},
    proxy::{self, Examined, Guard, Header, Refusal},
    relay::pool::Pool,
    route::{Outcome, Phase, Progress, Sniffed, route},
    rules::config::ListenerConfig,
};

/// Reads after which the sniff lets a slow sender's bytes gather: rules look at all the bytes
/// anew, so a client that sends byte by byte must not buy more work than time.
const EAGER_READS: u64 = 32;
/// How long it lets them gather at least.
const GATHER: Duration = Duration::from_millis(1);
/// And which part of the time that the client has taken already. So the time between two reads
/// grows like the whole: in three seconds there are fewer than a hundred of them, and each may
/// look at all bytes. A decision comes later by no more than that part.
const GATHER_PART: u32 = 8;

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
    /// When the first byte came.
    since: Option<Instant>,
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
            since: None,
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
            let total = match proxy::examine(&self.prefix).map_err(Aborted::Refused)? {
                Examined::Complete(header) => break header,
                Examined::NeedMore(total) => total,
            };
            match self.phase {
                Phase::Open => self.read_to(total, proxy::MAX_HEADER).await?,
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
                Outcome::NeedMore(total) => {
                    self.read_to(total, limit).await?;
                    continue;
                }
                outcome @ (Outcome::Routed(_) | Outcome::Close | Outcome::Reset) => outcome,
            };
            let Self { prefix, reads, phase, .. } = self;
            return Ok(Sniff { outcome, prefix, reads, phase, guard });
        }
    }

    /// Reads until there are `total` bytes, before which nobody would decide anything, or there
    /// can be no more. At most `limit` bytes, which there are not yet.
    async fn read_to(&mut self, total: usize, limit: usize) -> Result<(), Aborted> {
        loop {
            self.read(limit).await?;
            if !self.phase.is_open() || self.prefix.len() >= total {
                return Ok(());
            }
        }
    }

    /// Reads once.
    async fn read(&mut self, limit: usize) -> Result<(), Aborted> {
        if self.reads >= EAGER_READS {
            let now = Instant::now();
            let gather = GATHER.max(self.since.map_or(GATHER, |since| now - since) / GATHER_PART);
            tokio::time::sleep_until(self.deadline.min(now + gather)).await;
        }
        let room = limit - self.prefix.len();
        let read = read_more(self.stream, &mut self.prefix, room, self.pool);
        self.phase = match timeout_at(self.deadline, read).await {
            Err(_) => Phase::TimedOut,
            Ok(Err(error)) => return Err(Aborted::Gone(error)),
            Ok(Ok(0)) => Phase::Ended,
            Ok(Ok(_)) => {
                self.since.get_or_insert_with(Instant::now);
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
        stream.poll_take(cx, room, || pool.buffer()).map_ok(|Taken { buffer, read, .. }| {
            prefix.extend_from_slice(&buffer[..read]);
            read
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{Shutdown, TcpListener, TcpStream as StdStream},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
        time::Duration,
    };

    use super::*;
    use crate::{
        net::Tcp,
        probe::{Probe, Probes, Verdict},
        rules::{Surroundings, parse_in},
    };

    /// So many bytes are the message of the probe `late`.
    const LONG: usize = 64 << 10;

    /// Sends these bytes one by one, sniffs them with one rule for the probe, and gives the
    /// sniff and how often the probe was asked. `ask` gives what it then asks for.
    fn sniffed_byte_by_byte(
        length: usize,
        ask: impl Fn(usize) -> usize + Send + Sync + 'static,
    ) -> (Sniff, usize) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let late = move |bytes: &[u8]| {
            count.fetch_add(1, Ordering::Relaxed);
            if bytes.len() < LONG {
                Verdict::NeedMore(ask(bytes.len()))
            } else {
                Verdict::Match(())
            }
        };
        let mut probes = Probes::default();
        probes.register(Probe::custom("late", late)).expect("a new name");
        let text = "[[listener]]\naddress = \"127.0.0.1:0\"\nsniff_timeout = \"60s\"\nsniff_limit = \"128KiB\"\n\
                    [[rule]]\nmatch = \"late\"\nupstream = 80\n";
        let surroundings = Surroundings { probes, ..Surroundings::default() };
        let config = parse_in("rules.toml", text, surroundings).expect("valid");

        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let sender = thread::spawn(move || {
            let mut stream = StdStream::connect(address).expect("it listens");
            stream.set_nodelay(true).expect("TCP");
            (0..length).try_for_each(|_| stream.write_all(b"x")).expect("it reads");
            stream.shutdown(Shutdown::Write).expect("connected");
        });
        let (accepted, _) = listener.accept().expect("a client");
        accepted.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let sniff = runtime.expect("a runtime").block_on(async {
            let stream = Tcp::new(accepted).expect("a stream");
            let client = Peer::Ip(address);
            let (mut stream, pool) = (Stream::Tcp(stream), Pool::new(0));
            let sniffer = Sniffer::new(&mut stream, &config.listeners[0], &pool);
            sniffer.route(client, None).await.expect("a decision")
        });
        sender.join().expect("it sent all");
        (sniff, asked.load(Ordering::Relaxed))
    }

    #[test]
    fn a_probe_is_not_asked_before_there_is_what_it_asked_for() {
        let (sniff, asked) = sniffed_byte_by_byte(LONG, |_| LONG);
        assert!(matches!(sniff.outcome, Outcome::Routed(_)), "{sniff:?}");
        assert!(sniff.prefix.len() >= LONG && sniff.reads > 1, "{}", sniff.reads);
        // Without a byte, with all, and once more for what it tells.
        assert!(asked <= 3, "{asked} times");
        // The end comes before that: it is asked once more.
        let (sniff, asked) = sniffed_byte_by_byte(10, |_| LONG);
        assert_eq!(
            (sniff.outcome, sniff.phase, sniff.prefix.len()),
            (Outcome::Close, Phase::Ended, 10)
        );
        assert!(asked <= 3, "{asked} times");
    }

    #[test]
    fn byte_by_byte_does_not_buy_work_at_each_byte() {
        let (sniff, asked) = sniffed_byte_by_byte(LONG, |len| len + 1);
        assert!(matches!(sniff.outcome, Outcome::Routed(_)), "{sniff:?}");
        assert!(asked > 2 && asked as u64 <= EAGER_READS + 150, "{asked} times");
        assert!(Duration::from_secs(1) / GATHER_PART > GATHER);
    }
}
