//! What a run found: units, bytes, times, faults.

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::json;

/// Longest time that is told apart, nanoseconds; longer ones count as this.
const LONGEST: u64 = 100_000_000_000;
/// Significant digits of times.
const DIGITS: u8 = 3;

/// What one thread counts.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) units: u64,
    pub(crate) bytes: u64,
    pub(crate) times: Histogram<u64>,
    /// What went wrong, and how often.
    pub(crate) faults: BTreeMap<String, u64>,
}

impl Tally {
    /// # Errors
    /// Never: the bounds are constants that the histogram accepts.
    pub(crate) fn new() -> Result<Self> {
        let times = Histogram::new_with_bounds(1, LONGEST, DIGITS)?;
        Ok(Self { units: 0, bytes: 0, times, faults: BTreeMap::new() })
    }

    /// A unit that moved `bytes` and took `time`.
    pub(crate) fn unit(&mut self, bytes: u64, time: Duration) {
        self.units += 1;
        self.bytes += bytes;
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.times.saturating_record(nanoseconds);
    }

    pub(crate) fn fault(&mut self, what: impl Into<String>) {
        *self.faults.entry(what.into()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.units += other.units;
        self.bytes += other.bytes;
        self.times.add(&other.times)?;
        for (what, count) in &other.faults {
            *self.faults.entry(what.clone()).or_default() += count;
        }
        Ok(())
    }
}

/// What a run found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) tally: Tally,
    pub(crate) elapsed: Duration,
}

impl Report {
    /// Prints it as one line of JSON.
    pub(crate) fn print(&self) -> Result<()> {
        let Tally { units, bytes, times, faults } = &self.tally;
        let quantile = |quantile| times.value_at_quantile(quantile);
        let latency = (!times.is_empty()).then(|| {
            json!({
                "p50": quantile(0.5),
                "p90": quantile(0.9),
                "p99": quantile(0.99),
                "p999": quantile(0.999),
                "max": times.max(),
            })
        });
        say(&json!({
            "event": "result",
            "seconds": self.elapsed.as_secs_f64(),
            "units": units,
            "bytes": bytes,
            "latency_ns": latency,
            "faults": faults,
        }))
    }
}

/// Tells whoever runs the generator what it is doing: a line of JSON, at once.
pub(crate) fn say(value: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

/// Says that an event has come, with no more to it.
pub(crate) fn event(name: &str) -> Result<()> {
    say(&json!({ "event": name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut sum = Tally::new().unwrap();
        let mut one = Tally::new().unwrap();
        one.unit(10, Duration::from_micros(5));
        one.unit(10, Duration::from_secs(1000));
        one.fault("early end");
        sum.add(&one).unwrap();
        sum.add(&one).unwrap();
        assert_eq!((sum.units, sum.bytes, sum.times.len()), (4, 40, 4));
        assert_eq!(sum.faults.get("early end"), Some(&2));
        // Too long to be told apart, and counted all the same.
        assert!(sum.times.max() >= LONGEST);
    }
}
