//! The user-space relay: both ways of a flow, by copy or splice(2), until the flow ends or
//! goes to the kernel.

use std::{future::poll_fn, task::Poll};

use super::{
    Close, Control, Ends, Mode, Plan, Tally, Way,
    pool::Pool,
    pump::{Failure, Pump, PumpContext},
};
use crate::proxy::Guard;

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
}

impl Duplex {
    /// A flow whose upstream must first get `prefix`.
    #[must_use]
    pub fn new(prefix: Vec<u8>) -> Self {
        Self { up: Pump::new(Way::Up, prefix), down: Pump::new(Way::Down, Vec::new()) }
    }

    /// The same, whose upstream gets this PROXY header before everything else, at once. It is in
    /// no count.
    #[must_use]
    pub fn announced_by(mut self, header: Option<Vec<u8>>) -> Self {
        if let Some(header) = header {
            self.up.precede(header);
        }
        self
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
            self.up.splice |= plan.wants_splice(&tally.up);
            self.down.splice |= plan.wants_splice(&tally.down);

            let Ends { client, upstream } = ends;
            let source_lost = self.down.lost();
            let mut context = PumpContext { traffic: &mut tally.up, control, pool, source_lost };
            let up = self.up.poll(cx, client, upstream, &mut context);
            let source_lost = self.up.lost();
            let mut context = PumpContext { traffic: &mut tally.down, control, pool, source_lost };
            let down = self.down.poll(cx, upstream, client, &mut context);
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
            let may_leave = !control.is_to_leave_kernel() && plan.wants_sockmap(tally);
            if may_leave && self.up.is_quiet() && self.down.is_quiet() {
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
