//! A package's life in a Debian of its own, without systemd: installed, served from, upgraded with a
//! changed configuration and under a running daemon, purged.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{root::Kind, sh};

const RULES: &str = "etc/mux/rules.toml";
/// What an administrator writes.
const OURS: &str = "# ours\n";
/// What the newer package brings.
const THEIRS: &str = "# theirs\n";
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the newer package's program calls itself: of the same length, as it is written over the other.
pub(super) const NEWER: &str = "9.9.9";
/// What is in the package, besides the program and a manual page for each command.
const FILES: [&str; 12] = [
    "etc/mux/rules.toml",
    "usr/lib/systemd/system/mux.service",
    "usr/lib/tmpfiles.d/mux.conf",
    "usr/share/bash-completion/completions/mux",
    "usr/share/doc/mux/examples/alerts.yml",
    "usr/share/doc/mux/examples/grafana.json",
    "usr/share/doc/mux/examples/ssh-and-https.toml",
    "usr/share/doc/mux/guide.md",
    "usr/share/doc/mux/rules.md",
    "usr/share/fish/vendor_completions.d/mux.fish",
    "usr/share/man/man1/mux.1.gz",
    "usr/share/zsh/vendor-completions/_mux",
];
/// Files that dpkg and the C library keep of every package.
const KEPT: [&str; 4] = ["var/lib/dpkg/", "var/log/", "var/cache/", "etc/ld.so.cache"];

/// Tries it all.
pub(super) fn run(package: &Path) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "trying the package wants root: it makes a Debian to change its root directory to"
    );
    let directory = tempfile::tempdir()?;
    let debian = Debian::unpack(&directory)?;
    let before = debian.files()?;

    debian.dpkg(&["--install"], Some(package))?;
    contents(&debian, package)?;
    let version = debian.output(&["mux", "--version"])?;
    ensure!(version.starts_with(&format!("mux {VERSION}")), "mux --version: {version}");
    debian.output(&["mux", "check", "--rules", "/etc/mux/rules.toml"])?;
    // systemd-tmpfiles is not in a Debian without systemd.
    fs::create_dir_all(debian.0.join("run/mux"))?;
    let daemon = Serving::start(&debian)?;
    daemon.says(VERSION)?;

    let rules = debian.0.join(RULES);
    let text = read(&rules)? + OURS;
    fs::write(&rules, &text)?;
    debian.dpkg(&["--force-confold", "--install"], Some(&newer(package, &directory)?))?;
    ensure!(read(&rules)? == text, "the upgrade has changed {RULES}");
    let offered = rules.with_extension("toml.dpkg-dist");
    ensure!(read(&offered)?.ends_with(THEIRS), "the newer {RULES} is not offered");
    // The program has been replaced under the daemon, which goes on, until it is told.
    daemon.says(VERSION)?;
    debian.output(&["mux", "upgrade"])?;
    daemon.says(NEWER)?;
    let status = debian.output(&["mux", "status"])?;
    ensure!(status.contains("serving"), "{status}");
    drop(daemon);
    // Its keeper was killed with it.
    let _ = fs::remove_file(debian.0.join("run/mux/admin.sock"));

    debian.dpkg(&["--remove", "mux"], None)?;
    ensure!(read(&rules)? == text, "removal has changed {RULES}");
    // What the service would have made.
    fs::create_dir_all(debian.0.join("var/log/private/mux"))?;
    debian.dpkg(&["--purge", "mux"], None)?;
    ensure!(!debian.0.join("var/log/private/mux").exists(), "the logs are left");
    let left: Vec<String> = debian.files()?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "left after the purge: {}", left.join(" "));
    sh::status("the package: installed, served, upgraded, removed, purged");
    Ok(())
}

/// A root directory.
struct Debian(PathBuf);

impl Debian {
    fn unpack(directory: &TempDir) -> Result<Self> {
        let root = directory.path().join("debian");
        Kind { name: "root", packages: &[] }.unpack(&root)?;
        Ok(Self(root))
    }

    fn chroot(&self) -> Command {
        let mut command = sh::program("chroot");
        command.arg(&self.0).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        sh::output(self.chroot().args(arguments))
    }

    fn dpkg(&self, arguments: &[&str], package: Option<&Path>) -> Result<()> {
        let mut command = self.chroot();
        command.arg("dpkg").args(arguments);
        if let Some(package) = package {
            let name = package.file_name().context("a file")?;
            fs::copy(package, self.0.join("tmp").join(name))?;
            command.arg(Path::new("/tmp").join(name));
        }
        sh::run(&mut command)
    }

    /// Every file, but [`KEPT`] ones and temporary ones.
    fn files(&self) -> Result<BTreeSet<String>> {
        let list = sh::output(
            sh::program("find")
                .arg(&self.0)
                .args(["-xdev", "-not", "-type", "d", "-printf", "%P\\n"]),
        )?;
        let kept = |file: &&str| {
            !file.starts_with("tmp/") && !KEPT.iter().any(|kept| file.starts_with(kept))
        };
        Ok(list.lines().filter(kept).map(str::to_owned).collect())
    }
}

/// A daemon with the rules of the package, in a network and a process namespace of its own. With this,
/// all processes in there end.
struct Serving(Child);

impl Serving {
    fn start(debian: &Debian) -> Result<Self> {
        // mux must not be the first process of its namespace, which would end with it.
        let script = "ip link set lo up && mount -t proc proc \"$0/proc\" && \
                      { chroot \"$0\" /usr/bin/mux --rules /etc/mux/rules.toml & } && \
                      exec 2>/dev/null sleep infinity";
        let mut daemon = sh::program("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script])
            .arg(&debian.0)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start unshare")?;
        let log = BufReader::new(daemon.stderr.take().context("no standard error")?);
        let serving = Self(daemon);
        let mut lines = log.lines().map_while(Result::ok);
        let mut said = Vec::new();
        let ready = lines.any(|line| {
            let ready = line.ends_with(" INFO ready");
            said.push(line);
            ready
        });
        ensure!(ready, "the daemon does not start:\n{}", said.join("\n"));
        // Somebody has to read on, or it ends with the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(serving)
    }

    /// Asks it what it is.
    fn says(&self, version: &str) -> Result<()> {
        let id = self.0.id().to_string();
        let mut curl = sh::program("nsenter");
        curl.args(["--net", "--target", &id, "curl", "--silent", "--fail", "--max-time", "10"]);
        let answer = sh::output(curl.arg("http://127.0.0.1:3000/"))?;
        ensure!(answer.contains("web (matched)"), "{answer}");
        ensure!(answer.contains(&format!("mux/{version}")), "not of mux {version}: {answer}");
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended, if this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks for what people expect of a package, besides the program.
fn contents(debian: &Debian, package: &Path) -> Result<()> {
    let list = sh::output(sh::program("dpkg-deb").arg("--contents").arg(package))?;
    let files: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5)?.strip_prefix("./"))
        .collect();
    let help = debian.output(&["mux", "--help"])?;
    let commands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help");
    let mut expected: Vec<String> =
        commands.map(|command| format!("usr/share/man/man1/mux-{command}.1.gz")).collect();
    ensure!(expected.len() > 10, "{help}");
    expected.extend(FILES.map(str::to_owned));
    let missing: Vec<String> =
        expected.into_iter().filter(|file| !files.contains(file.as_str())).collect();
    ensure!(missing.is_empty(), "the package lacks {}", missing.join(" "));
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The same package with a higher version and another configuration file.
pub(super) fn newer(package: &Path, directory: &TempDir) -> Result<PathBuf> {
    let tree = directory.path().join("newer");
    let package_2 = directory.path().join("mux-newer.deb");
    sh::run(sh::program("dpkg-deb").arg("--raw-extract").arg(package).arg(&tree))?;
    let control = tree.join("DEBIAN/control");
    let text = read(&control)?;
    let Some(version) = text.lines().find(|line| line.starts_with("Version: ")) else {
        bail!("the package has no version");
    };
    fs::write(&control, text.replacen(version, &format!("{version}+newer"), 1))?;
    let rules = tree.join(RULES);
    fs::write(&rules, read(&rules)? + THEIRS)?;
    rename(&tree.join("usr/bin/mux"))?;
    let mut build = sh::program("dpkg-deb");
    sh::run(build.args(["--root-owner-group", "--build"]).arg(&tree).arg(&package_2))?;
    Ok(package_2)
}

/// Has a program call itself [`NEWER`], in what it answers over HTTP and with `--version`.
fn rename(program: &Path) -> Result<()> {
    let mut bytes = fs::read(program)?;
    for (before, after) in [("mux/", ""), ("", " (eBPF object")] {
        let [old, new] = [VERSION, NEWER].map(|version| format!("{before}{version}{after}"));
        ensure!(old.len() == new.len(), "{NEWER} is not as long as {VERSION}");
        let at = bytes.windows(old.len()).position(|window| window == old.as_bytes());
        let at = at.with_context(|| format!("{old:?} is not in {}", program.display()))?;
        bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    Ok(fs::write(program, bytes)?)
}
