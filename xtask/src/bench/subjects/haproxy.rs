//! HAProxy: mode tcp, content switching.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Role, Running, Stage, Subject, tcp, version};
use crate::{
    bench::{
        backend::Address,
        template::Values,
        work::{Service, Work},
    },
    sh,
};

const CONFIGURATION: &str = include_str!("../configs/haproxy.cfg");

/// HAProxy.
pub(super) struct Haproxy;

impl Subject for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn about(&self) -> String {
        let version = version("haproxy", "-v");
        let version = version.split(" - ").next().unwrap_or_default();
        format!("{version}; mode tcp, content switching, splice-auto")
    }

    fn hindrance(&self, _: &dyn Work) -> Option<String> {
        None
    }

    fn start(&self, stage: &Stage<'_>) -> Result<Running> {
        let at =
            |service| -> Result<String> { Ok(tcp(&stage.backends.address(service)?)?.to_string()) };
        let http = match stage.http()? {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix@{}", path.display()),
        };
        let names = stage.names()?;
        // A map is what its manual recommends for many names: one look-up, not a rule each.
        let map: String = names.iter().map(|(name, _)| format!("{name} {name}\n")).collect();
        let map_file = stage.directory.join("names.map");
        std::fs::write(&map_file, map)?;
        let choice =
            format!("    use_backend %[req.ssl_sni,lower,map({})] if is_tls", map_file.display());
        let backends: String = names
            .iter()
            .map(|(name, server)| format!("backend {name}\n    server s {server}\n"))
            .collect();
        let is_root = rustix::process::geteuid().is_root();
        let values = Values::from([
            ("listen", stage.address.to_string()),
            ("workers", stage.workers.to_string()),
            ("user", if is_root { "    user nobody\n    group nogroup\n" } else { "" }.to_owned()),
            ("closed", stage.backends.closed.to_string()),
            ("echo", at(Service::Echo)?),
            ("source", at(Service::Source)?),
            ("sink", at(Service::Sink)?),
            ("http", http),
            ("names", if names.is_empty() { String::new() } else { choice }),
            ("backends", backends),
        ]);
        let file = stage.write("haproxy.cfg", CONFIGURATION, &values)?;
        let program = sh::find("haproxy").context("haproxy is not installed")?;
        stage.run(self.name(), Command::new(program).args(["-db", "-f"]).arg(file))
    }
}
