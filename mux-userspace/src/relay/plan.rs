//! Which relay a flow is to take, and why not a faster one.

use std::borrow::Cow;

use super::{
    Control, Ends, Tally,
    demotion::Reason,
    evidence::{Evidence, Reads},
};
use crate::rules::config::RelayChoice;

/// What a flow does; printed as `relay=` in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// read(2) and write(2).
    Copy,
    /// splice(2).
    Splice,
    /// The kernel's sockmap.
    Sockmap,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Copy, Self::Splice, Self::Sockmap];

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Copy => 0,
            Self::Splice => 1,
            Self::Sockmap => 2,
        }
    }

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::Sockmap => "sockmap",
        }
    }
}

/// What is decided when a flow begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether it changes by evidence.
    pub choice: RelayChoice,
    /// Whether the kernel may take it.
    pub sockmap: bool,
    /// Why the kernel may not; `None` while it may.
    pub why_not: Option<Cow<'static, str>>,
    /// Reads, both ways, before which it is not tried again.
    pub not_before: u64,
    /// Turns that it takes.
    turns: u32,
    demotions: u32,
}

/// Turns (a request is one, an answer another) before a conversation goes to the kernel. Inserting and taking out
/// cost about what four to eight turns save; a flow whose end comes soon after has lost a few per cent.
pub const PROMOTE_TURNS: u32 = 32;
/// Flows that a core serves between two sleeps from which on none goes to the kernel. User space that serves many at
/// once is woken once for all of them; the kernel's worker spares the wake-ups, and does each message by itself.
pub const CROWD: u32 = 2;
/// By how much each demotion lengthens the way back.
const BACK_OFF: u32 = 4;
/// Demotions for what it does itself after which a flow stays in user space.
const MOST_DEMOTIONS: u32 = 3;

impl Plan {
    /// Decides. `builtin`: the upstream is in this process. `unavailable`: why the sockmap relay is not in force, if it is not.
    #[must_use]
    pub fn new(choice: RelayChoice, ends: &Ends, builtin: bool, unavailable: Option<&str>) -> Self {
        let why_not = match choice {
            RelayChoice::Copy => Some("relay = \"copy\"".into()),
            RelayChoice::Splice => Some("relay = \"splice\"".into()),
            RelayChoice::Auto | RelayChoice::Sockmap => {
                if builtin {
                    Some("the upstream is built in".into())
                } else if !ends.upstream.is_tcp() {
                    Some("the upstream is a Unix socket".into())
                } else if !ends.client.is_tcp() {
                    Some("the client came over a Unix socket".into())
                } else {
                    unavailable.map(|why| why.to_owned().into())
                }
            }
        };
        let (turns, demotions) = (PROMOTE_TURNS, 0);
        Self { choice, sockmap: why_not.is_none(), why_not, not_before: 0, turns, demotions }
    }

    /// Whether the flow should go to the kernel now. `is_crowded` says whether its core serves so many flows at once.
    #[must_use]
    pub fn wants_sockmap(
        &self,
        tally: &Tally,
        evidence: &Evidence,
        is_crowded: impl FnOnce(u32) -> bool,
    ) -> bool {
        self.sockmap
            && tally.up.reads + tally.down.reads >= self.not_before
            && match self.choice {
                RelayChoice::Sockmap => true,
                RelayChoice::Copy | RelayChoice::Splice => false,
                RelayChoice::Auto => evidence.is_conversation(self.turns) && !is_crowded(CROWD),
            }
    }

    /// Whether a way should be carried by splice(2) while in user space.
    #[must_use]
    pub fn wants_splice(&self, reads: &Reads) -> bool {
        match self.choice {
            RelayChoice::Splice => true,
            // A flow that is on its way to the kernel keeps to copy.
            RelayChoice::Copy => false,
            RelayChoice::Sockmap => !self.sockmap && reads.is_bulk(),
            RelayChoice::Auto => reads.is_bulk(),
        }
    }

    /// The flow has left the kernel because user space serves it better; it comes back after longer.
    pub fn back_off(&mut self, reason: Reason) {
        self.turns = self.turns.saturating_mul(BACK_OFF);
        self.demotions += u32::from(reason != Reason::Crowd);
        if self.demotions >= MOST_DEMOTIONS {
            self.stay(reason.note().to_owned());
        }
    }

    /// Keeps the flow in user space for so many reads, at a moment that was not right.
    pub fn try_later(&mut self, tally: &Tally) {
        self.not_before = tally.up.reads + tally.down.reads + u64::from(PROMOTE_TURNS);
    }

    /// Keeps the flow in user space from now on.
    pub fn stay(&mut self, why: String) {
        self.sockmap = false;
        self.why_not = Some(why.into());
    }

    /// Why a flow that is relayed by `mode` is not on the kernel's relay.
    #[must_use]
    pub fn note(&self, mode: Mode, control: &Control) -> Cow<'static, str> {
        note(mode, self.why_not.clone(), control)
    }
}

/// Why a flow that is relayed by `mode` is not on the kernel's relay, which may not have it for the
/// reason `why_not`.
#[must_use]
pub fn note(
    mode: Mode,
    why_not: Option<Cow<'static, str>>,
    control: &Control,
) -> Cow<'static, str> {
    Cow::Borrowed(match (mode, why_not, control.kept_out()) {
        (Mode::Sockmap, ..) => "",
        (Mode::Copy | Mode::Splice, Some(why), _) => return why,
        (Mode::Copy | Mode::Splice, None, Some(out)) => out.note(),
        (Mode::Copy, None, None) => {
            "too few messages, or too many flows at once, to gain from the kernel"
        }
        (Mode::Splice, None, None) => "bulk: splice(2) serves it better",
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Traffic, *};

    fn plan(choice: RelayChoice) -> Plan {
        let (turns, demotions) = (PROMOTE_TURNS, 0);
        Plan { choice, sockmap: true, why_not: None, not_before: 0, turns, demotions }
    }

    fn talk(turns: u32) -> Evidence {
        let mut evidence = Evidence::default();
        (0..turns).for_each(|turn| evidence.moved(turn % 2 == 0, turn % 2 == 1));
        evidence
    }

    #[test]
    fn a_conversation_goes_to_the_kernel_and_a_short_one_or_one_in_a_crowd_does_not() {
        let auto = plan(RelayChoice::Auto);
        assert!(!auto.wants_sockmap(&Tally::default(), &talk(PROMOTE_TURNS - 1), |_| false));
        assert!(auto.wants_sockmap(&Tally::default(), &talk(PROMOTE_TURNS), |_| false));
        assert!(!auto.wants_sockmap(&Tally::default(), &talk(PROMOTE_TURNS), |_| true));
        assert!(!plan(RelayChoice::Copy).wants_sockmap(
            &Tally::default(),
            &talk(PROMOTE_TURNS),
            |_| false
        ));
        assert!(plan(RelayChoice::Sockmap).wants_sockmap(&Tally::default(), &talk(0), |_| true));
    }

    #[test]
    fn a_moment_that_was_not_right_is_not_the_last_one() {
        let mut plan = plan(RelayChoice::Sockmap);
        let tally =
            |reads| Tally { up: Traffic { reads, ..Traffic::default() }, ..Tally::default() };
        plan.try_later(&tally(5));
        let wants =
            |plan: &Plan, reads| plan.wants_sockmap(&tally(reads), &Evidence::default(), |_| false);
        assert!(!wants(&plan, 5 + u64::from(PROMOTE_TURNS) - 1));
        assert!(wants(&plan, 5 + u64::from(PROMOTE_TURNS)));
        assert!(plan.why_not.is_none());
    }

    #[test]
    fn bulk_is_spliced_and_tiny_writes_one_way_are_copied() {
        let mut evidence = Evidence::default();
        for _ in 0..100 {
            evidence.moved(false, true);
            evidence.reads[1].note(65_536);
            evidence.reads[0].note(8);
        }
        let auto = plan(RelayChoice::Auto);
        assert!(auto.wants_splice(&evidence.reads[1]) && !auto.wants_splice(&evidence.reads[0]));
        assert!(!auto.wants_sockmap(&Tally::default(), &evidence, |_| false));
        assert!(!plan(RelayChoice::Copy).wants_splice(&evidence.reads[1]));
    }

    #[test]
    fn each_demotion_makes_the_way_back_longer_and_the_last_one_is_for_good() {
        let mut auto = plan(RelayChoice::Auto);
        auto.back_off(Reason::Stream);
        assert!(!auto.wants_sockmap(&Tally::default(), &talk(PROMOTE_TURNS), |_| false));
        assert!(auto.wants_sockmap(&Tally::default(), &talk(1000), |_| false));
        auto.back_off(Reason::Stream);
        // A crowd is none of its doing.
        auto.back_off(Reason::Crowd);
        assert!(auto.wants_sockmap(&Tally::default(), &talk(1023), |_| false));
        auto.back_off(Reason::Pressure);
        assert!(!auto.wants_sockmap(&Tally::default(), &talk(1023), |_| false));
        assert_eq!(auto.why_not.as_deref(), Some(Reason::Pressure.note()));
    }
}
