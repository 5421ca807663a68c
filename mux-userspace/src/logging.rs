//! The daemon's log, whose level can be changed while it runs.

use std::{
    io::{self, IsTerminal},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing_subscriber::EnvFilter;

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
    let from_environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = EnvFilter::try_from_default_env();
    let (level, fixed) = match (&filter, from_environment) {
        (Ok(_), Some(filter)) => (filter, true),
        (Ok(_) | Err(_), _) => (level.to_owned(), false),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new(&level)))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
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
