//! Which member of a group is next: pure choices, over whatever says which members are open.
//!
//! No clock, no socket. What a choice remembers is behind a lock that is held for one pass over
//! the members.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use super::random::{Random, mix, unit};
use crate::rules::config::Balance;

#[cfg(test)]
mod tests;

/// The members to choose from, numbered from 0.
pub(super) trait Members {
    /// How many there are, open or not.
    fn count(&self) -> usize;
    /// Whether a connection may go there now. May change between two calls.
    fn is_open(&self, index: usize) -> bool;
    /// Its share, at least 1.
    fn weight(&self, index: usize) -> u32;
    /// Flows that it has. May change between two calls.
    fn load(&self, index: usize) -> u32;
    /// What [`seed`] makes of its name.
    fn seed(&self, index: usize) -> u64;
}

/// A group's way of choosing, and what it remembers of earlier choices.
#[derive(Debug)]
pub(super) struct Balancer {
    balance: Balance,
    turns: Turns,
    random: Random,
}

impl Balancer {
    /// For so many members.
    pub(super) fn new(balance: Balance, count: usize) -> Self {
        Self { balance, turns: Turns::new(count), random: Random::new() }
    }

    /// The next member; `None`: none is open. `source` is the client's address; clients without
    /// one, over Unix sockets, are spread in turns where it would decide.
    pub(super) fn pick(&self, members: &impl Members, source: Option<IpAddr>) -> Option<usize> {
        match (self.balance, source) {
            (Balance::First, _) => open(members).next(),
            (Balance::RoundRobin, _) | (Balance::SourceHash, None) => {
                self.turns.next(members, |_| true)
            }
            (Balance::LeastConnections, _) => self.least(members),
            (Balance::RandomTwo, _) => self.random_two(members),
            (Balance::SourceHash, Some(source)) => by_source(members, source),
        }
    }

    /// The least load for the weight; members that are equal take turns, so that a quiet group is
    /// spread by weight, too.
    fn least(&self, members: &impl Members) -> Option<usize> {
        let best = open(members).map(|index| Ratio::of(members, index)).min()?;
        self.turns
            .next(members, |index| Ratio::of(members, index) <= best)
            // All of the best have just got worse.
            .or_else(|| open(members).next())
    }

    /// Two different members drawn by weight, and of these the one with the lesser load for its
    /// weight (Mitzenmacher: The Power of Two Choices, 2001).
    fn random_two(&self, members: &impl Members) -> Option<usize> {
        let first = self.draw(members, None)?;
        let Some(second) = self.draw(members, Some(first)) else { return Some(first) };
        let is_better = Ratio::of(members, second) < Ratio::of(members, first);
        Some(if is_better { second } else { first })
    }

    /// One open member, by weight.
    fn draw(&self, members: &impl Members, except: Option<usize>) -> Option<usize> {
        let candidates = || open(members).filter(|index| Some(*index) != except);
        let total: u64 = candidates().map(|index| u64::from(members.weight(index))).sum();
        let mut ticket = self.random.below(total);
        let mut last = None;
        for index in candidates() {
            let weight = u64::from(members.weight(index));
            if ticket < weight {
                return Some(index);
            }
            ticket -= weight;
            // A member may have closed since the sum was made: then the last one wins.
            last = Some(index);
        }
        last
    }
}

fn open<M: Members>(members: &M) -> impl Iterator<Item = usize> {
    (0..members.count()).filter(|index| members.is_open(*index))
}

/// Load for weight, compared without division.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    load: u32,
    weight: u32,
}

impl Ratio {
    fn of(members: &impl Members, index: usize) -> Self {
        Self { load: members.load(index), weight: members.weight(index).max(1) }
    }
}

impl Ord for Ratio {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let ours = u64::from(self.load) * u64::from(other.weight);
        let theirs = u64::from(other.load) * u64::from(self.weight);
        ours.cmp(&theirs)
    }
}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ratio {}

/// Smooth weighted turns, as nginx takes them: each time every open member earns its weight, and
/// the one among those in question that has earned most pays for all. Of weights 5, 1, 1 that makes a a b a c a a, not a a a a a b c.
///
/// A lock rather than an atomic counter into a prepared schedule: with a schedule, the turns of a
/// member that is not open would all go to its successor.
#[derive(Debug)]
struct Turns(Mutex<Vec<i64>>);

impl Turns {
    fn new(count: usize) -> Self {
        Self(Mutex::new(vec![0; count]))
    }

    fn next(&self, members: &impl Members, among: impl Fn(usize) -> bool) -> Option<usize> {
        let mut earned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let mut best: Option<(i64, usize)> = None;
        for (index, earned) in earned.iter_mut().enumerate() {
            if !members.is_open(index) {
                continue;
            }
            let weight = i64::from(members.weight(index));
            *earned += weight;
            total += weight;
            // `<=` would prefer the last of equals.
            if best.is_none_or(|(most, _)| most < *earned) && among(index) {
                best = Some((*earned, index));
            }
        }
        let (_, index) = best?;
        if let Some(earned) = earned.get_mut(index) {
            *earned -= total;
        }
        // Who may not be chosen for long must not save up for as long: turns alone stay within
        // these bounds.
        earned.iter_mut().for_each(|earned| *earned = (*earned).clamp(-total, total));
        Some(index)
    }
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): every member bids for every client, and the
/// highest bid has it. When a member leaves, its clients move and nobody else's do; they are spread
/// over all others.
///
/// With weights as in Schindelhauer and Schomaker, Weighted Distributed Hash Tables (2005): a bid is
/// `-weight / ln(hash)`, which makes the chance of the highest one proportional to the weight.
fn by_source(members: &impl Members, source: IpAddr) -> Option<usize> {
    let key = source_key(source);
    open(members)
        .map(|index| {
            // Never 0, whose logarithm has no end, and never 1, whose logarithm is 0.
            let hash =
                unit(mix(key ^ members.seed(index))).clamp(f64::MIN_POSITIVE, 1.0 - f64::EPSILON);
            (-f64::from(members.weight(index)) / hash.ln(), index)
        })
        // Of equal bids the first wins, as `max_by` would have it the last.
        .reduce(|best, bid| if bid.0 > best.0 { bid } else { best })
        .map(|(_, index)| index)
}

/// A client's key: its whole address, without the port. An IPv4 address and the IPv6 address that
/// maps it are the same client.
fn source_key(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(ip) => hash(&ip.octets()),
        IpAddr::V6(ip) => hash(&ip.octets()),
    }
}

/// How high an address of a name bids for a client; the order of its addresses for this client.
pub(super) fn rank(source: IpAddr, address: IpAddr) -> u64 {
    mix(source_key(source) ^ source_key(address))
}

/// What a member's name contributes to its bids. The same in every process of every version, so that
/// several mux in front of the same endpoints agree.
pub(super) fn seed(name: &str) -> u64 {
    hash(name.as_bytes())
}

/// FNV-1a (draft-eastlake-fnv), scattered: FNV alone leaves similar inputs similar.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}
