//! What is known of a flow that hangs, before its ends are closed: every socket's state, and what the
//! daemon says. It goes into a file, for whoever has to find out why.

use std::{
    fmt::Write as _,
    fs,
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use mux_tests::admin::AdminSocket;

use crate::board::Flow;

/// Where to look; once a run.
#[derive(Debug)]
pub(crate) struct Autopsy {
    /// Network namespaces; none: the tool's own.
    namespaces: Vec<String>,
    /// The daemon, once it runs.
    pub(crate) daemon: OnceLock<Arc<AdminSocket>>,
    done: AtomicBool,
}

impl Autopsy {
    /// Of a run in these namespaces.
    pub(crate) const fn new(namespaces: Vec<String>) -> Self {
        Self { namespaces, daemon: OnceLock::new(), done: AtomicBool::new(false) }
    }

    /// Writes down what is known, of the first flow that hangs.
    pub(crate) fn of(&self, flow: &Flow) {
        if self.done.swap(true, Ordering::Relaxed) {
            return;
        }
        match self.write(flow) {
            Ok(path) => eprintln!("torture: flow {} hangs: {path}", flow.number),
            Err(error) => eprintln!("torture: flow {} hangs; {error:#}", flow.number),
        }
    }

    fn write(&self, flow: &Flow) -> Result<String> {
        let mut text =
            format!("flow {}, client {:?}\n{:?}\n", flow.number, flow.address(), flow.script);
        if self.namespaces.is_empty() {
            sockets(&mut text, "this namespace", &mut Command::new("ss"))?;
        }
        for name in &self.namespaces {
            sockets(&mut text, name, Command::new("ip").args(["netns", "exec", name, "ss"]))?;
        }
        for page in ["/flows", "/metrics"] {
            let answer = self.daemon.get().context("no daemon yet")?.get(page)?;
            writeln!(text, "== {page}\n{}", answer.body)?;
        }
        let (_, path) = tempfile::Builder::new().prefix("torture-hang-").tempfile()?.keep()?;
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

fn sockets(text: &mut String, name: &str, command: &mut Command) -> Result<()> {
    let output = command.arg("-tinemOH").output().context("ss(8)")?;
    writeln!(text, "== {name}\n{}", String::from_utf8_lossy(&output.stdout))?;
    Ok(())
}
