//! Whether the kernel relay is to be had: one check after the other, each with what was found and
//! what to do. The daemon uses the first problem, `mux doctor` prints them all.

use std::{fs, io, path::Path, time::Duration};

use caps::Capability;
use serde::Serialize;
use tracing::debug;

use super::{privileges, selftest};
use crate::{
    kernel::{
        Kernel, LoadOptions, ProgramLog,
        allow::{self, Standing},
        btf,
    },
    rules::config::{KernelConfig, SockmapMode},
};

const CAPABILITIES: &str = "capabilities";

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where there is nothing to do.
    pub remedy: String,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it is needed.
    Ok,
    /// Not best, but no hindrance.
    Warning,
    /// What needs it does not work: the kernel relay is off because of it.
    Problem,
    /// Not looked at, because of a problem before it.
    Skipped,
}

impl Status {
    /// As JSON has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Skipped => "skipped",
        }
    }
}

impl Check {
    pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), remedy: String::new() }
    }

    pub(crate) fn problem_with(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name, status: Status::Problem, found: found.into(), remedy: remedy.into() }
    }

    pub(super) fn warning(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name, status: Status::Warning, found: found.into(), remedy: remedy.into() }
    }

    /// Whether it is a problem that privileges would solve.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.status == Status::Problem && self.name == CAPABILITIES
    }

    /// In one line, if it is a problem.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        (self.status == Status::Problem).then(|| {
            if self.remedy.is_empty() {
                self.found.clone()
            } else {
                format!("{} ({})", self.found, self.remedy)
            }
        })
    }
}

/// What was found.
#[derive(Debug)]
pub struct Availability {
    /// The loaded kernel relay, if there was no problem.
    pub kernel: Option<Kernel>,
    /// All checks, in order.
    pub checks: Vec<Check>,
    /// How long the self-test took, if it passed.
    pub self_test: Option<Duration>,
}

/// Makes the checks, and loads the kernel relay if they allow it.
#[must_use]
pub fn find(config: &KernelConfig) -> Availability {
    let mut checks = vec![
        switch(config.sockmap),
        version(config.sockmap),
        panic_on_warn(config.sockmap),
        btf_fields(),
        capabilities(),
    ];
    let hindered = checks.iter().any(|check| check.status == Status::Problem);
    let mut kernel = None;
    let mut self_test = None;
    if hindered {
        for name in ["program", "self-test"] {
            checks.push(Check {
                name,
                status: Status::Skipped,
                found: "not tried, because of the above".into(),
                remedy: String::new(),
            });
        }
    } else {
        let options = LoadOptions { flows: config.flows, log: program_log() };
        match Kernel::load(options) {
            Ok(loaded) => {
                checks.push(Check::ok("program", "loaded and attached"));
                let tested = selftest::run(&loaded);
                // Its traffic is not the users'.
                if let Err(error) = loaded.clear_stats() {
                    debug!(%error, "the verdict's counters keep the self-test's traffic");
                }
                checks.push(match &tested {
                    Ok(report) => Check::ok("self-test", report.to_string()),
                    Err(failure) => Check::problem_with(
                        "self-test",
                        failure.to_string(),
                        "report it with `uname -a` and `mux doctor --json`",
                    ),
                });
                self_test = tested.ok().map(|report| report.took());
                kernel = self_test.is_some().then_some(loaded);
            }
            Err(error) => checks.push(Check::problem_with(
                "program",
                error.to_string(),
                "RUST_LOG=aya=debug shows what the kernel said",
            )),
        }
    }
    checks.push(send_buffer(config));
    Availability { kernel, checks, self_test }
}

/// `MUX_PROGRAM_LOG=debug|trace` compiles the verdict's own log lines in.
fn program_log() -> ProgramLog {
    match std::env::var("MUX_PROGRAM_LOG").as_deref() {
        Ok("debug") => ProgramLog::Debug,
        Ok("trace") => ProgramLog::Trace,
        Ok(_) | Err(_) => ProgramLog::Off,
    }
}

fn switch(mode: SockmapMode) -> Check {
    match mode {
        SockmapMode::Auto => Check::ok("[kernel] sockmap", "auto"),
        SockmapMode::Force => Check::ok("[kernel] sockmap", "force"),
        SockmapMode::Off => Check::problem_with(
            "[kernel] sockmap",
            "switched off by [kernel] sockmap = \"off\"",
            "",
        ),
    }
}

fn version(mode: SockmapMode) -> Check {
    const NAME: &str = "kernel version";
    let Some(version) = allow::running() else {
        return Check::problem_with(NAME, "uname(2) names no version", "");
    };
    match (allow::judge(version), mode) {
        (Standing::Allowed, _) => Check::ok(NAME, version.to_string()),
        (Standing::Forcible(why), SockmapMode::Force) => {
            Check::warning(NAME, why, "forced; update the kernel")
        }
        (Standing::Forcible(why), SockmapMode::Auto | SockmapMode::Off) => Check::problem_with(
            NAME,
            why,
            "update the kernel, or set [kernel] sockmap = \"force\" if your distribution has the fix",
        ),
        (Standing::TooOld(why), _) => Check::problem_with(NAME, why, "update the kernel"),
    }
}

fn panic_on_warn(mode: SockmapMode) -> Check {
    judge_panic_on_warn(fs::read_to_string("/proc/sys/kernel/panic_on_warn"), mode)
}

/// What cannot be read counts as set: it is no time to find out with the machine.
fn judge_panic_on_warn(read: io::Result<String>, mode: SockmapMode) -> Check {
    const NAME: &str = "kernel.panic_on_warn";
    let found = match read.as_ref().map(|text| text.trim()) {
        Ok("0") => return Check::ok(NAME, "0"),
        Ok(value) => format!("{value}: a kernel warning in sockmap would end the machine"),
        Err(error) => format!("cannot be read ({error}): a kernel warning may end the machine"),
    };
    match mode {
        SockmapMode::Force => Check::warning(NAME, found, "forced"),
        SockmapMode::Auto | SockmapMode::Off => {
            Check::problem_with(NAME, found, "set it to 0, or set [kernel] sockmap = \"force\"")
        }
    }
}

fn btf_fields() -> Check {
    const NAME: &str = "BTF";
    match btf::offsets(Path::new(btf::VMLINUX)) {
        Ok(_) => Check::ok(NAME, btf::VMLINUX),
        Err(error) => Check::problem_with(NAME, error.to_string(), "use a kernel with BTF"),
    }
}

/// What loading needs: CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON.
pub(super) fn capabilities() -> Check {
    let admin = privileges::has(Capability::CAP_SYS_ADMIN);
    let missing: Vec<&str> = [
        ("CAP_BPF", admin || privileges::has(Capability::CAP_BPF)),
        ("CAP_NET_ADMIN", privileges::has(Capability::CAP_NET_ADMIN)),
        // bpf_skc_to_tcp_sock is offered to perfmon_capable() loaders only
        // (bpf_base_func_proto, kernel/bpf/helpers.c).
        ("CAP_PERFMON", admin || privileges::has(Capability::CAP_PERFMON)),
    ]
    .into_iter()
    .filter_map(|(name, there)| (!there).then_some(name))
    .collect();
    if missing.is_empty() {
        Check::ok(CAPABILITIES, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON")
    } else {
        Check::problem_with(
            CAPABILITIES,
            format!("missing: {}", missing.join(", ")),
            "start as root, or `setcap cap_bpf,cap_net_admin,cap_perfmon+ep` the binary",
        )
    }
}

fn send_buffer(config: &KernelConfig) -> Check {
    const NAME: &str = "net.core.wmem_max";
    let most = fs::read_to_string("/proc/sys/net/core/wmem_max")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match most {
        Some(most) if most < u64::from(config.send_buffer) => Check::warning(
            NAME,
            format!(
                "{most}: spliced sockets get smaller send buffers than [kernel] send_buffer = {}",
                config.send_buffer
            ),
            format!("sysctl -w net.core.wmem_max={}", config.send_buffer),
        ),
        Some(most) => Check::ok(NAME, most.to_string()),
        None => Check::warning(NAME, "cannot be read", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_on_warn_that_cannot_be_read_counts_as_set() {
        let judge = |read: io::Result<&str>, mode| {
            judge_panic_on_warn(read.map(str::to_owned), mode).status
        };
        let unreadable = || Err(io::ErrorKind::NotFound.into());
        for mode in [SockmapMode::Auto, SockmapMode::Force] {
            assert_eq!(judge(Ok("0\n"), mode), Status::Ok);
        }
        assert_eq!(judge(Ok("1\n"), SockmapMode::Auto), Status::Problem);
        assert_eq!(judge(unreadable(), SockmapMode::Auto), Status::Problem);
        assert_eq!(judge(Ok("1\n"), SockmapMode::Force), Status::Warning);
        assert_eq!(judge(unreadable(), SockmapMode::Force), Status::Warning);
    }
}
