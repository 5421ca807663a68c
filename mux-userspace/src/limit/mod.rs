//! Counted permits: how many of a thing there may be at once, across cores.

pub mod sniffing;
pub mod source;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
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

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
