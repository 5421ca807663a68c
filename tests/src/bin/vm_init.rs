//! The first process of a test machine: `cargo xtask vm` boots other kernels with nothing but
//! this, the daemon and what tests it.
//!
//! It mounts the kernel's file systems, loads the modules of `/modules/order`, brings `lo` up, runs the
//! commands of `/payload` one after the other, and powers the machine off. What it finds goes to
//! the second serial port, a line each, starting with `MUX-VM`; the first is the kernel's alone,
//! so that no message of the kernel's cuts a line in two.
//!
//! It must never end: the kernel panics without its first process.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::OFlags,
    mount::{MountFlags, mount},
    net::{self, AddressFamily, RecvFlags, SendFlags, SocketType},
    system::{RebootCommand, finit_module, reboot, uname},
};

/// What is mounted where: type, directory.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// The serial port for results.
const REPORT: &str = "/dev/ttyS1";
/// Modules, dependencies first, a file name each.
const MODULES: &str = "/modules/order";
/// Commands: name, seconds, program, arguments, with a tab between.
const PAYLOAD: &str = "/payload";
/// Of a command's output, lines that are reported; the rest only slows a serial port down.
const LINES: usize = 400;
/// Lines of the kernel's log that are reported when it complained.
const DMESG: usize = 120;

fn main() {
    // Without a report there is nobody to tell; the host sees the machine end without one.
    if let Err(error) = work() {
        eprintln!("MUX-VM failure {error:#}");
    }
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        thread::park();
    }
}

fn work() -> Result<()> {
    for (kind, directory) in MOUNTS {
        fs::create_dir_all(directory)?;
        mount(kind, directory, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {kind}"))?;
    }
    let report = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits() as i32)
        .open(REPORT)
        .with_context(|| format!("cannot open {REPORT}"))?;
    let report = Report(report);
    let uname = uname();
    report.line("release", uname.release().to_string_lossy());
    report.line("version", uname.version().to_string_lossy());
    // Shows on the first port where booting ended.
    let _ = fs::write("/dev/kmsg", "<4>MUX-VM begin\n");

    for module in lines(MODULES)? {
        if let Err(error) = load(&module) {
            report.line("module", format!("name={module} error={error:#}"));
        }
    }
    loopback_up().context("cannot bring lo up")?;
    for line in lines(PAYLOAD)? {
        match Payload::parse(&line) {
            Ok(payload) => payload.run(&report)?,
            Err(error) => report.line("failure", format!("{error:#}")),
        }
    }
    kernel_log(&report)?;
    report.line("end", "");
    Ok(())
}

/// The second serial port.
struct Report(File);

impl Report {
    fn line(&self, kind: &str, text: impl AsRef<str>) {
        // One write a line. A port that does not take it leaves nobody to tell.
        let _ = (&self.0).write_all(format!("MUX-VM {kind} {}\n", text.as_ref()).as_bytes());
    }
}

fn lines(path: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn load(module: &str) -> Result<()> {
    let file = File::open(Path::new("/modules").join(module))?;
    Ok(finit_module(&file, c"", 0)?)
}

/// One command.
struct Payload<'a> {
    name: &'a str,
    limit: Duration,
    program: &'a str,
    arguments: Vec<&'a str>,
}

impl<'a> Payload<'a> {
    fn parse(line: &'a str) -> Result<Self> {
        let mut words = line.split('\t');
        let (Some(name), Some(seconds), Some(program)) = (words.next(), words.next(), words.next())
        else {
            bail!("{PAYLOAD}: `{line}` is not a name, seconds and a program");
        };
        let limit = Duration::from_secs(seconds.parse().context("not a number of seconds")?);
        Ok(Self { name, limit, program, arguments: words.collect() })
    }

    fn run(&self, report: &Report) -> Result<()> {
        report.line("begin", format!("name={}", self.name));
        let start = Instant::now();
        // Files, not pipes: a daemon left over cannot hold up the report by holding a pipe open.
        let (out, err) = (format!("/tmp/{}.out", self.name), format!("/tmp/{}.err", self.name));
        let started = Command::new(self.program)
            .args(&self.arguments)
            .env("PATH", "/bin")
            // For the tests among them: also kernels that are not on the list are tried.
            .env("MUX_BIN", "/bin/mux")
            .env("MUX_TEST_SOCKMAP", "force")
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn();
        let status = match started {
            Ok(child) => wait(child, self.limit)?,
            Err(error) => format!("unstartable:{}", error.kind()).replace(' ', "-"),
        };
        self.output(report, "out", &out)?;
        self.output(report, "err", &err)?;
        let seconds = start.elapsed().as_secs_f64();
        report.line("result", format!("name={} status={status} seconds={seconds:.3}", self.name));
        Ok(())
    }

    fn output(&self, report: &Report, kind: &str, path: &str) -> Result<()> {
        let bytes = fs::read(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let skipped = text.lines().count().saturating_sub(LINES);
        for line in text.lines().skip(skipped) {
            report.line(kind, format!("name={} {line}", self.name));
        }
        Ok(())
    }
}

/// Waits for the end, or makes it.
fn wait(mut child: Child, limit: Duration) -> Result<String> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(shown(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok("timeout".to_owned());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn shown(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit:{code}"),
        (None, Some(signal)) => format!("signal:{signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// Sets IFF_UP on `lo` (index 1 in every new network namespace); the kernel gives it its
/// addresses.
fn loopback_up() -> Result<()> {
    const IFF_UP: u32 = 1;
    let socket = net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let mut message = Vec::new();
    // struct nlmsghdr: length, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, port.
    message.extend(32_u32.to_ne_bytes());
    message.extend(16_u16.to_ne_bytes());
    message.extend(5_u16.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family, padding, type, index, flags, which flags.
    message.extend([0; 4]);
    message.extend(1_i32.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (received, _) = net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // struct nlmsgerr after the header: a negative errno, or 0.
    match answer.get(16..20).map(|code| code.try_into().map(i32::from_ne_bytes)) {
        Some(Ok(0)) if received >= 20 => Ok(()),
        Some(Ok(code)) if received >= 20 => Err(io::Error::from_raw_os_error(-code).into()),
        _ => bail!("netlink answered {received} bytes"),
    }
}

/// The end of the kernel's log, if anything in it is a warning of its own or worse.
fn kernel_log(report: &Report) -> Result<()> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open("/dev/kmsg")?;
    let mut messages = Vec::new();
    let mut record = [0; 8192];
    // A read(2) is a record: "level,number,time,flags;text".
    while let Ok(length @ 1..) = log.read(&mut record) {
        let text = String::from_utf8_lossy(&record[..length]).into_owned();
        if let Some((_, text)) = text.lines().next().and_then(|line| line.split_once(';')) {
            messages.push(text.to_owned());
        }
    }
    let begin = messages.iter().position(|text| text.starts_with("MUX-VM begin")).unwrap_or(0);
    let complained = messages[begin..]
        .iter()
        .any(|text| ["WARNING:", "BUG:", "Oops", "Call Trace"].iter().any(|w| text.contains(w)));
    if complained {
        let skipped = messages.len().saturating_sub(DMESG).max(begin);
        for text in &messages[skipped..] {
            report.line("dmesg", text);
        }
    }
    Ok(())
}
