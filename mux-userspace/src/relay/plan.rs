//! Which relay a flow is to take, and why not a faster one.

use std::borrow::Cow;

use super::{Control, Ends, Tally, Traffic};
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

/// Messages each way before a request/response flow goes to the kernel: two map inserts cost
/// about what ten copied messages save, and most short connections end before.
pub const PROMOTE_MESSAGES: u64 = 16;
/// Average bytes a read from which a way counts as bulk, for which splice(2) is the better
/// relay: the redirect runs in a kworker, and one flow gains nothing from it.
pub const BULK_READ: u64 = 16 * 1024;
/// Reads before a way can count as bulk.
pub const BULK_READS: u64 = 8;
/// Reads, both ways' together, before a flow is offered to the packet relay, in whatever way it
/// talks: bulk gains as well. As many as [`PROMOTE_MESSAGES`] are each way, for the same reason.
pub const OFFER_READS: u64 = 2 * PROMOTE_MESSAGES;
/// Reads for which the packet relay's moment may be waited for. Of 500 flows under full load the
/// last one had it after 60.
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
        let not_packet = or(unavailable.packet);
        let not_sockmap = or(unavailable.sockmap);
        let may = |why: &Option<_>| if why.is_none() { Offering::May } else { Offering::No };
        match choice {
            RelayChoice::Copy | RelayChoice::Splice => {
                let why = if choice == RelayChoice::Copy { COPY } else { SPLICE };
                Self::without_kernel(choice, why.into())
            }
            RelayChoice::Sockmap => Self {
                choice,
                sockmap: not_sockmap.is_none(),
                packet: Offering::No,
                why_not: WhyNot { packet: None, sockmap: not_sockmap },
            },
            RelayChoice::Packet => Self {
                choice,
                sockmap: false,
                packet: may(&not_packet),
                why_not: WhyNot { packet: not_packet, sockmap: None },
            },
            // Where it is not in force at all, that is no news of this flow.
            RelayChoice::Auto => Self {
                choice,
                sockmap: not_sockmap.is_none(),
                packet: may(&not_packet),
                why_not: WhyNot { packet: None, sockmap: not_sockmap },
            },
        }
    }

    fn without_kernel(choice: RelayChoice, why: Cow<'static, str>) -> Self {
        let why_not = WhyNot { packet: None, sockmap: Some(why) };
        Self { choice, sockmap: false, packet: Offering::No, why_not }
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

    /// Whether the flow should go to the sockmap relay now.
    #[must_use]
    pub fn wants_sockmap(&self, tally: &Tally) -> bool {
        self.sockmap
            && self.packet == Offering::No
            && match self.choice {
                RelayChoice::Sockmap => true,
                RelayChoice::Packet | RelayChoice::Copy | RelayChoice::Splice => false,
                RelayChoice::Auto => {
                    // Requests and responses: both ways talk, in messages below bulk size. A stream
                    // of tiny writes one way loses in the kernel, and stays.
                    let talks = |way: &Traffic| way.reads >= PROMOTE_MESSAGES && !is_bulk(way);
                    talks(&tally.up) && talks(&tally.down)
                }
            }
    }

    /// Whether a way should be carried by splice(2) while in user space.
    #[must_use]
    pub fn wants_splice(&self, way: &Traffic) -> bool {
        match self.choice {
            RelayChoice::Splice => true,
            // A flow that is on its way to the kernel keeps to copy.
            RelayChoice::Copy => false,
            RelayChoice::Sockmap => !self.sockmap && is_bulk(way),
            RelayChoice::Auto | RelayChoice::Packet => is_bulk(way),
        }
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
    pub fn note(&self, mode: Mode, control: &Control) -> String {
        self.why_not.note(mode, control).into_owned()
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
                (None, None) if control.is_to_leave_kernel() => SWITCHED_OFF,
                (None, None) if control.is_offered() => OFFERED,
                (None, None) if mode == Mode::Copy => FEW,
                (None, None) => BULK,
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
/// After `mux relay off`.
const SWITCHED_OFF: &str = "the kernel relay is switched off (`mux relay auto` allows it again)";
const OFFERED: &str = "packet: its moment has not come yet";
/// Of a flow that the packet relay was offered in vain.
pub const NO_MOMENT: &str = "there was no moment without a byte under way";
const FEW: &str = "too few messages to gain from the kernel";
const BULK: &str = "bulk: splice(2) serves it better";

fn is_bulk(way: &Traffic) -> bool {
    way.reads >= BULK_READS && way.taken / way.reads.max(1) >= BULK_READ
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(choice: RelayChoice) -> Plan {
        Plan { choice, sockmap: true, packet: Offering::No, why_not: WhyNot::default() }
    }

    fn traffic(reads: u64, bytes: u64) -> Traffic {
        Traffic { taken: bytes, given: bytes, reads, before: 0 }
    }

    #[test]
    fn a_conversation_goes_to_the_kernel_and_a_short_one_does_not() {
        let talk = |reads| Tally {
            up: traffic(reads, reads * 100),
            down: traffic(reads, reads * 1000),
            ..Tally::default()
        };
        assert!(!plan(RelayChoice::Auto).wants_sockmap(&talk(PROMOTE_MESSAGES - 1)));
        assert!(plan(RelayChoice::Auto).wants_sockmap(&talk(PROMOTE_MESSAGES)));
        assert!(!plan(RelayChoice::Copy).wants_sockmap(&talk(PROMOTE_MESSAGES)));
        assert!(plan(RelayChoice::Sockmap).wants_sockmap(&Tally::default()));
    }

    #[test]
    fn bulk_is_spliced_and_tiny_writes_one_way_are_copied() {
        let bulk = traffic(100, 100 * 65_536);
        let tiny = traffic(10_000, 10_000 * 8);
        let auto = plan(RelayChoice::Auto);
        assert!(auto.wants_splice(&bulk));
        assert!(!auto.wants_splice(&tiny));
        assert!(!auto.wants_sockmap(&Tally { up: tiny, ..Tally::default() }));
        assert!(!plan(RelayChoice::Copy).wants_splice(&bulk));
    }

    fn talk(reads: u64) -> Tally {
        let way = traffic(reads / 2, reads * 50);
        Tally { up: way, down: way, ..Tally::default() }
    }

    #[test]
    fn the_packet_relay_goes_first_and_sockmap_takes_over_when_its_moment_never_comes() {
        let mut plan = Plan { packet: Offering::May, ..plan(RelayChoice::Auto) };
        assert!(!plan.wants_offer(&talk(OFFER_READS - 2)));
        let now = talk(OFFER_READS);
        assert!(plan.wants_offer(&now) && !plan.wants_sockmap(&now));
        plan.packet = Offering::Offered { reads: now.reads() };
        assert!(!plan.wants_offer(&now) && !plan.gives_up(&now) && !plan.wants_sockmap(&now));
        let later = talk(OFFER_READS + OFFER_PATIENCE);
        assert!(plan.gives_up(&later));
        plan.refuse_packet(NO_MOMENT);
        assert!(plan.wants_sockmap(&later) && !plan.wants_offer(&later));
        let control = Control::default();
        assert_eq!(plan.note(Mode::Sockmap, &control), format!("packet: {NO_MOMENT}"));
        assert_eq!(plan.note(Mode::Packet, &control), "");
    }

    #[test]
    fn a_rule_that_asks_for_packets_is_offered_at_once_and_waits_for_ever() {
        let mut plan =
            Plan { sockmap: false, packet: Offering::May, ..plan(RelayChoice::Packet) };
        assert!(plan.wants_offer(&Tally::default()));
        plan.packet = Offering::Offered { reads: 0 };
        assert!(!plan.gives_up(&talk(1 << 40)));
        assert!(!plan.wants_sockmap(&talk(1 << 40)));
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
