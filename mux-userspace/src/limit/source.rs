//! Limits a source: connections at once, and new ones in a time.
//!
//! A source is an IPv4 address, or the /64 of an IPv6 address, which is what one customer has
//! at the least (RFC 6177 2, RFC 7421): by single addresses, one could be 2^64 sources.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// So many maps, each with a lock of its own, so that cores seldom meet.
const SHARDS: usize = 64;
/// Sources that a map has before those that are forgotten are swept out of it.
const FIRST_SWEEP: usize = 256;

/// `[limits] per_source`; both at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerSource {
    /// Connections of a source at once.
    pub connections: Option<NonZeroU32>,
    /// New connections of a source.
    pub rate: Option<Rate>,
}

/// So many in so long: after a pause all of them at once, then evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how long; more than 0.
    pub period: Duration,
}

impl Rate {
    /// From one to the next.
    fn interval(self) -> Duration {
        self.period / self.count.get()
    }
}

/// Which limit refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// [`PerSource::connections`].
    Connections,
    /// [`PerSource::rate`].
    Rate,
}

/// The sources that have connections, or had some a moment ago.
///
/// Holds what the connections and the rate of accepting bring in: a source without connections
/// whose rate has recovered is forgotten when its map is swept, which is when it has doubled.
#[derive(Debug)]
pub struct Sources {
    limits: PerSource,
    book: Arc<Book>,
}

/// What is known of the sources. It outlives a configuration.
#[derive(Debug)]
struct Book {
    start: Instant,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug)]
struct Shard {
    sources: HashMap<Source, State>,
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    /// The upper half of the address.
    V6(u64),
}

#[derive(Debug, Default)]
struct State {
    connections: u32,
    /// When the next connection would come if they came evenly, in nanoseconds from the start
    /// ("theoretical arrival time" of the generic cell rate algorithm, ITU-T I.371 A.1).
    due: u64,
}

/// A connection's place; given back by `Drop`.
#[derive(Debug)]
pub struct Place {
    book: Arc<Book>,
    source: Source,
}

impl Sources {
    /// `None` where nothing is limited.
    #[must_use]
    pub fn new(limits: PerSource) -> Option<Self> {
        (limits != PerSource::default()).then(|| Self { limits, book: Arc::default() })
    }

    /// Other limits on what these count. `None` where nothing is limited: then nothing is counted.
    #[must_use]
    pub fn resized(&self, limits: PerSource) -> Option<Self> {
        (limits != PerSource::default()).then(|| Self { limits, book: Arc::clone(&self.book) })
    }

    /// A place for a connection that came just now.
    ///
    /// # Errors
    /// [`Refused`]: its source has too many. One that was refused does not count.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Result<Place, Refused> {
        let source = Source::of(address);
        let now = nanoseconds(now.saturating_duration_since(self.book.start));
        let mut shard = self.book.shard(source);
        if shard.sources.len() >= shard.sweep_at {
            shard.sweep(now);
        }
        let state = shard.sources.entry(source).or_default();
        let most = self.limits.connections.map_or(u32::MAX, NonZeroU32::get);
        if state.connections >= most {
            return Err(Refused::Connections);
        }
        if let Some(rate) = self.limits.rate {
            let due = state.due.max(now);
            // All of a period's connections may come at its beginning.
            let burst = nanoseconds(rate.period.saturating_sub(rate.interval()));
            if due - now > burst {
                return Err(Refused::Rate);
            }
            state.due = due.saturating_add(nanoseconds(rate.interval()));
        }
        state.connections += 1;
        Ok(Place { book: Arc::clone(&self.book), source })
    }

    /// Connections of the source that has most.
    #[must_use]
    pub fn fullest(&self) -> u32 {
        let fullest = |shard| lock(shard).sources.values().map(|state| state.connections).max();
        self.book.shards.iter().filter_map(fullest).max().unwrap_or(0)
    }

    /// Sources remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.book.shards.iter().map(|shard| lock(shard).sources.len()).sum()
    }

    /// Whether no source is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Book {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { sources: HashMap::new(), sweep_at: FIRST_SWEEP });
        Self {
            start: Instant::now(),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }
}

impl Book {
    fn shard(&self, source: Source) -> MutexGuard<'_, Shard> {
        // SHARDS is not 0, and so is the length.
        lock(&self.shards[self.hasher.hash_one(source) as usize % SHARDS])
    }
}

/// What a panicked holder left is valid: every change is one step.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Shard {
    fn sweep(&mut self, now: u64) {
        self.sources.retain(|_, state| state.connections > 0 || state.due > now);
        self.sweep_at = (self.sources.len() * 2).max(FIRST_SWEEP);
    }
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shard = self.book.shard(self.source);
        if let Some(state) = shard.sources.get_mut(&self.source) {
            state.connections = state.connections.saturating_sub(1);
            // 0: its rate has never been limited. Otherwise the sweep forgets it.
            if state.connections == 0 && state.due == 0 {
                shard.sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(connections: u32, rate: Option<(u32, u64)>) -> Sources {
        let rate = rate.map(|(count, seconds)| Rate {
            count: NonZeroU32::new(count).expect("not 0"),
            period: Duration::from_secs(seconds),
        });
        Sources::new(PerSource { connections: NonZeroU32::new(connections), rate })
            .expect("limited")
    }

    fn admit(sources: &Sources, address: &str, millis: u64) -> Result<Place, Refused> {
        let now = sources.book.start + Duration::from_millis(millis);
        sources.admit(address.parse().expect(address), now)
    }

    #[test]
    fn connections_of_a_source_at_once() {
        let sources = sources(2, None);
        let first = admit(&sources, "192.0.2.1", 0).expect("a place");
        let _second = admit(&sources, "::ffff:192.0.2.1", 0).expect("a place");
        assert_eq!(admit(&sources, "192.0.2.1", 0).unwrap_err(), Refused::Connections);
        let other = admit(&sources, "192.0.2.2", 0).expect("another source");
        drop(first);
        let _third = admit(&sources, "192.0.2.1", 0).expect("a place again");
        drop(other);
        assert_eq!(sources.len(), 1);
    }

    #[test]
    fn other_limits_count_what_is_there() {
        let before = sources(2, Some((1, 10)));
        let _first = admit(&before, "192.0.2.1", 0).expect("a place");
        assert_eq!(admit(&before, "192.0.2.1", 0).unwrap_err(), Refused::Rate);
        let limits = PerSource { connections: NonZeroU32::new(2), rate: None };
        let after = before.resized(limits).expect("limited");
        let second = admit(&after, "192.0.2.1", 0).expect("the rate is not limited any more");
        assert_eq!(admit(&after, "192.0.2.1", 0).unwrap_err(), Refused::Connections);
        drop(second);
        let _again = admit(&after, "192.0.2.1", 0).expect("a place came back");
        assert!(after.resized(PerSource::default()).is_none());
    }

    #[test]
    fn a_64_is_one_source() {
        let sources = sources(1, None);
        let _one = admit(&sources, "2001:db8:0:1::1", 0).expect("a place");
        assert!(admit(&sources, "2001:db8:0:1:ffff::9", 0).is_err());
        assert!(admit(&sources, "2001:db8:0:2::1", 0).is_ok());
    }

    #[test]
    fn a_rate_allows_its_count_at_once_and_then_one_an_interval() {
        let sources = sources(0, Some((5, 1)));
        let open = |millis| admit(&sources, "192.0.2.1", millis).map(drop);
        for _ in 0..5 {
            open(0).expect("in the burst");
        }
        assert_eq!(open(0), Err(Refused::Rate));
        assert_eq!(open(199), Err(Refused::Rate));
        open(200).expect("one more");
        assert_eq!(open(200), Err(Refused::Rate));
        for _ in 0..5 {
            open(5_000).expect("a whole burst after a pause");
        }
        assert_eq!(open(5_000), Err(Refused::Rate));
    }

    #[test]
    fn forgotten_sources_are_swept_out() {
        let sources = sources(0, Some((1, 1)));
        for number in 0..100_000_u32 {
            let address = IpAddr::V4(number.into());
            // 1 ms apart: a thousand are remembered at any time.
            let now = sources.book.start + Duration::from_millis(number.into());
            drop(sources.admit(address, now).expect("its first"));
        }
        assert!(sources.len() <= SHARDS * FIRST_SWEEP, "{}", sources.len());
    }
}
