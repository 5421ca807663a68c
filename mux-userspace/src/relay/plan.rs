//! Which relay a flow is to take, and why not a faster one.

use std::borrow::Cow;

use super::{
    Control, Ends, Tally,
    demotion::Reason,
    evidence::{Company, Evidence, Reads},
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
    /// The kernel's translation of packets.
    Packet,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Copy, Self::Splice, Self::Sockmap, Self::Packet];

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Copy => 0,
            Self::Splice => 1,
            Self::Sockmap => 2,
            Self::Packet => 3,
        }
    }

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::Sockmap => "sockmap",
            Self::Packet => "packet",
        }
    }
}

/// Why the kernel's relays are not in force; `None`: one is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unavailable<'a> {
    /// The packet relay.
    pub packet: Option<&'a str>,
    /// The sockmap relay.
    pub sockmap: Option<&'a str>,
}

/// Why a flow is not on a faster relay; `None`: nothing is in its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhyNot {
    /// On packets.
    pub packet: Option<Cow<'static, str>>,
    /// On sockmap.
    pub sockmap: Option<Cow<'static, str>>,
}

/// What is decided when a flow begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether it changes by evidence.
    pub choice: RelayChoice,
    /// Whether the sockmap relay may take it.
    pub sockmap: bool,
    /// Where it stands with the packet relay.
    pub packet: Offering,
    /// Why the kernel may not.
    pub why_not: WhyNot,
    /// Reads, both ways, before which it is not tried again.
    pub not_before: u64,
    /// Turns that it takes.
    turns: u32,
    demotions: u32,
}

/// Where a flow stands with the packet relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offering {
    /// It is not for it.
    No,
    /// It may be offered.
    May,
    /// It is, and user space goes on carrying it; so many reads had brought bytes by then.
    Offered {
        /// Both ways' together.
        reads: u64,
    },
    /// Its packets are translated. What still comes to our sockets is carried on.
    On {
        /// What user space had carried when it last saw to the late bytes: [`progress`].
        progress: u64,
    },
}

/// Turns (a request is one, an answer another) before a conversation goes to the kernel. Inserting and taking out
/// cost about what four to eight turns save; a flow whose end comes soon after has lost a few per cent.
pub const PROMOTE_TURNS: u32 = 32;
/// Flows that a core serves between two sleeps from which on none goes to the kernel. User space that serves many at
/// once is woken once for all of them; the kernel's worker spares the wake-ups, and does each message by itself.
pub const CROWD: u32 = 4;
/// How many times as many turns a conversation needs that is not alone on its core: with several flows at work many
/// things look like one for a while, and what goes to the kernel by mistake makes the others slower.
const IN_COMPANY: u32 = 4;
/// By how much each demotion lengthens the way back.
const BACK_OFF: u32 = 4;
/// Demotions for what it does itself after which a flow stays in user space.
const MOST_DEMOTIONS: u32 = 3;
/// Reads, both ways' together, before a flow is offered to the packet relay, in whatever way it
/// talks: bulk gains as well.
pub const OFFER_READS: u64 = 32;
/// Reads for which the packet relay's moment may be waited for.
pub const OFFER_PATIENCE: u64 = 512;

impl Plan {
    /// Decides. `builtin`: the upstream is in this process.
    #[must_use]
    pub fn new(
        choice: RelayChoice,
        ends: &Ends,
        builtin: bool,
        unavailable: Unavailable<'_>,
    ) -> Self {
        let impossible = if builtin {
            Some("the upstream is built in")
        } else if !ends.upstream.is_tcp() {
            Some("the upstream is a Unix socket")
        } else if !ends.client.is_tcp() {
            Some("the client came over a Unix socket")
        } else {
            None
        };
        let or = |unavailable: Option<&str>| {
            let owned = |why: &str| Cow::Owned(why.to_owned());
            impossible.map(Cow::Borrowed).or_else(|| unavailable.map(owned))
        };
        let not_sockmap = || or(unavailable.sockmap);
        let may = if impossible.is_none() && unavailable.packet.is_none() {
            Offering::May
        } else {
            Offering::No
        };
        match choice {
            RelayChoice::Copy => Self::with(choice, Offering::No, None, Some(COPY.into())),
            RelayChoice::Splice => Self::with(choice, Offering::No, None, Some(SPLICE.into())),
            RelayChoice::Sockmap => Self::with(choice, Offering::No, None, not_sockmap()),
            RelayChoice::Packet => {
                let not_packet = or(unavailable.packet);
                Self { sockmap: false, ..Self::with(choice, may, not_packet, None) }
            }
            // Where it is not in force at all, that is no news of this flow.
            RelayChoice::Auto => Self::with(choice, may, None, not_sockmap()),
        }
    }

    fn with(
        choice: RelayChoice,
        offering: Offering,
        packet: Option<Cow<'static, str>>,
        sockmap: Option<Cow<'static, str>>,
    ) -> Self {
        Self {
            choice,
            sockmap: sockmap.is_none(),
            packet: offering,
            why_not: WhyNot { packet, sockmap },
            not_before: 0,
            turns: PROMOTE_TURNS,
            demotions: 0,
        }
    }

    /// Whether the flow should be offered to the packet relay now.
    #[must_use]
    pub fn wants_offer(&self, tally: &Tally) -> bool {
        self.packet == Offering::May
            && match self.choice {
                RelayChoice::Packet => true,
                RelayChoice::Auto => tally.reads() >= OFFER_READS,
                RelayChoice::Sockmap | RelayChoice::Splice | RelayChoice::Copy => false,
            }
    }

    /// Whether it has been offered for long enough, and is to go another way.
    #[must_use]
    pub fn gives_up(&self, tally: &Tally) -> bool {
        match (self.packet, self.choice) {
            (Offering::Offered { reads }, RelayChoice::Auto) => {
                tally.reads() >= reads + OFFER_PATIENCE
            }
            // A rule that asks for it waits for as long as the flow lives: that costs no one
            // anything.
            (Offering::Offered { .. } | Offering::No | Offering::May | Offering::On { .. }, _) => {
                false
            }
        }
    }

    /// Whether the flow should go to the sockmap relay now. `company` tells of the other flows of its core, of which so
    /// many are a crowd.
    #[must_use]
    pub fn wants_sockmap(
        &self,
        tally: &Tally,
        evidence: &Evidence,
        company: impl FnOnce(u32) -> Company,
    ) -> bool {
        self.sockmap
            && self.packet == Offering::No
            && tally.reads() >= self.not_before
            && match self.choice {
                RelayChoice::Sockmap => true,
                RelayChoice::Packet | RelayChoice::Copy | RelayChoice::Splice => false,
                RelayChoice::Auto => match company(CROWD) {
                    Company::Alone => evidence.is_conversation(self.turns),
                    Company::Few => evidence.is_conversation(self.turns.saturating_mul(IN_COMPANY)),
                    Company::Crowd => false,
                },
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
            RelayChoice::Auto | RelayChoice::Packet => reads.is_bulk(),
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
        self.not_before = tally.reads() + u64::from(PROMOTE_TURNS);
    }

    /// Keeps the flow out of the sockmap relay from now on.
    pub fn stay(&mut self, why: String) {
        self.sockmap = false;
        self.why_not.sockmap = Some(why.into());
    }

    /// Keeps the flow out of the packet relay from now on.
    pub fn refuse_packet(&mut self, why: impl Into<Cow<'static, str>>) {
        self.packet = Offering::No;
        self.why_not.packet = Some(why.into());
    }

    /// Why a flow that is relayed by `mode` is not on a faster relay.
    #[must_use]
    pub fn note(&self, mode: Mode, control: &Control) -> Cow<'static, str> {
        self.why_not.note(mode, control)
    }
}

impl WhyNot {
    /// Why a flow that is relayed by `mode` is not on a faster relay. The sockmap relay's reason is
    /// the first one, since most flows have that.
    #[must_use]
    pub fn note(&self, mode: Mode, control: &Control) -> Cow<'static, str> {
        let packet = || self.packet.as_ref().map(|why| format!("packet: {why}"));
        let text = match mode {
            Mode::Packet => return "".into(),
            Mode::Sockmap => return packet().unwrap_or_default().into(),
            Mode::Copy | Mode::Splice => match (&self.sockmap, &self.packet) {
                (Some(why), None) => return why.clone(),
                (None, Some(_)) => return packet().unwrap_or_default().into(),
                (Some(why), Some(_)) => {
                    return format!("{why}; {}", packet().unwrap_or_default()).into();
                }
                (None, None) => match (control.kept_out(), mode) {
                    _ if control.is_offered() => OFFERED,
                    (Some(out), _) => out.note(),
                    (None, Mode::Copy) => FEW,
                    (None, _) => BULK,
                },
            },
        };
        text.into()
    }
}

/// Changes whenever user space carries a byte, or the end of a stream.
#[must_use]
pub fn progress(tally: &Tally, ended: [bool; 2]) -> u64 {
    let [up, down] = [&tally.up, &tally.down].map(|way| way.taken.wrapping_add(way.given));
    let ends = ended.into_iter().map(u64::from).sum::<u64>();
    up.wrapping_add(down).wrapping_add(ends)
}

const COPY: &str = "relay = \"copy\"";
const SPLICE: &str = "relay = \"splice\"";
const OFFERED: &str = "packet: its moment has not come yet";
/// Of a flow that the packet relay was offered in vain.
pub const NO_MOMENT: &str = "there was no moment without a byte under way";
const FEW: &str = "too few messages, or too many flows at once, to gain from the kernel";
const BULK: &str = "bulk: splice(2) serves it better";

#[cfg(test)]
mod tests {
    use super::{super::Traffic, *};

    fn plan(choice: RelayChoice) -> Plan {
        Plan::with(choice, Offering::No, None, None)
    }

    fn talk(turns: u32) -> Evidence {
        let mut evidence = Evidence::default();
        (0..turns).for_each(|turn| evidence.moved(turn % 2 == 0, turn % 2 == 1));
        evidence
    }

    #[test]
    fn a_conversation_goes_to_the_kernel_and_a_short_one_or_one_in_a_crowd_does_not() {
        let auto = plan(RelayChoice::Auto);
        assert!(
            !auto.wants_sockmap(&Tally::default(), &talk(PROMOTE_TURNS - 1), |_| Company::Alone)
        );
        assert!(auto.wants_sockmap(&Tally::default(), &talk(PROMOTE_TURNS), |_| Company::Alone));
        assert!(!auto.wants_sockmap(&Tally::default(), &talk(PROMOTE_TURNS), |_| Company::Crowd));
        let in_company =
            |turns| auto.wants_sockmap(&Tally::default(), &talk(turns), |_| Company::Few);
        assert!(
            !in_company(PROMOTE_TURNS * IN_COMPANY - 1) && in_company(PROMOTE_TURNS * IN_COMPANY)
        );
        assert!(!plan(RelayChoice::Copy).wants_sockmap(
            &Tally::default(),
            &talk(PROMOTE_TURNS),
            |_| Company::Alone
        ));
        assert!(
            plan(RelayChoice::Sockmap)
                .wants_sockmap(&Tally::default(), &talk(0), |_| Company::Crowd)
        );
    }

    #[test]
    fn a_moment_that_was_not_right_is_not_the_last_one() {
        let mut plan = plan(RelayChoice::Sockmap);
        let tally =
            |reads| Tally { up: Traffic { reads, ..Traffic::default() }, ..Tally::default() };
        plan.try_later(&tally(5));
        let wants = |plan: &Plan, reads| {
            plan.wants_sockmap(&tally(reads), &Evidence::default(), |_| Company::Alone)
        };
        assert!(!wants(&plan, 5 + u64::from(PROMOTE_TURNS) - 1));
        assert!(wants(&plan, 5 + u64::from(PROMOTE_TURNS)));
        assert_eq!(plan.why_not, WhyNot::default());
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
        assert!(!auto.wants_sockmap(&Tally::default(), &evidence, |_| Company::Alone));
        assert!(!plan(RelayChoice::Copy).wants_splice(&evidence.reads[1]));
    }

    #[test]
    fn each_demotion_makes_the_way_back_longer_and_the_last_one_is_for_good() {
        let mut auto = plan(RelayChoice::Auto);
        auto.back_off(Reason::Stream);
        assert!(!auto.wants_sockmap(&Tally::default(), &talk(PROMOTE_TURNS), |_| Company::Alone));
        assert!(auto.wants_sockmap(&Tally::default(), &talk(1000), |_| Company::Alone));
        auto.back_off(Reason::Stream);
        // A crowd is none of its doing.
        auto.back_off(Reason::Crowd);
        assert!(auto.wants_sockmap(&Tally::default(), &talk(1023), |_| Company::Alone));
        auto.back_off(Reason::Pressure);
        assert!(!auto.wants_sockmap(&Tally::default(), &talk(1023), |_| Company::Alone));
        assert_eq!(auto.why_not.sockmap.as_deref(), Some(Reason::Pressure.note()));
    }

    fn counted(reads: u64) -> Tally {
        let way = Traffic { reads: reads / 2, ..Traffic::default() };
        Tally { up: way, down: way, ..Tally::default() }
    }

    #[test]
    fn the_packet_relay_goes_first_and_sockmap_takes_over_when_its_moment_never_comes() {
        let mut plan = Plan { packet: Offering::May, ..plan(RelayChoice::Auto) };
        assert!(!plan.wants_offer(&counted(OFFER_READS - 2)));
        let now = counted(OFFER_READS);
        assert!(
            plan.wants_offer(&now)
                && !plan.wants_sockmap(&now, &talk(PROMOTE_TURNS), |_| Company::Alone)
        );
        plan.packet = Offering::Offered { reads: now.reads() };
        assert!(
            !plan.wants_offer(&now)
                && !plan.gives_up(&now)
                && !plan.wants_sockmap(&now, &talk(PROMOTE_TURNS), |_| Company::Alone)
        );
        let later = counted(OFFER_READS + OFFER_PATIENCE);
        assert!(plan.gives_up(&later));
        plan.refuse_packet(NO_MOMENT);
        assert!(
            plan.wants_sockmap(&later, &talk(PROMOTE_TURNS), |_| Company::Alone)
                && !plan.wants_offer(&later)
        );
        let control = Control::default();
        assert_eq!(plan.note(Mode::Sockmap, &control), format!("packet: {NO_MOMENT}"));
        assert_eq!(plan.note(Mode::Packet, &control), "");
    }

    #[test]
    fn a_rule_that_asks_for_packets_is_offered_at_once_and_waits_for_ever() {
        let mut plan = Plan { sockmap: false, packet: Offering::May, ..plan(RelayChoice::Packet) };
        assert!(plan.wants_offer(&Tally::default()));
        plan.packet = Offering::Offered { reads: 0 };
        assert!(!plan.gives_up(&counted(1 << 40)));
        assert!(!plan.wants_sockmap(&counted(1 << 40), &talk(1000), |_| Company::Alone));
    }

    #[test]
    fn a_note_has_both_reasons() {
        let (mut plan, control) = (plan(RelayChoice::Auto), Control::default());
        assert_eq!(plan.note(Mode::Copy, &control), FEW);
        assert_eq!(plan.note(Mode::Sockmap, &control), "");
        plan.refuse_packet("no route");
        assert_eq!(plan.note(Mode::Copy, &control), "packet: no route");
        plan.stay("the maps are full".into());
        assert_eq!(plan.note(Mode::Copy, &control), "the maps are full; packet: no route");
    }
}
