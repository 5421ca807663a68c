//! Network namespaces of the tests' own, so that dropped packets, odd settings and TUN devices
//! disturb nobody. Needs root and iproute2.

use std::{
    fs,
    io::Write as _,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What every name begins with; the process id follows.
const PREFIX: &str = "mux-t";
/// Where iproute2 keeps the names.
const DIRECTORY: &str = "/run/netns";

/// A network namespace with its loopback device up; deleted by `Drop`, with all devices in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A new one, named for `purpose`.
    ///
    /// # Errors
    /// Not root, or no iproute2.
    pub fn new(purpose: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_stale();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{purpose}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, for `ip -n`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it with these arguments, separated by spaces.
    ///
    /// # Errors
    /// `ip` fails; the message has what it said.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))?;
        Ok(())
    }

    /// The number of a device in it.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn device(&self, name: &str) -> Result<u32> {
        let output = run(Command::new("ip").args(["-n", &self.name, "-o", "link", "show", name]))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let number = text.split(':').next().and_then(|number| number.trim().parse().ok());
        number.with_context(|| format!("no number in {text:?}"))
    }

    /// Sets a sysctl in it, such as `net/ipv4/tcp_sack`.
    ///
    /// # Errors
    /// There is none of that name, or it refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name);
        self.within(|| fs::write(&path, value).with_context(|| format!("writing {name}")))?
    }

    /// Adds nftables' rules to it.
    ///
    /// # Errors
    /// `nft` is missing, or refuses them; the message has what it said.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let load = || {
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(rules.as_bytes())?;
            run(Command::new("nft").arg("-f").arg(file.path()))
        };
        self.within(load)?.context("nftables")?;
        Ok(())
    }

    /// Runs `inside` on a thread of its own in the namespace. Sockets made there, and programs
    /// started there, stay in it.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// As `inside` does.
    pub fn within<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                Ok(inside())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// Not root.
    pub fn enter(&self) -> Result<()> {
        enter(&self.name)
    }
}

/// Moves the calling thread into the namespace of that name, for good.
///
/// # Errors
/// There is none; not root.
pub fn enter(name: &str) -> Result<()> {
    let file = fs::File::open(Path::new(DIRECTORY).join(name)).context("opening the namespace")?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering the namespace")
}

impl Drop for Netns {
    fn drop(&mut self) {
        // One that is left is removed by the next run.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Removes what processes left that were killed.
fn remove_stale() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let dead = |pid: &str| !PathBuf::from(format!("/proc/{pid}")).exists();
        if pid.is_some_and(dead) {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

/// Runs a program that must succeed.
///
/// # Errors
/// It cannot be started, or fails; the message has what it said.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}
