//! From bytes to a [`Header`].

mod v1;
mod v2;

use super::{Header, Refusal};
use crate::probe::Verdict;

/// How far a header has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// It is whole.
    Complete(Header),
    /// Nothing can be said before there are this many bytes in total; more than there are.
    NeedMore(usize),
}

/// Reads the header at the beginning of a connection's first bytes, of either version.
///
/// It is asked again with more bytes, and is monotone: what is complete or refused stays so,
/// whatever follows. It allocates for a whole header only.
///
/// # Errors
/// [`Refusal::Missing`], [`Refusal::Malformed`], [`Refusal::TooLong`] or [`Refusal::Checksum`].
pub fn examine(bytes: &[u8]) -> Result<Examined, Refusal> {
    match bytes.first() {
        None => Ok(Examined::NeedMore(1)),
        Some(b'P') => v1::examine(bytes),
        Some(b'\r') => v2::examine(bytes),
        Some(_) => Err(Refusal::Missing),
    }
}

/// The same in the words of probes: [`Verdict::NoMatch`] for every refusal.
#[must_use]
pub fn parse(bytes: &[u8]) -> Verdict<Header> {
    match examine(bytes) {
        Ok(Examined::Complete(header)) => Verdict::Match(header),
        Ok(Examined::NeedMore(total)) => Verdict::NeedMore(total),
        Err(_) => Verdict::NoMatch,
    }
}
