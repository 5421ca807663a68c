//! Reading first bytes from the front, as far as they have arrived.
//!
//! For probes whose protocol is a sequence: each step says what has to come next, and `?`
//! ends the probe where it does not, or has not yet.

mod numbers;

use super::verdict::Stop;

/// A place in a connection's first bytes.
pub(super) struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    limit: usize,
}

impl<'a> Scan<'a> {
    /// At the first byte.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, limit: usize::MAX }
    }

    /// From now on, a step that goes beyond this many bytes, from the first one on, is a
    /// contradiction.
    pub(super) const fn limit(&mut self, total: usize) {
        self.limit = total;
    }

    /// The same, of so many bytes from here on; they have to be within the limit themselves.
    pub(super) fn within(&mut self, count: usize) -> Result<(), Stop> {
        let total = self.at + count;
        if total > self.limit {
            return Err(Stop::Contradiction);
        }
        self.limit = total;
        Ok(())
    }

    /// How many bytes have been read.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    /// What has been read since a position.
    pub(super) fn since(&self, position: usize) -> &'a [u8] {
        self.bytes.get(position..self.at).unwrap_or_default()
    }

    /// What has arrived and not been read, up to the limit.
    pub(super) fn arrived(&self) -> &'a [u8] {
        self.bytes.get(self.at..self.bytes.len().min(self.limit)).unwrap_or_default()
    }

    /// One byte more than has arrived, if the limit allows it.
    fn more(&self) -> Stop {
        let total = self.at + self.arrived().len() + 1;
        if total > self.limit { Stop::Contradiction } else { Stop::Incomplete { total } }
    }

    /// The next byte, which stays.
    pub(super) fn peek(&self) -> Result<u8, Stop> {
        self.arrived().first().copied().ok_or_else(|| self.more())
    }

    /// The next byte, which has to be one of these.
    pub(super) fn one(&mut self, accept: impl FnOnce(u8) -> bool) -> Result<u8, Stop> {
        let byte = self.peek()?;
        if !accept(byte) {
            return Err(Stop::Contradiction);
        }
        self.at += 1;
        Ok(byte)
    }

    /// A big-endian number.
    pub(super) fn u16(&mut self) -> Result<u16, Stop> {
        Ok(u16::from_be_bytes([self.one(|_| true)?, self.one(|_| true)?]))
    }

    /// Passes over bytes that say nothing and that others have to follow.
    pub(super) fn skip(&mut self, count: usize) -> Result<(), Stop> {
        let total = self.at + count + 1;
        if total > self.limit {
            Err(Stop::Contradiction)
        } else if total > self.bytes.len() {
            Err(Stop::Incomplete { total })
        } else {
            self.at += count;
            Ok(())
        }
    }

    /// So many bytes, whatever they are.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let total = self.at + count;
        if total > self.limit {
            return Err(Stop::Contradiction);
        }
        let taken = self.bytes.get(self.at..total).ok_or(Stop::Incomplete { total })?;
        self.at = total;
        Ok(taken)
    }

    /// `N` bytes, whatever they are.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        // `take` gives exactly as many.
        self.take(N)?.try_into().map_err(|_| Stop::Contradiction)
    }

    /// So many bytes, each of which has to be one of these.
    pub(super) fn each(
        &mut self,
        count: usize,
        accept: impl Fn(u8) -> bool,
    ) -> Result<&'a [u8], Stop> {
        let start = self.at;
        for _ in 0..count {
            self.one(&accept)?;
        }
        Ok(self.since(start))
    }

    /// These bytes.
    pub(super) fn literal(&mut self, expected: &[u8]) -> Result<(), Stop> {
        self.choose(&[(expected, ())])
    }

    /// One of these words, none of which begins another.
    pub(super) fn one_of(&mut self, words: &[&'static [u8]]) -> Result<&'static [u8], Stop> {
        self.choose_by(words.iter().map(|word| (*word, *word)), |a, b| a == b)
    }

    /// The same, whatever their case.
    pub(super) fn one_of_ignore_case(
        &mut self,
        words: &[&'static [u8]],
    ) -> Result<&'static [u8], Stop> {
        self.choose_by(words.iter().map(|word| (*word, *word)), <[u8]>::eq_ignore_ascii_case)
    }

    /// What one of these words stands for, none of which begins another.
    pub(super) fn choose<T: Copy>(&mut self, words: &[(&[u8], T)]) -> Result<T, Stop> {
        self.choose_by(words.iter().copied(), |a, b| a == b)
    }

    fn choose_by<'w, T>(
        &mut self,
        words: impl Iterator<Item = (&'w [u8], T)>,
        equal: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Result<T, Stop> {
        let arrived = self.arrived();
        let mut possible = false;
        for (word, meaning) in words {
            let len = word.len().min(arrived.len());
            if equal(&arrived[..len], &word[..len]) {
                if len == word.len() {
                    self.at += len;
                    return Ok(meaning);
                }
                possible = true;
            }
        }
        Err(if possible { self.more() } else { Stop::Contradiction })
    }

    /// The longest run of such bytes, at most `max`, maybe none. What ends it has to be there.
    pub(super) fn run(
        &mut self,
        max: usize,
        accept: impl Fn(u8) -> bool,
    ) -> Result<&'a [u8], Stop> {
        let arrived = self.arrived();
        match arrived.iter().take(max.saturating_add(1)).position(|&byte| !accept(byte)) {
            Some(end) => {
                self.at += end;
                Ok(&arrived[..end])
            }
            None if arrived.len() > max => Err(Stop::Contradiction),
            None => Err(self.more()),
        }
    }

    /// The same, and not empty.
    pub(super) fn word(
        &mut self,
        max: usize,
        accept: impl Fn(u8) -> bool,
    ) -> Result<&'a [u8], Stop> {
        let word = self.run(max, accept)?;
        if word.is_empty() { Err(Stop::Contradiction) } else { Ok(word) }
    }

    /// A decimal number of at most `digits` digits (9 do fit) without leading zeros, and what
    /// ends it.
    pub(super) fn decimal(&mut self, digits: usize) -> Result<u32, Stop> {
        match self.word(digits, |byte| byte.is_ascii_digit())? {
            [b'0', _, ..] => Err(Stop::Contradiction),
            word => Ok(word.iter().fold(0, |number: u32, digit| {
                number.wrapping_mul(10).wrapping_add((digit - b'0').into())
            })),
        }
    }

    /// CR LF, or a lone LF.
    pub(super) fn line_end(&mut self) -> Result<(), Stop> {
        if self.peek()? == b'\r' {
            self.at += 1;
        }
        self.literal(b"\n")
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
    use super::{Scan, Stop};

    const NO: Stop = Stop::Contradiction;

    fn wants(total: usize) -> Stop {
        Stop::Incomplete { total }
    }

    #[test]
    fn one_of_waits_while_one_is_possible() {
        let one_of = |bytes| Scan::new(bytes).one_of(&[b"abc", b"abd", b"x"]);
        assert_eq!(one_of(b""), Err(wants(1)));
        assert_eq!(one_of(b"ab"), Err(wants(3)));
        assert_eq!(one_of(b"abdx"), Ok(&b"abd"[..]));
        assert_eq!(one_of(b"x"), Ok(&b"x"[..]));
        assert_eq!(one_of(b"abx"), Err(NO));
        assert_eq!(Scan::new(b"aB").one_of(&[b"ab"]), Err(NO));
        assert_eq!(Scan::new(b"aB").one_of_ignore_case(&[b"Ab"]), Ok(&b"Ab"[..]));
    }

    #[test]
    fn a_run_ends_where_its_end_is_seen() {
        let run = |bytes| Scan::new(bytes).run(3, |byte| byte == b'a');
        assert_eq!(run(b""), Err(wants(1)));
        assert_eq!(run(b"b"), Ok(&b""[..]));
        assert_eq!(run(b"aaa"), Err(wants(4)));
        assert_eq!(run(b"aaab"), Ok(&b"aaa"[..]));
        assert_eq!(run(b"aaaa"), Err(NO));
        assert_eq!(Scan::new(b"b").word(3, |byte| byte == b'a'), Err(NO));
    }

    #[test]
    fn nothing_goes_beyond_the_limit() {
        let limited = |bytes| {
            let mut scan = Scan::new(bytes);
            scan.limit(2);
            scan
        };
        assert_eq!(limited(b"").one_of(&[b"abc"]), Err(wants(1)));
        assert_eq!(limited(b"abc").one_of(&[b"abc"]), Err(NO));
        assert_eq!(limited(b"aa").run(9, |byte| byte == b'a'), Err(NO));
        assert_eq!(limited(b"ab").run(9, |byte| byte == b'a'), Ok(&b"a"[..]));
        assert_eq!(limited(b"").skip(1), Err(wants(2)));
        assert_eq!(limited(b"").skip(2), Err(NO));
        assert_eq!(limited(b"ab").u16(), Ok(0x6162));
        assert_eq!(limited(b"").take(3), Err(NO));
        assert_eq!(limited(b"").array::<2>(), Err(wants(2)));
        assert_eq!(limited(b"").within(3), Err(NO));
    }

    #[test]
    fn parts_are_within_each_other() {
        let read = |bytes| {
            let mut scan = Scan::new(bytes);
            scan.take(1)?;
            scan.within(4)?;
            scan.take(1)?;
            scan.within(2)?;
            scan.literal(b"abc")
        };
        assert_eq!(read(b"..ab"), Err(NO));
        assert_eq!(read(b"..a"), Err(wants(4)));
        assert_eq!(read(b"."), Err(wants(2)));
    }

    #[test]
    fn each_byte_has_to_be_accepted() {
        let each = |bytes| Scan::new(bytes).each(2, |byte| byte == b'a');
        assert_eq!(each(b""), Err(wants(1)));
        assert_eq!(each(b"ab"), Err(NO));
        assert_eq!(each(b"aab"), Ok(&b"aa"[..]));
    }

    #[test]
    fn decimals() {
        let decimal = |bytes| Scan::new(bytes).decimal(3);
        assert_eq!(decimal(b"0 "), Ok(0));
        assert_eq!(decimal(b"191>"), Ok(191));
        assert_eq!(decimal(b"191"), Err(wants(4)));
        assert_eq!(decimal(b"01 "), Err(NO));
        assert_eq!(decimal(b"1234 "), Err(NO));
        assert_eq!(decimal(b" "), Err(NO));
    }

    #[test]
    fn lines_end_in_lf() {
        let end = |bytes| Scan::new(bytes).line_end();
        assert_eq!(end(b"\r\n"), Ok(()));
        assert_eq!(end(b"\n"), Ok(()));
        assert_eq!(end(b"\r"), Err(wants(2)));
        assert_eq!(end(b"\r\r\n"), Err(NO));
    }
}
