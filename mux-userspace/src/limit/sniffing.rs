//! The places of connections that are being sniffed on one core, in the order of their coming.
//!
//! A client that is sniffed normally leaves after milliseconds; one that stays is slow, or means
//! to take a place. So a new connection always gets one: the oldest has to give its own.

use std::{cell::RefCell, num::NonZeroU32, rc::Rc};

use slab::Slab;

use crate::relay::{Control, Stop};

/// A core's places.
#[derive(Debug)]
pub struct Sniffing(RefCell<Queue>);

#[derive(Debug)]
struct Queue {
    entries: Slab<Entry>,
    oldest: Option<usize>,
    newest: Option<usize>,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    control: Rc<Control>,
    older: Option<usize>,
    newer: Option<usize>,
}

/// A connection's place; given up by `Drop`.
#[derive(Debug)]
pub struct SniffingPlace<'a> {
    queue: &'a Sniffing,
    key: usize,
}

impl Sniffing {
    /// So many places.
    #[must_use]
    pub fn new(most: NonZeroU32) -> Self {
        let most = most.get() as usize;
        Self(RefCell::new(Queue { entries: Slab::new(), oldest: None, newest: None, most }))
    }

    /// Changes how many there are. Nobody loses a place by it before a new connection comes.
    pub fn resize(&self, most: NonZeroU32) {
        self.0.borrow_mut().most = most.get() as usize;
    }

    /// A place. Where all are taken, the connection that has had its for longest is ordered to
    /// end; true: there was one.
    pub fn enter(&self, control: &Rc<Control>) -> (SniffingPlace<'_>, bool) {
        let mut queue = self.0.borrow_mut();
        let evicts = queue.entries.len() >= queue.most;
        if evicts && let Some(oldest) = queue.oldest {
            // It gives up its place when its task runs: until then there is one too many, and
            // it must not be chosen again.
            let control = Rc::clone(&queue.entries[oldest].control);
            queue.unlink(oldest);
            control.stop(Stop::Evicted);
        }
        let key = queue.push(Rc::clone(control));
        (SniffingPlace { queue: self, key }, evicts)
    }

    /// Connections that are being sniffed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.borrow().entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Queue {
    fn push(&mut self, control: Rc<Control>) -> usize {
        let older = self.newest;
        let key = self.entries.insert(Entry { control, older, newer: None });
        match older.and_then(|older| self.entries.get_mut(older)) {
            Some(entry) => entry.newer = Some(key),
            None => self.oldest = Some(key),
        }
        self.newest = Some(key);
        key
    }

    /// Takes an entry out of the order. Does nothing to one that is not in it.
    fn unlink(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let (older, newer) = (entry.older.take(), entry.newer.take());
        if self.oldest != Some(key) && older.is_none() {
            return;
        }
        match older.and_then(|older| self.entries.get_mut(older)) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.entries.get_mut(newer)) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }
}

impl Drop for SniffingPlace<'_> {
    fn drop(&mut self) {
        let mut queue = self.queue.0.borrow_mut();
        queue.unlink(self.key);
        queue.entries.try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_gives_its_place() {
        let places = Sniffing::new(NonZeroU32::new(2).expect("not 0"));
        let controls: Vec<Rc<Control>> = (0..4).map(|_| Rc::default()).collect();
        let stopped = || controls.iter().map(|c| c.stopped().is_some()).collect::<Vec<_>>();
        let (first, evicted) = places.enter(&controls[0]);
        assert!(!evicted);
        let (second, evicted) = places.enter(&controls[1]);
        assert!(!evicted);
        let (_third, evicted) = places.enter(&controls[2]);
        assert!(evicted);
        assert_eq!(stopped(), [true, false, false, false]);
        drop(first);
        drop(second);
        let (_fourth, evicted) = places.enter(&controls[3]);
        assert!(!evicted);
        assert_eq!(places.len(), 2);
    }

    proptest! {
        /// Against a list: who was evicted, and how many there are.
        #[test]
        fn agrees_with_a_list(most in 1_u32..4, steps in proptest::collection::vec(0_usize..6, 0..60)) {
            let places = Sniffing::new(NonZeroU32::new(most).expect("not 0"));
            let mut held: Vec<(Rc<Control>, SniffingPlace<'_>)> = Vec::new();
            let mut order: Vec<Rc<Control>> = Vec::new();
            for step in steps {
                if step < 3 || held.is_empty() {
                    let control: Rc<Control> = Rc::default();
                    let expected = (held.len() >= most as usize && !order.is_empty())
                        .then(|| order.remove(0));
                    let (place, _) = places.enter(&control);
                    if let Some(expected) = expected {
                        prop_assert_eq!(expected.stopped(), Some(Stop::Evicted));
                    }
                    order.push(Rc::clone(&control));
                    held.push((control, place));
                } else {
                    let (control, place) = held.remove(step % held.len());
                    drop(place);
                    order.retain(|other| !Rc::ptr_eq(other, &control));
                }
                prop_assert_eq!(places.len(), held.len());
                let alive = order.iter().all(|control| control.stopped().is_none());
                prop_assert!(alive);
            }
        }
    }
}
