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
}

/// Messages each way before a request/response flow goes to the kernel: two map inserts cost
/// about what ten copied messages save, and most short connections end before.
pub const PROMOTE_MESSAGES: u64 = 16;
/// Average bytes a read from which a way counts as bulk, for which splice(2) is the better
/// relay: the redirect runs in a kworker, and one flow gains nothing from it.
pub const BULK_READ: u64 = 16 * 1024;
/// Reads before a way can count as bulk.
pub const BULK_READS: u64 = 8;

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
        Self { choice, sockmap: why_not.is_none(), why_not, not_before: 0 }
    }

    /// Whether the flow should go to the kernel now.
    #[must_use]
    pub fn wants_sockmap(&self, tally: &Tally) -> bool {
        self.sockmap
            && tally.up.reads + tally.down.reads >= self.not_before
            && match self.choice {
                RelayChoice::Sockmap => true,
                RelayChoice::Copy | RelayChoice::Splice => false,
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
            RelayChoice::Auto => is_bulk(way),
        }
    }

    /// Keeps the flow in user space for so many reads, at a moment that was not right.
    pub const fn try_later(&mut self, tally: &Tally) {
        self.not_before = tally.up.reads + tally.down.reads + PROMOTE_MESSAGES;
    }

    /// Keeps the flow in user space from now on.
    pub fn stay(&mut self, why: String) {
        self.sockmap = false;
        self.why_not = Some(why.into());
    }

    /// Why a flow that is relayed by `mode` is not on the kernel's relay.
    #[must_use]
    pub fn note(&self, mode: Mode, control: &Control) -> &str {
        note(mode, self.why_not.as_deref(), control)
    }
}

/// Why a flow that is relayed by `mode` is not on the kernel's relay, which may not have it for the
/// reason `why_not`.
#[must_use]
pub fn note<'a>(mode: Mode, why_not: Option<&'a str>, control: &Control) -> &'a str {
    match (mode, why_not, control.kept_out()) {
        (Mode::Sockmap, ..) => "",
        (Mode::Copy | Mode::Splice, Some(why), _) => why,
        (Mode::Copy | Mode::Splice, None, Some(out)) => out.note(),
        (Mode::Copy, None, None) => "too few messages to gain from the kernel",
        (Mode::Splice, None, None) => "bulk: splice(2) serves it better",
    }
}

fn is_bulk(way: &Traffic) -> bool {
    way.reads >= BULK_READS && way.taken / way.reads.max(1) >= BULK_READ
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(choice: RelayChoice) -> Plan {
        Plan { choice, sockmap: true, why_not: None, not_before: 0 }
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
    fn a_moment_that_was_not_right_is_not_the_last_one() {
        let mut plan = plan(RelayChoice::Sockmap);
        let tally = |reads| Tally { up: traffic(reads, reads), ..Tally::default() };
        plan.try_later(&tally(5));
        assert!(!plan.wants_sockmap(&tally(5 + PROMOTE_MESSAGES - 1)));
        assert!(plan.wants_sockmap(&tally(5 + PROMOTE_MESSAGES)));
        assert!(plan.why_not.is_none());
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
}
