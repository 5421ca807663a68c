//! The access log's writer: a thread of its own, so that a slow disk blocks no core.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{Counter, Counters, Record};
use crate::rules::config::AccessFormat;

/// Lines that may wait for the writer.
const WAITING: usize = 8192;
/// How long a change of the file waits for a writer that is held up by a slow disk or reader.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the cores send their lines.
#[derive(Debug)]
pub struct AccessLog {
    mail: SyncSender<Mail>,
    format: ArcSwap<AccessFormat>,
    next: Arc<Mutex<Option<Next>>>,
    counters: Arc<Counters>,
}

/// Where the lines go.
pub struct Output(Box<dyn Write + Send>);

#[derive(Debug)]
enum Mail {
    Line(String),
    /// Look at [`AccessLog::next`].
    Next,
    /// No line follows.
    End,
}

/// Where the next lines go.
#[derive(Debug)]
struct Next {
    output: Output,
    /// Dropped when they do.
    done: mpsc::Sender<()>,
}

/// The writing thread.
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

/// A user and a group, by number.
pub type Owner = (u32, u32);

impl Output {
    /// Opens the log: `file`, or standard output. A file that is made becomes the owner's, so that
    /// a daemon that has become that user can open it again.
    ///
    /// # Errors
    /// open(2)'s and fchown(2)'s.
    pub fn open(
        format: AccessFormat,
        file: Option<&Path>,
        owner: Option<Owner>,
    ) -> io::Result<Self> {
        Ok(Self(match (format, file) {
            (AccessFormat::Off, _) => Box::new(io::sink()),
            (AccessFormat::Json | AccessFormat::Text, None) => Box::new(io::stdout()),
            (AccessFormat::Json | AccessFormat::Text, Some(path)) => Box::new(append(path, owner)?),
        }))
    }
}

fn append(path: &Path, owner: Option<Owner>) -> io::Result<File> {
    match OpenOptions::new().create_new(true).append(true).open(path) {
        Ok(file) => {
            if let Some((user, group)) = owner {
                std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().create(true).append(true).open(path)
        }
        Err(error) => Err(error),
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
        let (mail, waiting) = sync_channel(WAITING);
        let next = Arc::default();
        let coming = Arc::clone(&next);
        let thread = thread::Builder::new()
            .name("mux-access".into())
            .spawn(move || write_all(&waiting, output, &coming))?;
        let format = ArcSwap::from_pointee(format);
        Ok((Self { mail, format, next, counters }, Writer(thread)))
    }

    /// Logs the end of a connection. Never waits: when the writer is behind, the line is dropped
    /// and counted.
    pub fn log(&self, record: &Record, close: &str, error: &str) {
        let line = match **self.format.load() {
            AccessFormat::Json => record.json(close, error),
            AccessFormat::Text => record.text(close, error),
            AccessFormat::Off => return,
        };
        match self.mail.try_send(Mail::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counters.count(Counter::AccessDropped);
            }
        }
    }

    /// Writes to another output from now on; no line is lost or written twice. False: the writer
    /// is held up and will do it later.
    pub fn change(&self, format: AccessFormat, output: Output) -> bool {
        let (done, changed) = mpsc::channel();
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Next { output, done });
        // Full: then the writer has work, and looks by itself.
        let _ = self.mail.try_send(Mail::Next);
        self.format.store(Arc::new(format));
        changed.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout)
    }
}

fn write_all(mail: &Receiver<Mail>, output: Output, next: &Mutex<Option<Next>>) {
    let mut output = BufWriter::with_capacity(64 * 1024, output.0);
    let mut ended = false;
    while !ended && let Ok(first) = mail.recv() {
        for mail in std::iter::once(first).chain(mail.try_iter().take(WAITING)) {
            match mail {
                // A reader that is gone (EPIPE) or a full disk must not end the daemon; there is
                // nobody to tell but the error log, which may be the same pipe.
                Mail::Line(line) => drop(output.write_all(line.as_bytes())),
                Mail::Next => {}
                Mail::End => ended = true,
            }
        }
        let _ = output.flush();
        let next = next.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Next { output: other, done }) = next {
            output = BufWriter::with_capacity(64 * 1024, other.0);
            drop(done);
        }
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

impl Writer {
    /// Waits until every line is written that `log` was given so far; later ones are dropped.
    pub fn finish(self, log: &AccessLog) {
        // It fails where the writer is gone.
        let _ = log.mail.send(Mail::End);
        // A panic of the writer has been printed by its thread.
        let _ = self.0.join();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::SocketAddr};

    use super::*;
    use crate::net::Peer;

    fn record() -> Record {
        let client = SocketAddr::from(([192, 0, 2, 1], 9));
        Record::new(1, Peer::from_ip(client), "l".into())
    }

    /// Rotation as logrotate does it, in the middle of lines that several threads write.
    #[test]
    fn a_change_of_the_file_loses_no_line() {
        const THREADS: usize = 3;
        const LINES: usize = 400;
        const CHANGES: usize = 20;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let open = || Output::open(AccessFormat::Text, Some(&path), None).unwrap();
        let counters = Arc::new(Counters::default());
        let (log, writer) =
            AccessLog::start(AccessFormat::Text, open(), Arc::clone(&counters)).unwrap();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..LINES).for_each(|_| log.log(&record(), "finished", "")));
            }
            for number in 0..CHANGES {
                fs::rename(&path, directory.path().join(format!("access.log.{number}"))).unwrap();
                assert!(log.change(AccessFormat::Text, open()));
            }
        });
        writer.finish(&log);
        let mut lines = 0;
        for file in fs::read_dir(directory.path()).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'), "a line is cut");
            lines += text.lines().count();
        }
        let dropped = counters.value(Counter::AccessDropped) as usize;
        assert_eq!(lines + dropped, THREADS * LINES);
    }

    #[test]
    fn an_access_log_can_be_switched_off_and_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let open = |format| Output::open(format, Some(&path), None).unwrap();
        let (log, writer) =
            AccessLog::start(AccessFormat::Off, open(AccessFormat::Off), Arc::default()).unwrap();
        log.log(&record(), "finished", "");
        assert!(!path.exists());
        assert!(log.change(AccessFormat::Json, open(AccessFormat::Json)));
        log.log(&record(), "finished", "");
        writer.finish(&log);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
