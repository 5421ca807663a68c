//! The janitor: a process that removes our Unix socket files when the daemon is gone.
//!
//! The daemon gives up the right to write to directories like /run before it accepts; and one
//! that is killed removes nothing. So a child keeps that right, and nothing else: it reads its
//! standard input until that ends, which is when the daemon does, removes the files that are
//! still the daemon's, and exits. Started only where there are such files.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitCode, Stdio},
};

use caps::{CapSet, Capability, CapsHashSet};

use crate::listener::SocketFile;

/// The hidden first argument that makes a mux process a janitor.
pub const ARGUMENT: &str = "janitor-of-socket-files";

/// A running janitor; it cleans up when this is dropped, or the process ends in any way.
#[derive(Debug)]
pub(super) struct Janitor(Child);

/// Starts one, if there are files to remove.
pub(super) fn start<'a>(
    files: impl Iterator<Item = &'a SocketFile>,
) -> io::Result<Option<Janitor>> {
    let files: Vec<&SocketFile> = files.collect();
    if files.is_empty() {
        return Ok(None);
    }
    let child = Command::new("/proc/self/exe")
        .arg0("mux-janitor")
        .arg(ARGUMENT)
        .args(files.iter().map(|file| file.to_argument()))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not in our process group: Ctrl-C is for the daemon.
        .process_group(0)
        .spawn()?;
    Ok(Some(Janitor(child)))
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It has nothing to do but unlink.
        let _ = self.0.wait();
    }
}

/// What a janitor process does.
#[must_use]
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let files: Vec<SocketFile> =
        arguments.filter_map(|argument| SocketFile::from_argument(&argument)).collect();
    keep_what_unlinking_needs();
    // Nobody writes; an error is an end as well.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    let failed = files.iter().filter(|file| file.remove().is_err()).count();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Gives up all that it was started with but the rights to remove files from others' directories. It
/// has a single thread. Where this fails it has what it had: its files are to be removed all the same.
fn keep_what_unlinking_needs() {
    let wanted = [Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER];
    let permitted = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let kept: CapsHashSet =
        wanted.into_iter().filter(|capability| permitted.contains(capability)).collect();
    let _ = caps::clear(None, CapSet::Bounding);
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        let _ = caps::clear(None, set);
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        let _ = caps::set(None, set, &kept);
    }
    let _ = rustix::thread::set_no_new_privs(true);
}
