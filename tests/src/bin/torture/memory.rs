//! Memory while the run goes on: the machine's, TCP's, the daemon's.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Peaks, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peaks {
    /// How far `MemAvailable` fell below where it was at the start. This process's own memory
    /// and that of whatever else runs on the machine is in it.
    pub(crate) system: u64,
    /// `mem` of TCP's line in /proc/net/sockstat.
    pub(crate) tcp: u64,
    /// The daemon's resident memory.
    pub(crate) daemon: u64,
    /// This process's.
    pub(crate) own: u64,
}

/// A thread that looks every now and then.
#[derive(Debug)]
pub(crate) struct Sampler {
    thread: JoinHandle<Peaks>,
    stop: Arc<AtomicBool>,
}

impl Sampler {
    /// Starts it.
    pub(crate) fn start(daemon: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let start = available();
            let mut peaks = Peaks::default();
            while !until.load(Ordering::Relaxed) {
                peaks.system = peaks.system.max(start.saturating_sub(available()));
                peaks.tcp = peaks.tcp.max(tcp());
                peaks.daemon = peaks.daemon.max(resident(daemon));
                peaks.own = peaks.own.max(resident(std::process::id()));
                thread::sleep(Duration::from_millis(50));
            }
            peaks
        });
        Self { thread, stop }
    }

    /// Ends it; call it while the daemon still runs.
    pub(crate) fn stop(self) -> Peaks {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn available() -> u64 {
    field("/proc/meminfo", "MemAvailable:") * 1024
}

fn resident(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmRSS:") * 1024
}

fn tcp() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split_whitespace().skip_while(|word| *word != "mem").nth(1);
    pages.and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0)
        * rustix::param::page_size() as u64
}

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
