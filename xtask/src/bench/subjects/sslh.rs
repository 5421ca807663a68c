//! sslh: the event-loop variant that is there, and the one with a process for each connection.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context as _, Result};

use super::{Role, Running, Stage, Subject, tcp, version};
use crate::{
    bench::{
        template::Values,
        work::{Service, Work},
    },
    sh,
};

const CONFIGURATION: &str = include_str!("../configs/sslh.cfg");
/// Descriptors that select(2) can watch (`FD_SETSIZE`).
const SELECT: u32 = 1024;

/// A variant of sslh.
pub(super) struct Sslh {
    name: &'static str,
    program: &'static str,
}

impl Sslh {
    /// sslh-ev where there is one (from 2.0 on), else sslh-select.
    pub(super) fn fastest() -> Self {
        let program = if sh::find("sslh-ev").is_some() { "sslh-ev" } else { "sslh-select" };
        Self { name: "sslh", program }
    }

    /// The one that forks.
    pub(super) fn fork() -> Self {
        let program = if sh::find("sslh-fork").is_some() { "sslh-fork" } else { "sslh" };
        Self { name: "sslh-fork", program }
    }
}

impl Subject for Sslh {
    fn name(&self) -> &'static str {
        self.name
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn about(&self) -> String {
        let kind = match self.program {
            "sslh-ev" => "one process, libev",
            "sslh-select" => "one process, select(2)",
            _ => "a process for each connection",
        };
        format!("{}; {kind}", version(self.program, "-V"))
    }

    fn hindrance(&self, work: &dyn Work) -> Option<String> {
        if work.service() == Service::HttpUnix {
            return Some("connects to no Unix sockets before 2.0".to_owned());
        }
        if self.program == "sslh-select" && 2 * work.connections() >= SELECT {
            return Some(format!("select(2) watches {SELECT} descriptors"));
        }
        None
    }

    fn start(&self, stage: &Stage<'_>) -> Result<Running> {
        let at = |service| -> Result<SocketAddr> { tcp(&stage.backends.address(service)?) };
        let http = tcp(&stage.http()?)?;
        let names: String = stage
            .names()?
            .iter()
            .map(|(name, server)| {
                format!(
                    "    {{ name: \"tls\"; host: \"{}\"; port: \"{}\"; log_level: 0; \
                     sni_hostnames: [ \"{name}\" ]; }},\n",
                    server.ip(),
                    server.port()
                )
            })
            .collect();
        let is_root = rustix::process::geteuid().is_root();
        let mut values = Values::from([
            ("host", stage.address.ip().to_string()),
            ("port", stage.address.port().to_string()),
            ("user", if is_root { "user: \"nobody\";" } else { "" }.to_owned()),
            ("names", names),
        ]);
        for (host, port, address) in [
            ("closed_host", "closed_port", stage.backends.closed),
            ("echo_host", "echo_port", at(Service::Echo)?),
            ("source_host", "source_port", at(Service::Source)?),
            ("sink_host", "sink_port", at(Service::Sink)?),
            ("http_host", "http_port", http),
        ] {
            values.insert(host, address.ip().to_string());
            values.insert(port, address.port().to_string());
        }
        let file = stage.write("sslh.cfg", CONFIGURATION, &values)?;
        let program =
            sh::find(self.program).with_context(|| format!("{} is not installed", self.program))?;
        stage.run(self.name, Command::new(program).arg(format!("-F{}", file.display())))
    }
}
