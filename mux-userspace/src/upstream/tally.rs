//! What happened at a group's endpoints, by reason. It outlives a configuration, as the group's
//! places do.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use thiserror::Error;

use super::dial::{Failures, is_local};

/// Why an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    TimedOut,
    /// No way there.
    Unreachable,
    /// The connection was reset, or closed, while it was made.
    Reset,
    /// This machine's shortage, or no address to connect from: not the endpoint's.
    Local,
    /// The name has no address.
    Resolve,
    /// Anything else, such as no right to connect.
    Other,
}

/// What brought an endpoint back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A flow's connection.
    Attempt,
    /// An active check.
    Check,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Reset,
        Self::Local,
        Self::Resolve,
        Self::Other,
    ];

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Local => "local",
            Self::Resolve => "resolve",
            Self::Other => "other",
        }
    }

    /// Of an error.
    pub(super) fn of(error: &io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<Unresolved>()) {
            return Self::Resolve;
        }
        if is_local(error) {
            return Self::Local;
        }
        match error.kind() {
            // A Unix socket that is not there is one on which nobody listens.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Self::Unreachable,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::Reset,
            // Foreign and open-ended.
            _ => Self::Other,
        }
    }

    /// Of an attempt, of which a name's addresses each have an error: the first that is not this
    /// machine's own.
    pub(super) fn of_all(failures: &Failures) -> Self {
        let faults = || failures.iter().map(|(_, error)| Self::of(error));
        faults()
            .find(|fault| *fault != Self::Local)
            .or_else(|| faults().next())
            .unwrap_or(Self::Other)
    }
}

impl By {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Attempt, Self::Check];

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Check => "check",
        }
    }
}

/// A name could not be looked up.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Unresolved(pub(super) io::Error);

impl From<Unresolved> for io::Error {
    fn from(unresolved: Unresolved) -> Self {
        Self::new(unresolved.0.kind(), unresolved)
    }
}

/// A group's counts.
#[derive(Debug, Default)]
pub struct Tally {
    failures: ByFault,
    retries: ByFault,
    ejections: ByFault,
    returns: [AtomicU64; By::ALL.len()],
}

/// A count for each reason.
#[derive(Debug, Default)]
pub struct ByFault([AtomicU64; Fault::ALL.len()]);

impl ByFault {
    pub(super) fn count(&self, fault: Fault) {
        self.0[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Each reason that there was, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> {
        let all = Fault::ALL.into_iter();
        all.map(|fault| (fault, self.0[fault as usize].load(Ordering::Relaxed)))
    }
}

impl Tally {
    /// Attempts that failed.
    #[must_use]
    pub const fn failures(&self) -> &ByFault {
        &self.failures
    }

    /// Attempts after one that had failed for this reason.
    #[must_use]
    pub const fn retries(&self) -> &ByFault {
        &self.retries
    }

    /// Ejections for which an attempt that failed for this reason was the last straw.
    #[must_use]
    pub const fn ejections(&self) -> &ByFault {
        &self.ejections
    }

    /// Returns after an ejection.
    pub fn returns(&self) -> impl Iterator<Item = (By, u64)> {
        By::ALL.into_iter().map(|by| (by, self.returns[by as usize].load(Ordering::Relaxed)))
    }

    pub(super) fn returned(&self, by: By) {
        self.returns[by as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_one_reason() {
        let os = io::Error::from_raw_os_error;
        for (error, fault) in [
            (os(libc::ECONNREFUSED), Fault::Refused),
            (os(libc::ENOENT), Fault::Refused),
            (os(libc::ETIMEDOUT), Fault::TimedOut),
            (os(libc::EHOSTUNREACH), Fault::Unreachable),
            (os(libc::ENETUNREACH), Fault::Unreachable),
            (os(libc::ECONNRESET), Fault::Reset),
            (os(libc::EMFILE), Fault::Local),
            (os(libc::EADDRNOTAVAIL), Fault::Local),
            (os(libc::EACCES), Fault::Other),
            (Unresolved(io::ErrorKind::TimedOut.into()).into(), Fault::Resolve),
        ] {
            assert_eq!(Fault::of(&error), fault, "{error}");
        }
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
        }
    }

    #[test]
    fn what_is_ours_is_not_held_against_an_endpoint_while_there_is_something_else() {
        let failures = |codes: &[i32]| -> Failures {
            codes.iter().map(|code| (String::new(), io::Error::from_raw_os_error(*code))).collect()
        };
        let of = |codes: &[i32]| Fault::of_all(&failures(codes));
        assert_eq!(of(&[libc::EADDRNOTAVAIL, libc::ECONNREFUSED]), Fault::Refused);
        assert_eq!(of(&[libc::EADDRNOTAVAIL]), Fault::Local);
        assert_eq!(of(&[]), Fault::Other);
    }
}
