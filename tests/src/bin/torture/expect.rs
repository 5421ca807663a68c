//! What a run must have met with to prove anything: bytes that are right where nothing happened say
//! nothing about what should have happened.

use std::fmt;

use clap::ValueEnum;

/// Something that must have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Expect {
    /// Flows went to the kernel, which redirected bytes.
    Promotions,
    /// The kernel passed bytes to user space.
    Passes,
    /// Retransmissions overlapped what had been received, and were trimmed.
    Overlaps,
    /// Flows left the kernel alive.
    Demotions,
    /// The hop let packets overtake others.
    Overtaking,
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Promotions => "promotions",
            Self::Passes => "passes",
            Self::Overlaps => "overlaps",
            Self::Demotions => "demotions",
            Self::Overtaking => "overtaking",
        })
    }
}

/// How a run is made, as far as it decides what must come of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// `relay = "sockmap"`, and not switched off.
    pub(crate) sockmap: bool,
    /// Packets are late, and a retransmission is of more than what was.
    pub(crate) overlaps: bool,
    /// Send buffers are small, so that redirects meet full ones.
    pub(crate) small: bool,
    /// The relay is switched while flows run.
    pub(crate) flips: bool,
    /// Packets overtake others.
    pub(crate) delay: bool,
    /// Flows that were begun.
    pub(crate) flows: u64,
}

/// Flows from which chance is no excuse.
const ENOUGH: u64 = 50;
/// The same of overlaps, which are rare: one in thirty flows or so where packets are late.
const MANY: u64 = 400;

/// What a run of this kind must meet with.
pub(crate) fn expected(run: Run) -> Vec<Expect> {
    let mut expected = Vec::new();
    if run.delay {
        expected.push(Expect::Overtaking);
    }
    if run.sockmap {
        expected.push(Expect::Promotions);
        if run.flows >= ENOUGH {
            // Where packets are late, senders seldom fill the buffers.
            if run.small || run.flips || !run.delay {
                expected.push(Expect::Passes);
            }
            if run.overlaps && run.flows >= MANY && verdict_gets_overlaps() {
                expected.push(Expect::Overlaps);
            }
            if run.flips {
                expected.push(Expect::Demotions);
            }
        }
    }
    expected
}

/// Linux ≥ 6.0 gives a verdict overlapping retransmissions whole (commit 04919bed948d).
fn verdict_gets_overlaps() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok())
        .is_some_and(|major| major >= 6)
}
