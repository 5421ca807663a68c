//! Literals that begin a connection, as a trie over their bytes.

/// Bytes of a literal that are looked at; what begins alike for so long is asked one by one.
const MAX_DEPTH: usize = 64;

/// Which entries' literals some first bytes begin with, or may yet begin with.
#[derive(Debug)]
pub(super) struct Trie(Vec<Node>);

#[derive(Clone, Debug, Default)]
struct Node {
    /// Sorted by the byte.
    children: Vec<(u8, u32)>,
    /// Entries with a literal that ends at this node, or before it on the way here. Sorted.
    complete: Vec<u32>,
    /// Entries with a literal that ends below this node. Sorted.
    below: Vec<u32>,
}

impl Default for Trie {
    fn default() -> Self {
        Self(vec![Node::default()])
    }
}

const ROOT: usize = 0;

impl Trie {
    /// Of literals, each with the number of its entry.
    pub(super) fn new<'a>(literals: impl Iterator<Item = (&'a [u8], u32)>) -> Self {
        let mut trie = Self::default();
        for (literal, entry) in literals {
            trie.insert(&literal[..literal.len().min(MAX_DEPTH)], entry);
        }
        trie.pass_down(ROOT, &[]);
        trie
    }

    fn insert(&mut self, literal: &[u8], entry: u32) {
        let mut at = ROOT;
        for &byte in literal {
            insert_sorted(&mut self.0[at].below, entry);
            at = match self.0[at].children.binary_search_by_key(&byte, |(byte, _)| *byte) {
                Ok(index) => self.0[at].children[index].1 as usize,
                Err(index) => {
                    let child = self.0.len();
                    self.0.push(Node::default());
                    self.0[at].children.insert(index, (byte, child as u32));
                    child
                }
            };
        }
        insert_sorted(&mut self.0[at].complete, entry);
    }

    /// Adds what is complete above to what is complete below. As deep as [`MAX_DEPTH`].
    fn pass_down(&mut self, at: usize, above: &[u32]) {
        for &entry in above {
            insert_sorted(&mut self.0[at].complete, entry);
        }
        let complete = self.0[at].complete.clone();
        for (_, child) in self.0[at].children.clone() {
            self.pass_down(child as usize, &complete);
        }
    }

    /// The entries whose literals the bytes begin with, and those whose literals they may
    /// begin with when there are more of them. Both are sorted.
    pub(super) fn find(&self, bytes: &[u8]) -> (&[u32], &[u32]) {
        let mut node = &self.0[ROOT];
        for byte in bytes {
            if node.children.is_empty() {
                return (&node.complete, &[]);
            }
            match node.children.binary_search_by_key(byte, |(byte, _)| *byte) {
                Ok(index) => node = &self.0[node.children[index].1 as usize],
                Err(_) => return (&node.complete, &[]),
            }
        }
        (&node.complete, &node.below)
    }
}

fn insert_sorted(entries: &mut Vec<u32>, entry: u32) {
    if let Err(index) = entries.binary_search(&entry) {
        entries.insert(index, entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_comparing_each_literal_finds(
            literals in proptest::collection::vec("[ab]{1,5}", 0..12),
            bytes in "[abc]{0,6}",
        ) {
            let numbered = literals.iter().enumerate();
            let trie = Trie::new(numbered.map(|(entry, text)| (text.as_bytes(), entry as u32)));
            let which = |holds: &dyn Fn(&str) -> bool| -> Vec<u32> {
                let numbers = 0..literals.len() as u32;
                numbers.filter(|&entry| holds(&literals[entry as usize])).collect()
            };
            let (complete, below) = trie.find(bytes.as_bytes());
            prop_assert_eq!(complete, which(&|text| bytes.starts_with(text)));
            let longer = |text: &str| text.starts_with(&*bytes) && text.len() > bytes.len();
            prop_assert_eq!(below, which(&longer));
        }
    }
}
