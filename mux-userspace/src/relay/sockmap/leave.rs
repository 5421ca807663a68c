//! Leaving the kernel relay with a live flow, without losing a byte.
//!
//! Taking a socket out of the map loses what was passed and not read, and what waits in its
//! backlog. So: hold (the verdict passes everything from now on, and user space carries it), wait
//! until nothing is redirected or passed that has not arrived, and nothing has come for [`REST`];
//! take the verdict off while a second, program-less map keeps the psocks, and look again. If
//! nothing was passed in between, let go; else put the verdict back and try again (L6 in
//! `LIFECYCLE.md`). Nothing is read while the verdict is off: the kernel would give bytes of the
//! receive queue for passed ones that its worker has not queued yet.
//!
//! A flow that never rests stays in the map, held, which is as exact as any other state: the order
//! to leave is obeyed the moment it is held. If the order is taken back, so is the hold.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{CLOSE_WAIT, CLOSED, Side, Spliced, TRIES, Way, sent_by};
use crate::{
    account::{Counter, Counters},
    relay::{Close, Control, Ends, ledger::Step},
    sys::{self, TcpCounters},
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

/// The kernel takes bytes off the receive queue for a verdict, and then looks for the program once more:
/// where that has just been taken off, it drops them (`sk_psock_verdict_recv`, net/core/skmsg.c, which does
/// not hold the lock of `sk_psock_stop_verdict`). A matter of less than a microsecond, and no counter tells:
/// of 449 times that a flow left between two segments of a stream, one (6.18). That is what [`REST`] is for.
const DROPPED: &str = "bytes were dropped while the verdict was taken off";
/// Kicks of a socket that is under the verdict again, of which the first should do.
const KICKS: u32 = 3;

/// For how long nothing must have come either way before the verdict is taken off.
const REST: Duration = Duration::from_millis(100);

/// Since when a flow has been at rest: the messages of each way by then, and the time.
pub(super) type Rest = Option<([u64; 2], Instant)>;

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

impl Spliced<'_> {
    /// Goes on with leaving. Call it when both ways have done what they could.
    pub(super) fn leave(
        &mut self,
        control: &Control,
        counters: &Counters,
    ) -> Result<Progress, Close> {
        if self.leaving == Leaving::No {
            self.hold(true);
            self.holds += 1;
            counters.count(Counter::Demoted);
            self.leaving = Leaving::Holding;
            control.set_held(true);
        }
        if !self.membership.client_is_in() {
            // The client's stream is ending: user space carries everything already.
            self.leaving = Leaving::Held;
        }
        if self.leaving == Leaving::Held {
            return Ok(Progress::Stays);
        }
        if !self.is_quiet()? || !self.rests() {
            return Ok(Progress::LookAgain);
        }
        if self.ways.iter().any(|way| way.ledger.has_fin()) || !self.detach()? {
            // Only an ESTABLISHED socket enters a map. Under hold every byte goes through user
            // space, exactly, until the flow ends, which it is about to.
            self.leaving = Leaving::Held;
            return Ok(Progress::Stays);
        }
        if self.is_quiet()? {
            self.membership.release().map_err(|error| self.torn(error))?;
            return if self.lacks_nothing()? {
                Ok(Progress::Left)
            } else {
                Err(self.torn(DROPPED))
            };
        }
        self.attach()
    }

    /// The order to leave was taken back before the flow had left: the verdict redirects again.
    pub(super) fn resume(&mut self, control: &Control, counters: &Counters) {
        self.hold(false);
        self.returns += 1;
        counters.count(Counter::Promoted);
        self.leaving = Leaving::No;
        self.rest = None;
        control.set_held(false);
    }

    pub(super) fn hold(&self, held: bool) {
        for way in Way::BOTH {
            self.membership.pair().record(way).hold(held);
        }
    }

    /// Whether nothing has come for [`REST`].
    fn rests(&mut self) -> bool {
        let messages = Way::BOTH.map(|way| self.book(way).messages);
        match self.rest {
            Some((then, since)) if then == messages => since.elapsed() >= REST,
            Some(_) | None => {
                self.rest = Some((messages, Instant::now()));
                false
            }
        }
    }

    fn detach(&self) -> Result<bool, Close> {
        self.membership
            .detach(self.client.as_fd(), self.upstream.as_fd())
            .map_err(|error| self.torn(error))
    }

    /// Puts the verdict back. A socket whose FIN came in without it stays without: that is well when
    /// every byte before the FIN was passed, since then there is nothing that could come before or
    /// between them, and user space carries the rest to the end.
    fn attach(&mut self) -> Result<Progress, Close> {
        let attached = self
            .membership
            .attach(self.client.as_fd(), self.upstream.as_fd())
            .map_err(|error| self.torn(error))?;
        for (way, attached) in Way::BOTH.into_iter().zip(attached) {
            let side = Side::source(way);
            let socket = self.socket(side);
            let failed = |error| Close::Failed { side, error };
            if attached {
                if !self.is_seen(way).map_err(failed)? {
                    return Err(self.torn(DROPPED));
                }
                continue;
            }
            let counters = sys::tcp_counters(socket.as_fd()).map_err(failed)?;
            let book = self.book(way);
            if counters.state == CLOSED
                || !self.ways[way.index()].ledger.knows_all(counters.bytes_received, &book)
            {
                return Err(self.torn("a stream ended while the flow was leaving the kernel relay"));
            }
            self.ways[way.index()].ledger.saw_fin();
            self.leaving = Leaving::Held;
        }
        Ok(match self.leaving {
            Leaving::Held => Progress::Stays,
            Leaving::No | Leaving::Holding => Progress::LookAgain,
        })
    }

    /// Why the maps refused what they should not: a socket that was reset leaves them by itself, and
    /// epoll's event that says so is on its way. Else there is no honest way on.
    fn torn(&self, reason: impl ToString) -> Close {
        for side in [Side::Downstream, Side::Upstream] {
            let socket = self.socket(side);
            if sys::tcp_counters(socket.as_fd()).is_ok_and(|now| now.state == CLOSED) {
                let error = socket.take_error();
                let error = error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
                return Close::Failed { side, error };
            }
        }
        Close::Torn { reason: reason.to_string() }
    }

    /// Whether each socket, which is plain TCP again, holds, unread, every byte that the books do not
    /// know of ([`DROPPED`]). Not before: `FIONREAD` of a socket with a psock tells of the psock.
    fn lacks_nothing(&self) -> Result<bool, Close> {
        Way::BOTH.into_iter().try_fold(true, |whole, way| {
            let side = Side::source(way);
            let failed = |error| Close::Failed { side, error };
            let socket = self.socket(side).as_fd();
            let mut before = sys::tcp_counters(socket).map_err(failed)?;
            for _ in 0..TRIES {
                let unread = sys::unread(socket).map_err(failed)?;
                let after = sys::tcp_counters(socket).map_err(failed)?;
                if before == after {
                    return Ok(whole && self.unseen(way, &after) == unread);
                }
                before = after;
            }
            // Bytes come faster than they can be counted, though nobody reads them.
            Ok(false)
        })
    }

    /// Has the verdict run for what came while it was off; whether the books know of every byte then.
    fn is_seen(&self, way: Way) -> io::Result<bool> {
        let socket = self.socket(Side::source(way)).as_fd();
        for _ in 0..KICKS {
            sys::kick(socket)?;
            // With the lock: a verdict that runs has returned, and no byte is between TCP and it.
            if self.unseen(way, &sys::tcp_counters(socket)?) == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes that a way's source has received and the books do not know of.
    fn unseen(&self, way: Way, counters: &TcpCounters) -> u64 {
        let received = counters.bytes_received - u64::from(counters.state == CLOSE_WAIT);
        self.ways[way.index()].ledger.unseen(received, &self.book(way))
    }

    /// Returns when no verdict runs that began before the hold, or before it was taken off: the books stand.
    pub(super) fn await_verdicts(&self) -> Result<(), Close> {
        for side in [Side::Downstream, Side::Upstream] {
            // TCP_INFO takes the socket's lock, under which the verdict runs.
            sys::tcp_counters(self.socket(side).as_fd())
                .map_err(|error| Close::Failed { side, error })?;
        }
        Ok(())
    }

    /// Whether nothing is on its way through the kernel relay.
    fn is_quiet(&self) -> Result<bool, Close> {
        self.await_verdicts()?;
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
        for socket in [&client, &upstream] {
            watch.remove(socket)?;
            socket.end_on_close();
            // 0: the system's setting.
            SockRef::from(socket).set_tcp_notsent_lowat(0)?;
        }
        Ok(Ends { client: client.unpark()?, upstream: upstream.unpark()? })
    }
}
