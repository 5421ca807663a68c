//! The user-space relay: both ways of a flow, by copy or splice(2), until the flow ends or
//! goes to the kernel.

use std::{future::poll_fn, task::Poll};

use super::{
    Close, Control, Ends, Mode, Plan, Tally, Way,
    evidence::{self, Evidence},
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
}

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
        if self.up.splice || self.down.splice { Mode::Splice } else { Mode::Copy }
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
            control.set_splice(self.up.splice || self.down.splice);
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
            let may_leave = !control.is_to_leave_kernel()
                && plan.wants_sockmap(tally, &self.evidence, evidence::is_crowded);
            if may_leave && self.up.is_quiet() && self.down.is_quiet() {
                self.up.hurry(upstream);
                self.evidence.restart();
                return Poll::Ready(Next::Promote);
            }
            Poll::Pending
        })
        .await
    }
}

fn failed((side, error): Failure) -> Next {
    Next::Over(Close::Failed { side, error })
}
