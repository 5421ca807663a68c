//! How a flow stands that was offered, by what its records say: pure, like its byte counts.

use crate::{
    kernel::packet::{Snapshot, State},
    relay::{Side, Way},
};

/// How a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its moment has not come.
    Pending,
    /// Its packets are translated.
    On,
    /// Both streams have ended, and both ends know it.
    Finished,
    /// A RST went through, from this end if that is known.
    Reset(Option<Side>),
    /// A packet was too long for the way out: it cannot go on.
    TooBig(Way),
}

/// What an event told, which the records do not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The way that a RST went.
    pub reset: Option<Way>,
    /// The way of a packet that was too long.
    pub too_big: Option<Way>,
}

/// Both records, of one look if that is enough. The program writes of both ends before it says in either
/// record that the flow is over, but it may do all of that after one record was read and before the other.
pub fn both(mut look: impl FnMut() -> [Snapshot; 2]) -> [Snapshot; 2] {
    let records = look();
    let is_over = |record: &Snapshot| matches!(record.state, State::Ended | State::Dead);
    if records.iter().any(is_over) { look() } else { records }
}

/// Judges by [`both`] records, by what events told, and by the ends of streams that user space has
/// passed on late (`ours`): the destination of that way has acknowledged it.
#[must_use]
pub fn standing(records: [Snapshot; 2], told: Told, ours: [bool; 2]) -> Standing {
    if let Some(way) = told.too_big {
        return Standing::TooBig(way);
    }
    let is = |state: State| records.iter().any(|record| record.state == state);
    let has_ended = |way: Way| records[way.index()].fin_acked || ours[way.index()];
    if has_ended(Way::Up) && has_ended(Way::Down) {
        return Standing::Finished;
    }
    if told.reset.is_some() || is(State::Ended) || is(State::Dead) {
        return Standing::Reset(told.reset.map(Side::source));
    }
    // The program writes one record after the other.
    if is(State::On) { Standing::On } else { Standing::Pending }
}

/// Where one way stood when the flow was offered: byte `taken` of the stream has the number `seq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Bytes of the stream taken from its source.
    pub taken: u64,
    /// The source's sequence number of the next one.
    pub seq: u32,
}

impl Mark {
    /// Bytes of the stream before the first one that was translated, of which user space has taken
    /// `taken` by now: those, or fewer by what came to it late.
    #[must_use]
    pub const fn before(&self, taken: u64, start: u32) -> u64 {
        let next = self.seq.wrapping_add((taken.wrapping_sub(self.taken)) as u32);
        // What came late is a few packets.
        taken.saturating_sub(next.wrapping_sub(start) as u64)
    }
}

/// Bytes of a way, those that went through user space late counted once.
#[must_use]
pub const fn carried(before: u64, by_us: u64, translated: u64) -> u64 {
    let translated = before + translated;
    if by_us > translated { by_us } else { translated }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: Snapshot = Snapshot {
        state: State::On,
        packets: 1,
        bytes: 0,
        start: 0,
        fin: false,
        fin_acked: false,
        refusals: 0,
        refusal: 0,
    };
    const PENDING: Snapshot = Snapshot { state: State::Pending, ..ON };
    const DONE: Snapshot = Snapshot { fin: true, fin_acked: true, ..ON };

    fn at(records: [Snapshot; 2]) -> Standing {
        standing(records, Told::default(), [false; 2])
    }

    #[test]
    fn a_flow_is_on_when_the_first_record_says_so() {
        assert_eq!(at([PENDING, PENDING]), Standing::Pending);
        assert_eq!(at([PENDING, ON]), Standing::On);
        assert_eq!(at([ON, PENDING]), Standing::On);
    }

    #[test]
    fn both_ends_finish_a_flow_also_when_one_came_late() {
        assert_eq!(at([DONE, ON]), Standing::On);
        assert_eq!(at([DONE, DONE]), Standing::Finished);
        assert_eq!(standing([DONE, ON], Told::default(), [false, true]), Standing::Finished);
        assert_eq!(standing([DONE, ON], Told::default(), [true, false]), Standing::On);
        let ended = Snapshot { state: State::Ended, ..DONE };
        assert_eq!(at([ended, ended]), Standing::Finished);
    }

    /// It was taken for a reset: 1 of 12,000 short connections.
    #[test]
    fn an_end_between_two_records_is_no_reset() {
        let ended = Snapshot { state: State::Ended, ..DONE };
        let mut looks = [[ON, ended], [ended, ended]].into_iter();
        assert_eq!(at(both(|| looks.next().unwrap())), Standing::Finished);
        let mut looks = [[ON, DONE]].into_iter();
        assert_eq!(at(both(|| looks.next().unwrap())), Standing::On);
    }

    #[test]
    fn an_end_without_both_ends_is_a_reset() {
        let ended = Snapshot { state: State::Ended, ..ON };
        assert_eq!(at([ended, ended]), Standing::Reset(None));
        let told = Told { reset: Some(Way::Down), ..Told::default() };
        assert_eq!(standing([ON, ON], told, [false; 2]), Standing::Reset(Some(Side::Upstream)));
        let dead = Snapshot { state: State::Dead, ..ON };
        assert_eq!(at([dead, ON]), Standing::Reset(None));
        // A RST after both ends changes nothing any more.
        assert_eq!(standing([DONE, DONE], told, [false; 2]), Standing::Finished);
        let told = Told { too_big: Some(Way::Up), ..Told::default() };
        assert_eq!(standing([ON, ON], told, [false; 2]), Standing::TooBig(Way::Up));
    }

    #[test]
    fn late_bytes_are_counted_once() {
        let mark = Mark { taken: 1000, seq: u32::MAX - 9 };
        // 50 more were copied before the first one that was translated.
        let start = mark.seq.wrapping_add(50);
        assert_eq!(mark.before(1050, start), 1050);
        // 7 came late: they are among those from `start` on.
        assert_eq!(mark.before(1057, start), 1050);
        assert_eq!(carried(1050, 1057, 0), 1057);
        assert_eq!(carried(1050, 1057, 7), 1057);
        assert_eq!(carried(1050, 1057, 107), 1157);
        // The stream's numbers wrap, its count does not.
        let far = 1000 + (1 << 33);
        assert_eq!(mark.before(far, mark.seq), far);
    }
}
