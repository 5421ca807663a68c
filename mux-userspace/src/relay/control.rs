//! What reaches a flow from outside: readiness from the private epoll, events of the verdict,
//! and orders to stop.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use super::{Mode, Way, demotion::Reason, packet::books::Told};
use crate::kernel::packet::{Report, What};

/// Why a flow is made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `[timeouts] idle`.
    Idle,
    /// `[timeouts] half_closed`.
    HalfClosed,
    /// `[timeouts] lifetime`.
    Lifetime,
    /// The drain deadline.
    Drain,
    /// It was sniffed for longest when a new connection needed a place.
    Evicted,
    /// Somebody ordered so.
    Killed,
}

impl Stop {
    /// Its stable name in the access log and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle-timeout",
            Self::HalfClosed => "half-closed-timeout",
            Self::Lifetime => "lifetime",
            Self::Drain => "drain-deadline",
            Self::Evicted => "sniffing-limit",
            Self::Killed => "killed",
        }
    }
}

/// Why a flow is kept out of the kernel relay, which is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptOut {
    /// `mux relay off`.
    Ordered,
    /// `[kernel] sockmap = "off"` in the rules that are in force.
    Configured,
}

impl KeptOut {
    /// As the access log tells it.
    #[must_use]
    pub const fn note(self) -> &'static str {
        match self {
            Self::Ordered => "the kernel relay is switched off (`mux relay auto` allows it again)",
            Self::Configured => "[kernel] sockmap = \"off\" since a reload",
        }
    }
}

/// A flow's mailbox on its core. The core writes, the flow's task reads.
#[derive(Debug, Default)]
pub struct Control {
    waker: RefCell<Option<Waker>>,
    stop: Cell<Option<Stop>>,
    /// epoll events of the client's and the upstream's socket since the last look.
    events: [Cell<u32>; 2],
    /// The verdict (or the core's timer) says that the books want a look.
    nudge: Cell<bool>,
    /// Counts everything that user space carries; the idle timer compares.
    activity: Cell<u64>,
    half_closed: Cell<bool>,
    /// The flow is to leave the kernel relay, or to stay out of it.
    leave: Cell<Option<KeptOut>>,
    by_evidence: Cell<bool>,
    /// It is to leave, and may come back.
    demotion: Cell<Option<Reason>>,
    /// Bytes that were given to the upstream and to the client, without what the books have of a
    /// spliced flow.
    given: [Cell<u64>; 2],
    /// User space carries it by splice(2).
    splice: Cell<bool>,
    /// The pair of records while spliced.
    pair: Cell<Option<u32>>,
    /// It is in the map, and user space carries it.
    held: Cell<bool>,
    /// The records of the packet relay, from the offer on.
    packets: Cell<Option<u32>>,
    /// Its packets are translated.
    translated: Cell<bool>,
    /// The packet relay's records want a look,
    packet_news: Cell<bool>,
    /// and events have told this.
    told: Cell<Told>,
    /// What its events call the flow.
    cookie: Cell<u64>,
    /// Bytes that went each way before packets were translated.
    before: [Cell<u64>; 2],
}

/// What a wait for the mailbox brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// `EPOLL*` bits of the client's socket.
    pub client: u32,
    /// `EPOLL*` bits of the upstream's socket.
    pub upstream: u32,
}

impl Control {
    /// Orders the flow to end. The first order holds.
    pub fn stop(&self, stop: Stop) {
        if self.stop.get().is_none() {
            self.stop.set(Some(stop));
            self.wake();
        }
    }

    /// The order to end, if there is one.
    #[must_use]
    pub fn stopped(&self) -> Option<Stop> {
        self.stop.get()
    }

    /// Orders the flow to leave the kernel relay and to stay out, or lets it in again.
    pub fn keep_out(&self, why: Option<KeptOut>) {
        self.leave.set(why);
        self.nudge();
    }

    /// Why it is kept out, if it is.
    #[must_use]
    pub fn kept_out(&self) -> Option<KeptOut> {
        self.leave.get()
    }

    /// Says that its relay is chosen by evidence, and may be chosen anew.
    pub fn set_by_evidence(&self) {
        self.by_evidence.set(true);
    }

    /// Whether its relay is.
    #[must_use]
    pub fn goes_by_evidence(&self) -> bool {
        self.by_evidence.get()
    }

    /// Orders the flow to leave the kernel relay, because user space serves it better now.
    pub fn demote(&self, reason: Reason) {
        self.demotion.set(Some(reason));
        self.nudge();
    }

    /// Why it was ordered to, once.
    #[must_use]
    pub fn take_demotion(&self) -> Option<Reason> {
        self.demotion.take()
    }

    /// Whether it is to stay out of all that the kernel has, by order.
    #[must_use]
    pub fn is_ordered_out(&self) -> bool {
        self.leave.get() == Some(KeptOut::Ordered)
    }

    /// Whether it is to leave the kernel relay, or to stay out.
    #[must_use]
    pub fn is_to_leave_kernel(&self) -> bool {
        self.leave.get().is_some() || self.demotion.get().is_some()
    }

    /// Delivers epoll events of one socket: 0 is the client's, 1 the upstream's.
    pub fn deliver(&self, socket: usize, events: u32) {
        let cell = &self.events[socket];
        cell.set(cell.get() | events);
        self.wake();
    }

    /// Says that the books want a look.
    pub fn nudge(&self) {
        self.nudge.set(true);
        self.wake();
    }

    /// Records that user space carried bytes.
    pub fn touch(&self) {
        self.activity.set(self.activity.get().wrapping_add(1));
    }

    /// Says how many bytes have been given to the upstream and to the client.
    pub fn set_given(&self, up: u64, down: u64) {
        self.given[0].set(up);
        self.given[1].set(down);
    }

    /// Adds to one way's.
    pub fn add_given(&self, way: Way, bytes: u64) {
        let given = &self.given[way.index()];
        given.set(given.get() + bytes);
    }

    /// Bytes given to the upstream and to the client before the flow was spliced, or so far.
    #[must_use]
    pub fn given(&self) -> [u64; 2] {
        [self.given[0].get(), self.given[1].get()]
    }

    /// Says whether user space carries the flow by splice(2).
    pub fn set_splice(&self, splice: bool) {
        self.splice.set(splice);
    }

    /// How the flow's bytes go now.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (self.pair.get(), self.splice.get()) {
            _ if self.translated.get() => Mode::Packet,
            (Some(_), _) if self.held.get() => Mode::Copy,
            (Some(_), _) => Mode::Sockmap,
            (None, true) => Mode::Splice,
            (None, false) => Mode::Copy,
        }
    }

    /// Changes whenever user space carried bytes.
    #[must_use]
    pub fn activity(&self) -> u64 {
        self.activity.get()
    }

    /// One of the streams has ended. The first time is activity: a flow that was quiet before has
    /// all of `[timeouts] half_closed` from here on.
    pub fn set_half_closed(&self) {
        if !self.half_closed.replace(true) {
            self.touch();
        }
    }

    /// Whether one of the streams has ended.
    #[must_use]
    pub fn half_closed(&self) -> bool {
        self.half_closed.get()
    }

    /// Says that the flow is spliced, with these records, or no longer.
    pub fn set_pair(&self, pair: Option<u32>) {
        self.pair.set(pair);
        self.held.set(false);
    }

    /// Says that the flow is in the map and user space carries it, or no longer.
    pub fn set_held(&self, held: bool) {
        self.held.set(held);
    }

    /// The records, while the flow is spliced.
    #[must_use]
    pub fn pair(&self) -> Option<u32> {
        self.pair.get()
    }

    /// Says that the flow is offered to the packet relay, with these records and under this name,
    /// or no longer.
    pub fn set_packets(&self, flow: Option<(u32, u64)>) {
        self.packets.set(flow.map(|(pair, _)| pair));
        self.cookie.set(flow.map_or(0, |(_, cookie)| cookie));
        self.translated.set(false);
        self.packet_news.set(false);
        self.told.set(Told::default());
    }

    /// The records of the packet relay, while the flow has some.
    #[must_use]
    pub fn packets(&self) -> Option<u32> {
        self.packets.get()
    }

    /// Says that the flow's packets are translated from now on, after so many bytes each way.
    pub fn set_translated(&self, before: [u64; 2]) {
        self.translated.set(true);
        for (cell, before) in self.before.iter().zip(before) {
            cell.set(before);
        }
    }

    /// Bytes that went to the upstream and to the client before packets were translated.
    #[must_use]
    pub fn before(&self) -> [u64; 2] {
        [self.before[0].get(), self.before[1].get()]
    }

    /// Delivers an event of the packet relay, unless it is of a flow that was here before.
    pub fn tell(&self, report: &Report) {
        if self.packets.get().is_none() || self.cookie.get() != report.cookie {
            return;
        }
        let mut told = self.told.get();
        match report.what {
            What::On | What::Ended => {}
            What::Reset => told.reset = Some(report.way),
            What::TooBig => told.too_big = Some(report.way),
        }
        self.told.set(told);
        self.packet_news();
    }

    /// What events of the packet relay have told so far.
    #[must_use]
    pub fn told(&self) -> Told {
        self.told.get()
    }

    /// Whether they are.
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.translated.get()
    }

    /// Whether the packet relay has the flow's records and its moment has not come.
    #[must_use]
    pub fn is_offered(&self) -> bool {
        self.packets.get().is_some() && !self.translated.get()
    }

    /// Says that the packet relay's records want a look.
    pub fn packet_news(&self) {
        self.packet_news.set(true);
        self.wake();
    }

    /// Whether they do; once.
    pub fn take_packet_news(&self) -> bool {
        self.packet_news.take()
    }

    /// Has `cx` woken by the next delivery.
    pub fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Waits for something to be delivered, and takes it.
    pub async fn wait(&self) -> Mail {
        poll_fn(|cx| {
            self.register(cx);
            let mail = self.take();
            let nudged = self.nudge.take();
            if nudged || mail != Mail::default() || self.stop.get().is_some() {
                Poll::Ready(mail)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Takes what was delivered, without waiting.
    pub fn take(&self) -> Mail {
        Mail { client: self.events[0].take(), upstream: self.events[1].take() }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_half_close_is_activity() {
        let control = Control::default();
        let before = control.activity();
        control.set_half_closed();
        let after = control.activity();
        assert!(control.half_closed() && after != before);
        // A standing RDHUP, told again, must not put the timeout off.
        control.set_half_closed();
        assert_eq!(control.activity(), after);
    }
}
