//! Reads a message field by field while it is still arriving.
//!
//! A probe made of these reads is monotone: what a read says depends on the bytes it takes
//! and on nothing after them. A field is refused at the first byte that rules it out.

use std::ops::RangeInclusive;

use super::verdict::{Verdict, starts_with};

/// Why a message could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// No extension of the bytes is such a message.
    Contradiction,
    /// No extension that is shorter than this in total says more.
    Incomplete { total: usize },
}

impl<T> From<Result<T, Stop>> for Verdict<T> {
    fn from(read: Result<T, Stop>) -> Self {
        match read {
            Ok(value) => Self::Match(value),
            Err(Stop::Contradiction) => Self::NoMatch,
            Err(Stop::Incomplete { total }) => Self::NeedMore(total),
        }
    }
}

/// A place in the bytes that have arrived, or in a part of them.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    /// None of what is behind the part.
    bytes: &'a [u8],
    /// Never more than there are bytes.
    at: usize,
    /// Where the part ends, which may not have arrived.
    end: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, end: usize::MAX }
    }

    /// Of the next bytes, so many, which are a part: a field that goes on behind its end is
    /// a contradiction.
    pub(super) fn part(&self, count: usize) -> Result<Self, Stop> {
        let end = self.at.saturating_add(count);
        if end > self.end {
            return Err(Stop::Contradiction);
        }
        Ok(Self { bytes: self.bytes.get(..end).unwrap_or(self.bytes), at: self.at, end })
    }

    /// How many bytes have been read.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    /// What has arrived and has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// So many bytes, of any value.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let total = self.at.saturating_add(count);
        let taken = self.bytes.get(self.at..total).ok_or(self.incomplete(total))?;
        self.at = total;
        Ok(taken)
    }

    /// `N` bytes, of any value.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let total = self.at.saturating_add(N);
        let array = self.rest().first_chunk().ok_or(self.incomplete(total))?;
        self.at = total;
        Ok(*array)
    }

    /// One byte.
    pub(super) fn byte(&mut self, allowed: impl FnOnce(u8) -> bool) -> Result<u8, Stop> {
        let [byte] = self.array()?;
        if allowed(byte) { Ok(byte) } else { Err(Stop::Contradiction) }
    }

    /// So many bytes, each of which has to be allowed.
    pub(super) fn bytes(
        &mut self,
        count: usize,
        allowed: impl Fn(u8) -> bool,
    ) -> Result<&'a [u8], Stop> {
        let mut read = *self;
        for _ in 0..count {
            read.byte(&allowed)?;
        }
        self.take(count)
    }

    /// Exactly these bytes.
    pub(super) fn constant(&mut self, expected: &[u8]) -> Result<(), Stop> {
        self.one_of(&[(expected, ())])
    }

    /// One of several constants, and what it stands for.
    pub(super) fn one_of<T: Copy>(&mut self, options: &[(&[u8], T)]) -> Result<T, Stop> {
        let verdict = options.iter().fold(Verdict::NoMatch, |verdict, &(bytes, value)| {
            verdict.or_else(|| starts_with(self.rest(), bytes).map(|()| (bytes.len(), value)))
        });
        match verdict {
            Verdict::Match((len, value)) => {
                self.at += len;
                Ok(value)
            }
            Verdict::NoMatch => Err(Stop::Contradiction),
            Verdict::NeedMore(total) => Err(self.incomplete(self.at + total)),
        }
    }

    /// A number of `WIDTH` bytes, at most four, the most significant one first.
    pub(super) fn big_endian<const WIDTH: usize>(
        &mut self,
        range: RangeInclusive<u32>,
    ) -> Result<u32, Stop> {
        let (start, end) = (u64::from(*range.start()), u64::from(*range.end()));
        let arrived = self.arrived(WIDTH);
        let known = arrived.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
        let unknown = 8 * (WIDTH - arrived.len());
        let (lowest, highest) = (known << unknown, ((known + 1) << unknown) - 1);
        self.number(WIDTH, lowest, lowest <= end && start <= highest)
    }

    /// A number of `WIDTH` bytes, at most four, the least significant one first.
    pub(super) fn little_endian<const WIDTH: usize>(
        &mut self,
        range: RangeInclusive<u32>,
    ) -> Result<u32, Stop> {
        let (start, end) = (u64::from(*range.start()), u64::from(*range.end()));
        let arrived = self.arrived(WIDTH);
        let known = arrived.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        // The smallest number from `start` on whose low bytes are those that are known.
        let step = 1_u64 << (8 * arrived.len());
        let lowest = start + known.wrapping_sub(start) % step;
        self.number(WIDTH, lowest, lowest <= end)
    }

    /// This many bytes in total are needed.
    const fn incomplete(&self, total: usize) -> Stop {
        if total > self.end { Stop::Contradiction } else { Stop::Incomplete { total } }
    }

    /// The next bytes, at most so many.
    fn arrived(&self, most: usize) -> &'a [u8] {
        let rest = self.rest();
        rest.get(..most).unwrap_or(rest)
    }

    fn number(&mut self, width: usize, value: u64, possible: bool) -> Result<u32, Stop> {
        let arrived = self.arrived(width).len();
        if !possible {
            return Err(Stop::Contradiction);
        }
        if arrived < width {
            return Err(self.incomplete(self.at + arrived + 1));
        }
        self.at += width;
        u32::try_from(value).map_err(|_| Stop::Contradiction)
    }

    /// A number in base 128, the least significant digit first, each but the last with its
    /// high bit set; in its shortest form, and at most `MAX` bytes and 32 bits long.
    pub(super) fn varint<const MAX: usize>(&mut self) -> Result<u32, Stop> {
        let mut value = 0_u64;
        for index in 0..MAX {
            let byte = self.byte(|byte| byte != 0 || index == 0)?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| Stop::Contradiction);
            }
        }
        Err(Stop::Contradiction)
    }

    /// Text of a length in `length` that ends at the byte `end`, which is read too.
    pub(super) fn until(
        &mut self,
        end: u8,
        length: RangeInclusive<usize>,
        allowed: impl Fn(u8) -> bool,
    ) -> Result<&'a [u8], Stop> {
        let rest = self.rest();
        let candidates = rest.iter().take(length.end().saturating_add(1));
        let stops = |&byte: &u8| byte == end || !allowed(byte);
        let Some(len) = candidates.clone().position(stops) else {
            return Err(if rest.len() > *length.end() {
                Stop::Contradiction
            } else {
                self.incomplete(self.bytes.len() + 1)
            });
        };
        if rest.get(len) != Some(&end) || !length.contains(&len) {
            return Err(Stop::Contradiction);
        }
        self.at += len + 1;
        Ok(rest.get(..len).unwrap_or_default())
    }
}

/// Splits at the first NUL, which belongs to neither half.
pub(super) fn split_at_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    let (text, rest) = bytes.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::{Reader, Stop};

    /// Whether a number of two bytes in the range can begin so, by trying all of them.
    fn possible(begins: &[u8], bytes: fn(u16) -> [u8; 2], start: u16, end: u16) -> bool {
        (start..=end).any(|number| bytes(number).starts_with(begins))
    }

    #[test]
    fn numbers_are_refused_at_the_first_impossible_byte() {
        for (start, end) in [(0, 0xffff), (300, 300), (14, 1078), (0x00ff, 0x0102), (8, 9)] {
            for number in (0..=u16::MAX).step_by(7).chain([300, 14, 1078, 0x00ff, 0x0102, 8, 9]) {
                let range = u32::from(start)..=u32::from(end);
                for len in 0..=2 {
                    let (big, little) = (number.to_be_bytes(), number.to_le_bytes());
                    let outcome = |possible: bool| match (possible, len) {
                        (false, _) => Err(Stop::Contradiction),
                        (true, 2) => Ok(u32::from(number)),
                        (true, _) => Err(Stop::Incomplete { total: len + 1 }),
                    };
                    assert_eq!(
                        Reader::new(&big[..len]).big_endian::<2>(range.clone()),
                        outcome(possible(&big[..len], u16::to_be_bytes, start, end)),
                    );
                    assert_eq!(
                        Reader::new(&little[..len]).little_endian::<2>(range.clone()),
                        outcome(possible(&little[..len], u16::to_le_bytes, start, end)),
                    );
                }
            }
        }
    }

    #[test]
    fn four_bytes_hold_every_number() {
        let bytes = [0xff; 4];
        assert_eq!(Reader::new(&bytes).big_endian::<4>(0..=u32::MAX), Ok(u32::MAX));
        assert_eq!(Reader::new(&bytes).little_endian::<4>(1..=u32::MAX), Ok(u32::MAX));
        assert_eq!(
            Reader::new(&bytes).little_endian::<4>(0..=u32::MAX - 1),
            Err(Stop::Contradiction)
        );
    }

    #[test]
    fn varints() {
        let read = |bytes: &[u8]| Reader::new(bytes).varint::<5>();
        assert_eq!(read(&[0x00]), Ok(0));
        assert_eq!(read(&[0xac, 0x02]), Ok(300));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(Stop::Contradiction));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff]), Err(Stop::Contradiction));
        assert_eq!(read(&[0x80]), Err(Stop::Incomplete { total: 2 }));
        // Not in the shortest form.
        assert_eq!(read(&[0x80, 0x00]), Err(Stop::Contradiction));
        assert_eq!(Reader::new(&[0x80, 0x80]).varint::<2>(), Err(Stop::Contradiction));
    }

    #[test]
    fn what_does_not_fit_into_a_part_is_a_contradiction() {
        let read = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            reader.take(1)?;
            let mut part = reader.part(3)?;
            assert_eq!(part.part(4).map(|_| ()), Err(Stop::Contradiction));
            part.constant(&[1, 2])?;
            part.big_endian::<2>(0..=9)
        };
        assert_eq!(read(&[0]), Err(Stop::Incomplete { total: 2 }));
        assert_eq!(read(&[0, 1, 2]), Err(Stop::Incomplete { total: 4 }));
        assert_eq!(read(&[0, 1, 2, 0]), Err(Stop::Contradiction));
        assert_eq!(read(&[0, 1, 2, 0, 3]), Err(Stop::Contradiction));
        assert_eq!(
            Reader::new(&[]).part(2).and_then(|mut part| part.take(3)),
            Err(Stop::Contradiction)
        );
    }

    #[test]
    fn texts() {
        let read = |bytes: &[u8]| {
            Reader::new(bytes).until(b' ', 1..=3, |byte| byte.is_ascii_lowercase()).map(<[u8]>::len)
        };
        assert_eq!(read(b"abc d"), Ok(3));
        assert_eq!(read(b"abc"), Err(Stop::Incomplete { total: 4 }));
        assert_eq!(read(b"abcd"), Err(Stop::Contradiction));
        assert_eq!(read(b"aB"), Err(Stop::Contradiction));
        assert_eq!(read(b" "), Err(Stop::Contradiction));
        assert_eq!(read(b""), Err(Stop::Incomplete { total: 1 }));
    }
}
