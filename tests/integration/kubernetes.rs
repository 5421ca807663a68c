//! Rules in a mounted ConfigMap, with the script that the Helm chart's second container runs. The
//! kubelet is played: `rules.toml` is a link to `..data/rules.toml`, and `..data` a link that is
//! replaced as a whole.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Process, Scratch, Starter, admin::AdminSocket, mux, repository};
use rustix::process::Signal;

/// A ConfigMap, mounted.
struct Mounted(Scratch);

impl Mounted {
    fn new(rules: &str) -> Result<Self> {
        let mounted = Self(Scratch::new()?);
        mounted.replace("..1", rules)?;
        symlink("..data/rules.toml", mounted.rules())?;
        Ok(mounted)
    }

    fn rules(&self) -> PathBuf {
        self.0.join("rules.toml")
    }

    /// As kubelet's AtomicWriter does it.
    fn replace(&self, version: &str, rules: &str) -> Result<()> {
        fs::create_dir(self.0.join(version))?;
        self.0.write(&format!("{version}/rules.toml"), rules)?;
        let (old, new) = (fs::read_link(self.0.join("..data")), self.0.join("..data_tmp"));
        symlink(version, &new)?;
        fs::rename(new, self.0.join("..data"))?;
        match old {
            Ok(old) => Ok(fs::remove_dir_all(self.0.join(&old.display().to_string()))?),
            Err(_) => Ok(()),
        }
    }
}

fn rules(upstream: &str, socket: &AdminSocket) -> String {
    format!(
        "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = \"{upstream}\"\n[log]\naccess = \"json\"\n{}",
        socket.rules()
    )
}

fn script(directory: &Path, socket: &Path) -> Result<Process> {
    let daemon = mux()?;
    let programs = daemon.parent().context("a directory")?;
    let path = format!("{}:{}", programs.display(), env::var("PATH").unwrap_or_default());
    let script = repository().join("packaging/helm/mux/files/reload.sh");
    // A tenth of a second, which sleep(1) of Debian's image takes, too.
    let mut command = Command::new("sh");
    command.arg(script).arg(directory).arg("0.1").arg(socket).env("PATH", path);
    Process::start(&mut command)
}

fn loaded(process: &Process, what: &str, nth: usize) -> Result<()> {
    let mut seen = 0;
    process.wait_out(what, |line| {
        seen += usize::from(line.contains("(generation "));
        (seen == nth).then_some(())
    })
}

#[test]
fn rules_of_a_configmap_are_reloaded_when_it_changes() -> Result<()> {
    let socket = AdminSocket::new()?;
    let mounted = Mounted::new(&rules("builtin:echo", &socket))?;
    let daemon: Daemon = Starter::file(&mounted.rules()).user_space().start()?;
    let held = daemon.connect()?;
    held.send("held")?;
    held.expect("held")?;

    let mut script = script(mounted.0.path(), &socket.path())?;
    // What has changed before the script was there.
    loaded(&script, "a first reload", 1)?;

    mounted.replace("..2", &rules("builtin:whoami", &socket))?;
    loaded(&script, "a second reload", 2)?;
    let new: Conn = daemon.connect()?;
    new.send("x")?;
    new.expect("client:")?;

    mounted.replace("..3", "listen = nonsense\n")?;
    script.wait_err("what is wrong", |line| line.starts_with("error: reload: ").then_some(()))?;
    mounted.replace("..4", &rules("builtin:echo", &socket))?;
    loaded(&script, "a third reload", 3)?;
    held.send("still")?;
    held.expect("still")?;

    script.signal(Signal::TERM)?;
    ensure!(script.wait()?.success(), "the script does not end when it is told to");
    Ok(())
}
