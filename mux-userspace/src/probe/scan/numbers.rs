//! Binary numbers, refused at the first byte by which they cannot be in their range.

use std::ops::RangeInclusive;

use super::{Scan, Stop};

impl Scan<'_> {
    /// A number of `WIDTH` bytes, at most four, the most significant one first.
    pub(in crate::probe) fn big_endian<const WIDTH: usize>(
        &mut self,
        range: RangeInclusive<u32>,
    ) -> Result<u32, Stop> {
        let arrived = self.arrived_of(WIDTH);
        let known = arrived.iter().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
        let unknown = 8 * (WIDTH - arrived.len());
        let (lowest, highest) = (known << unknown, ((known + 1) << unknown) - 1);
        let possible = lowest <= (*range.end()).into() && highest >= (*range.start()).into();
        self.number(WIDTH, lowest, possible)
    }

    /// A number of `WIDTH` bytes, at most four, the least significant one first.
    pub(in crate::probe) fn little_endian<const WIDTH: usize>(
        &mut self,
        range: RangeInclusive<u32>,
    ) -> Result<u32, Stop> {
        let arrived = self.arrived_of(WIDTH);
        let known = arrived.iter().rev().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
        // The smallest number of the range that ends in the bytes that are known.
        let step = 1_u64 << (8 * arrived.len());
        let start = u64::from(*range.start());
        let lowest = start + known.wrapping_sub(start) % step;
        self.number(WIDTH, lowest, lowest <= (*range.end()).into())
    }

    /// A number in base 128, the least significant digit first, each but the last with its
    /// high bit set; in its shortest form, and at most `MAX` bytes and 32 bits long.
    pub(in crate::probe) fn varint<const MAX: usize>(&mut self) -> Result<u32, Stop> {
        let mut value = 0_u64;
        for index in 0..MAX {
            let byte = self.one(|byte| byte != 0 || index == 0)?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| Stop::Contradiction);
            }
        }
        Err(Stop::Contradiction)
    }

    /// Of the next bytes those that have arrived.
    fn arrived_of(&self, most: usize) -> &[u8] {
        let arrived = self.arrived();
        arrived.get(..most).unwrap_or(arrived)
    }

    fn number(&mut self, width: usize, value: u64, possible: bool) -> Result<u32, Stop> {
        if !possible {
            return Err(Stop::Contradiction);
        }
        if self.arrived().len() < width {
            return Err(self.more());
        }
        self.at += width;
        u32::try_from(value).map_err(|_| Stop::Contradiction)
    }
}

#[cfg(test)]
mod tests {
    use super::{Scan, Stop};

    /// Whether a number of two bytes in the range can begin so, by trying all of them.
    fn possible(begins: &[u8], bytes: fn(u16) -> [u8; 2], start: u16, end: u16) -> bool {
        (start..=end).any(|number| bytes(number).starts_with(begins))
    }

    #[test]
    fn numbers_are_refused_at_the_first_impossible_byte() {
        for (start, end) in [(0, 0xffff), (300, 300), (14, 1078), (0x00ff, 0x0102), (8, 9)] {
            for number in (0..=u16::MAX).step_by(97).chain([300, 14, 1078, 0x00ff, 0x0102, 8, 9]) {
                let range = u32::from(start)..=u32::from(end);
                for len in 0..=2 {
                    let (big, little) = (number.to_be_bytes(), number.to_le_bytes());
                    let outcome = |possible: bool| match (possible, len) {
                        (false, _) => Err(Stop::Contradiction),
                        (true, 2) => Ok(u32::from(number)),
                        (true, _) => Err(Stop::Incomplete { total: len + 1 }),
                    };
                    assert_eq!(
                        Scan::new(&big[..len]).big_endian::<2>(range.clone()),
                        outcome(possible(&big[..len], u16::to_be_bytes, start, end)),
                    );
                    assert_eq!(
                        Scan::new(&little[..len]).little_endian::<2>(range.clone()),
                        outcome(possible(&little[..len], u16::to_le_bytes, start, end)),
                    );
                }
            }
        }
    }

    #[test]
    fn four_bytes_hold_every_number() {
        let bytes = [0xff; 4];
        let max = u32::MAX;
        assert_eq!(Scan::new(&bytes).big_endian::<4>(0..=max), Ok(max));
        assert_eq!(Scan::new(&bytes).little_endian::<4>(1..=max), Ok(max));
        assert_eq!(Scan::new(&bytes).little_endian::<4>(0..=max - 1), Err(Stop::Contradiction));
    }

    #[test]
    fn varints() {
        let varint = |bytes: &[u8]| Scan::new(bytes).varint::<5>();
        assert_eq!(varint(&[0x00]), Ok(0));
        assert_eq!(varint(&[0xac, 0x02]), Ok(300));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(Stop::Contradiction));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff]), Err(Stop::Contradiction));
        assert_eq!(varint(&[0x80]), Err(Stop::Incomplete { total: 2 }));
        // Not in the shortest form.
        assert_eq!(varint(&[0x80, 0x00]), Err(Stop::Contradiction));
        assert_eq!(Scan::new(&[0x80, 0x80]).varint::<2>(), Err(Stop::Contradiction));
    }

    #[test]
    fn a_number_that_the_limit_cuts_is_a_contradiction() {
        let mut scan = Scan::new(&[0, 1, 2]);
        scan.limit(3);
        assert_eq!(scan.big_endian::<4>(0..=u32::MAX), Err(Stop::Contradiction));
    }
}
