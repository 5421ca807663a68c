//! `mux doctor`: what this kernel and these privileges allow, and what to do about each missing
//! thing.

use std::io::{self, Write};

use serde::Serialize;

use crate::{
    kernel::object,
    rules::config::{Config, PacketMode},
    server::{Availability, Status, find, packets, sandbox, transparent},
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: &'static str,
    object: String,
    relay: &'static str,
    checks: &'a [crate::server::Check],
}

/// Prints every check; true: the best relay is to be had, and all that the rules ask for.
///
/// # Errors
/// Writing's.
pub fn run(config: &Config, json: bool, output: &mut impl Write) -> io::Result<bool> {
    let Availability { kernel, mut checks, self_test: _ } = find(&config.kernel);
    let packets = packets::find(config, None);
    let identity = transparent::checks(config);
    let wants_packets = config.kernel.packet != PacketMode::Off;
    let best = kernel.is_some()
        && (packets.kernel.is_some() || !wants_packets)
        && identity.iter().all(|check| check.status != Status::Problem);
    let relay = match (&packets.kernel, &kernel) {
        (Some(_), Some(_)) => "packet, sockmap",
        (Some(_), None) => "packet, user space (splice, copy)",
        (None, Some(_)) => "sockmap",
        (None, None) => "user space (splice, copy)",
    };
    checks.extend(packets.checks);
    checks.extend(identity);
    checks.extend(sandbox::checks(&config.security));
    if json {
        let report = Report {
            version: env!("CARGO_PKG_VERSION"),
            object: format!("{} {}", object::ORIGIN, object::HASH),
            relay,
            checks: &checks,
        };
        serde_json::to_writer_pretty(&mut *output, &report)?;
        writeln!(output)?;
        return Ok(best);
    }
    for check in &checks {
        let mark = match check.status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "PROBLEM",
            Status::Skipped => "skipped",
        };
        writeln!(output, "{mark:8} {:20} {}", check.name, check.found)?;
        if !check.remedy.is_empty() {
            writeln!(output, "{:8} {:20} do: {}", "", "", check.remedy)?;
        }
    }
    writeln!(output, "relay in force: {relay}")?;
    Ok(best)
}
