//! What the benchmark is doing: a bar on a terminal, a line a work elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use crate::sh;

/// Progress of a whole run.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A run of so many rounds.
    pub(crate) fn new(rounds: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(rounds);
            let template = "{elapsed_precise} {bar:30} {pos}/{len}, {eta} left  {msg}";
            // The default style serves where this one cannot be read.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        Self { bar }
    }

    /// A work begins.
    pub(crate) fn work(&self, name: &str, about: &str) {
        if self.bar.is_none() {
            sh::status(format!("{name}: {about}"));
        }
    }

    /// A round begins.
    pub(crate) fn round(&self, work: &str, subject: &str, round: u32) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{work}, {subject}, round {}", round + 1));
        }
    }

    /// So many rounds are over, one way or the other.
    pub(crate) fn done(&self, rounds: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(rounds);
        }
    }

    /// Says something without disturbing the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| sh::status(text)),
            None => sh::status(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
