//! `cargo xtask newcomer`: what a new user does, in a fresh Debian with nothing but what README.md says is
//! enough. README's commands are run as they stand there, in two terminals.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{apt, root::Kind, sh};

/// `cargo xtask newcomer`.
#[derive(clap::Args, Debug)]
pub(crate) struct NewcomerArgs {
    /// Write what is printed to docs/first-run.md, too
    #[arg(long)]
    write_docs: bool,
    /// Longest that the build may take
    #[arg(long, value_name = "MINUTES", default_value_t = 40)]
    timeout: u64,
}

/// "Rust 1.95 or newer (rustup.rs) and a C linker", and what the commands themselves are.
const DEBIAN: Kind = Kind {
    name: "newcomer",
    packages: &["ca-certificates", "curl", "gcc", "git", "iproute2", "libc6-dev"],
};
/// Where the repository is, in there.
const REPOSITORY: &str = "/srv/mux.git";
/// What README.md has for it.
const PLACEHOLDER: &str = "<this repository>";
/// The daemon's port.
const PORT: u16 = 3000;
const PAGE: &str = "docs/first-run.md";
/// What the daemon says when it accepts connections.
const READY: &str = " INFO ready";

/// Does it, and prints what a newcomer sees.
///
/// # Errors
/// A command fails, or its answer is not mux's.
pub(crate) fn command(args: &NewcomerArgs) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "making a Debian to try it in wants root");
    ensure!(
        std::net::TcpListener::bind(("127.0.0.1", PORT)).is_ok(),
        "port {PORT}, which rules.toml has, is in use on this machine"
    );
    apt::install(&["mmdebstrap"])?;
    let directory = tempfile::tempdir()?;
    let newcomer = Newcomer::arrive(directory.path())?;
    let [first, second] = readme()?;

    let mut transcript = String::new();
    let mut terminal = newcomer.type_in(&first, &directory.path().join("first"))?;
    let patience = Duration::from_secs(60 * args.timeout);
    let log = terminal.wait_for(READY, patience)?;
    let log = shortened(&log);
    for line in &second {
        let answer = newcomer.run(line)?;
        ensure!(answer.contains("rule:     web"), "`{line}` says {answer}");
        transcript += &format!("$ {line}\n{answer}\n");
    }
    let last = terminal.interrupt()?;
    ensure!(last.contains(" INFO stopped: "), "it does not stop: {last}");
    // From a shell of its own: what the guide does next.
    let mut guide = String::new();
    for line in ["install -m 755 mux/target/release/mux /usr/local/bin/mux", "mux doctor"] {
        guide += &format!("# {line}\n{}", newcomer.run(line)?);
    }
    ensure!(guide.contains("relay in force: "), "{guide}");

    let text = page(&log, &transcript, &shortened(&last), &guide);
    println!("{text}");
    if args.write_docs {
        fs::write(sh::root().join(PAGE), text)?;
    }
    Ok(())
}

/// README's commands: in one terminal, and "in another terminal".
fn readme() -> Result<[Vec<String>; 2]> {
    let text = fs::read_to_string(sh::root().join("README.md"))?;
    let section = text.split("\n## Run it\n").nth(1).context("README has no `Run it`")?;
    let mut blocks = section.split("```console").skip(1).map(|block| {
        let block = block.split("```").next().unwrap_or_default();
        let commands = block.lines().filter_map(|line| line.strip_prefix("$ "));
        commands.map(str::to_owned).collect::<Vec<_>>()
    });
    let two = [blocks.next(), blocks.next()].map(Option::unwrap_or_default);
    ensure!(two.iter().all(|commands| !commands.is_empty()), "README has no commands: {two:?}");
    ensure!(two[0][0].contains(PLACEHOLDER), "README clones something else: {}", two[0][0]);
    Ok(two)
}

/// A Debian with a newcomer in it.
struct Newcomer {
    root: PathBuf,
    /// The directory of rustc and cargo, the same inside as outside.
    toolchain: PathBuf,
}

impl Newcomer {
    fn arrive(directory: &Path) -> Result<Self> {
        let root = directory.join("debian");
        DEBIAN.unpack(&root)?;
        let toolchain = sh::output(sh::program("rustc").args(["--print", "sysroot"]))?;
        // What this machine reaches the world by.
        for file in ["etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"] {
            if let Ok(there) = fs::read(Path::new("/").join(file)) {
                fs::write(root.join(file), there)?;
            }
        }
        // As it is committed; a work tree's own `.git` may lead elsewhere.
        let mut clone = sh::program("git");
        clone.args(["clone", "--quiet", "--bare", "."]).arg(root.join(&REPOSITORY[1..]));
        sh::run(&mut clone)?;
        Ok(Self { root, toolchain: toolchain.into() })
    }

    /// A command in there, with mounts that end with it.
    fn shell(&self, script: &str) -> Command {
        let outside = "set -e; root=$1 toolchain=$2
            mount -t proc proc \"$root/proc\"
            mount --rbind /sys \"$root/sys\"
            mount --rbind /dev \"$root/dev\"
            mkdir -p \"$root$toolchain\"
            mount --bind \"$toolchain\" \"$root$toolchain\"
            exec chroot \"$root\" env -i HOME=/root LANG=C.UTF-8 \
                \"PATH=$toolchain/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\" \
                sh -c \"cd /root; $3\"";
        let mut command = sh::program("unshare");
        command.args(["--mount", "sh", "-c", outside, "sh"]);
        command.arg(&self.root).arg(&self.toolchain).arg(script);
        command
    }

    /// Types these lines into a new terminal; the last one goes on.
    fn type_in(&self, lines: &[String], output: &Path) -> Result<Terminal> {
        let script: Vec<String> = lines
            .iter()
            .map(|line| {
                let run = line.replace(PLACEHOLDER, REPOSITORY);
                format!("echo '$ {line}'\n{run}")
            })
            .collect();
        let file = fs::File::create(output)?;
        let mut shell = self.shell(&format!("set -e\n{}", script.join("\n")));
        let child = std::os::unix::process::CommandExt::process_group(&mut shell, 0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("cannot start unshare")?;
        Ok(Terminal { child, output: output.to_owned() })
    }

    /// A command in another terminal; what it prints.
    fn run(&self, line: &str) -> Result<String> {
        let output =
            self.shell(&format!("{line} 2>&1")).output().context("cannot start unshare")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "`{line}` fails: {text}");
        Ok(text)
    }
}

/// What runs in the foreground of a terminal.
struct Terminal {
    child: Child,
    output: PathBuf,
}

impl Terminal {
    fn printed(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    fn wait_for(&mut self, text: &str, patience: Duration) -> Result<String> {
        let end = Instant::now() + patience;
        loop {
            let printed = self.printed()?;
            if printed.contains(text) {
                return Ok(printed);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended, {status}:\n{}", self.printed()?);
            }
            ensure!(Instant::now() < end, "no `{text}` within {patience:?}:\n{printed}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ctrl-C, as a terminal sends it; what is printed after it.
    fn interrupt(mut self) -> Result<String> {
        let before = self.printed()?.len();
        self.signal(Signal::INT)?;
        let end = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "it does not end:\n{}", self.printed()?);
            thread::sleep(Duration::from_millis(50));
        }
        Ok(self.printed()?[before..].to_owned())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let group = Pid::from_raw(self.child.id().cast_signed()).context("a process id")?;
        Ok(kill_process_group(group, signal)?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It is told, and if it does not listen there is nothing else to do.
            let _ = self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Without the hundreds of lines about crates.
fn shortened(log: &str) -> String {
    let mut short = String::new();
    let mut crates = 0;
    for line in log.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if ["Compiling", "Downloaded", "Downloading", "Updating"].contains(&first) {
            crates += usize::from(first == "Compiling");
            continue;
        }
        if crates > 0 {
            short += &format!("   Compiling … ({crates} crates)\n");
            crates = 0;
        }
        short += line;
        short.push('\n');
    }
    short
}

fn page(log: &str, curl: &str, last: &str, guide: &str) -> String {
    let day = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let day = day.split('T').next().unwrap_or_default();
    let packages = DEBIAN.packages.join(", ");
    format!(
        "# A first run
<!-- Made by `cargo xtask newcomer --write-docs` on {day}. -->
What a newcomer sees, on a fresh Debian 12 that has its essential packages, Rust, and {packages}: [README](../README.md)'s commands, as they stand there. Lines about crates are counted, not shown.
```text
{log}```
In another terminal:
```text
{curl}```
Ctrl-C in the first one:
```text
^C
{last}```
Then, as the [guide](guide.md) goes on:
```text
{guide}```
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_has_the_commands() -> Result<()> {
        let [first, second] = readme()?;
        assert!(first.last().is_some_and(|line| line.starts_with("cargo xtask run")));
        assert!(second[0].starts_with("curl "));
        Ok(())
    }

    #[test]
    fn crates_are_counted() {
        let log = "$ cargo\n    Updating x\n   Compiling a v1\n   Compiling b v1\n    Finished\n";
        assert_eq!(shortened(log), "$ cargo\n   Compiling … (2 crates)\n    Finished\n");
    }
}
