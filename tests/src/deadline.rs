//! Waiting on conditions. There is no other waiting in these tests.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Between two looks at a condition that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long anything may take: long enough for a loaded machine, short enough for a person.
#[must_use]
pub fn deadline() -> Duration {
    let seconds = std::env::var("MUX_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// Looks until `condition` has a value.
///
/// # Errors
/// It had none within the [`deadline`]; `what` names what was waited for.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + deadline();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("not within {:?}: {what}", deadline());
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Looks until `condition` holds.
///
/// # Errors
/// It did not within the [`deadline`].
pub fn eventually_true(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    eventually(what, || condition().then_some(()))
}
