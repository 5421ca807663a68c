//! Whether the packet relay is to be had: checks, each with what was found and what to do, and the
//! programs loaded and attached if they allow it. The sockmap relay does not depend on any of them.

use std::{fs, net::SocketAddr, time::Duration};

use super::{
    Check, Status,
    availability::capabilities,
    devices::{self, Devices},
    packettest,
};
use mux_common::packet::PacketStats;

use crate::{
    kernel::{
        allow::{self, Version},
        packet::{Mechanism, PacketKernel, PacketOptions},
    },
    relay::packet::Gate,
    rules::config::{Config, PacketMode},
};

/// `bpf_redirect_neigh` (5.10, commit b4ab31414970).
const OLDEST: Version = Version { major: 5, minor: 10, patch: 0 };
/// `bpf_sk_assign` of sockets with `SO_REUSEPORT` (6.6, commit 9c02bec95954).
const ASSIGNS: Version = Version { major: 6, minor: 6, patch: 0 };
const CONNTRACK: &str = "/proc/sys/net/netfilter";

/// What was found.
#[derive(Debug)]
pub struct Packets {
    /// The loaded and attached programs, if there was no problem.
    pub kernel: Option<PacketKernel>,
    /// All checks, in order.
    pub checks: Vec<Check>,
    /// How long the self-test took, if it passed.
    pub self_test: Option<Duration>,
}

/// Makes the checks, and loads and attaches the programs if they allow it. `listening`: the
/// listeners' addresses, if they are bound.
#[must_use]
pub fn find(config: &Config, listening: Option<&[SocketAddr]>) -> Packets {
    let mode = config.kernel.packet;
    let mut found = Packets { kernel: None, checks: vec![switch(mode)], self_test: None };
    if mode == PacketMode::Off {
        return found;
    }
    found.checks.extend([version(), conntrack(mode)]);
    // Their own row is the sockmap relay's, which needs the same.
    let lacking = capabilities().problem();
    found.checks.extend(lacking.map(|why| Check::problem_with("packet: rights", why, "")));
    let hindered = found.checks.iter().any(|check| check.status == Status::Problem);
    if hindered {
        for name in [DEVICES, SELF_TEST] {
            found.checks.push(Check {
                name,
                status: Status::Skipped,
                found: "not tried, because of the above".into(),
                remedy: String::new(),
            });
        }
        return found;
    }
    match load(config, listening) {
        Err(problem) => found.checks.push(problem),
        Ok((kernel, check)) => {
            found.checks.push(check);
            let tested = packettest::run(&kernel);
            found.checks.push(match &tested {
                Ok(took) => Check::ok(SELF_TEST, format!("passed in {} ms", took.as_millis())),
                Err(failure) => Check::problem_with(
                    SELF_TEST,
                    failure.clone(),
                    "report it with `uname -a` and `mux doctor --json`",
                ),
            });
            found.self_test = tested.ok();
            found.kernel = found.self_test.is_some().then_some(kernel);
        }
    }
    found
}

impl Packets {
    /// Why it is not in force; `None`: it is.
    #[must_use]
    pub fn why_not(&self) -> Option<String> {
        if self.kernel.is_some() {
            return None;
        }
        let problem = self.checks.iter().find_map(Check::problem);
        Some(problem.unwrap_or_else(|| "switched off by [kernel] packet = \"off\"".into()))
    }

    /// Where the programs are attached, for a log line.
    #[must_use]
    pub fn devices(&self) -> String {
        self.kernel.as_ref().map(names).unwrap_or_default()
    }
}

const SWITCH: &str = "[kernel] packet";
const DEVICES: &str = "packet: devices";
const SELF_TEST: &str = "packet: self-test";

fn switch(mode: PacketMode) -> Check {
    match mode {
        PacketMode::Auto => Check::ok(SWITCH, "auto"),
        PacketMode::Force => Check::ok(SWITCH, "force"),
        PacketMode::Off => Check {
            name: SWITCH,
            status: Status::Skipped,
            found: "off: packets are not translated".into(),
            remedy: String::new(),
        },
    }
}

fn version() -> Check {
    const NAME: &str = "packet: kernel";
    match allow::running() {
        Some(version) => judge_version(NAME, version),
        None => Check::problem_with(NAME, "uname(2) names no version", ""),
    }
}

fn judge_version(name: &'static str, version: Version) -> Check {
    if version >= ASSIGNS {
        Check::ok(name, version.to_string())
    } else if version >= OLDEST {
        Check::warning(
            name,
            format!(
                "{version} is older than {ASSIGNS}: flows are not translated of which one end is \
                 on another machine and one at an address of this one that is not a loopback one"
            ),
            "update the kernel, or let upstreams on this machine be at 127.0.0.1 or ::1",
        )
    } else {
        Check::problem_with(name, format!("{version} is older than {OLDEST}"), "update the kernel")
    }
}

/// A translated packet that goes up the stack has sequence numbers that connection tracking has not
/// seen: INVALID, which rule sets drop.
fn conntrack(mode: PacketMode) -> Check {
    const NAME: &str = "packet: conntrack";
    let read = |name: &str| {
        let text = fs::read_to_string(format!("{CONNTRACK}/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let tracked = read("nf_conntrack_count");
    let is_liberal = read("nf_conntrack_tcp_be_liberal") == Some(1);
    judge_conntrack(NAME, mode, tracked, is_liberal)
}

fn judge_conntrack(
    name: &'static str,
    mode: PacketMode,
    tracked: Option<u64>,
    is_liberal: bool,
) -> Check {
    let tracked = match tracked {
        None => return Check::ok(name, "not loaded"),
        Some(0) => return Check::ok(name, "tracks no connection"),
        Some(_) if is_liberal => return Check::ok(name, "liberal"),
        Some(tracked) => tracked,
    };
    let found = format!(
        "tracks {tracked} connections, strictly: a rule that drops INVALID packets drops \
         translated ones"
    );
    match mode {
        PacketMode::Force => Check::warning(name, found, "forced"),
        PacketMode::Auto | PacketMode::Off => Check::problem_with(
            name,
            found,
            "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1, or set [kernel] packet = \
             \"force\" if there is no such rule",
        ),
    }
}

/// Loads the programs and attaches them.
fn load(config: &Config, listening: Option<&[SocketAddr]>) -> Result<(PacketKernel, Check), Check> {
    let problem = |found: String, remedy: &str| Check::problem_with(DEVICES, found, remedy);
    let Devices { numbers, are_named } = devices::wanted(config, listening)
        .map_err(|error| problem(error.to_string(), "`ip -brief link` prints their names"))?;
    let mut kernel =
        PacketKernel::load(PacketOptions::new(config.kernel.flows)).map_err(|error| {
            problem(error.to_string(), "RUST_LOG=aya=debug shows what the kernel said")
        })?;
    let mechanism = mechanism();
    let mut without = Vec::new();
    for number in numbers {
        match kernel.attach_by(mechanism, &[number]) {
            Ok(()) => {}
            // Loopback is needed for every flow with an end on this machine, and for the self-test.
            Err(error) if are_named || number == mux_common::packet::LOOPBACK => {
                return Err(problem(error.to_string(), "leave it out of [kernel] interfaces"));
            }
            Err(error) => without.push(error.to_string()),
        }
    }
    let attached = names(&kernel);
    let check = if without.is_empty() {
        Check::ok(DEVICES, attached)
    } else {
        let found = format!("{attached}; not {}", without.join("; "));
        Check::warning(DEVICES, found, "flows that use the others are not translated")
    };
    Ok((kernel, check))
}

/// `MUX_PACKET_MECHANISM=clsact` attaches the programs as on kernels before 6.6, to try that on others.
fn mechanism() -> Mechanism {
    match std::env::var("MUX_PACKET_MECHANISM").as_deref() {
        Ok("clsact") => Mechanism::Clsact,
        Ok(_) | Err(_) => Mechanism::of_this_kernel(),
    }
}

fn names(kernel: &PacketKernel) -> String {
    let attachments = kernel.attachments();
    let names: Vec<&str> = attachments.iter().map(|one| one.name()).collect();
    let mechanism = match attachments.first().map(|one| one.mechanism()) {
        Some(Mechanism::Tcx) => " (tcx)",
        Some(Mechanism::Clsact) => " (clsact)",
        None => "",
    };
    names.join(", ") + mechanism
}

/// A core's way to it. Take them all before privileges are dropped.
///
/// # Errors
/// What the kernel said.
pub(super) fn gate(kernel: &PacketKernel) -> Result<Gate, super::ServeError> {
    let handle = kernel.handle()?;
    let routes = crate::net::route::Routes::new().map_err(super::io_error("opening netlink"))?;
    let devices = kernel.attachments().iter().map(|one| one.device()).collect();
    let assigns = allow::running().is_some_and(|running| running >= ASSIGNS);
    Ok(Gate { handle, routes, devices, assigns })
}

/// The programs' counters that are not zero, `name=value` each.
#[must_use]
pub(super) fn summary(stats: &PacketStats) -> String {
    let PacketStats {
        armed,
        translated,
        shortcuts,
        slow_options,
        acks_diverted,
        untranslatable,
        dropped,
        too_big,
        no_socket,
        resets_put_right,
        resets_dropped,
        events_lost,
        refused,
    } = *stats;
    [
        ("armed", armed),
        ("translated", translated),
        ("shortcuts", shortcuts),
        ("slow_options", slow_options),
        ("acks_diverted", acks_diverted),
        ("untranslatable", untranslatable),
        ("dropped", dropped),
        ("too_big", too_big),
        ("no_socket", no_socket),
        ("resets_put_right", resets_put_right),
        ("resets_dropped", resets_dropped),
        ("events_lost", events_lost),
        ("refused", refused.iter().sum()),
    ]
    .iter()
    .filter(|(_, value)| *value > 0)
    .map(|(name, value)| format!("{name}={value}"))
    .collect::<Vec<_>>()
    .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_what_it_lacks() {
        let judge = |major, minor| judge_version("x", Version { major, minor, patch: 0 });
        assert_eq!(judge(6, 6).status, Status::Ok);
        assert_eq!(judge(5, 9).status, Status::Problem);
        for (major, minor) in [(5, 10), (6, 5)] {
            let check = judge(major, minor);
            assert_eq!(check.status, Status::Warning);
            assert!(check.found.contains("6.6"), "{}", check.found);
        }
    }

    #[test]
    fn strict_conntrack_is_a_problem_only_where_it_tracks() {
        let judge = |mode, tracked, liberal| judge_conntrack("x", mode, tracked, liberal).status;
        assert_eq!(judge(PacketMode::Auto, None, false), Status::Ok);
        assert_eq!(judge(PacketMode::Auto, Some(0), false), Status::Ok);
        assert_eq!(judge(PacketMode::Auto, Some(5), true), Status::Ok);
        assert_eq!(judge(PacketMode::Auto, Some(5), false), Status::Problem);
        assert_eq!(judge(PacketMode::Force, Some(5), false), Status::Warning);
    }
}
