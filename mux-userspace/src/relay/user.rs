//! The user-space relay: both ways of a flow, by copy or splice(2), until the flow ends or
//! goes to the kernel.

use std::{borrow::Cow, future::poll_fn, task::Poll};

use super::{
    Close, Control, Ends, Mode, Plan, Tally, Way,
    demotion::MOST_BUSY,
    evidence::{self, Company, Evidence},
    plan::{self, Offering},
    pool::Pool,
    pump::{Failure, Pump, PumpContext},
};
use crate::{proxy::Guard, upstream::opening::Opening};

/// Why the user-space relay stopped.
#[derive(Debug)]
pub enum Next {
    /// The flow is over.
    Over(Close),
    /// No byte is in user space's hands: the kernel may take over.
    Promote,
    /// No byte is in user space's hands: the flow can be offered to the packet relay.
    Offer,
    /// The offer is to be taken back.
    Withdraw,
    /// The packet relay has news, or a late byte was carried.
    Packet,
}

/// Of a flow that is copied only for want of descriptors.
const NO_PIPE: &str = "splice: there was no pipe to be had";

/// Both ways of a flow.
#[derive(Debug)]
pub struct Duplex {
    up: Pump,
    down: Pump,
    evidence: Evidence,
}

impl Duplex {
    /// A flow whose upstream must first get the rest of its opening, of which it has `sent` bytes.
    #[must_use]
    pub fn new(opening: Opening, sent: usize) -> Self {
        Self {
            up: Pump::opening(opening, sent),
            down: Pump::new(Way::Down),
            evidence: Evidence::default(),
        }
    }

    /// The same, of a client whose PROXY headers are refused.
    #[must_use]
    pub(crate) fn guarded_by(mut self, guard: Option<Guard>) -> Self {
        self.up.guard = guard;
        self
    }

    /// How its bytes go now.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        if self.up.is_spliced() || self.down.is_spliced() { Mode::Splice } else { Mode::Copy }
    }

    /// Why it is not on a faster relay than [`mode`](Self::mode).
    #[must_use]
    pub fn note(&self, plan: &Plan, control: &Control) -> Cow<'static, str> {
        let note = plan.note(self.mode(), control);
        let lacks_a_pipe = |pump: &Pump| pump.splice && pump.pipeless;
        match (lacks_a_pipe(&self.up) || lacks_a_pipe(&self.down), &*note) {
            (false, _) => note,
            (true, "") => NO_PIPE.into(),
            (true, more) => format!("{NO_PIPE}; {more}").into(),
        }
    }

    /// Relays until the flow ends, is stopped, or should go to the kernel.
    pub async fn run(
        &mut self,
        ends: &mut Ends,
        tally: &mut Tally,
        control: &Control,
        plan: &Plan,
        pool: &Pool,
    ) -> Next {
        poll_fn(|cx| {
            control.register(cx);
            if let Some(stop) = control.stopped() {
                return Poll::Ready(Next::Over(Close::Stopped(stop)));
            }
            let [reads_up, reads_down] = &mut self.evidence.reads;
            self.up.splice = plan.wants_splice(reads_up);
            self.down.splice = plan.wants_splice(reads_down);
            let before = (tally.up.reads, tally.down.reads);

            let Ends { client, upstream } = ends;
            let source_lost = self.down.lost();
            let other_done = self.down.is_done();
            let traffic = &mut tally.up;
            let mut context =
                PumpContext { traffic, reads: reads_up, control, pool, source_lost, other_done };
            let up = self.up.poll(cx, client, upstream, &mut context);
            let source_lost = self.up.lost();
            let other_done = self.up.is_done();
            let traffic = &mut tally.down;
            let mut context =
                PumpContext { traffic, reads: reads_down, control, pool, source_lost, other_done };
            let down = self.down.poll(cx, upstream, client, &mut context);
            let moved = (tally.up.reads != before.0, tally.down.reads != before.1);
            self.evidence.moved(moved.0, moved.1);
            if moved.0 || moved.1 {
                evidence::served();
            }
            control.set_given(tally.up.given, tally.down.given);
            control.set_splice(self.mode() == Mode::Splice);
            if self.up.forged {
                return Poll::Ready(Next::Over(Close::Forged));
            }
            if let Poll::Ready(Err(failure)) = up {
                return Poll::Ready(failed(failure));
            }
            if let Poll::Ready(Err(failure)) = down {
                return Poll::Ready(failed(failure));
            }
            if self.up.is_over() && self.down.is_over() {
                let failure = self.up.take_failure().or_else(|| self.down.take_failure());
                return Poll::Ready(failure.map_or(Next::Over(Close::Finished), failed));
            }
            let next = self.next(tally, control, plan);
            if matches!(next, Some(Next::Promote)) {
                self.up.hurry(upstream);
                self.evidence.restart();
            }
            next.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

impl Duplex {
    /// What else is to be done with a flow of which both ways have done what they could.
    fn next(&self, tally: &Tally, control: &Control, plan: &Plan) -> Option<Next> {
        let is_quiet = self.up.is_quiet() && self.down.is_quiet();
        match plan.packet {
            Offering::Offered { .. } => {
                if control.take_packet_news() {
                    return Some(Next::Packet);
                }
                // A stream that ends is over before its moment could come.
                let ends = self.up.has_ended() || self.down.has_ended();
                if ends || control.is_ordered_out() || plan.gives_up(tally) {
                    return Some(Next::Withdraw);
                }
            }
            Offering::On { progress } => {
                let is_late = plan::progress(tally, self.ended()) != progress;
                return (control.take_packet_news() || is_late).then_some(Next::Packet);
            }
            Offering::No | Offering::May => {}
        }
        if !is_quiet {
            None
        } else if !control.is_ordered_out() && plan.wants_offer(tally) {
            Some(Next::Offer)
        } else if !control.is_to_leave_kernel()
            && plan.wants_sockmap(tally, &self.evidence, |crowd| {
                if evidence::is_full(MOST_BUSY) { Company::Crowd } else { evidence::company(crowd) }
            })
        {
            Some(Next::Promote)
        } else {
            None
        }
    }

    /// The ways whose stream's end was passed on.
    #[must_use]
    pub const fn ended(&self) -> [bool; 2] {
        [self.up.is_done(), self.down.is_done()]
    }
}

fn failed((side, error): Failure) -> Next {
    Next::Over(Close::Failed { side, error })
}
