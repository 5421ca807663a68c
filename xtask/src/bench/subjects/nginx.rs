//! nginx: the stream module with ssl_preread.

use std::path::Path;

use anyhow::Result;

use super::{Role, Running, Stage, Subject, version};
use crate::bench::{
    backend::{self, Address},
    template::Values,
    usage,
    work::{Service, Work},
};

const CONFIGURATION: &str = include_str!("../configs/nginx.conf");
/// Where Debian's package has it; builds that have it inside need no module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// nginx.
pub(super) struct Nginx;

impl Subject for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn about(&self) -> String {
        let version = version("nginx", "-v");
        let version = version.trim_start_matches("nginx version: ");
        format!("{version}; stream, ssl_preread: tells TLS by server name, and nothing else")
    }

    fn hindrance(&self, _: &dyn Work) -> Option<String> {
        None
    }

    fn start(&self, stage: &Stage<'_>) -> Result<Running> {
        let plain = match stage.service {
            // Nothing but TLS comes.
            Service::Hello | Service::Tls => Address::Tcp(stage.backends.closed),
            Service::Http | Service::HttpUnix | Service::Echo | Service::Source | Service::Sink => {
                stage.backends.address(stage.service)?
            }
        };
        let plain = match plain {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        let names = stage.names()?;
        let upstreams: String = names
            .iter()
            .map(|(name, server)| format!("    upstream {name} {{ server {server}; }}\n"))
            .collect();
        let map: String =
            names.iter().map(|(name, _)| format!("        {name} {name};\n")).collect();
        let has_module = Path::new(MODULE).is_file();
        let values = Values::from([
            ("directory", stage.directory.display().to_string()),
            ("listen", stage.address.to_string()),
            ("workers", stage.workers.to_string()),
            ("descriptors", backend::descriptors().to_string()),
            ("user", backend::nginx_user().to_owned()),
            ("module", if has_module { format!("load_module {MODULE};") } else { String::new() }),
            ("plain", plain),
            ("upstreams", upstreams),
            ("names", map),
        ]);
        let file = stage.write("nginx.conf", CONFIGURATION, &values)?;
        let mut running = stage.run(self.name(), &mut backend::nginx(stage.directory, &file)?)?;
        if let Some(program) = &mut running.program {
            // The first worker takes connections before the last one is there.
            let (root, all) = (program.id(), stage.workers + 1);
            program.wait_until("has not all workers", || usage::tree(root).len() >= all)?;
        }
        Ok(running)
    }
}
