//! Places, and the queue for them: first come, first served, across all cores.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering, fence},
    },
};

use tokio::sync::Notify;

/// Places and who waits for one. How many there are says who takes one: that is configuration, and
/// this outlives it.
#[derive(Debug, Default)]
pub struct Room {
    in_use: AtomicU32,
    waiting: Mutex<VecDeque<Arc<Notify>>>,
    /// Its length.
    length: AtomicUsize,
}

/// One of the places; given back by `Drop`.
#[derive(Debug)]
pub struct Place(Arc<Room>);

/// A place in the queue; given up by `Drop`.
#[derive(Debug)]
pub(crate) struct Ticket {
    room: Arc<Room>,
    turn: Arc<Notify>,
}

/// Where in the queue somebody goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Before all others: who has waited already.
    Front,
    /// Behind them.
    Back,
}

impl Room {
    /// Flows in the group, those being connected included.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Acquire)
    }

    /// Connections in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    pub(crate) fn has_place(&self, most: Option<NonZeroU32>) -> bool {
        most.is_none_or(|most| self.in_use() < most.get())
    }

    /// A place, if one is free.
    pub(crate) fn take(self: &Arc<Self>, most: Option<NonZeroU32>) -> Option<Place> {
        let most = most.map_or(u32::MAX, NonZeroU32::get);
        self.in_use
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < most).then_some(now + 1)
            })
            .ok()
            .map(|_| Place(Arc::clone(self)))
    }

    /// A place in the queue, if it has fewer than `most`. Look once more for a place after that: one
    /// that was given back before has woken nobody.
    pub(crate) fn join(self: &Arc<Self>, end: End, most: u32) -> Option<Ticket> {
        let turn = Arc::new(Notify::new());
        let mut waiting = self.lock();
        if waiting.len() >= most as usize {
            return None;
        }
        match end {
            End::Front => waiting.push_front(Arc::clone(&turn)),
            End::Back => waiting.push_back(Arc::clone(&turn)),
        }
        self.length.store(waiting.len(), Ordering::Release);
        drop(waiting);
        // With the one in `wake_first`: either we see the place that was given back, or who gives
        // it back sees us.
        fence(Ordering::SeqCst);
        Some(Ticket { room: Arc::clone(self), turn })
    }

    /// Tells the first in the queue that there may be a place.
    pub(crate) fn wake_first(&self) {
        fence(Ordering::SeqCst);
        // The usual case, without the lock.
        if self.length.load(Ordering::Acquire) > 0
            && let Some(first) = self.lock().front()
        {
            first.notify_one();
        }
    }

    /// Tells everybody to look again: endpoints went down or came up.
    pub(crate) fn wake_all(&self) {
        self.lock().iter().for_each(|turn| turn.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::AcqRel);
        self.0.wake_first();
    }
}

impl Ticket {
    /// Whether nobody is before it.
    pub(crate) fn is_first(&self) -> bool {
        self.room.lock().front().is_some_and(|first| Arc::ptr_eq(first, &self.turn))
    }

    /// Waits to be told to look for a place.
    pub(crate) async fn turn(&self) {
        self.turn.notified().await;
    }

    /// Tells the next one: the place was none for us.
    pub(crate) fn pass_on(&self) {
        let waiting = self.room.lock();
        let ours = waiting.iter().position(|turn| Arc::ptr_eq(turn, &self.turn));
        if let Some(next) = ours.and_then(|index| waiting.get(index + 1)) {
            next.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiting = self.room.lock();
        if let Some(index) = waiting.iter().position(|turn| Arc::ptr_eq(turn, &self.turn)) {
            waiting.remove(index);
        }
        self.room.length.store(waiting.len(), Ordering::Release);
        drop(waiting);
        // We may have been told of a place and not have taken it; or there are more.
        self.room.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn the_queue_is_bounded_and_places_in_it_come_back() {
        let room = Arc::new(Room::default());
        let first = room.join(End::Back, 2).expect("room");
        let second = room.join(End::Back, 2).expect("room");
        assert!(room.join(End::Back, 2).is_none() && room.join(End::Front, 2).is_none());
        assert!(first.is_first() && !second.is_first());
        drop(first);
        assert!(second.is_first());
        let again = room.join(End::Front, 2).expect("room");
        assert!(again.is_first() && !second.is_first());
        drop((second, again));
        assert_eq!(room.waiting(), 0);
    }

    /// Many tasks on several threads, as the cores are, and few places: everybody gets one, and
    /// never more than there are. A lost wake-up would be a hang.
    #[test]
    fn everybody_gets_a_place_in_the_end() {
        const THREADS: u32 = 4;
        const TASKS: u32 = 50;
        const ROUNDS: u32 = 50;
        let room = Arc::new(Room::default());
        let most = NonZeroU32::new(3);
        let core = || {
            let builder = &mut tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for _ in 0..TASKS {
                    let room = Arc::clone(&room);
                    tasks.spawn(async move {
                        for _ in 0..ROUNDS {
                            let place = wait(&room, most).await;
                            assert!(room.in_use() <= 3);
                            tokio::task::yield_now().await;
                            drop(place);
                        }
                    });
                }
                let all = tasks.join_all();
                let minute = std::time::Duration::from_secs(60);
                tokio::time::timeout(minute, all).await.expect("nobody waits for ever");
            });
        };
        std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(core))));
        assert_eq!((room.in_use(), room.waiting()), (0, 0));
    }

    async fn wait(room: &Arc<Room>, most: Option<NonZeroU32>) -> Place {
        if room.waiting() == 0
            && let Some(place) = room.take(most)
        {
            return place;
        }
        let ticket = room.join(End::Back, u32::MAX).expect("room");
        let mut may_look = ticket.is_first();
        loop {
            if may_look && let Some(place) = room.take(most) {
                return place;
            }
            ticket.turn().await;
            may_look = true;
        }
    }
}
