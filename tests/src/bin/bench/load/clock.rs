//! When to count, and when to stop; shared by all threads, looked at by each step.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

/// What the generator is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connections are opened, and the subject warms up.
    WarmUp,
    /// What is done counts.
    Counting,
    /// No connection asks again; answers that are due are waited for.
    Draining,
    /// Nothing is waited for.
    Over,
}

/// The phase, and how much is left to do.
#[derive(Debug)]
pub(crate) struct Clock {
    phase: AtomicU8,
    /// Units that may still be begun; no bound where the window's length decides.
    left: Option<AtomicI64>,
    /// Connections that have done a first unit.
    warm: AtomicU64,
    failed: AtomicBool,
}

impl Clock {
    /// A clock for `count` units, or for a window.
    pub(crate) fn new(count: Option<u64>) -> Self {
        let left = count.map(|count| AtomicI64::new(i64::try_from(count).unwrap_or(i64::MAX)));
        let phase = if left.is_some() { Phase::Counting } else { Phase::WarmUp };
        Self {
            phase: AtomicU8::new(phase as u8),
            left,
            warm: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::WarmUp,
            1 => Phase::Counting,
            2 => Phase::Draining,
            _ => Phase::Over,
        }
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Whether another unit may be begun; takes it.
    pub(crate) fn begins(&self) -> bool {
        match self.phase() {
            Phase::WarmUp | Phase::Counting => {
                self.left.as_ref().is_none_or(|left| left.fetch_sub(1, Ordering::Relaxed) > 0)
            }
            Phase::Draining | Phase::Over => false,
        }
    }

    /// A connection has done its first unit.
    pub(crate) fn is_warm(&self) {
        self.warm.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that have.
    pub(crate) fn warm(&self) -> u64 {
        self.warm.load(Ordering::Relaxed)
    }

    /// Something went wrong: the round is void, and need not go on.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_begun_so_many_times() {
        let clock = Clock::new(Some(3));
        assert_eq!((0..10).filter(|_| clock.begins()).count(), 3);
        let clock = Clock::new(None);
        assert!(clock.begins());
        clock.set(Phase::Draining);
        assert!(!clock.begins());
    }
}
