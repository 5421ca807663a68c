//! Conditions on first bytes that are no constant: which byte can stand at which place.
//!
//! `^[A-Z]{2}\d+` and bytes under a mask begin with no literal, so the trie does not know them. Each
//! says of the first places which bytes can stand there. For every place there is a table from the
//! byte to a set of conditions; the intersection over the bytes that are there holds all that are
//! still possible. It forgets which byte goes with which, so it lets too many through where a
//! pattern begins with an unbounded repetition; it never loses one.

use std::collections::{BTreeSet, HashMap};

use smallvec::SmallVec;

use super::{
    super::{MaskedBytes, Regex},
    index::Found,
};

/// Places that are looked at.
pub(super) const MAX_PLACES: usize = 32;

/// Which bytes can stand at each of the first places; after them, any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape(Box<[ByteSet]>);

/// A set of bytes: 256 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ByteSet([u64; 4]);

impl ByteSet {
    /// All bytes.
    pub(crate) const ALL: Self = Self([u64::MAX; 4]);

    /// Adds a byte.
    pub(crate) fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 0x3f);
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & 1 << (byte & 0x3f) != 0
    }
}

impl Shape {
    /// That of a pattern; `None`: its first bytes can be any.
    pub(super) fn of_regex(regex: &Regex) -> Option<Self> {
        Self::new(regex.places(MAX_PLACES))
    }

    /// That of bytes under a mask; `None`: they are too far behind.
    pub(super) fn of_bytes(masked: &MaskedBytes) -> Option<Self> {
        let (offset, value, mask) = masked.parts();
        let there = value.iter().zip(mask).map(|(&value, &mask)| {
            let mut set = ByteSet::default();
            (0..=u8::MAX).filter(|byte| byte & mask == value).for_each(|byte| set.insert(byte));
            set
        });
        let before = std::iter::repeat_n(ByteSet::ALL, offset.min(MAX_PLACES));
        Self::new(before.chain(there).take(MAX_PLACES).collect())
    }

    fn new(mut places: Vec<ByteSet>) -> Option<Self> {
        let said = places.iter().rposition(|set| *set != ByteSet::ALL).map_or(0, |last| last + 1);
        places.truncate(said);
        (!places.is_empty()).then(|| Self(places.into()))
    }
}

/// Shapes, with the entries that they belong to.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    /// By number of the shape.
    entries: Vec<u32>,
    /// Of 64 shapes each.
    words: usize,
    places: Vec<Place>,
}

/// What can stand at one place.
#[derive(Debug)]
struct Place {
    /// By byte: which of the sets.
    classes: Box<[u16; 256]>,
    /// One after the other, each of [`Shapes::words`].
    sets: Vec<u64>,
}

impl Shapes {
    /// Of shapes in the order of their entries.
    pub(super) fn new<'a>(shapes: impl Iterator<Item = (&'a Shape, u32)>) -> Self {
        let (shapes, entries): (Vec<&Shape>, Vec<u32>) = shapes.unzip();
        let words = entries.len().div_ceil(64);
        let depth = shapes.iter().map(|shape| shape.0.len()).max().unwrap_or(0);
        let places = (0..depth).map(|at| Place::new(&shapes, at, words)).collect();
        Self { entries, words, places }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds the entries with a shape that these first bytes may be of.
    pub(super) fn find(&self, bytes: &[u8], found: &mut Found) {
        let mut possible: SmallVec<[u64; 16]> = SmallVec::from_elem(u64::MAX, self.words);
        for (place, byte) in self.places.iter().zip(bytes) {
            let start = usize::from(place.classes[usize::from(*byte)]) * self.words;
            let set = place.sets.get(start..start + self.words).unwrap_or_default();
            let mut any = 0;
            for (word, other) in possible.iter_mut().zip(set) {
                *word &= other;
                any |= *word;
            }
            if any == 0 {
                return;
            }
        }
        for (at, mut word) in possible.into_iter().enumerate() {
            while word != 0 {
                let shape = at * 64 + word.trailing_zeros() as usize;
                found.extend(self.entries.get(shape).copied());
                word &= word - 1;
            }
        }
    }
}

impl Place {
    fn new(shapes: &[&Shape], at: usize, words: usize) -> Self {
        let mut classes = Box::new([0; 256]);
        let mut sets = Vec::new();
        let mut known: HashMap<Vec<u64>, u16> = HashMap::new();
        for byte in 0..=u8::MAX {
            let mut set = vec![0; words];
            for (number, shape) in shapes.iter().enumerate() {
                if shape.0.get(at).is_none_or(|place| place.contains(byte)) {
                    set[number / 64] |= 1 << (number % 64);
                }
            }
            // At most 256 of them.
            let next = known.len() as u16;
            let class = *known.entry(set.clone()).or_insert(next);
            if class == next {
                sets.extend(set);
            }
            classes[usize::from(byte)] = class;
        }
        Self { classes, sets }
    }
}

/// A list of places, from the sets of states that a machine can be in.
///
/// `step` gives the states that follow one state, each with a byte that leads there; `None`: here
/// the machine is sure, whatever follows.
pub(crate) fn places<S: Copy + Ord>(
    start: S,
    most: usize,
    step: impl Fn(S) -> Option<Vec<(u8, S)>>,
) -> Vec<ByteSet> {
    /// More states than this are not followed.
    const MAX_STATES: usize = 256;
    let mut states = BTreeSet::from([start]);
    let mut places = Vec::new();
    while places.len() < most && states.len() <= MAX_STATES {
        let (mut bytes, mut next) = (ByteSet::default(), BTreeSet::new());
        for &state in &states {
            let Some(steps) = step(state) else { return places };
            for (byte, state) in steps {
                bytes.insert(byte);
                next.insert(state);
            }
        }
        places.push(bytes);
        states = next;
        if states.is_empty() {
            break;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::Phase, *};
    use crate::probe::Verdict;

    fn candidates(regexes: &[Regex], bytes: &[u8]) -> Vec<u32> {
        let shapes: Vec<_> = regexes.iter().map(Shape::of_regex).collect();
        let numbered = shapes.iter().zip(0..).filter_map(|(shape, at)| Some((shape.as_ref()?, at)));
        let mut found = Found::new();
        Shapes::new(numbered).find(bytes, &mut found);
        found.to_vec()
    }

    fn regexes(patterns: &[&str]) -> Vec<Regex> {
        patterns.iter().map(|pattern| Regex::new(pattern).expect(pattern)).collect()
    }

    #[test]
    fn places_and_what_they_forget() {
        let all = regexes(&["^[a-c]x", "^[b-d]y", "^[a-z]+1", r"(?i)^ab$", "^(?:aa|bb)"]);
        assert_eq!(candidates(&all, b""), [0, 1, 2, 3, 4]);
        assert_eq!(candidates(&all, b"a"), [0, 2, 3, 4]);
        assert_eq!(candidates(&all, b"ax"), [0, 2]);
        assert_eq!(candidates(&all, b"AB"), [3]);
        assert!(candidates(&all, b"ABC").is_empty());
        // `ab` begins like `aa`, and ends like `bb`.
        assert_eq!(candidates(&all, b"ab"), [2, 3, 4]);
        assert!(
            regexes(&["a", "", "(?s)^.*a", "(?m)^a"])
                .iter()
                .all(|it| Shape::of_regex(it).is_none())
        );
    }

    proptest! {
        /// Whatever is not among them is sure not to match.
        #[test]
        fn nothing_possible_is_lost(
            patterns in proptest::collection::vec(
                prop::sample::select(vec![
                    "^[ab]c", "^a+b", "^[^a]", r"^\w\b", "^[ab]{3}$", "^(?:[ab]|c)a?", "^[a-c]*$",
                    "(?i)^[b-c]a", r"^[ab]\B", "^[a][b][c]|^c[ab]", r"^(?:[ab]\b|c)",
                ]),
                1..80,
            ),
            bytes in "[abc ]{0,6}",
        ) {
            let all = regexes(&patterns);
            let found = candidates(&all, bytes.as_bytes());
            for (regex, number) in all.iter().zip(0_u32..) {
                for phase in [Phase::Open, Phase::Ended] {
                    if regex.examine(bytes.as_bytes(), phase) != Verdict::NoMatch
                        && Shape::of_regex(regex).is_some()
                    {
                        prop_assert!(found.contains(&number), "{regex} {bytes:?}");
                    }
                }
            }
        }
    }
}
