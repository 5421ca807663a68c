//! How a daemon is started: with which rules, arguments, user, limits.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::Result;

use crate::{Daemon, NOBODY, Process, Scratch, binary, run, run_ok};

/// A daemon to be.
#[derive(Debug)]
pub struct Starter {
    rules: Rules,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    others: bool,
    file_capabilities: Option<String>,
    passed: Option<OwnedFd>,
}

#[derive(Debug)]
enum Rules {
    Text(String),
    File(PathBuf),
}

impl Starter {
    /// With these rules. What they leave out is added: `listen = "127.0.0.1:0"`, the access log as
    /// JSON, and `[kernel]`: from `MUX_TEST_SOCKMAP`, or with the packet relay if a rule asks for it.
    #[must_use]
    pub fn new(rules: &str) -> Self {
        Self { rules: Rules::Text(complete(rules)), ..Self::file(Path::new("")) }
    }

    /// With this rules file, as it is.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self {
            rules: Rules::File(path.to_owned()),
            wrapper: Vec::new(),
            arguments: Vec::new(),
            others: false,
            file_capabilities: None,
            passed: None,
        }
    }

    /// With this argument.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With these arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Without the kernel relay, whose self-test costs a good part of a second: for tests of
    /// anything but relays.
    #[must_use]
    pub fn user_space(self) -> Self {
        self.arguments(&["--relay", "copy"])
    }

    /// With a limit of open descriptors.
    #[must_use]
    pub fn descriptors(mut self, most: u32) -> Self {
        self.wrapper.extend(["prlimit".to_owned(), format!("--nofile={most}:{most}")]);
        self
    }

    /// On a kernel whose `call` fails with `error` (`"ENOSYS"`), as older ones do; by strace(1).
    #[must_use]
    pub fn without(mut self, call: &str, error: &str) -> Self {
        // -D: the daemon is the child, not strace.
        let options = ["strace", "-D", "-f", "-qq", "-o", "/dev/null"].map(str::to_owned);
        let inject = [format!("--trace={call}"), format!("--inject={call}:error={error}")];
        self.wrapper.extend(options.into_iter().chain(inject));
        self
    }

    /// With this file as its `/etc/hosts`: what is written into the file later counts, too. Needs
    /// root.
    #[must_use]
    pub fn hosts(mut self, file: &Path) -> Self {
        // A mount namespace of its own; `exec` keeps the process id.
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        self.wrapper.extend(["unshare", "--mount", "sh", "-c", script].map(str::to_owned));
        self.wrapper.push(file.display().to_string());
        self
    }

    /// On a kernel that does not say what its types look like. Needs root.
    #[must_use]
    pub fn without_btf(mut self) -> Self {
        let script = "mount --bind /dev/null /sys/kernel/btf/vmlinux && exec \"$@\"";
        self.wrapper.extend(["unshare", "--mount", "sh", "-c", script, "sh"].map(str::to_owned));
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.wrapper.extend(["env".to_owned(), format!("{name}={value}")]);
        self
    }

    /// Watched by a service manager that wants to hear of it this often, in microseconds.
    #[must_use]
    pub fn watched(mut self, period: u64) -> Self {
        // `exec` keeps the process id.
        let script = format!("WATCHDOG_PID=$$ WATCHDOG_USEC={period} exec \"$@\"");
        self.wrapper.extend(["sh", "-c", &script, "sh"].map(str::to_owned));
        self
    }

    /// With a socket that is passed as systemd passes sockets, once under each of these names.
    #[must_use]
    pub fn passing(mut self, socket: OwnedFd, names: &[&str]) -> Self {
        // It is the shell's standard input; `exec` keeps the process id.
        let redirections: String = (3..).zip(names).map(|(fd, _)| format!(" {fd}<&0")).collect();
        let script = format!(
            "exec{redirections} </dev/null; LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} exec \"$@\"",
            names.len(),
            names.join(":")
        );
        self.wrapper.extend(["sh", "-c", &script, "sh"].map(str::to_owned));
        self.passed = Some(socket);
        self
    }

    /// As another user, with these capabilities (`"bpf"`, `"net_admin"`, …) alone. Needs root.
    #[must_use]
    pub fn nobody(mut self, capabilities: &[&str]) -> Self {
        let number = NOBODY.to_string();
        self.wrapper.push("setpriv".to_owned());
        for id in ["--reuid", "--regid"] {
            self.wrapper.extend([id.to_owned(), number.clone()]);
        }
        self.wrapper.push("--clear-groups".to_owned());
        let sets: Vec<String> = std::iter::once("-all".to_owned())
            .chain(capabilities.iter().map(|name| format!("+{name}")))
            .collect();
        let sets = sets.join(",");
        for set in ["--inh-caps", "--ambient-caps"] {
            self.wrapper.extend([set.to_owned(), sets.clone()]);
        }
        self.others = true;
        self
    }

    /// As another user without capabilities, and with a program file that has these (`"bpf"`, …).
    /// Needs root.
    #[must_use]
    pub fn file_capabilities(self, capabilities: &[&str]) -> Self {
        let names: Vec<String> = capabilities.iter().map(|name| format!("cap_{name}")).collect();
        Self { file_capabilities: Some(format!("{}=ep", names.join(","))), ..self.nobody(&[]) }
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ends before, or does not get there; the error has its log.
    pub fn start(self) -> Result<Daemon> {
        let scratch = Scratch::new()?;
        let mut command = self.command(&scratch)?;
        let process = match self.passed {
            Some(socket) => Process::start_with(command.stdin(socket))?,
            None => Process::start(&mut command)?,
        };
        // What else holds the socket.
        drop(command);
        Daemon::ready(process, scratch)
    }

    /// Runs it to its end: for daemons that cannot serve.
    ///
    /// # Errors
    /// It does not end.
    pub fn fail(self) -> Result<Output> {
        let scratch = Scratch::new()?;
        run(&mut self.command(&scratch)?)
    }

    fn command(&self, scratch: &Scratch) -> Result<Command> {
        let rules = match &self.rules {
            Rules::Text(text) => scratch.write("rules.toml", text)?,
            Rules::File(path) => path.clone(),
        };
        let mux =
            if self.others { binary::for_others(&scratch.join("mux"))? } else { binary::mux()? };
        if let Some(capabilities) = &self.file_capabilities {
            run_ok(Command::new("setcap").arg(capabilities).arg(&mux))?;
        }
        let mut command = match self.wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(mux);
                command
            }
            None => Command::new(mux),
        };
        command.arg("--rules").arg(rules).args(&self.arguments).env_remove("RUST_LOG");
        Ok(command)
    }
}

/// Adds what tests would otherwise all have to write.
pub(crate) fn complete(rules: &str) -> String {
    let mut text = String::new();
    if !rules.contains("listen = ") && !rules.contains("[[listener]]") {
        text.push_str("listen = \"127.0.0.1:0\"\n");
    }
    text.push_str(rules);
    if !rules.contains("[log]") {
        text.push_str("\n[log]\naccess = \"json\"\n");
    }
    if rules.contains("[kernel]") {
        return text;
    }
    // Packets are forced: the machine that tests run on may track connections. The other relay's
    // self-test costs a good part of a second.
    if rules.contains("relay = \"packet\"") {
        text.push_str("\n[kernel]\npacket = \"force\"\nsockmap = \"off\"\n");
    } else if let Ok(mode) = std::env::var("MUX_TEST_SOCKMAP") {
        text.push_str(&format!("\n[kernel]\nsockmap = \"{mode}\"\n"));
    }
    text
}

/// Runs `mux check` on a file.
///
/// # Errors
/// It does not end.
pub(crate) fn check(path: &Path) -> Result<Output> {
    run(Command::new(binary::mux()?).arg("check").arg("--rules").arg(path))
}
