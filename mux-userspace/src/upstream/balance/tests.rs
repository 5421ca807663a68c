//! Each balancer against what it promises: shares by weight, and what may move when members do.

use std::{cell::RefCell, net::Ipv4Addr};

use proptest::prelude::*;

use super::*;

/// Members as a test wants them.
#[derive(Clone, Debug)]
struct Table(Vec<Row>);

#[derive(Clone, Debug)]
struct Row {
    name: String,
    open: bool,
    weight: u32,
    load: u32,
}

impl Table {
    fn of_weights(weights: &[u32]) -> Self {
        Self(
            weights
                .iter()
                .enumerate()
                .map(|(index, weight)| Row {
                    name: format!("10.0.0.{index}:80"),
                    open: true,
                    weight: *weight,
                    load: 0,
                })
                .collect(),
        )
    }

    fn total(&self) -> u32 {
        self.0.iter().filter(|row| row.open).map(|row| row.weight).sum()
    }
}

impl Members for Table {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn is_open(&self, index: usize) -> bool {
        self.0[index].open
    }
    fn weight(&self, index: usize) -> u32 {
        self.0[index].weight
    }
    fn load(&self, index: usize) -> u32 {
        self.0[index].load
    }
    fn seed(&self, index: usize) -> u64 {
        seed(&self.0[index].name)
    }
}

fn balancer(balance: Balance, count: usize) -> Balancer {
    Balancer { random: Random::seeded(42), ..Balancer::new(balance, count) }
}

const ALL: [Balance; 5] = [
    Balance::RoundRobin,
    Balance::LeastConnections,
    Balance::RandomTwo,
    Balance::SourceHash,
    Balance::First,
];

fn client(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 | number).into()
}

fn counts(table: &Table, picks: impl Iterator<Item = Option<usize>>) -> Vec<u32> {
    let mut counts = vec![0; table.0.len()];
    picks.for_each(|pick| counts[pick.expect("one is open")] += 1);
    counts
}

prop_compose! {
    fn tables()(rows in prop::collection::vec((any::<bool>(), 1u32..20, 0u32..20), 1..12)) -> Table {
        let mut table = Table::of_weights(&vec![1; rows.len()]);
        for (row, (open, weight, load)) in table.0.iter_mut().zip(rows) {
            (row.open, row.weight, row.load) = (open, weight, load);
        }
        table
    }
}

proptest! {
    #[test]
    fn only_what_is_open_is_picked_and_always_something(table in tables(), number in any::<u32>()) {
        for balance in ALL {
            for source in [None, Some(client(number))] {
                let balancer = balancer(balance, table.0.len());
                for _ in 0..5 {
                    match balancer.pick(&table, source) {
                        Some(index) => prop_assert!(table.0[index].open),
                        None => prop_assert!(table.0.iter().all(|row| !row.open)),
                    }
                }
            }
        }
    }

    /// In every run of as many turns as the weights add up to, each member has its weight.
    #[test]
    fn turns_are_exact(table in tables(), start in 0usize..50) {
        prop_assume!(table.total() > 0);
        let balancer = balancer(Balance::RoundRobin, table.0.len());
        (0..table.total()).for_each(|_| { balancer.pick(&table, None); });
        // The second round is like the first, wherever in it one starts to count.
        let cycle = table.total() as usize;
        let picks: Vec<_> = (0..2 * cycle).map(|_| balancer.pick(&table, None)).collect();
        let start = start % cycle;
        let window = counts(&table, picks[start..start + cycle].iter().copied());
        let expected: Vec<u32> =
            table.0.iter().map(|row| if row.open { row.weight } else { 0 }).collect();
        prop_assert_eq!(window, expected);
    }

    #[test]
    fn least_connections_takes_a_least_one(table in tables()) {
        let balancer = balancer(Balance::LeastConnections, table.0.len());
        let least = table.0.iter().filter(|row| row.open)
            .map(|row| f64::from(row.load) / f64::from(row.weight))
            .fold(f64::INFINITY, f64::min);
        for _ in 0..5 {
            if let Some(index) = balancer.pick(&table, None) {
                let row = &table.0[index];
                prop_assert!(f64::from(row.load) / f64::from(row.weight) <= least + 1e-9);
            }
        }
    }

    /// With two open members there is no choice about which two, so the busier one never wins.
    #[test]
    fn random_two_takes_the_better_of_two(loads in (0u32..10, 0u32..10), weights in (1u32..10, 1u32..10)) {
        let mut table = Table::of_weights(&[weights.0, weights.1]);
        (table.0[0].load, table.0[1].load) = loads;
        let balancer = balancer(Balance::RandomTwo, 2);
        let cross = [loads.0 * weights.1, loads.1 * weights.0];
        for _ in 0..10 {
            let index = balancer.pick(&table, None).expect("open");
            prop_assert!(cross[index] <= cross[1 - index]);
        }
    }

    /// Who is taken away loses all its clients; nobody else loses or gains one from another.
    #[test]
    fn only_the_share_of_a_member_that_leaves_moves(table in tables(), gone in any::<prop::sample::Index>()) {
        let mut before = table;
        before.0.iter_mut().for_each(|row| row.open = true);
        let gone = gone.index(before.0.len());
        let mut after = before.clone();
        after.0[gone].open = false;
        for number in 0..200 {
            let source = client(number);
            let old = by_source(&before, source).expect("open");
            match by_source(&after, source) {
                Some(new) if old == gone => prop_assert_ne!(new, gone),
                Some(new) => prop_assert_eq!(new, old),
                None => prop_assert_eq!(before.0.len(), 1),
            }
        }
    }

    /// A member's place in the file is not part of its bids: a new one takes clients for itself
    /// only, wherever it is put.
    #[test]
    fn a_new_member_takes_clients_for_itself_only(table in tables(), place in any::<prop::sample::Index>(), weight in 1u32..20) {
        let mut before = table;
        before.0.iter_mut().for_each(|row| row.open = true);
        let mut after = before.clone();
        let place = place.index(after.0.len() + 1);
        after.0.insert(place, Row { name: "new:80".into(), open: true, weight, load: 0 });
        for number in 0..200 {
            let source = client(number);
            let old = &before.0[by_source(&before, source).expect("open")].name;
            let new = &after.0[by_source(&after, source).expect("open")].name;
            prop_assert!(new == old || new == "new:80", "{} moved to {}", old, new);
        }
    }

    #[test]
    fn a_ratio_orders_as_the_fraction_does(a in (any::<u32>(), 1u32..), b in (any::<u32>(), 1u32..)) {
        let ratio = |(load, weight): (u32, u32)| Ratio { load, weight };
        let exact = |(load, weight): (u32, u32)| u128::from(load) * (1 << 64) / u128::from(weight);
        if exact(a) != exact(b) {
            prop_assert_eq!(ratio(a).cmp(&ratio(b)), exact(a).cmp(&exact(b)));
        }
    }
}

#[test]
fn turns_are_smooth() {
    let table = Table::of_weights(&[5, 1, 1]);
    let balancer = balancer(Balance::RoundRobin, 3);
    let picks: Vec<_> = (0..7).filter_map(|_| balancer.pick(&table, None)).collect();
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
}

/// What the weights promise, within what chance allows: five standard deviations.
fn assert_shares(table: &Table, counts: &[u32]) {
    let picks = f64::from(counts.iter().sum::<u32>());
    for (row, count) in table.0.iter().zip(counts) {
        let share = f64::from(row.weight) / f64::from(table.total());
        let deviation = (picks * share * (1.0 - share)).sqrt();
        let off = (f64::from(*count) - picks * share).abs();
        assert!(off <= 5.0 * deviation, "{}: {count} of {picks}, share {share}", row.name);
    }
}

#[test]
fn the_source_hash_spreads_clients_by_weight() {
    for weights in [&[1, 1, 1, 1][..], &[1, 2, 3], &[1, 9], &[65_535, 65_535, 1]] {
        let table = Table::of_weights(weights);
        // Neighbouring addresses, as in a real network.
        let picks = (0..20_000).map(|number| by_source(&table, client(number)));
        assert_shares(&table, &counts(&table, picks));
    }
}

#[test]
fn the_clients_of_a_member_that_leaves_are_spread_over_the_others() {
    let before = Table::of_weights(&[1, 1, 1, 1, 1]);
    let mut after = before.clone();
    after.0[2].open = false;
    let moved = (0..50_000)
        .map(client)
        .filter(|source| by_source(&before, *source) == Some(2))
        .map(|source| by_source(&after, source));
    let mut moved = counts(&after, moved);
    assert_eq!(moved.remove(2), 0);
    assert_shares(&Table::of_weights(&[1; 4]), &moved);
}

/// At rest nobody is better than another, and the draw decides: each pair is drawn as its weights
/// say, and the first drawn one wins.
#[test]
fn random_two_at_rest_follows_the_weights() {
    let table = Table::of_weights(&[1, 2, 5]);
    let balancer = balancer(Balance::RandomTwo, 3);
    let picks = (0..20_000).map(|_| balancer.pick(&table, None));
    assert_shares(&table, &counts(&table, picks));
}

/// Flows that stay: their numbers follow the weights exactly.
#[test]
fn least_connections_fills_by_weight() {
    let mut table = Table::of_weights(&[1, 2, 5]);
    let balancer = balancer(Balance::LeastConnections, 3);
    for _ in 0..800 {
        let index = balancer.pick(&table, None).expect("open");
        table.0[index].load += 1;
    }
    let loads: Vec<u32> = table.0.iter().map(|row| row.load).collect();
    assert_eq!(loads, [100, 200, 500]);
}

/// A member that is busy for long does not save up turns meanwhile.
#[test]
fn least_connections_makes_up_for_nothing() {
    let mut table = Table::of_weights(&[1, 1]);
    let balancer = balancer(Balance::LeastConnections, 2);
    table.0[0].load = 1;
    assert!((0..1000).all(|_| balancer.pick(&table, None) == Some(1)));
    table.0[0].load = 0;
    let picks: Vec<_> = (0..8).map(|_| balancer.pick(&table, None)).collect();
    let first = picks.iter().filter(|pick| **pick == Some(0)).count();
    assert!((4..=5).contains(&first), "{picks:?}");
}

/// Connections that end before the next one comes leave all loads at 0: turns by weight then.
#[test]
fn least_connections_at_rest_follows_the_weights() {
    let table = Table::of_weights(&[1, 2, 5]);
    let balancer = balancer(Balance::LeastConnections, 3);
    let picks = (0..800).map(|_| balancer.pick(&table, None));
    assert_eq!(counts(&table, picks), [100, 200, 500]);
}

#[test]
fn clients_without_an_address_take_turns() {
    let table = Table::of_weights(&[1, 1, 1]);
    let balancer = balancer(Balance::SourceHash, 3);
    let picks = (0..9).map(|_| balancer.pick(&table, None));
    assert_eq!(counts(&table, picks), [3, 3, 3]);
}

#[test]
fn a_mapped_address_and_its_ipv4_address_are_one_client() {
    let mapped: IpAddr = "::ffff:10.0.0.7".parse().expect("an address");
    assert_eq!(source_key(mapped), source_key(client(7)));
    assert_ne!(source_key(client(7)), source_key(client(8)));
}

/// The values are part of the product: several daemons in front of the same endpoints agree.
#[test]
fn hashes_stay_what_they_are() {
    // FNV-1a of "foobar" is 0x85944171f73967e8 (draft-eastlake-fnv, appendix).
    assert_eq!(hash(b"foobar"), mix(0x8594_4171_f739_67e8));
    assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
}

/// A group whose members close while a choice is being made.
#[test]
fn members_that_close_in_between_are_survived() {
    struct Closing(RefCell<usize>);
    impl Members for Closing {
        fn count(&self) -> usize {
            4
        }
        fn is_open(&self, _: usize) -> bool {
            let mut left = self.0.borrow_mut();
            *left = left.saturating_sub(1);
            *left > 0
        }
        fn weight(&self, _: usize) -> u32 {
            1
        }
        fn load(&self, _: usize) -> u32 {
            1
        }
        fn seed(&self, index: usize) -> u64 {
            index as u64
        }
    }
    for balance in ALL {
        for looks in 0..20 {
            let balancer = balancer(balance, 4);
            // Whatever comes: no panic, no endless loop.
            balancer.pick(&Closing(RefCell::new(looks)), Some(client(1)));
        }
    }
}
