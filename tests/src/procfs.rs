//! What /proc says of a process and of sockets.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, pidfd_getfd, pidfd_open, prlimit,
};

/// A process.
#[derive(Clone, Copy, Debug)]
pub struct Proc(pub u32);

/// What a process has used of the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Clock ticks (10 ms) of its threads, in user and in kernel mode.
    pub ticks: u64,
    /// Times that one of its threads went to sleep.
    pub switches: u64,
    /// Time that its threads ran for, nanoseconds (sched_stats: `schedstat`).
    pub nanos: u64,
}

impl Proc {
    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    fn read(self, name: &str) -> Result<String> {
        let path = self.path(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// A line of `status`, without its name.
    ///
    /// # Errors
    /// The process is gone.
    pub fn status(self, field: &str) -> Result<String> {
        status_field(&self.read("status")?, field).with_context(|| format!("no {field} in status"))
    }

    /// A line of each thread's `status`.
    ///
    /// # Errors
    /// The process is gone.
    pub fn status_of_threads(self, field: &str) -> Result<Vec<String>> {
        let mut values = Vec::new();
        for task in fs::read_dir(self.path("task"))? {
            // It may have ended meanwhile.
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
            values.push(status_field(&status, field).with_context(|| format!("no {field}"))?);
        }
        Ok(values)
    }

    /// Resident memory, KiB.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resident_kib(self) -> Result<u64> {
        let text = self.status("VmRSS")?;
        text.split_whitespace().next().unwrap_or_default().parse().context(text.clone())
    }

    /// Open descriptors.
    ///
    /// # Errors
    /// The process is gone, or another user's.
    pub fn descriptors(self) -> Result<usize> {
        let path = self.path("fd");
        Ok(fs::read_dir(&path).with_context(|| path.display().to_string())?.count())
    }

    /// Sets its limit of open descriptors, while it runs.
    ///
    /// # Errors
    /// prlimit(2)'s.
    pub fn limit_descriptors(self, most: u64) -> Result<()> {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        let pid = Pid::from_raw(self.0 as i32).context("a process id")?;
        prlimit(Some(pid), Resource::Nofile, limit)?;
        Ok(())
    }

    /// Sets the soft one, which can be raised again, up to the hard one.
    ///
    /// # Errors
    /// prlimit(2)'s.
    pub fn soft_limit_descriptors(self, most: Option<u64>) -> Result<()> {
        let limits = self.read("limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let hard = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        let limit = Rlimit { current: most.or(hard), maximum: hard };
        let pid = Pid::from_raw(self.0 as i32).context("a process id")?;
        prlimit(Some(pid), Resource::Nofile, limit)?;
        Ok(())
    }

    /// What its threads have used so far. Threads that ended count for the ticks only.
    ///
    /// # Errors
    /// The process is gone.
    pub fn usage(self) -> Result<Usage> {
        let stat = self.read("stat")?;
        // proc_pid_stat(5): utime and stime are fields 14 and 15; the second may hold blanks.
        let after = stat.rsplit_once(')').context("stat without a name")?.1;
        let ticks = after.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks = ticks.sum::<Result<u64, _>>().context("stat")?;
        let (mut switches, mut nanos) = (0, 0);
        for task in fs::read_dir(self.path("task"))? {
            let task = task?.path();
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            let stat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            let ran = stat.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
            nanos += ran.unwrap_or(0);
            let count = status_field(&status, "voluntary_ctxt_switches");
            switches += count.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Usage { ticks, switches, nanos })
    }

    /// Its children's ids.
    ///
    /// # Errors
    /// The process is gone.
    pub fn children(self) -> Result<Vec<u32>> {
        let mut children = Vec::new();
        for task in fs::read_dir(self.path("task"))? {
            let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            children.extend(text.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        Ok(children)
    }

    /// A duplicate of its TCP socket (IPv4) with these addresses (pidfd_getfd(2), Linux 5.6).
    ///
    /// # Errors
    /// There is none, or not root.
    pub fn socket(self, local: SocketAddr, remote: SocketAddr) -> Result<OwnedFd> {
        let text = fs::read_to_string("/proc/net/tcp")?;
        let pair = format!(" {} {} ", kernel_form(local), kernel_form(remote));
        let line = text.lines().find(|line| line.contains(&pair)).context("no such socket")?;
        let inode = line.split_whitespace().nth(9).context("an inode")?;
        let wanted = format!("socket:[{inode}]");
        for entry in fs::read_dir(self.path("fd"))? {
            let entry = entry?;
            if fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()) {
                let number = entry.file_name().to_string_lossy().parse()?;
                let pid = Pid::from_raw(self.0 as i32).context("a process id")?;
                let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
                return Ok(pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())?);
            }
        }
        anyhow::bail!("{wanted} is not among its descriptors")
    }

    /// Whether it runs, or is a zombie.
    #[must_use]
    pub fn exists(self) -> bool {
        self.path("stat").exists()
    }

    /// The values of a field of its descriptors' `fdinfo`, such as `prog_id`, sorted, once each.
    ///
    /// # Errors
    /// The process is gone, or another user's.
    pub fn fdinfo(self, field: &str) -> Result<Vec<u32>> {
        let mut values = Vec::new();
        let path = self.path("fdinfo");
        for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            values.extend(status_field(&text, field).and_then(|text| text.parse::<u32>().ok()));
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    /// What its epolls watch each descriptor for: its number, and `EPOLL*` bits.
    ///
    /// # Errors
    /// The process is gone, or another user's.
    pub fn epoll_masks(self) -> Result<BTreeSet<(u32, u32)>> {
        let path = self.path("fdinfo");
        let mut masks = BTreeSet::new();
        for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            // "tfd:        5 events:       19 data: …" (fs/eventpoll.c, ep_show_fdinfo)
            for line in text.lines().filter(|line| line.starts_with("tfd:")) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [_, target, _, mask, ..] = words[..] else { bail!("{line}") };
                masks.insert((target.parse()?, u32::from_str_radix(mask, 16)?));
            }
        }
        Ok(masks)
    }
}

fn status_field(text: &str, field: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim().to_owned())
    })
}

/// Whether somebody's SYN to `remote` (IPv4) has not been answered.
#[must_use]
pub fn syn_sent_to(remote: SocketAddr) -> bool {
    /// include/net/tcp_states.h.
    const TCP_SYN_SENT: &str = "02";
    let text = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let pair = format!(" {} {TCP_SYN_SENT} ", kernel_form(remote));
    text.lines().any(|line| line.contains(&pair))
}

/// An address as /proc/net/tcp has it: words of network order, printed in the host's.
fn kernel_form(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words: String = octets
        .chunks_exact(4)
        .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .collect();
    format!("{words}:{:04X}", address.port())
}
