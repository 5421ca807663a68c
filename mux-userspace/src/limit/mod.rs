//! Counted permits: how many of a thing there may be at once, across cores.

pub mod gate;
pub mod reached;
pub mod room;
pub mod sniffing;
pub mod source;

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// A gauge with an upper bound.
#[derive(Clone, Debug)]
pub struct Limit {
    in_use: Arc<AtomicU32>,
    most: Option<NonZeroU32>,
}

/// A place under a [`Limit`]; given back by `Drop`.
#[derive(Debug)]
pub struct Permit(Arc<AtomicU32>);

impl Limit {
    /// At most `most` at once; `None`: only counted.
    #[must_use]
    pub fn new(most: Option<NonZeroU32>) -> Self {
        Self { in_use: Arc::default(), most }
    }

    /// Another limit on what this one counts: what was taken under this one is taken under that one.
    #[must_use]
    pub fn resized(&self, most: Option<NonZeroU32>) -> Self {
        Self { in_use: Arc::clone(&self.in_use), most }
    }

    /// What counts for as long as somebody has a place.
    pub(crate) fn trace(&self) -> Trace {
        Trace(Arc::downgrade(&self.in_use))
    }

    /// A place, if one is free. Never waits.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        let most = self.most.map_or(u32::MAX, NonZeroU32::get);
        self.in_use
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < most).then_some(now + 1)
            })
            .ok()
            .map(|_| Permit(Arc::clone(&self.in_use)))
    }

    /// Places taken.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Acquire)
    }
}

/// What is left of a limit that no rule has any more: the places that are still taken.
#[derive(Clone, Debug)]
pub(crate) struct Trace(Weak<AtomicU32>);

impl Trace {
    /// The limit, if a place is still taken.
    pub(crate) fn revive(&self, most: Option<NonZeroU32>) -> Option<Limit> {
        self.0.upgrade().map(|in_use| Limit { in_use, most })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resized_limit_counts_what_was_taken_before() {
        let limit = Limit::new(NonZeroU32::new(2));
        let first = limit.try_acquire().unwrap();
        let _second = limit.try_acquire().unwrap();
        let lower = limit.resized(NonZeroU32::new(1));
        drop(first);
        assert!(lower.try_acquire().is_none());
        let higher = lower.resized(NonZeroU32::new(3));
        let _more = [higher.try_acquire().unwrap(), higher.try_acquire().unwrap()];
        assert!(higher.try_acquire().is_none());
    }

    #[test]
    fn a_limit_is_revived_only_while_a_place_is_taken() {
        let limit = Limit::new(None);
        let permit = limit.try_acquire().unwrap();
        let trace = limit.trace();
        drop(limit);
        assert_eq!(trace.revive(None).unwrap().in_use(), 1);
        drop(permit);
        assert!(trace.revive(None).is_none());
    }

    #[test]
    fn a_place_comes_back_when_its_permit_is_dropped() {
        let limit = Limit::new(NonZeroU32::new(2));
        let first = limit.try_acquire().unwrap();
        let second = limit.try_acquire().unwrap();
        assert!(limit.try_acquire().is_none());
        drop(first);
        assert_eq!(limit.in_use(), 1);
        assert!(limit.try_acquire().is_some());
        drop(second);
        assert_eq!(limit.in_use(), 0);
    }
}
