//! Where a run was made: figures mean nothing without it.

use std::{fs, process::Command, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::sh;

/// The machine and what runs on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// UTC, `YYYY-MM-DD`.
    pub(crate) date: String,
    /// Of mux's source; `+` where it is changed.
    pub(crate) commit: String,
    pub(crate) kernel: String,
    pub(crate) distribution: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_mib: u64,
    /// Whether it is a virtual machine.
    pub(crate) virtualised: bool,
    /// Whether the run had a network namespace of its own, without the host's firewall.
    pub(crate) namespace: bool,
    /// Load average of the last minute before the run.
    pub(crate) load: f64,
    /// Kernel settings that matter.
    pub(crate) settings: Vec<(String, String)>,
}

/// Those settings, below /proc/sys.
const SETTINGS: [&str; 7] = [
    "net/core/somaxconn",
    "net/core/wmem_max",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv4/tcp_congestion_control",
    "net/core/bpf_jit_enable",
    "fs/pipe-user-pages-soft",
];

impl Environment {
    /// Looks around.
    pub(crate) fn here(namespace: bool, processors: usize) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let field = |text: &str, name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once([':', '='])?;
                (key.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
            })
        };
        let cpu = read("/proc/cpuinfo");
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let setting = |name: &&str| {
            let value = read(&format!("/proc/sys/{name}"));
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            (!value.is_empty()).then(|| (name.replace('/', "."), value))
        };
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Self {
            date: date(SystemTime::now()),
            commit: commit(),
            kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
            distribution: field(&read("/etc/os-release"), "PRETTY_NAME").unwrap_or_default(),
            processor: field(&cpu, "model name").unwrap_or_else(|| text(uname.machine())),
            processors,
            memory_mib: memory / 1024,
            virtualised: field(&cpu, "flags").is_some_and(|flags| flags.contains(" hypervisor")),
            namespace,
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|it| it.parse().ok())
                .unwrap_or(0.0),
            settings: SETTINGS.iter().filter_map(setting).collect(),
        }
    }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        sh::output(Command::new("git").current_dir(sh::root()).args(arguments))
    };
    let Ok(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--", "mux-userspace", "mux-ebpf", "mux-common"]);
    if changed.is_ok_and(|list| list.is_empty()) { commit } else { format!("{commit}+") }
}

fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400)), "2000-02-29");
    }

    #[test]
    fn this_machine_has_a_processor_and_a_kernel() {
        let here = Environment::here(false, 1);
        assert!(!here.kernel.is_empty() && !here.processor.is_empty() && here.memory_mib > 0);
    }
}
