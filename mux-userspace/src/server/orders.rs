//! What the daemon can be told to do while it serves, by a signal or over the admin socket, and who
//! does it: the main thread, one order after the other.

use thiserror::Error;
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

/// Orders that may wait for the main thread; more are refused.
const WAITING: usize = 16;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read the rules file again, and go on with what it says.
    Reload,
    /// Have a new process take over.
    Upgrade,
    /// Stop accepting, let flows end, exit.
    Drain,
}

impl Action {
    /// Its name, which is the command's.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Upgrade => "upgrade",
            Self::Drain => "drain",
        }
    }
}

/// How an order ended: what was done, in words, or why it could not be.
pub(crate) type Outcome = Result<String, String>;

/// Why an order was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Refused {
    /// The main thread is behind.
    #[error("too many orders are waiting")]
    Busy,
    /// The main thread takes no orders any more.
    #[error("mux is draining, and takes no more orders")]
    Ending,
}

/// An order, and where its outcome is awaited.
#[derive(Debug)]
pub(crate) struct Order {
    /// What to do.
    pub(crate) action: Action,
    /// Takes the outcome; who asked may be gone by then.
    pub(crate) reply: oneshot::Sender<Outcome>,
}

/// Where orders come from.
pub(crate) type Orders = mpsc::Receiver<Order>;

/// Gives orders.
#[derive(Clone, Debug)]
pub(crate) struct Desk(mpsc::Sender<Order>);

impl Desk {
    /// A desk, and what comes over it.
    pub(crate) fn new() -> (Self, Orders) {
        let (sender, orders) = mpsc::channel(WAITING);
        (Self(sender), orders)
    }

    /// Gives an order whose outcome nobody awaits; it is lost if too many are waiting.
    pub(crate) fn order(&self, action: Action) {
        let (reply, _) = oneshot::channel();
        let _ = self.0.try_send(Order { action, reply });
    }

    /// Gives an order and waits for its outcome.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) async fn give(&self, action: Action) -> Result<Outcome, Refused> {
        let (reply, outcome) = oneshot::channel();
        self.0.try_send(Order { action, reply }).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Closed(_) => Refused::Ending,
        })?;
        outcome.await.map_err(|_| Refused::Ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_that_nobody_takes_is_refused() {
        let (desk, orders) = Desk::new();
        drop(orders);
        assert_eq!(desk.give(Action::Reload).await, Err(Refused::Ending));
    }

    #[tokio::test]
    async fn who_gives_an_order_gets_its_outcome() {
        let (desk, mut orders) = Desk::new();
        let asked = tokio::spawn(async move { desk.give(Action::Drain).await });
        let order = orders.recv().await.expect("an order");
        assert_eq!(order.action, Action::Drain);
        order.reply.send(Ok("draining".into())).expect("somebody waits");
        assert_eq!(asked.await.expect("no panic"), Ok(Ok("draining".into())));
    }
}
