//! One run of QEMU.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    qemu::{self, Qemu},
    report::Report,
};
use crate::sh;

/// The kernel's parameters. Warnings are printed, but not what it says while it boots; after a panic
/// it restarts, which `-no-reboot` makes the end.
const APPEND: &str = "console=ttyS0 loglevel=5 panic=-1 mitigations=off";
/// Between two looks at what the machine says.
const LOOK: Duration = Duration::from_millis(100);

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself.
    PoweredOff,
    /// It had to be ended.
    TimedOut,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) end: End,
    pub(crate) report: Report,
    pub(crate) console: String,
    pub(crate) took: Duration,
}

/// Boots `image` and waits for the end; tells `progress` what runs.
///
/// # Errors
/// QEMU cannot be started or fails.
pub(crate) fn run(
    qemu: &Qemu,
    image: &Path,
    initramfs: &Path,
    directory: &Path,
    limit: Duration,
    progress: &mut dyn FnMut(&str),
) -> Result<Run> {
    let (console, report) = (directory.join("console.log"), directory.join("report.log"));
    let start = Instant::now();
    let mut machine = Machine::start(qemu, image, initramfs, &console, &report)?;
    let end = loop {
        if let Some(status) = machine.0.try_wait()? {
            anyhow::ensure!(status.success(), "{} failed: {status}", qemu::PROGRAM.0);
            break End::PoweredOff;
        }
        if start.elapsed() > limit {
            break End::TimedOut;
        }
        let said = Report::parse(&read(&report));
        progress(match &said.running {
            Some(running) => running,
            None if said.release.is_empty() => "boots",
            None => "",
        });
        thread::sleep(LOOK);
    };
    drop(machine);
    let report = Report::parse(&read(&report));
    Ok(Run { end, report, console: read(&console), took: start.elapsed() })
}

/// A running QEMU; ended by `Drop`.
struct Machine(Child);

impl Machine {
    fn start(
        qemu: &Qemu,
        image: &Path,
        initramfs: &Path,
        console: &Path,
        report: &Path,
    ) -> Result<Self> {
        // Not KVM, which may be there and hang, as in a virtual machine without nesting.
        let arguments = ["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2048"];
        let mut command = qemu.command();
        command
            .args(arguments)
            .args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"])
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", APPEND]);
        for port in [console, report] {
            command.arg("-serial").arg(in_file(port));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start `{}`", sh::shown(&command)))?;
        Ok(Self(child))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only for one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn in_file(path: &Path) -> PathBuf {
    let mut text = std::ffi::OsString::from("file:");
    text.push(path);
    text.into()
}

/// What is not there yet is empty.
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
