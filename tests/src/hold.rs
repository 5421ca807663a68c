//! Holds one thread of a process still, as a loop without end would: SIGSTOP is for a whole process,
//! ptrace(2) for a thread.

use std::fs;

use anyhow::{Context, Result};
use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::procfs::Proc;

/// Does something while the thread of this name of a process does nothing. Needs root.
///
/// # Errors
/// There is no such thread, or it cannot be held; those of `meanwhile`.
pub fn held<T>(proc: Proc, thread: &str, meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
    let held = Held::new(proc, thread).with_context(|| format!("holding {thread}"))?;
    let result = meanwhile();
    drop(held);
    result
}

/// The thread that made it must drop it: whom ptrace(2) lets go is a matter of that. If it ends
/// without, the kernel does.
struct Held(Pid);

impl Held {
    fn new(proc: Proc, thread: &str) -> Result<Self> {
        let number = proc.thread(thread)?;
        let thread = Pid::from_raw(number.cast_signed());
        ptrace::seize(thread, ptrace::Options::empty())?;
        let held = Self(thread);
        ptrace::interrupt(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may be gone.
        let _ = ptrace::detach(self.0, None);
    }
}

impl Proc {
    /// The id of its thread of this name.
    fn thread(self, name: &str) -> Result<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0))?;
        let is_it = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let task = tasks.flatten().find(is_it).context("there is no such thread")?;
        Ok(task.file_name().to_string_lossy().parse()?)
    }
}
