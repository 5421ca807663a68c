//! The keeper: a process that keeps the privileges mux was started with, as far as a start of mux
//! needs them, for the few things that the daemon cannot do without them.
//!
//! It removes our Unix socket files when the daemon is gone, however it went, unless somebody still
//! listens on them; likewise, before Linux 6.6, the packet relay's programs on network devices, which
//! stay there by themselves. And it starts the daemon's successor: the program, arguments, environment and
//! directory that the daemon itself was started with. All of that it knows from its own start;
//! nothing that the daemon sends it is a path, an argument or a number. It listens nowhere.

use std::{
    collections::VecDeque,
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::MetadataExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::SigSet;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{FdFlags, fcntl_setfd},
    process::{Pid, PidfdFlags, getpid, getppid, pidfd_open},
};

use super::{channel::Channel, confined, handover, watchdog};
use crate::{kernel::packet, listener::SocketFile, sys};

/// The hidden first argument that makes a mux process a keeper.
pub const ARGUMENT: &str = "keeper-of-privileges";
/// Most successors that are started in [`PERIOD`]: a daemon that is no longer itself cannot have
/// privileged processes without end.
const MOST: usize = 20;
const PERIOD: Duration = Duration::from_secs(60);
/// How often to look for the end of a process where the kernel cannot tell (before 5.3), or for one
/// that is about to end.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// How long a process may take to end that has said that it does.
const LAST_MOMENTS: Duration = Duration::from_secs(10);
/// How long the keeper may take to answer: it may be waiting for somebody's last moments.
const ANSWER: Duration = Duration::from_secs(30);
/// What the daemon may ask for: another successor; that one be gone which cannot serve; that the
/// keeper ends.
const START: &[u8] = b"start";
const ABANDON: &[u8] = b"abandon";
const FINISH: &[u8] = b"finish";

/// The daemon's end of a running keeper; the keeper cleans up when this is dropped, or the daemon
/// ends in any way.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    control: std::sync::Arc<Channel>,
}

/// The running program, where /proc is mounted.
const ITSELF: &str = "/proc/self/exe";

/// Starts it. Call it while the process has its privileges, and one thread.
pub(super) fn start<'a>(
    files: impl Iterator<Item = &'a SocketFile>,
    devices: &[u32],
) -> io::Result<Keeper> {
    let (control, theirs) = Channel::pair()?;
    let files: Vec<OsString> = files.map(SocketFile::to_argument).collect();
    let program = program();
    // Ourselves, whatever is installed now; by its path where /proc is not mounted (a chroot).
    let itself = Path::new(ITSELF);
    let mut command = Command::new(if itself.exists() { itself } else { &program });
    if watchdog::is_for_this_process() {
        // A successor takes its place, under a number that is not known yet.
        command.env_remove(watchdog::PID);
    }
    let child = command
        .arg0("mux-keeper")
        .arg(ARGUMENT)
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(files.len().to_string())
        .args(files)
        .arg(devices.len().to_string())
        .args(devices.iter().map(ToString::to_string))
        .arg(&program)
        .args(env::args_os())
        .stdin(theirs)
        // Not in our process group: Ctrl-C is for the daemon.
        .process_group(0)
        .spawn()?;
    Ok(Keeper { child, control: control.into() })
}

impl Keeper {
    /// Where its answers come from.
    pub(super) fn control(&self) -> std::sync::Arc<Channel> {
        std::sync::Arc::clone(&self.control)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It has nothing to do but unlink; without it there is nobody to wait for.
        let _ = self.control.send(FINISH, &[]);
        let _ = self.child.wait();
    }
}

/// Has the keeper start a successor with this end of the handover channel. Gives its process id.
pub(super) fn ask(control: &Channel, handover: &OwnedFd) -> Result<u32, String> {
    let gone = |error: io::Error| format!("the keeper is gone: {error}");
    // What it said about an earlier one.
    while control.receive_now().map_err(gone)?.is_some() {}
    control.send(START, &[handover.as_fd()]).map_err(gone)?;
    let answer = answer(control)?;
    match answer.split_once(' ') {
        Some(("started", pid)) => pid.parse().map_err(|_| answer.clone()),
        _ => Err(answer),
    }
}

/// How the successor ended, which has said that it does, or does not answer: it is given a moment,
/// then it is killed. After this another one can be started.
pub(super) fn see_the_end(control: &Channel) -> Result<String, String> {
    control.send(ABANDON, &[]).map_err(|error| format!("the keeper is gone: {error}"))?;
    answer(control)
}

fn answer(control: &Channel) -> Result<String, String> {
    let failed = |error: io::Error| format!("the keeper does not answer: {error}");
    control.set_timeout(Some(ANSWER)).map_err(failed)?;
    let received = control.receive().map_err(failed)?;
    let received = received.ok_or_else(|| "the keeper is gone".to_owned())?;
    Ok(String::from_utf8_lossy(&received.bytes).into_owned())
}

/// The path that this program was started by, symbolic links as they are: what is installed there
/// later is what a successor runs.
fn program() -> PathBuf {
    let itself = fs::metadata(ITSELF);
    let is_this = |path: &Path| match (fs::metadata(path), &itself) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        // Without /proc there is nothing to compare with.
        (Ok(one), Err(_)) => one.is_file(),
        (Err(_), _) => false,
    };
    let name = PathBuf::from(env::args_os().next().unwrap_or_default());
    let candidates: Vec<PathBuf> = if name.as_os_str().as_bytes().contains(&b'/') {
        vec![std::path::absolute(&name).unwrap_or(name)]
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|directory| directory.join(&name)).collect()
    };
    let found = candidates.into_iter().find(|path| is_this(path));
    found.or_else(|| fs::read_link(ITSELF).ok()).unwrap_or_else(|| "mux".into())
}

/// What a keeper process does.
#[must_use]
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    // It ends with its daemon, whatever a terminal or a service manager sends to all. A successor
    // inherits the mask, and unblocks them when it catches them.
    let _ = SigSet::all().thread_block();
    sys::close_from(3);
    if let Err(why) = confined::confine() {
        // It does what it is for all the same: without it nobody could start a successor.
        eprintln!("mux-keeper: not all privileges are given up that are not needed: {why}");
    }
    let Some((mut keeping, files)) = Keeping::new(arguments) else { return ExitCode::FAILURE };
    keeping.until_the_end();
    // A successor that serves has its own there, of the same names.
    if keeping.successor.is_none() {
        for device in &keeping.devices {
            // One that is gone has nothing on it.
            let _ = packet::attach::remove(*device);
        }
    }
    let failed = files.iter().filter(|file| file.remove_unused().is_err()).count();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A keeper's state.
struct Keeping {
    control: Channel,
    daemon: Watched,
    /// The daemon's process group, which its successor joins: Ctrl-C is for that, too.
    group: Option<Pid>,
    /// Network devices to be left as they were.
    devices: Vec<u32>,
    program: PathBuf,
    /// From the program's name on.
    arguments: Vec<OsString>,
    successor: Option<(Child, Watched)>,
    starts: VecDeque<Instant>,
}

/// A process whose end is awaited.
struct Watched {
    pid: Option<Pid>,
    /// `None` where the kernel has none (before 5.3).
    descriptor: Option<OwnedFd>,
}

impl Watched {
    fn new(pid: Option<Pid>) -> Self {
        let descriptor = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { pid, descriptor }
    }
}

impl Keeping {
    fn new(mut arguments: impl Iterator<Item = OsString>) -> Option<(Self, Vec<SocketFile>)> {
        let number = |argument: OsString| argument.to_str()?.parse::<usize>().ok();
        let control = Channel::new(io::stdin().as_fd().try_clone_to_owned().ok()?).ok()?;
        let daemon = number(arguments.next()?)?;
        let count = number(arguments.next()?)?;
        let files: Option<Vec<SocketFile>> =
            (0..count).map(|_| SocketFile::from_argument(&arguments.next()?)).collect();
        let count = number(arguments.next()?)?;
        let devices: Option<Vec<u32>> =
            (0..count).map(|_| u32::try_from(number(arguments.next()?)?).ok()).collect();
        let program = arguments.next()?.into();
        // Another parent: the daemon is gone already.
        let daemon =
            getppid().filter(|parent| usize::try_from(parent.as_raw_nonzero().get()) == Ok(daemon));
        let keeping = Self {
            control,
            group: daemon.and_then(sys::process_group),
            daemon: Watched::new(daemon),
            devices: devices?,
            program,
            arguments: arguments.collect(),
            successor: None,
            starts: VecDeque::new(),
        };
        Some((keeping, files?))
    }

    /// Serves the daemon until it is gone, or says that it needs nothing any more.
    fn until_the_end(&mut self) {
        loop {
            self.wait();
            if let Some((child, _)) = &mut self.successor
                && let Ok(Some(status)) = child.try_wait()
            {
                self.successor = None;
                self.answer(&format!("it ended {}", describe(status)));
            }
            match self.control.receive_now() {
                Ok(Some(message)) if message.bytes == FINISH => return,
                Ok(Some(message)) if message.bytes == START => {
                    let mut descriptors = message.descriptors.into_iter();
                    if let (Some(handover), None) = (descriptors.next(), descriptors.next()) {
                        let answer = match self.start(&handover) {
                            Ok(pid) => format!("started {pid}"),
                            Err(why) => why,
                        };
                        self.answer(&answer);
                    }
                }
                Ok(Some(message)) if message.bytes == ABANDON => self.abandon(),
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => {
                    if self.is_alone() {
                        return;
                    }
                }
            }
        }
    }

    fn answer(&self, text: &str) {
        // A daemon that is gone needs no answer. One that does not read does not hold us up.
        let _ = self.control.set_timeout(Some(Duration::from_millis(100)));
        let _ = self.control.send(text.as_bytes(), &[]);
    }

    /// Waits until there may be something to do.
    fn wait(&self) {
        let mut waits = vec![PollFd::new(&self.control, PollFlags::IN)];
        let successor = self.successor.as_ref().map(|(_, watched)| watched);
        let watched: Vec<&Watched> = std::iter::once(&self.daemon).chain(successor).collect();
        for descriptor in watched.iter().filter_map(|watched| watched.descriptor.as_ref()) {
            waits.push(PollFd::new(descriptor, PollFlags::IN));
        }
        // Once the daemon has closed its end, which is ready for ever, its last moments are
        // awaited by looking again.
        let blind = watched.iter().any(|watched| watched.descriptor.is_none());
        let _ = poll(&mut waits, blind.then_some(&LOOK_AGAIN));
        if waits[0].revents().contains(PollFlags::HUP) {
            let _ = poll(&mut waits[1..], Some(&LOOK_AGAIN));
        }
    }

    /// Whether the daemon is gone, with all its descriptors: its parenthood ends after they are
    /// closed (`do_exit`: `exit_files` and `exit_task_work`, then `exit_notify`).
    fn is_alone(&self) -> bool {
        self.daemon.pid.is_none() || getppid() != self.daemon.pid
    }

    /// Sees to it that a successor that does not serve ends; the loop tells how it did.
    fn abandon(&mut self) {
        if !self.is_over_soon()
            && let Some((child, _)) = &mut self.successor
        {
            // It has no flow: it never said that it serves, or was told not to.
            let _ = child.kill();
        }
    }

    /// Whether the successor, if there is one, has ended or does so now.
    fn is_over_soon(&mut self) -> bool {
        let Some((child, _)) = &mut self.successor else { return true };
        let start = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if start.elapsed() >= LAST_MOMENTS {
                return false;
            }
            let _ = poll(&mut [], Some(&LOOK_AGAIN));
        }
        true
    }

    fn start(&mut self, handover: &OwnedFd) -> Result<u32, String> {
        // One that failed or died may not be quite gone.
        if !self.is_over_soon() {
            return Err("a successor is running already".into());
        }
        let now = Instant::now();
        while self.starts.front().is_some_and(|start| now.duration_since(*start) >= PERIOD) {
            self.starts.pop_front();
        }
        if self.starts.len() >= MOST {
            return Err(format!("{MOST} successors were started within a minute; try later"));
        }
        self.starts.push_back(now);
        let (name, rest) = match self.arguments.split_first() {
            Some((name, rest)) => (name.as_os_str(), rest),
            None => (OsStr::new("mux"), &[][..]),
        };
        let failed = |error: io::Error| format!("cannot start {}: {error}", self.program.display());
        // There is one thread, so that nothing else is started meanwhile.
        fcntl_setfd(handover, FdFlags::empty()).map_err(|error| failed(error.into()))?;
        let mut command = Command::new(&self.program);
        command
            .arg0(name)
            .args(rest)
            .env(handover::VARIABLE, handover::number(handover))
            .stdin(Stdio::null());
        if let Some(group) = self.group {
            command.process_group(group.as_raw_nonzero().get());
        }
        let child = command.spawn().map_err(failed)?;
        let pid = child.id();
        let watched = Watched::new(i32::try_from(pid).ok().and_then(Pid::from_raw));
        self.successor = Some((child, watched));
        Ok(pid)
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("with exit code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "somehow".into(),
    }
}
