//! What is known of the single addresses of a name, and in which order a connection tries them.
//! Pure: no socket, and whoever asks brings the time.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    balance::rank,
    eyeballs::interleave,
    health::{Change, Checked},
};

/// How long an address that lost a race is tried after the others.
const GRUDGE: Duration = Duration::from_secs(30);

/// The addresses of which something is known.
#[derive(Debug, Default)]
pub(super) struct History(HashMap<IpAddr, Mark>);

#[derive(Debug, Default)]
struct Mark {
    checked: Checked,
    /// When another one answered that was tried after it.
    lost: Option<Instant>,
}

/// Where a connection begins among the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// One further than the one before it.
    Turn(usize),
    /// Where the others of this client do.
    Source(IpAddr),
}

impl History {
    /// Takes that an address was connected to, and that those of `before` were tried in vain, or in
    /// vain so far.
    pub(super) fn won(&mut self, winner: IpAddr, before: &[SocketAddr], now: Instant) {
        for loser in before {
            self.0.entry(loser.ip()).or_default().lost = Some(now);
        }
        if let Some(mark) = self.0.get_mut(&winner) {
            mark.lost = None;
        }
    }

    /// Takes an active check's result.
    pub(super) fn checked(
        &mut self,
        address: IpAddr,
        passed: bool,
        rise: u32,
        fall: u32,
    ) -> Option<Change> {
        let mark = self.0.entry(address).or_default();
        if passed {
            mark.lost = None;
        }
        mark.checked.record(passed, rise, fall)
    }

    /// Forgets what the checks have said.
    pub(super) fn forget_checks(&mut self) {
        self.0.values_mut().for_each(|mark| mark.checked = Checked::default());
    }

    /// Forgets all other addresses: the name has these now.
    pub(super) fn keep(&mut self, addresses: &[IpAddr]) {
        self.0.retain(|address, _| addresses.contains(address));
    }

    /// The addresses in the order in which to try them: families take turns (RFC 8305). Those that
    /// the checks have taken down are left out, if there are others; those that lost a race a moment
    /// ago come last.
    pub(super) fn order(
        &self,
        addresses: &[IpAddr],
        begin: Begin,
        port: u16,
        now: Instant,
    ) -> Vec<SocketAddr> {
        let is_up =
            |address: &&IpAddr| !self.0.get(address).is_some_and(|mark| mark.checked.is_down());
        let mut up: Vec<IpAddr> = addresses.iter().filter(is_up).copied().collect();
        if up.is_empty() {
            up.extend(addresses);
        }
        let turn = match begin {
            Begin::Turn(turn) => turn,
            Begin::Source(source) => {
                // Within a family; which one leads is the resolver's choice (RFC 6724).
                let leads = up.first().is_some_and(IpAddr::is_ipv4);
                up.sort_by_key(|ip| (ip.is_ipv4() != leads, Reverse(rank(source, *ip))));
                0
            }
        };
        let mut order = interleave(&up, turn, port);
        order.sort_by_key(|address| self.has_lost(address.ip(), now));
        order
    }

    fn has_lost(&self, address: IpAddr, now: Instant) -> bool {
        let lost = self.0.get(&address).and_then(|mark| mark.lost);
        lost.is_some_and(|at| now.saturating_duration_since(at) < GRUDGE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn last(order: Vec<SocketAddr>) -> Vec<u8> {
        let last = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15] + 100,
        };
        order.into_iter().map(last).collect()
    }

    #[test]
    fn an_address_that_fails_its_checks_is_left_out_while_there_are_others() {
        let mut history = History::default();
        let (all, now) = ([ip(1), ip(2)], Instant::now());
        let order = |history: &History| last(history.order(&all, Begin::Turn(0), 1, now));
        assert_eq!(history.checked(ip(1), false, 2, 2), None);
        assert_eq!(order(&history), [1, 2]);
        assert_eq!(history.checked(ip(1), false, 2, 2), Some(Change::Down));
        assert_eq!(order(&history), [2]);
        history.checked(ip(2), false, 1, 1);
        assert_eq!(order(&history), [1, 2], "one may be back; the endpoint is down anyway");
        history.checked(ip(2), true, 1, 1);
        history.forget_checks();
        assert_eq!(order(&history), [1, 2]);
    }

    #[test]
    fn an_address_that_lost_a_race_comes_last_for_a_while() {
        let mut history = History::default();
        let (all, now) = ([ip(1), ip(2), ip(3)], Instant::now());
        let order = |history: &History, now| last(history.order(&all, Begin::Turn(0), 1, now));
        history.won(ip(2), &[SocketAddr::new(ip(1), 1)], now);
        assert_eq!(order(&history, now), [2, 3, 1]);
        assert_eq!(order(&history, now + GRUDGE), [1, 2, 3]);
        history.won(ip(1), &[], now);
        assert_eq!(order(&history, now), [1, 2, 3], "it answered");
    }

    #[test]
    fn what_is_known_of_addresses_that_are_gone_is_forgotten() {
        let mut history = History::default();
        history.checked(ip(1), false, 1, 1);
        history.keep(&[ip(2)]);
        assert!(history.0.is_empty());
    }

    /// The same client begins at the same address; when that goes, only its clients move.
    #[test]
    fn a_client_begins_at_its_own_address() {
        let history = History::default();
        let now = Instant::now();
        let all: Vec<IpAddr> = (1..=4).map(ip).collect();
        let first = |addresses: &[IpAddr], client: u8| {
            let source = IpAddr::from([10, 0, 0, client]);
            last(history.order(addresses, Begin::Source(source), 1, now)).first().copied()
        };
        let fewer = &all[1..];
        let mut chosen = HashSet::new();
        for client in 0..=255 {
            let at = first(&all, client);
            assert_eq!(at, first(&all, client));
            chosen.insert(at);
            if at != Some(1) {
                assert_eq!(first(fewer, client), at, "client {client} moved");
            }
        }
        assert_eq!(chosen.len(), 4, "all addresses have clients");
    }

    #[test]
    fn families_take_turns_for_sources_too() {
        let history = History::default();
        let six = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let all = [six(1), ip(1), ip(2), six(2)];
        let order = history.order(&all, Begin::Source(ip(9)), 1, Instant::now());
        let families: Vec<bool> = order.iter().map(SocketAddr::is_ipv6).collect();
        assert_eq!(families, [true, false, true, false]);
    }
}
