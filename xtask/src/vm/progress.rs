//! What the command is doing: a spinner on a terminal, plain lines elsewhere.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use crate::sh;

/// Progress of one kernel.
pub(crate) struct Progress {
    name: &'static str,
    last: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(name: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_prefix(name);
            // The default style serves where this one cannot be read.
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix:8} {elapsed:>4}  {msg}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { name, last: String::new(), bar }
    }

    /// Says what is done now; nothing new is not repeated.
    pub(crate) fn now(&mut self, what: &str) {
        if what.is_empty() || what == self.last {
            return;
        }
        what.clone_into(&mut self.last);
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => sh::status(format!("{}: {what}", self.name)),
        }
    }

    /// The last word.
    pub(crate) fn end(self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        sh::status(format!("{}: {what}", self.name));
    }
}
