//! Leaving the kernel relay with a live flow, without losing a byte.
//!
//! Taking a socket out of the map loses what was passed and not read, and what waits in its
//! backlog. So: hold (the verdict passes everything from now on), wait until nothing is redirected
//! or passed that has not arrived, take the verdict off while a second, program-less map keeps the
//! psocks, and look again. If nothing was passed in between, let go; else put the verdict back and
//! try again (L6 in `LIFECYCLE.md`). Nothing is read while the verdict is off: the kernel would
//! give bytes of the receive queue for passed ones that its worker has not queued yet.

use std::{io, os::fd::AsFd};

use super::{Side, Spliced, Way, sent_by};
use crate::{
    kernel::InsertError,
    relay::{Close, Ends, ledger::Step},
    sys,
};

/// How far the flow is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It was not ordered to.
    #[default]
    No,
    /// The verdict passes everything.
    Holding,
    /// It cannot leave, since one of its streams is ending; user space carries it from inside.
    Held,
}

/// What a look brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Both sockets are plain TCP.
    Left,
    /// Not yet.
    LookAgain,
    /// It never will: see [`Leaving::Held`].
    Stays,
}

/// A socket left the maps by itself: it was reset, which epoll says too, or its stream ended in the
/// microseconds without a verdict. There is no honest way on.
fn torn(error: InsertError) -> Close {
    Close::Failed { side: Side::Downstream, error: io::Error::other(error.to_string()) }
}

impl Spliced<'_> {
    /// Goes on with leaving. Call it when both ways have done what they could.
    pub(super) fn leave(&mut self) -> Result<Progress, Close> {
        if self.leaving == Leaving::No {
            for way in Way::BOTH {
                self.membership.pair().record(way).hold(true);
            }
            self.leaving = Leaving::Holding;
        }
        if !self.membership.client_is_in() {
            // The client's stream is ending: user space carries everything already.
            self.leaving = Leaving::Held;
        }
        if self.leaving == Leaving::Held {
            return Ok(Progress::Stays);
        }
        if !self.is_quiet()? {
            return Ok(Progress::LookAgain);
        }
        if self.ways.iter().any(|way| way.ledger.has_fin()) || !self.detach()? {
            // Only an ESTABLISHED socket enters a map. Under hold every byte goes through user
            // space, exactly, until the flow ends, which it is about to.
            self.leaving = Leaving::Held;
            return Ok(Progress::Stays);
        }
        if self.is_quiet()? {
            self.membership.release().map_err(torn)?;
            return Ok(Progress::Left);
        }
        self.membership.attach(self.client.as_fd(), self.upstream.as_fd()).map_err(torn)?;
        for side in [Side::Downstream, Side::Upstream] {
            // What came while the verdict was off.
            sys::kick(self.socket(side).as_fd()).map_err(|error| Close::Failed { side, error })?;
        }
        Ok(Progress::LookAgain)
    }

    fn detach(&self) -> Result<bool, Close> {
        self.membership.detach(self.client.as_fd(), self.upstream.as_fd()).map_err(torn)
    }

    /// Whether nothing is on its way through the kernel relay.
    fn is_quiet(&self) -> Result<bool, Close> {
        for side in [Side::Downstream, Side::Upstream] {
            // TCP_INFO takes the socket's lock, under which the verdict runs: one that began before
            // the hold, or before it was taken off, has returned now, and its books stand.
            sys::tcp_counters(self.socket(side).as_fd())
                .map_err(|error| Close::Failed { side, error })?;
        }
        for way in Way::BOTH {
            let side = Side::destination(way);
            let book = self.book(way);
            let ledger = &self.ways[way.index()].ledger;
            let sent = sent_by(self.socket(side)).map_err(|error| Close::Failed { side, error })?;
            if ledger.step(&book) != Step::Rest || ledger.outstanding(sent, &book) > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives the sockets of a flow that has [left](super::Exit::Left) back to the runtime.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn into_user_space(self) -> io::Result<Ends> {
        let Self { client, upstream, watch, .. } = self;
        watch.remove(&client)?;
        watch.remove(&upstream)?;
        Ok(Ends { client: client.unpark()?, upstream: upstream.unpark()? })
    }
}
