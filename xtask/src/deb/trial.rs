//! A package's life in a Debian of its own, without systemd: installed, served from, upgraded with a
//! changed configuration, purged.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::sh;

const RULES: &str = "etc/mux/rules.toml";
/// What an administrator writes.
const OURS: &str = "# ours\n";
/// What the newer package brings.
const THEIRS: &str = "# theirs\n";
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
    let version = debian.output(&["mux", "--version"])?;
    ensure!(version.starts_with("mux "), "mux --version: {version}");
    debian.output(&["mux", "check", "--rules", "/etc/mux/rules.toml"])?;
    debian.serve()?;

    let rules = debian.0.join(RULES);
    let text = read(&rules)? + OURS;
    fs::write(&rules, &text)?;
    debian.dpkg(&["--force-confold", "--install"], Some(&newer(package, &directory)?))?;
    ensure!(read(&rules)? == text, "the upgrade has changed {RULES}");
    let offered = rules.with_extension("toml.dpkg-dist");
    ensure!(read(&offered)?.ends_with(THEIRS), "the newer {RULES} is not offered");
    debian.serve()?;

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
    /// The essential packages of the release that this is, from a copy that is made once.
    fn unpack(directory: &TempDir) -> Result<Self> {
        let archive = sh::root().join(".cache/deb/root.tar");
        if !archive.exists() {
            let parent = archive.parent().context("a directory")?;
            fs::create_dir_all(parent)?;
            let new = parent.join("new.tar");
            sh::status("making a small Debian, once");
            let mut make = sh::program("mmdebstrap");
            make.args(["--quiet", "--variant=essential", &release()?]).arg(&new);
            sh::run(make.args(sources()))?;
            fs::rename(new, &archive)?;
        }
        let root = directory.path().join("debian");
        fs::create_dir(&root)?;
        sh::run(
            sh::program("tar").arg("--extract").arg("--file").arg(archive).arg("-C").arg(&root),
        )?;
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

    /// Starts the daemon with the rules of the package, in a network of its own, and asks it.
    fn serve(&self) -> Result<()> {
        let script = "ip link set lo up && exec chroot \"$0\" \
                      /usr/bin/mux --rules /etc/mux/rules.toml";
        let mut daemon = sh::program("unshare")
            .args(["--net", "sh", "-c", script])
            .arg(&self.0)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start unshare")?;
        let asked = ask(&mut daemon);
        daemon.kill()?;
        daemon.wait()?;
        asked
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

fn ask(daemon: &mut Child) -> Result<()> {
    let log = BufReader::new(daemon.stderr.take().context("no standard error")?);
    let mut lines = Vec::new();
    let ready = log.lines().map_while(Result::ok).any(|line| {
        let ready = line.ends_with(" INFO ready");
        lines.push(line);
        ready
    });
    ensure!(ready, "the daemon does not start:\n{}", lines.join("\n"));
    let id = daemon.id().to_string();
    let mut curl = sh::program("nsenter");
    curl.args(["--net", "--target", &id, "curl", "--silent", "--fail", "--max-time", "10"]);
    let answer = sh::output(curl.arg("http://127.0.0.1:3000/"))?;
    ensure!(answer.contains("web (matched)"), "{answer}");
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The same package with a higher version and another configuration file.
fn newer(package: &Path, directory: &TempDir) -> Result<PathBuf> {
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
    let mut build = sh::program("dpkg-deb");
    sh::run(build.args(["--root-owner-group", "--build"]).arg(&tree).arg(&package_2))?;
    Ok(package_2)
}

/// The code name of this machine's Debian.
fn release() -> Result<String> {
    let text = read(Path::new("/etc/os-release"))?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("this system has no code name")?.trim_matches('"').to_owned())
}

/// Where this machine gets its packages; none: mmdebstrap's own idea.
fn sources() -> Vec<&'static str> {
    let files = ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"];
    files.into_iter().filter(|file| Path::new(file).exists()).collect()
}
