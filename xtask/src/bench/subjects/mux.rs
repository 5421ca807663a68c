//! mux, once for each relay.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Role, Running, Stage, Subject, tcp};
use crate::{
    bench::{
        backend::Address,
        template::Values,
        work::{Headline, Service, Work},
    },
    run::Privileges,
    sh,
};

const RULES: &str = include_str!("../configs/mux.toml");

/// mux with a relay.
pub(super) struct Mux {
    program: PathBuf,
    relay: Relay,
}

/// What `--relay` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relay {
    /// Nothing: as it comes.
    Auto,
    Copy,
    Splice,
    Sockmap,
    /// With `[kernel] packet`, which is off as it comes.
    Packet,
}

impl Mux {
    pub(super) fn new(program: &Path, relay: Relay) -> Self {
        Self { program: program.to_owned(), relay }
    }

    /// The command that starts it, with its rules file written.
    ///
    /// # Errors
    /// The file system's.
    fn command(&self, stage: &Stage<'_>) -> Result<Command> {
        let at =
            |service| -> Result<String> { Ok(tcp(&stage.backends.address(service)?)?.to_string()) };
        let http = match stage.http()? {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        let names: String = stage
            .names()?
            .iter()
            .map(|(name, server)| rule(name, name, &server.to_string()))
            .collect();
        let values = Values::from([
            ("listen", stage.address.to_string()),
            ("packet", if self.relay == Relay::Packet { "auto" } else { "off" }.to_owned()),
            ("closed", stage.backends.closed.to_string()),
            ("echo", at(Service::Echo)?),
            ("source", at(Service::Source)?),
            ("sink", at(Service::Sink)?),
            ("http", http),
            ("names", names),
            ("admin", admin(stage).display().to_string()),
        ]);
        let file = stage.write("rules.toml", RULES, &values)?;
        let mut command = Privileges::here().command(&self.program);
        command.arg("--rules").arg(file).args(["--threads", &stage.workers.to_string()]);
        match self.relay {
            Relay::Auto => {}
            Relay::Copy => drop(command.args(["--relay", "copy"])),
            Relay::Splice => drop(command.args(["--relay", "splice"])),
            Relay::Sockmap => drop(command.args(["--relay", "sockmap"])),
            Relay::Packet => drop(command.args(["--relay", "packet"])),
        }
        command.env_remove("RUST_LOG");
        Ok(command)
    }

    /// What it says of itself.
    fn status(&self, stage: &Stage<'_>) -> Result<Value> {
        let mut command = Command::new(&self.program);
        command.args(["status", "--json", "--socket"]).arg(admin(stage));
        Ok(serde_json::from_str(&sh::output(&mut command)?)?)
    }

    /// Flows that went to the kernel so far: to its sockmap, or to the translation of packets.
    fn promoted(&self, stage: &Stage<'_>) -> Result<u64> {
        let counter = if self.relay == Relay::Packet { "packet_on" } else { "promoted" };
        let status = self.status(stage)?;
        status["counters"][counter].as_u64().context("mux's count of promoted flows")
    }

    /// How many of this work's flows have to go to the kernel.
    fn least_promoted(&self, work: &dyn Work) -> u64 {
        let connections = u64::from(work.connections());
        match (self.relay, work.service(), work.headline()) {
            (Relay::Sockmap, Service::Echo, _) | (Relay::Packet, _, Headline::Memory) => {
                connections
            }
            (Relay::Packet, ..) if work.is_conversation() => connections,
            (Relay::Auto, Service::Echo, Headline::Rate) if connections == 1 => 1,
            (Relay::Auto | Relay::Copy | Relay::Splice | Relay::Sockmap | Relay::Packet, ..) => 0,
        }
    }

    /// Whether this build takes rules by server name, which it is asked itself.
    fn knows_names(&self) -> bool {
        let rules = "listen = \"127.0.0.1:1\"\n".to_owned() + &rule("n", "a.test", "127.0.0.1:2");
        let Ok(directory) = tempfile::tempdir() else { return false };
        let file = directory.path().join("rules.toml");
        std::fs::write(&file, rules).is_ok()
            && sh::succeeds(Command::new(&self.program).args(["check", "--rules"]).arg(&file))
    }
}

impl Subject for Mux {
    fn name(&self) -> &'static str {
        match self.relay {
            Relay::Auto => "mux",
            Relay::Copy => "mux-copy",
            Relay::Splice => "mux-splice",
            Relay::Sockmap => "mux-sockmap",
            Relay::Packet => "mux-packet",
        }
    }

    fn role(&self) -> Role {
        Role::Mux
    }

    fn about(&self) -> String {
        let relay = match self.relay {
            Relay::Auto => "relay chosen by evidence",
            Relay::Copy => "`--relay copy`",
            Relay::Splice => "`--relay splice`",
            Relay::Sockmap => "`--relay sockmap`",
            Relay::Packet => "`--relay packet`, `[kernel] packet = \"auto\"`",
        };
        let version = sh::output(Command::new(&self.program).arg("--version"));
        format!("{}, {relay}", version.unwrap_or_else(|_| "mux".to_owned()))
    }

    fn hindrance(&self, work: &dyn Work) -> Option<String> {
        if work.name() == "connect" && self.relay != Relay::Auto {
            return Some("no byte, no relay: as mux".to_owned());
        }
        let needs_kernel = matches!(self.relay, Relay::Sockmap | Relay::Packet);
        if work.service() == Service::HttpUnix && needs_kernel {
            return Some("the kernel's relays take TCP only".to_owned());
        }
        if work.service().has_names() && !self.knows_names() {
            return Some("this version has no rules by server name".to_owned());
        }
        if needs_kernel && Privileges::here() == Privileges::None {
            return Some("the kernel's relays need root or capabilities".to_owned());
        }
        None
    }

    fn start(&self, stage: &Stage<'_>) -> Result<Running> {
        let mut running = stage.run(self.name(), &mut self.command(stage)?)?;
        if let Some(program) = &mut running.program {
            // It listens before it has loaded and tested the kernel relay.
            program.wait_until_said(" ready")?;
        }
        Ok(running)
    }

    fn verify(&self, stage: &Stage<'_>, work: &dyn Work) -> Result<()> {
        let least = self.least_promoted(work);
        if least > 0 {
            let promoted = self.promoted(stage)?;
            ensure!(promoted >= least, "{promoted} flows went to the kernel, of {least} at least");
        }
        Ok(())
    }

    fn has_packet_flows(&self, work: &dyn Work) -> bool {
        self.relay == Relay::Packet && work.is_conversation()
    }

    fn packet_share(&self, stage: &Stage<'_>, work: &dyn Work) -> Result<f64> {
        share(&self.status(stage)?, work.connections())
    }
}

/// The packet relay's share of the flows that there are.
fn share(status: &Value, connections: u32) -> Result<f64> {
    let flows = status["flows"].as_object().context("mux's count of flows")?;
    let all: u64 = flows.values().filter_map(Value::as_u64).sum();
    // Fewer: it was asked too early or too late, and those that are missing may be any.
    ensure!(all >= u64::from(connections), "{all} flows, and {connections} connections");
    let packet = status["flows"]["packet"].as_u64().context("mux's count of translated flows")?;
    Ok(packet as f64 / all as f64)
}

/// Where it answers questions about itself.
fn admin(stage: &Stage<'_>) -> PathBuf {
    stage.directory.join("admin.sock")
}

/// A rule by server name.
fn rule(name: &str, server_name: &str, upstream: &str) -> String {
    format!(
        "\n[[rule]]\nname = \"{name}\"\nmatch = {{ tls = {{ sni = [\"{server_name}\"] }} }}\n\
         upstream = \"{upstream}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::work;

    #[test]
    fn a_share_is_of_all_flows_and_none_may_be_missing() {
        let status = json!({ "flows": { "copy": 1, "splice": 0, "sockmap": 0, "packet": 31 } });
        assert_eq!(share(&status, 32).unwrap(), 31.0 / 32.0);
        let error = share(&status, 33).unwrap_err().to_string();
        assert_eq!(error, "32 flows, and 33 connections");
        assert!(share(&json!({}), 0).is_err());
    }

    #[test]
    fn the_packet_relay_has_to_have_what_it_is_measured_by() {
        let mux = |relay| Mux::new(Path::new("mux"), relay);
        let least = |name: &str| mux(Relay::Packet).least_promoted(&*work::named(name).unwrap());
        assert_eq!(["http-keep-32", "echo-64-64", "idle-5000"].map(least), [32, 64, 5000]);
        assert_eq!(["http-close-32", "connect", "bulk-1", "tiny-both-16"].map(least), [0; 4]);
        let unix = work::named("http-unix-32").unwrap();
        assert!(mux(Relay::Packet).hindrance(&*unix).is_some());
        assert!(!mux(Relay::Sockmap).has_packet_flows(&*work::named("echo-64-1").unwrap()));
    }
}
