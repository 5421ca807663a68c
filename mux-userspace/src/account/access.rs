//! The access log's writer: a thread of its own, so that a slow disk blocks no core.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use super::{Counter, Counters, Record};
use crate::rules::config::AccessFormat;

/// Lines that may wait for the writer.
const WAITING: usize = 8192;

/// Where the cores send their lines; cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: Option<SyncSender<String>>,
    format: AccessFormat,
    counters: Arc<Counters>,
}

/// Where the lines go.
pub struct Output(Box<dyn Write + Send>);

/// The writing thread.
#[derive(Debug)]
pub struct Writer(Option<JoinHandle<()>>);

impl Output {
    /// Opens the log: `file`, or standard output.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn open(format: AccessFormat, file: Option<&Path>) -> io::Result<Self> {
        Ok(Self(match (format, file) {
            (AccessFormat::Off, _) => Box::new(io::sink()),
            (AccessFormat::Json | AccessFormat::Text, None) => Box::new(io::stdout()),
            (AccessFormat::Json | AccessFormat::Text, Some(path)) => {
                Box::new(OpenOptions::new().create(true).append(true).open(path)?)
            }
        }))
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

impl AccessLog {
    /// Starts to write. Not before privileges are dropped: the thread would keep them.
    ///
    /// # Errors
    /// The thread's.
    pub fn start(
        format: AccessFormat,
        output: Output,
        counters: Arc<Counters>,
    ) -> io::Result<(Self, Writer)> {
        if format == AccessFormat::Off {
            return Ok((Self { lines: None, format, counters }, Writer(None)));
        }
        let (lines, waiting) = sync_channel(WAITING);
        let thread = thread::Builder::new()
            .name("mux-access".into())
            .spawn(move || write_all(&waiting, output.0))?;
        Ok((Self { lines: Some(lines), format, counters }, Writer(Some(thread))))
    }

    /// Logs the end of a connection. Never waits: when the writer is behind, the line is dropped
    /// and counted.
    pub fn log(&self, record: &Record, close: &str, error: &str) {
        let Some(lines) = &self.lines else { return };
        let line = match self.format {
            AccessFormat::Json => record.json(close, error),
            AccessFormat::Text => record.text(close, error),
            AccessFormat::Off => return,
        };
        match lines.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counters.count(Counter::AccessDropped);
            }
        }
    }
}

fn write_all(lines: &Receiver<String>, output: impl Write) {
    let mut output = BufWriter::with_capacity(64 * 1024, output);
    while let Ok(line) = lines.recv() {
        // A reader that is gone (EPIPE) or a full disk must not end the daemon; there is nobody to
        // tell but the error log, which may be the same pipe.
        let _ = output.write_all(line.as_bytes());
        while let Ok(line) = lines.try_recv() {
            let _ = output.write_all(line.as_bytes());
        }
        let _ = output.flush();
    }
}

impl Writer {
    /// Waits until every line is written. All [`AccessLog`]s must be gone.
    pub fn finish(self) {
        if let Some(thread) = self.0 {
            // A panic of the writer has been printed by its thread.
            let _ = thread.join();
        }
    }
}
