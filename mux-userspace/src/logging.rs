//! The daemon's log, whose level can be changed while it runs. Where it goes to the journal, a line
//! has its level as sd-daemon(3) has it, and neither a time nor a name of the level: both are
//! the journal's.

use std::{
    env, fmt,
    io::{self, IsTerminal},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
    },
    registry::LookupSpan,
};

/// What `[log] level`, `--log-level` and `mux log-level` take.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

static LOG: OnceLock<Log> = OnceLock::new();

/// The log that was started.
struct Log {
    level: Mutex<String>,
    /// No rules file changes it.
    fixed: AtomicBool,
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

/// Starts to log to standard error; standard output is the access log's. `RUST_LOG` goes before
/// `level`. Does nothing if there is a logger already, which then serves.
pub fn start(level: &str) {
    let from_environment = env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = EnvFilter::try_from_default_env();
    let (level, fixed) = match (&filter, from_environment) {
        (Ok(_), Some(filter)) => (filter, true),
        (Ok(_) | Err(_), _) => (level.to_owned(), false),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new(&level)))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .event_format(Lines::new())
        .with_filter_reloading();
    let handle = builder.reload_handle();
    let _ = tracing_log::LogTracer::init();
    if tracing::subscriber::set_global_default(builder.finish()).is_ok() {
        let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
        let _ = LOG.set(Log {
            level: Mutex::new(level),
            fixed: AtomicBool::new(fixed),
            set: Box::new(set),
        });
    }
}

/// How a line looks.
enum Lines {
    Plain(Format<Full>),
    Journal(Format<Full, ()>),
}

impl Lines {
    fn new() -> Self {
        let plain = Format::default().with_target(false);
        if is_journal(env::var("JOURNAL_STREAM").ok().as_deref()) {
            Self::Journal(plain.without_time().with_level(false))
        } else {
            Self::Plain(plain)
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            Self::Plain(format) => format.format_event(context, writer, event),
            Self::Journal(format) => {
                let normalized = event.normalized_metadata();
                let level = *normalized.as_ref().unwrap_or_else(|| event.metadata()).level();
                write!(writer, "<{}>", priority(level))?;
                format.format_event(context, writer, event)
            }
        }
    }
}

/// Whether standard error is the stream that systemd names (`JOURNAL_STREAM`, systemd.exec(5)): a
/// program that was started with other pipes may have inherited the variable.
fn is_journal(stream: Option<&str>) -> bool {
    let numbers = stream.and_then(|stream| stream.split_once(':'));
    let Some((Ok(device), Ok(inode))) =
        numbers.map(|(device, inode)| (device.parse::<u64>(), inode.parse::<u64>()))
    else {
        return false;
    };
    fstat(io::stderr()).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (device, inode))
}

/// As syslog(3) has it.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Changes the level to one of [`LEVELS`].
///
/// # Errors
/// There is no such level, or the log was not started by [`start`].
pub fn set_level(level: &str) -> Result<(), String> {
    if !LEVELS.contains(&level) {
        return Err(format!("unknown level `{level}`; one of {}", LEVELS.join(", ")));
    }
    change(level)?;
    if let Some(log) = LOG.get() {
        log.fixed.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn change(level: &str) -> Result<(), String> {
    let log = LOG.get().ok_or("the log is not mux's own")?;
    (log.set)(EnvFilter::new(level))?;
    level.clone_into(&mut log.level.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

/// Changes the level to that of a rules file that came into force, unless `RUST_LOG` has the last word
/// or somebody has ordered another one.
pub fn follow(level: &str) {
    if LOG.get().is_some_and(|log| !log.fixed.load(Ordering::Relaxed)) {
        // There are no other levels in a rules file.
        let _ = change(level);
    }
}

/// The level in force, or the filter of `RUST_LOG`; empty where the log is not mux's own.
#[must_use]
pub fn level() -> String {
    let level = |log: &Log| log.level.lock().unwrap_or_else(PoisonError::into_inner).clone();
    LOG.get().map(level).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_told_by_its_stream() {
        let stat = fstat(io::stderr()).expect("standard error");
        assert!(is_journal(Some(&format!("{}:{}", stat.st_dev, stat.st_ino))));
        let other = format!("{}:{}", stat.st_dev, stat.st_ino + 1);
        for no in [None, Some(""), Some(":"), Some("1"), Some("a:b"), Some(&*other)] {
            assert!(!is_journal(no), "{no:?}");
        }
    }
}
