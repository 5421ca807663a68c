//! A flow's part in the packet relay: offered, taken back, turned on, over.
//!
//! What the records say, and what is to be done about it, is `relay/packet`'s; here it is done to a
//! flow, its plan, its record and its counters.

use std::{borrow::Cow, io};

use tracing::debug;

use crate::{
    account::{Counter, Record, Stage},
    core::{Core, FlowHandle},
    relay::{
        Close, Ends, Mode, Plan, Side,
        packet::{self, Packets, Withdrawn, books::Standing},
        plan::{self, NO_MOMENT, Offering},
    },
};

/// A flow's part in the packet relay.
pub(super) struct Translating<'a, 'h> {
    core: &'a Core,
    handle: &'h FlowHandle,
    packets: Option<Packets<'a>>,
    is_on: bool,
}

impl<'a, 'h> Translating<'a, 'h> {
    pub(super) const fn new(core: &'a Core, handle: &'h FlowHandle) -> Self {
        Self { core, handle, packets: None, is_on: false }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Offers the flow.
    pub(super) fn offer(&mut self, ends: &Ends, plan: &mut Plan, record: &Record) {
        let cookie = self.handle.cookie();
        let Some(gate) = &self.core.packets else {
            plan.refuse_packet("this core has no packet relay");
            return;
        };
        match packet::offer(gate, ends, &record.tally, cookie) {
            Ok(packets) => {
                self.core.shared.counters.count(Counter::PacketOffered);
                plan.packet = Offering::Offered { reads: record.tally.reads() };
                self.handle.control.set_packets(Some((packets.pair(), cookie)));
                self.packets = Some(packets);
            }
            Err(why) => {
                self.core.shared.counters.count(Counter::PacketIneligible);
                debug!(id = record.id_text(), %why, "its packets are not translated");
                plan.refuse_packet(why.to_string());
                self.handle.live.set_why_not(plan.why_not.clone());
            }
        }
    }

    /// Takes the offer back, if it is not too late.
    pub(super) fn withdraw(&mut self, ends: &Ends, plan: &mut Plan, record: &mut Record) {
        if self.is_on {
            return;
        }
        let Some(packets) = self.packets.take() else { return };
        let last = packets.refusal();
        match packets.withdraw() {
            Withdrawn::On(packets) => {
                self.packets = Some(packets);
                self.turn_on(ends, plan, record);
            }
            Withdrawn::Back => {
                self.core.shared.counters.count(Counter::PacketWithdrawn);
                self.handle.control.set_packets(None);
                if self.handle.control.is_ordered_out() {
                    // It is offered again when that is allowed again.
                    plan.packet = Offering::May;
                } else {
                    plan.refuse_packet(format!("{NO_MOMENT} (the last time: {last})"));
                    self.handle.live.set_why_not(plan.why_not.clone());
                }
            }
        }
    }

    /// Does what the records ask for; `Some`: the flow is over.
    pub(super) fn look(
        &mut self,
        ends: &Ends,
        plan: &mut Plan,
        record: &mut Record,
        ended: [bool; 2],
    ) -> Option<Close> {
        let told = self.handle.control.told();
        let standing = self.packets.as_ref()?.standing(ends, told, ended);
        if standing == Standing::Pending {
            return None;
        }
        if !self.is_on {
            self.turn_on(ends, plan, record);
        }
        let close = match standing {
            Standing::Pending | Standing::On => {
                self.carried(plan, record, ended);
                if let (Some(packets), Some(gate)) = (&self.packets, &self.core.packets) {
                    packets.follow_paths(gate, ends);
                }
                return None;
            }
            Standing::Finished => Close::Finished,
            // Who did it is known unless its event was lost: then it was one that could be.
            Standing::Reset(side) => Close::Failed {
                side: side.unwrap_or(Side::Downstream),
                error: io::ErrorKind::ConnectionReset.into(),
            },
            Standing::TooBig(way) => {
                self.core.shared.counters.count(Counter::PacketTooLong);
                Close::Failed {
                    side: Side::destination(way),
                    error: io::Error::from_raw_os_error(libc::EMSGSIZE),
                }
            }
        };
        Some(close)
    }

    fn turn_on(&mut self, ends: &Ends, plan: &mut Plan, record: &mut Record) {
        let Some(packets) = &self.packets else { return };
        Packets::silence(ends);
        self.handle.control.set_translated(packets.before(&record.tally));
        plan.packet = Offering::On { progress: plan::progress(&record.tally, [false; 2]) };
        self.is_on = true;
        record.tally.promotions += 1;
        self.core.shared.counters.count(Counter::PacketOn);
    }

    /// Sees to what user space has carried late.
    fn carried(&self, plan: &mut Plan, record: &Record, ended: [bool; 2]) {
        let progress = plan::progress(&record.tally, ended);
        let Some(packets) = &self.packets else { return };
        if plan.packet != (Offering::On { progress }) {
            plan.packet = Offering::On { progress };
            packets.await_acks(&record.tally, ended);
            self.core.shared.counters.count(Counter::PacketLate);
        }
    }

    /// Closes a flow whose packets are translated.
    pub(super) async fn end(
        mut self,
        ends: Ends,
        close: Close,
        record: &mut Record,
    ) -> (Close, Option<Packets<'a>>) {
        record.relay = Some(Mode::Packet);
        record.relay_note = Cow::Borrowed("");
        self.handle.live.set_stage(Stage::Ending);
        if let Some(packets) = &self.packets {
            packets.close(ends, &mut record.tally);
        }
        self.handle.control.set_packets(None);
        self.handle.control.set_given(record.tally.up.given, record.tally.down.given);
        (close, self.packets.take())
    }
}

/// Leaves a flow that is over before the program for a while (P8). It is in no count and no limit
/// any more. A daemon that drains does not wait: what is repeated later finds no socket, and that
/// tells its sender the same.
pub(super) async fn linger(core: &Core, packets: Option<Packets<'_>>) {
    if packets.is_some() {
        tokio::select! {
            () = tokio::time::sleep(packet::LINGER) => {}
            () = core.shared.drain.cancelled() => {}
        }
    }
}
