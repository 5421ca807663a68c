//! Programs that a benchmark runs: their output goes to a file, their end is ours to see to.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::usage;
use crate::sh;

/// How long a program may take to listen.
const START: Duration = Duration::from_secs(15);
/// How long it may take to end before it is killed.
const END: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// A running program; ended with all its descendants by `Drop`.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Program {
    /// Starts it; what it says goes to `NAME.log` in `directory`.
    ///
    /// # Errors
    /// There is no such program, or no such directory.
    pub(crate) fn start(name: &str, command: &mut Command, directory: &Path) -> Result<Self> {
        let output = directory.join(format!("{name}.log"));
        let file = File::create(&output).with_context(|| output.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start `{}`", sh::shown(command)))?;
        Ok(Self { name: name.to_owned(), child, output })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// wait(2)'s.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until it takes connections.
    ///
    /// # Errors
    /// It ends before, or takes too long; the message has what it said.
    pub(crate) fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        self.wait_until(&format!("does not listen on {address}"), || {
            TcpStream::connect(address).is_ok()
        })
    }

    /// Waits until something is the case.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub(crate) fn wait_until(&mut self, otherwise: &str, is_so: impl Fn() -> bool) -> Result<()> {
        let end = Instant::now() + START;
        while !is_so() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended, {status}: {}", self.name, self.said());
            }
            if Instant::now() > end {
                bail!("{} {otherwise}: {}", self.name, self.said());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        let text = fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let tree = usage::tree(self.child.id());
        // It has not been waited for, so that its id is still its own.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in tree.iter().filter(|process| process.lives()) {
            if let Some(pid) = Pid::from_raw(process.id.cast_signed()) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_ends_early_is_reported_with_what_it_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such port >&2; exit 3"]);
        let mut program = Program::start("early", &mut command, directory.path()).unwrap();
        let error = program.wait_until("never", || false).unwrap_err().to_string();
        assert!(error.contains("no such port"), "{error}");
    }

    #[test]
    fn descendants_end_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo up; wait"]);
        let mut program = Program::start("family", &mut command, directory.path()).unwrap();
        let log = directory.path().join("family.log");
        let is_up = || fs::read_to_string(&log).is_ok_and(|text| text.contains("up"));
        program.wait_until("is not up", is_up).unwrap();
        let tree = usage::tree(program.id());
        assert_eq!(tree.len(), 2);
        drop(program);
        let end = Instant::now() + START;
        while tree.iter().any(|process| process.lives()) {
            assert!(Instant::now() < end, "somebody is left");
            thread::sleep(LOOK);
        }
    }
}
