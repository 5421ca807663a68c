//! The places of connections that are being sniffed, in the order of their coming, over all cores.
//!
//! A client that is sniffed normally leaves after milliseconds; one that stays is slow, or means
//! to take a place. So a new connection always gets one: the oldest has to give its own, whichever
//! core it is on. How many there may be is one count: `SO_REUSEPORT` spreads connections unevenly,
//! so that shares of it by core would be used up on one while another has room.

use std::{
    cell::RefCell,
    num::NonZeroU32,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use slab::Slab;
use tokio::sync::Notify;

use crate::relay::{Control, Stop};

/// Of a core where nobody is being sniffed.
const NOBODY: u64 = u64::MAX;

/// What the cores share: how many are being sniffed, how many may be, and which core has the oldest.
#[derive(Debug)]
pub struct Crowd {
    in_use: AtomicU32,
    most: AtomicU32,
    /// Numbers those who come.
    arrivals: AtomicU64,
    cores: Box<[Side]>,
}

/// What a core shows to the others, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Side {
    /// Its oldest connection's number, or [`NOBODY`].
    oldest: AtomicU64,
    /// How many of its connections others have asked it to end.
    owed: AtomicU32,
    asked: Notify,
}

impl Crowd {
    /// On so many cores, at most `most` at once; `None`: as many as come.
    #[must_use]
    pub fn new(most: Option<NonZeroU32>, cores: usize) -> Arc<Self> {
        let side = || Side {
            oldest: AtomicU64::new(NOBODY),
            owed: AtomicU32::new(0),
            asked: Notify::new(),
        };
        Arc::new(Self {
            in_use: AtomicU32::new(0),
            most: AtomicU32::new(most.map_or(u32::MAX, NonZeroU32::get)),
            arrivals: AtomicU64::new(0),
            cores: (0..cores).map(|_| side()).collect(),
        })
    }

    /// Changes how many there may be. Nobody loses a place by it before a new connection comes.
    pub fn resize(&self, most: NonZeroU32) {
        self.most.store(most.get(), Ordering::Release);
    }

    /// Connections that are being sniffed and have not been told to end.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Acquire)
    }

    /// The core whose oldest connection is the oldest of all.
    fn oldest(&self) -> Option<usize> {
        let all = self.cores.iter().map(|side| side.oldest.load(Ordering::Acquire)).enumerate();
        let (core, oldest) = all.min_by_key(|(_, oldest)| *oldest)?;
        (oldest != NOBODY).then_some(core)
    }
}

/// A core's places.
#[derive(Debug)]
pub struct Sniffing {
    crowd: Arc<Crowd>,
    core: usize,
    queue: RefCell<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: Slab<Entry>,
    oldest: Option<usize>,
    newest: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    control: Rc<Control>,
    number: u64,
    /// It is in the order: it has not been told to end.
    has_place: bool,
    older: Option<usize>,
    newer: Option<usize>,
}

/// A connection's place; given up by `Drop`.
#[derive(Debug)]
pub struct SniffingPlace<'a> {
    sniffing: &'a Sniffing,
    key: usize,
}

impl Sniffing {
    /// This core's part.
    #[must_use]
    pub fn new(crowd: Arc<Crowd>, core: u16) -> Self {
        Self { crowd, core: core.into(), queue: RefCell::default() }
    }

    /// What the cores share.
    #[must_use]
    pub fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// A place. Where all are taken, the connection that has had its for longest is ordered to end.
    pub fn enter(&self, control: &Rc<Control>) -> SniffingPlace<'_> {
        let most = self.crowd.most.load(Ordering::Acquire);
        if self.crowd.in_use.fetch_add(1, Ordering::AcqRel) >= most {
            self.evict();
        }
        let number = self.crowd.arrivals.fetch_add(1, Ordering::Relaxed);
        let key = self.queue.borrow_mut().push(Rc::clone(control), number);
        self.publish();
        SniffingPlace { sniffing: self, key }
    }

    /// Orders the connection that has had its place for longest to end. One of another core's gets
    /// the order a moment later.
    pub fn evict(&self) {
        match self.crowd.oldest() {
            None => {}
            Some(core) if core == self.core => self.evict_ours(),
            Some(core) => {
                let side = &self.crowd.cores[core];
                side.owed.fetch_add(1, Ordering::AcqRel);
                side.asked.notify_one();
            }
        }
    }

    /// Does what other cores ask for, for ever.
    pub async fn run(&self) {
        let Some(side) = self.crowd.cores.get(self.core) else {
            // A core that the crowd was not made for, whom nobody asks.
            return std::future::pending().await;
        };
        loop {
            side.asked.notified().await;
            for _ in 0..side.owed.swap(0, Ordering::AcqRel) {
                self.evict_ours();
            }
        }
    }

    /// Orders this core's oldest to end. It leaves when its task runs; its place is free at once,
    /// and it is not chosen again.
    fn evict_ours(&self) {
        let mut queue = self.queue.borrow_mut();
        let Some(oldest) = queue.oldest else { return };
        let control = Rc::clone(&queue.entries[oldest].control);
        self.take_from(&mut queue, oldest);
        drop(queue);
        self.publish();
        control.stop(Stop::Evicted);
    }

    fn take_from(&self, queue: &mut Queue, key: usize) {
        if queue.unlink(key) {
            self.crowd.in_use.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Shows the other cores who is the oldest here.
    fn publish(&self) {
        let queue = self.queue.borrow();
        let oldest = queue.oldest.and_then(|key| queue.entries.get(key));
        if let Some(side) = self.crowd.cores.get(self.core) {
            side.oldest.store(oldest.map_or(NOBODY, |entry| entry.number), Ordering::Release);
        }
    }

    /// Connections that are being sniffed on this core, those included that are about to end.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.borrow().entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Queue {
    fn push(&mut self, control: Rc<Control>, number: u64) -> usize {
        let older = self.newest;
        let entry = Entry { control, number, has_place: true, older, newer: None };
        let key = self.entries.insert(entry);
        match older.and_then(|older| self.entries.get_mut(older)) {
            Some(entry) => entry.newer = Some(key),
            None => self.oldest = Some(key),
        }
        self.newest = Some(key);
        key
    }

    /// Takes an entry out of the order; whether it was in it.
    fn unlink(&mut self, key: usize) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if !std::mem::take(&mut entry.has_place) {
            return false;
        }
        let (older, newer) = (entry.older.take(), entry.newer.take());
        match older.and_then(|older| self.entries.get_mut(older)) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.entries.get_mut(newer)) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        true
    }
}

impl Drop for SniffingPlace<'_> {
    fn drop(&mut self) {
        let Self { sniffing, key } = self;
        let mut queue = sniffing.queue.borrow_mut();
        sniffing.take_from(&mut queue, *key);
        queue.entries.try_remove(*key);
        drop(queue);
        sniffing.publish();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn crowd(most: u32, cores: usize) -> Arc<Crowd> {
        Crowd::new(NonZeroU32::new(most), cores)
    }

    fn controls<const N: usize>() -> [Rc<Control>; N] {
        std::array::from_fn(|_| Rc::default())
    }

    fn stopped(controls: &[Rc<Control>]) -> Vec<bool> {
        controls.iter().map(|control| control.stopped().is_some()).collect()
    }

    #[test]
    fn the_oldest_gives_its_place() {
        let places = Sniffing::new(crowd(2, 1), 0);
        let controls = controls::<4>();
        let first = places.enter(&controls[0]);
        let second = places.enter(&controls[1]);
        assert_eq!(stopped(&controls), [false; 4]);
        let _third = places.enter(&controls[2]);
        assert_eq!(stopped(&controls), [true, false, false, false]);
        drop(first);
        drop(second);
        let _fourth = places.enter(&controls[3]);
        assert_eq!(stopped(&controls), [true, false, false, false]);
        assert_eq!((places.len(), places.crowd().in_use()), (2, 2));
    }

    /// What `SO_REUSEPORT` may do: all come to one core. It was that core's share then that was
    /// used up.
    #[test]
    fn all_places_may_be_one_cores() {
        let crowd = crowd(4, 4);
        let places = Sniffing::new(Arc::clone(&crowd), 3);
        let controls = controls::<5>();
        let held: Vec<_> = controls.iter().take(4).map(|control| places.enter(control)).collect();
        assert_eq!(stopped(&controls), [false; 5]);
        let _fifth = places.enter(&controls[4]);
        assert_eq!(stopped(&controls), [true, false, false, false, false]);
        drop(held);
        assert_eq!(crowd.in_use(), 1);
    }

    #[tokio::test]
    async fn the_oldest_gives_its_place_on_whichever_core_it_is() {
        let crowd = crowd(2, 2);
        let [here, there] = [0, 1].map(|core| Sniffing::new(Arc::clone(&crowd), core));
        let controls = controls::<3>();
        let _first = there.enter(&controls[0]);
        let _second = there.enter(&controls[1]);
        let _third = here.enter(&controls[2]);
        assert_eq!(crowd.in_use(), 3, "until the other core does as it was asked");
        let never = tokio::time::timeout(std::time::Duration::ZERO, there.run()).await;
        assert!(never.is_err());
        assert_eq!(stopped(&controls), [true, false, false]);
        assert_eq!(crowd.in_use(), 2);
    }

    #[test]
    fn nobody_is_evicted_twice() {
        let places = Sniffing::new(crowd(1, 1), 0);
        let controls = controls::<3>();
        let held: Vec<_> = controls.iter().map(|control| places.enter(control)).collect();
        assert_eq!(stopped(&controls), [true, true, false]);
        places.evict();
        places.evict();
        assert_eq!(stopped(&controls), [true; 3]);
        assert_eq!((places.len(), places.crowd().in_use()), (3, 0));
        drop(held);
        assert_eq!((places.len(), places.crowd().in_use()), (0, 0));
    }

    proptest! {
        /// Against a list: who was evicted, and how many there are.
        #[test]
        fn agrees_with_a_list(most in 1_u32..4, steps in proptest::collection::vec(0_usize..6, 0..60)) {
            let places = Sniffing::new(crowd(most, 1), 0);
            let mut held: Vec<(Rc<Control>, SniffingPlace<'_>)> = Vec::new();
            let mut order: Vec<Rc<Control>> = Vec::new();
            for step in steps {
                if step < 3 || held.is_empty() {
                    let control: Rc<Control> = Rc::default();
                    let expected = (order.len() >= most as usize).then(|| order.remove(0));
                    let place = places.enter(&control);
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
                prop_assert_eq!(places.crowd().in_use() as usize, order.len());
                let alive = order.iter().all(|control| control.stopped().is_none());
                prop_assert!(alive);
            }
        }
    }
}
