//! Who is in this process: its connections and its accept loops; and whether it accepts at all,
//! which it does not while a successor serves.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, watch};

/// Connections and accept loops of all cores.
#[derive(Debug)]
pub struct Presence {
    connections: AtomicUsize,
    /// Accept loops that are not paused.
    accepting: AtomicUsize,
    left: Notify,
    paused: watch::Sender<bool>,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            connections: AtomicUsize::new(0),
            accepting: AtomicUsize::new(0),
            left: Notify::new(),
            paused: watch::Sender::new(false),
        }
    }
}

/// Counts for as long as it lives.
#[derive(Debug)]
pub struct Present {
    presence: Arc<Presence>,
    what: fn(&Presence) -> &AtomicUsize,
}

impl Presence {
    /// A connection, from accept to its end.
    #[must_use]
    pub fn connection(self: &Arc<Self>) -> Present {
        self.enter(|presence| &presence.connections)
    }

    /// An accept loop that accepts.
    #[must_use]
    pub fn acceptor(self: &Arc<Self>) -> Present {
        self.enter(|presence| &presence.accepting)
    }

    fn enter(self: &Arc<Self>, what: fn(&Self) -> &AtomicUsize) -> Present {
        what(self).fetch_add(1, Ordering::AcqRel);
        Present { presence: Arc::clone(self), what }
    }

    /// Connections now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// Has all accept loops pause, or go on.
    pub fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// For an accept loop: tells whether it is to pause, now and later.
    #[must_use]
    pub fn orders(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Waits until no loop accepts and no connection is left.
    pub async fn nobody(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.accepting.load(Ordering::Acquire) == 0 && self.connections() == 0 {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if (self.what)(&self.presence).fetch_sub(1, Ordering::AcqRel) == 1 {
            self.presence.left.notify_waiters();
        }
    }
}

/// Waits until the accept loop with these orders is to pause (or go on).
pub async fn until_paused(orders: &mut watch::Receiver<bool>, paused: bool) {
    if orders.wait_for(|is| *is == paused).await.is_err() {
        // The sender lives as long as the cores do.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_there_when_the_last_one_has_left() {
        let presence = Arc::new(Presence::default());
        presence.nobody().await;
        let (one, two) = (presence.connection(), presence.acceptor());
        assert_eq!(presence.connections(), 1);
        let waiting = tokio::spawn({
            let presence = Arc::clone(&presence);
            async move { presence.nobody().await }
        });
        tokio::task::yield_now().await;
        drop(one);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(two);
        waiting.await.expect("no panic");
    }

    #[tokio::test]
    async fn orders_to_pause_arrive() {
        let presence = Presence::default();
        let mut orders = presence.orders();
        until_paused(&mut orders, false).await;
        presence.pause(true);
        until_paused(&mut orders, true).await;
    }
}
