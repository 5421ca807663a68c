//! What a test needs of the machine, and saying so where it is not there.

use std::io::Write;

use anyhow::{Result, bail};
use rustix::process::geteuid;

/// The user and the group that daemons started as root become, by number.
pub const NOBODY: u32 = 65_534;

/// What a test may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be root: capabilities, other users, `bpftool`.
    Root,
    /// A route to ::1.
    Ipv6,
}

impl Need {
    /// Why it is not there; `None`: it is.
    #[must_use]
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Self::Root => (!geteuid().is_root()).then_some("it needs root"),
            Self::Ipv6 => {
                std::net::TcpListener::bind("[::1]:0").is_err().then_some("there is no ::1 here")
            }
        }
    }
}

/// Ends a test that cannot be done here: `return skip(...)`. The reason goes to the real standard
/// error, past libtest's capture.
///
/// # Errors
/// With `MUX_TESTS_NO_SKIP=1`, always.
pub fn skip(reason: &str) -> Result<()> {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    if std::env::var("MUX_TESTS_NO_SKIP").is_ok_and(|value| value == "1") {
        bail!("skipped, which MUX_TESTS_NO_SKIP forbids: {reason}");
    }
    writeln!(std::io::stderr(), "skipped: {name}: {reason}")?;
    Ok(())
}

/// Returns from the test, with a skip, unless the machine has what it needs.
#[macro_export]
macro_rules! need {
    ($need:expr) => {
        if let Some(reason) = $need.missing() {
            return $crate::skip(reason);
        }
    };
}
