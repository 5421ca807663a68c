//! Bounds for messages that a peer or an upstream could cause again and again: so many in a while,
//! and then how many there were not.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Messages of one kind that are written in a [`PERIOD`].
const MOST: u32 = 10;
/// After this much time there may be more.
const PERIOD: Duration = Duration::from_secs(60);

/// When messages of one kind were written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    start: Option<Instant>,
    written: u32,
}

impl Window {
    /// Whether one may be written at `now`, which counts.
    pub fn admits(&mut self, now: Instant) -> bool {
        if self.opens(now).is_some() {
            return false;
        }
        if self.start.is_none_or(|start| now >= start + PERIOD) {
            *self = Self { start: Some(now), written: 0 };
        }
        self.written += 1;
        true
    }

    /// When the next one may be written, if that is not `now`.
    #[must_use]
    pub fn opens(&self, now: Instant) -> Option<Instant> {
        let end = self.start? + PERIOD;
        (self.written >= MOST && now < end).then_some(end)
    }
}

/// Messages of one kind, which several threads write.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    window: Window,
    /// Messages that were not written, and of which nothing was said.
    held: u64,
}

impl Throttle {
    /// Whether a message may be written at `now`, and how many before it were not.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        if state.window.admits(now) {
            return Some(std::mem::take(&mut state.held));
        }
        state.held += 1;
        None
    }

    /// How many were not written, if there were some and it can be said at `now`.
    pub fn overdue(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        (state.held > 0 && state.window.admits(now)).then(|| std::mem::take(&mut state.held))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The messages of cores that are bounded.
#[derive(Debug, Default)]
pub struct Throttles {
    /// The kernel relay's books do not hold.
    pub books: Throttle,
    /// No endpoint of an upstream can be had.
    pub upstreams: Throttle,
    /// accept(2) fails as nobody has foreseen.
    pub accepting: Throttle,
}

impl Throttles {
    /// Says how many messages were not written, once that is over.
    pub fn settle(&self, now: Instant) {
        let Self { books, upstreams, accepting } = self;
        for (throttle, what) in [
            (books, "the kernel relay's books"),
            (upstreams, "no endpoint can be had"),
            (accepting, "cannot accept"),
        ] {
            if let Some(suppressed) = throttle.overdue(now) {
                tracing::warn!(suppressed, "messages like \"{what}\" that were not written");
            }
        }
    }
}

/// A count for the log; nothing if it is 0.
#[must_use]
pub const fn some(suppressed: u64) -> Option<u64> {
    if suppressed == 0 { None } else { Some(suppressed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_written_and_the_rest_is_counted() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..10 {
            assert_eq!(throttle.admit(at(second)), Some(0));
        }
        for second in 10..60 {
            assert_eq!((throttle.admit(at(second)), throttle.overdue(at(second))), (None, None));
        }
        assert_eq!(throttle.admit(at(60)), Some(50));
        assert_eq!(throttle.admit(at(61)), Some(0));
    }

    #[test]
    fn what_was_not_written_is_told_though_nothing_follows() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let written = (0..25).filter(|_| throttle.admit(start).is_some()).count();
        assert_eq!((written, throttle.overdue(start)), (10, None));
        assert_eq!(throttle.overdue(start + PERIOD), Some(15));
        assert_eq!(throttle.overdue(start + PERIOD * 2), None);
    }
}
