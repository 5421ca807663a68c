//! The lines that a process prints, gathered by a thread, waited for with a deadline.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Result, bail};

use crate::deadline;

/// Cheap to clone; all clones see the same lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<(Mutex<Gathered>, Condvar)>);

#[derive(Debug, Default)]
struct Gathered {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Gathers what `source` prints until it ends.
    pub(crate) fn gather(source: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let writer = lines.clone();
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                writer.with(|gathered| gathered.lines.push(text));
            }
            writer.with(|gathered| gathered.ended = true);
        });
        lines
    }

    fn with(&self, change: impl FnOnce(&mut Gathered)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// All lines so far.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// Waits for a line, from the first one on, for which `find` has a value.
    ///
    /// # Errors
    /// There is none within the deadline, or the process ended without one.
    pub(crate) fn wait<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let end = Instant::now() + deadline();
        let mut seen = 0;
        let mut gathered = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            for line in &gathered.lines[seen..] {
                if let Some(value) = find(line) {
                    return Ok(value);
                }
            }
            seen = gathered.lines.len();
            let left = end.saturating_duration_since(Instant::now());
            if gathered.ended || left.is_zero() {
                let why = if gathered.ended { "the output ended" } else { "the deadline passed" };
                let last: Vec<_> = gathered.lines.iter().rev().take(20).rev().cloned().collect();
                bail!("no line with {what}: {why}; the last lines:\n{}", last.join("\n"));
            }
            gathered =
                self.0.1.wait_timeout(gathered, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the process prints no more; returns all lines.
    ///
    /// # Errors
    /// It still prints at the deadline.
    pub(crate) fn to_end(&self) -> Result<Vec<String>> {
        let end = Instant::now() + deadline();
        let mut gathered = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !gathered.ended {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the output has not ended");
            }
            gathered =
                self.0.1.wait_timeout(gathered, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(gathered.lines.clone())
    }
}
