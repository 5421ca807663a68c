//! Random numbers for spreading: cheap, shared by the cores without a lock. Not for secrets.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// The increment of SplitMix64: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea and Flood: Fast Splittable Pseudorandom Number Generators, 2014), whose
/// state is a counter.
#[derive(Debug)]
pub(super) struct Random(AtomicU64);

impl Random {
    /// With a seed that differs from process to process.
    pub(super) fn new() -> Self {
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    /// With this seed.
    pub(super) const fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// 64 random bits.
    pub(super) fn next(&self) -> u64 {
        mix(self.0.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN))
    }

    /// A number from 0 to `bound` - 1; 0 for a bound of 0. The high half of a product rather than
    /// a remainder (Lemire 2019): its bias is below `bound` / 2^64.
    pub(super) fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 to 1, without 1.
    pub(super) fn fraction(&self) -> f64 {
        unit(self.next())
    }

    /// From 0.9 to 1.1: what periods are multiplied by, so that many of them do not fall together.
    pub(super) fn jitter(&self) -> f64 {
        0.9 + 0.2 * self.fraction()
    }
}

/// Scatters the bits of a number: equal ones stay equal, similar ones do not stay similar.
pub(super) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// 64 bits as a number from 0 to 1, without 1: the upper 53, which an `f64` holds exactly.
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for seed 0, as other implementations have them.
    #[test]
    fn it_is_splitmix64() {
        let random = Random::seeded(0);
        let first: [u64; 3] = std::array::from_fn(|_| random.next());
        assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    #[test]
    fn bounds_hold() {
        let random = Random::seeded(1);
        for bound in [1, 2, 3, 1000, u64::MAX] {
            assert!((0..100).all(|_| random.below(bound) < bound));
        }
        assert_eq!(random.below(0), 0);
        let jitter: Vec<f64> = (0..10_000).map(|_| random.jitter()).collect();
        assert!(jitter.iter().all(|factor| (0.9..1.1).contains(factor)));
        // All of it is used, and its mean is 1: intervals are as long as the file says.
        assert!(jitter.iter().any(|factor| *factor < 0.901) && jitter.iter().any(|f| *f > 1.099));
        let mean = jitter.iter().sum::<f64>() / 10_000.0;
        assert!((mean - 1.0).abs() < 0.005, "{mean}");
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random.fraction())));
    }
}
