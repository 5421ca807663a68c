//! The process's own numbers, under the names that Prometheus' client libraries give them. What
//! cannot be read is left out.

use std::{fs, os::unix::fs::MetadataExt};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

use super::{families::Family, page::Page};

/// Learns what the sandbox keeps from the daemon later: rustix looks into the auxiliary vector once,
/// and panics where it cannot (prctl(2) with `PR_GET_AUXV`, or a file that is root's).
pub(crate) fn learn() {
    let _ = (clock_ticks_per_second(), page_size());
}

pub(super) fn add(page: &mut Page) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse)
    {
        let ticks = clock_ticks_per_second() as f64;
        page.add(Family::CpuSeconds, &[], stat.cpu as f64 / ticks);
        page.add(Family::ResidentBytes, &[], stat.resident_pages * page_size() as u64);
        page.add(Family::VirtualBytes, &[], stat.virtual_bytes);
        page.add(Family::Threads, &[], stat.threads);
        if let Some(boot) = boot_time() {
            page.add(Family::ProcessStart, &[], boot + stat.started as f64 / ticks);
        }
    }
    if let Some(open) = open_descriptors() {
        page.add(Family::OpenFds, &[], open);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        page.add(Family::MaxFds, &[], most);
    }
}

/// The directory's size is their number since Linux 6.2 (commit f1f1f2569901), which can be asked
/// for without the right to read the directory: that of a process that was root is root's.
fn open_descriptors() -> Option<u64> {
    const DIRECTORY: &str = "/proc/self/fd";
    match fs::metadata(DIRECTORY).ok()?.size() {
        // The reading itself takes one.
        0 => fs::read_dir(DIRECTORY).ok().map(|entries| entries.count() as u64 - 1),
        open => Some(open),
    }
}

/// Since 1970, seconds.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Of proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Clock ticks in user and system mode.
    cpu: u64,
    threads: u64,
    /// Clock ticks from boot to start.
    started: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is a name in parentheses, which can have any in it itself.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first of these is the third in the manual.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu: field(14)? + field(15)?,
            threads: field(20)?,
            started: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 100 50 0 0 20 0 6 0 4242 8192 33 1";
        let stat =
            Stat { cpu: 150, threads: 6, started: 4242, virtual_bytes: 8192, resident_pages: 33 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (mux) S 1"), None);
    }

    #[test]
    fn this_process_has_numbers() {
        let stat = Stat::parse(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert!(stat.threads >= 1 && stat.resident_pages > 100);
        assert!(open_descriptors().is_some_and(|open| open >= 3));
        assert!(boot_time().is_some_and(|boot| boot > 1e9));
    }
}
