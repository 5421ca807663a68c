//! What the machine and a process with its children use, from /proc.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) id: u32,
    /// Ticks from boot to its start.
    started: u64,
}

/// What a tree of processes has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tree {
    /// Seconds of processor, with those of children that have ended and were waited for.
    pub(crate) seconds: f64,
    /// Resident memory of all, KiB; what they share counts for each.
    pub(crate) resident_kib: u64,
    /// The same, with what they share divided among those who share it.
    pub(crate) proportional_kib: u64,
}

/// What the machine has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    at: Instant,
    /// Seconds that processors were idle, of all.
    idle: f64,
    /// Seconds that the hypervisor gave to others.
    stolen: f64,
}

/// What the machine used between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Busy {
    pub(crate) wall: f64,
    /// Seconds of processor, of all processors.
    pub(crate) seconds: f64,
    /// Part of the time that was stolen.
    pub(crate) stolen: f64,
}

impl Machine {
    /// Looks now.
    ///
    /// # Errors
    /// /proc is not there.
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let (idle, stolen) = parse_stat(&text).context("/proc/stat")?;
        let hertz = ticks_per_second();
        Ok(Self { at: Instant::now(), idle: idle / hertz, stolen: stolen / hertz })
    }

    /// What was used since `earlier`.
    ///
    /// By what was idle, not by what was busy: idle time is measured where a processor goes to
    /// sleep and wakes, while busy time is sampled by the timer tick.
    pub(crate) fn since(&self, earlier: &Self, processors: usize) -> Busy {
        let wall = (self.at - earlier.at).as_secs_f64();
        let all = wall * processors as f64;
        let stolen = self.stolen - earlier.stolen;
        let seconds = (all - (self.idle - earlier.idle) - stolen).max(0.0);
        Busy { wall, seconds, stolen: if all > 0.0 { stolen / all } else { 0.0 } }
    }
}

/// What the machine uses while nothing is measured, seconds of processor a second.
///
/// # Errors
/// /proc is not there.
pub(crate) fn background(time: Duration, processors: usize) -> Result<f64> {
    let before = Machine::now()?;
    std::thread::sleep(time);
    let busy = Machine::now()?.since(&before, processors);
    Ok(busy.seconds / busy.wall)
}

/// Memory that programs could have, KiB (`MemAvailable`).
///
/// # Errors
/// /proc is not there.
pub(crate) fn available_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    kib(&text, "MemAvailable:").context("MemAvailable")
}

/// A process and all its descendants.
pub(crate) fn tree(root: u32) -> BTreeSet<Process> {
    let mut found = BTreeSet::new();
    let mut ahead = vec![root];
    while let Some(id) = ahead.pop() {
        let Some(process) = identify(id) else { continue };
        if found.insert(process) {
            ahead.extend(children(id));
        }
    }
    found
}

impl Process {
    /// Whether it is still there.
    pub(crate) fn lives(self) -> bool {
        identify(self.id) == Some(self)
    }
}

/// What a process and its descendants have used so far.
pub(crate) fn used(root: u32) -> Tree {
    tree(root).iter().fold(Tree::default(), |sum, process| {
        let read = |name: &str| fs::read_to_string(path(process.id, name)).unwrap_or_default();
        let status = read("status");
        let rollup = read("smaps_rollup");
        let resident_kib = kib(&status, "VmRSS:").unwrap_or(0);
        Tree {
            seconds: sum.seconds + parse_times(&read("stat")).unwrap_or(0.0) / ticks_per_second(),
            resident_kib: sum.resident_kib + resident_kib,
            proportional_kib: sum.proportional_kib + kib(&rollup, "Pss:").unwrap_or(resident_kib),
        }
    })
}

fn path(id: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{id}/{name}"))
}

fn identify(id: u32) -> Option<Process> {
    let stat = fs::read_to_string(path(id, "stat")).ok()?;
    let started = after_name(&stat)?.split_whitespace().nth(19)?.parse().ok()?;
    Some(Process { id, started })
}

fn children(id: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(path(id, "task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Idle (with waiting for disks) and stolen ticks: fields 4, 5 and 8 of the first line, proc_stat(5).
fn parse_stat(text: &str) -> Option<(f64, f64)> {
    let fields: Vec<f64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    Some((fields.get(3)? + fields.get(4)?, *fields.get(7)?))
}

/// Ticks in user and kernel mode, its own and its waited-for children's: fields 14 to 17 of
/// proc_pid_stat(5).
fn parse_times(stat: &str) -> Option<f64> {
    after_name(stat)?.split_whitespace().skip(11).take(4).map(|text| text.parse::<f64>().ok()).sum()
}

/// What follows the name, which may hold blanks and brackets.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest)
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_stat() {
        assert_eq!(parse_stat("cpu  1 2 3 100 20 6 7 5 0 0\ncpu0 …"), Some((120.0, 5.0)));
        assert_eq!(parse_stat("cpu0 1 2 3"), None);
        let stat = "7 (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 30 40 5 6 20 0 1 0 999 0";
        assert_eq!(parse_times(stat), Some(81.0));
        assert_eq!(parse_times("7 (x"), None);
    }

    #[test]
    fn busy_is_what_was_neither_idle_nor_stolen() {
        let at = Instant::now();
        let before = Machine { at, idle: 10.0, stolen: 1.0 };
        let after = Machine { at: at + Duration::from_secs(2), idle: 11.0, stolen: 1.5 };
        let busy = after.since(&before, 2);
        assert_eq!((busy.wall, busy.seconds, busy.stolen), (2.0, 2.5, 0.125));
    }

    #[test]
    fn this_process_is_in_its_own_tree_and_a_later_one_of_its_id_is_not_it() {
        let own = std::process::id();
        let tree = tree(own);
        let me = tree.iter().find(|process| process.id == own).copied().unwrap();
        assert!(me.lives());
        assert!(!Process { started: me.started + 1, ..me }.lives());
        let used = used(own);
        assert!(used.resident_kib > 0 && used.proportional_kib > 0);
    }
}
