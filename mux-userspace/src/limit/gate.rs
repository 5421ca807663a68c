//! A limit that is waited for, and can be changed while it is in use.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::room::{End, Place, Room};

/// So many places; who finds none waits for one, first come, first served.
///
/// A lower limit takes no place away from anybody: there is a place again when fewer than that are
/// taken.
#[derive(Debug)]
pub struct Gate {
    room: Arc<Room>,
    /// `u32::MAX`: as many as are wanted.
    most: AtomicU32,
}

impl Gate {
    /// At most `most` at once; `None`: only counted.
    #[must_use]
    pub fn new(most: Option<NonZeroU32>) -> Self {
        Self { room: Arc::default(), most: AtomicU32::new(places(most)) }
    }

    /// Changes the limit, for those who wait, too.
    pub fn resize(&self, most: Option<NonZeroU32>) {
        self.most.store(places(most), Ordering::Release);
        self.room.wake_all();
    }

    /// Places taken.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.room.in_use()
    }

    /// The limit; `None`: there is none.
    #[must_use]
    pub fn most(&self) -> Option<NonZeroU32> {
        match self.most.load(Ordering::Acquire) {
            u32::MAX => None,
            most => NonZeroU32::new(most),
        }
    }

    /// A place, if one is free. Never waits, and may overtake those who do.
    #[must_use]
    pub fn try_enter(&self) -> Option<Place> {
        self.room.take(self.most())
    }

    /// A place, as soon as one is free. `full` is called first if that is not at once.
    pub async fn enter_or(&self, full: impl FnOnce()) -> Place {
        if self.room.waiting() == 0
            && let Some(place) = self.try_enter()
        {
            return place;
        }
        full();
        let Some(ticket) = self.room.join(End::Back, u32::MAX) else {
            // There is no memory for 2^32 who wait.
            return std::future::pending().await;
        };
        // Who gave a place back before we had joined has woken nobody.
        let mut may_look = ticket.is_first();
        loop {
            if may_look && let Some(place) = self.try_enter() {
                return place;
            }
            ticket.turn().await;
            may_look = true;
        }
    }
}

fn places(most: Option<NonZeroU32>) -> u32 {
    most.map_or(u32::MAX, NonZeroU32::get)
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Poll};

    use super::*;

    fn gate(most: u32) -> Gate {
        Gate::new(NonZeroU32::new(most))
    }

    impl Gate {
        async fn enter(&self) -> Place {
            self.enter_or(|| {}).await
        }
    }

    #[tokio::test]
    async fn only_who_has_to_wait_is_told_of() {
        let gate = gate(1);
        let _first = gate.enter_or(|| panic!("there is a place")).await;
        let told = std::cell::Cell::new(0);
        let mut second = pin!(gate.enter_or(|| told.set(told.get() + 1)));
        for _ in 0..3 {
            assert!(is_waiting(&mut second).await);
        }
        assert_eq!(told.get(), 1);
    }

    async fn is_waiting(future: &mut (impl Future + Unpin)) -> bool {
        std::future::poll_fn(|cx| {
            Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())
        })
        .await
    }

    #[tokio::test]
    async fn a_lower_limit_counts_the_places_that_were_taken_under_the_higher_one() {
        let gate = gate(3);
        let mut taken = vec![gate.enter().await, gate.enter().await, gate.enter().await];
        gate.resize(NonZeroU32::new(2));
        taken.pop();
        assert!(gate.try_enter().is_none(), "2 of 2 are taken");
        taken.pop();
        taken.push(gate.try_enter().expect("1 of 2 was taken"));
        assert!(gate.try_enter().is_none());
        assert_eq!(gate.in_use(), 2);
    }

    #[tokio::test]
    async fn a_higher_limit_lets_those_in_who_wait() {
        let gate = gate(1);
        let _first = gate.enter().await;
        let (mut second, mut third) = (pin!(gate.enter()), pin!(gate.enter()));
        assert!(is_waiting(&mut second).await && is_waiting(&mut third).await);
        gate.resize(NonZeroU32::new(2));
        let second = second.await;
        assert!(is_waiting(&mut third).await);
        drop(second);
        let _third = third.await;
        gate.resize(None);
        assert!(gate.most().is_none() && gate.try_enter().is_some());
        assert_eq!(gate.in_use(), 2);
    }
}
