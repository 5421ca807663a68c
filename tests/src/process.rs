//! Other programs: ended with the test, never waited for without a deadline.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{eventually, lines::Lines};

/// A running program; killed on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    out: Lines,
    err: Lines,
}

impl Process {
    /// Starts it; its standard input is empty unless `command` says otherwise.
    ///
    /// # Errors
    /// There is no such program.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::start_with(command.stdin(Stdio::null()))
    }

    /// Starts it with the standard input that `command` has.
    ///
    /// # Errors
    /// There is no such program.
    pub fn start_with(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let out = child.stdout.take().map(Lines::gather).unwrap_or_default();
        let err = child.stderr.take().map(Lines::gather).unwrap_or_default();
        Ok(Self { name, child, out, err })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The child has not been waited for, so the id is still its.
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// wait(2)'s.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The deadline.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let child = &mut self.child;
        eventually(&format!("{} ends", self.name), || child.try_wait().ok().flatten())
    }

    /// Waits for a line on standard output for which `find` has a value.
    ///
    /// # Errors
    /// The deadline, or the end of the output.
    pub fn wait_out<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> Result<T> {
        self.out.wait(what, find).with_context(|| self.said())
    }

    /// Waits for a line on standard error for which `find` has a value.
    ///
    /// # Errors
    /// The deadline, or the end of the output.
    pub fn wait_err<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> Result<T> {
        self.err.wait(what, find).with_context(|| self.said())
    }

    /// Lines on standard output so far.
    #[must_use]
    pub fn out(&self) -> Vec<String> {
        self.out.all()
    }

    /// Lines on standard error so far.
    #[must_use]
    pub fn err(&self) -> Vec<String> {
        self.err.all()
    }

    pub(crate) const fn out_lines(&self) -> &Lines {
        &self.out
    }

    pub(crate) const fn err_lines(&self) -> &Lines {
        &self.err
    }

    /// Waits for its end and for the end of its output.
    ///
    /// # Errors
    /// The deadline.
    pub fn output(mut self) -> Result<Output> {
        let status = self.wait()?;
        let text = |lines: Vec<String>| {
            let mut text = lines.join("\n");
            if !text.is_empty() {
                text.push('\n');
            }
            text.into_bytes()
        };
        Ok(Output { status, stdout: text(self.out.to_end()?), stderr: text(self.err.to_end()?) })
    }

    fn said(&self) -> String {
        format!("{} wrote on standard error: {}", self.name, self.err.all().join("\n"))
    }

    /// Kills it and waits.
    pub fn kill(&mut self) {
        // An error says that it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or does not end.
pub fn run(command: &mut Command) -> Result<Output> {
    Process::start(command)?.output()
}

/// Runs a program that must succeed; returns its standard output.
///
/// # Errors
/// It cannot be started, does not end, or fails.
pub fn run_ok(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } = run(command)?;
    let err = String::from_utf8_lossy(&stderr);
    if let Some(signal) = status.signal() {
        bail!("{name} ended by signal {signal}: {err}");
    }
    ensure!(status.success(), "{name} failed, {status}: {err}");
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
