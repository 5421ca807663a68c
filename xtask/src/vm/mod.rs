//! `cargo xtask vm`: the kernel relay on other kernels. Boots Debian's cloud kernels in QEMU, with
//! nothing in the machine but the daemon and what tests it.
//!
//! `kernels` says which, `debian` gets them, `modules` sorts out what they load; `payload` says what
//! is run, `initramfs` (with `cpio`) packs it; `qemu` finds the emulator, `machine` boots, `report` reads what the machine
//! says, `verdict` judges, `table` prints. In the machine, `mux-vm-init` of `mux-tests` is init.

mod cpio;
mod debian;
mod initramfs;
mod kernels;
mod machine;
mod modules;
mod payload;
mod progress;
mod qemu;
mod report;
mod table;
mod verdict;

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::{
    debian::Kernel,
    initramfs::Content,
    kernels::{SOURCES, Source},
    machine::Run,
    payload::{Payload, Size},
    progress::Progress,
    qemu::Qemu,
    verdict::Verdict,
};
use crate::{
    apt,
    daemon::{self, Object, Profile},
    sh,
};

/// `cargo xtask vm`.
#[derive(clap::Args, Debug)]
pub(crate) struct VmArgs {
    /// Kernels: 5.10, 6.1, 6.12, newest (or 7.x); by default all
    #[arg(value_name = "KERNEL", value_parser = kernels::by_name)]
    kernels: Vec<&'static Source>,
    /// Less torture, fewer tests
    #[arg(long)]
    quick: bool,
    /// Keep consoles, reports and initramfs also where nothing is wrong
    #[arg(long)]
    keep: bool,
    /// Get the kernels again: Debian may have newer ones
    #[arg(long)]
    update: bool,
    /// Longest that a machine may run
    #[arg(long, value_name = "SECONDS", default_value_t = 1500)]
    timeout: u64,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Arguments for the torture tool, in place of its own here
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Boots the kernels asked for and prints the table.
///
/// # Errors
/// Something needed cannot be had, or a kernel's verdict is not good; the message names it.
pub(crate) fn command(args: &VmArgs) -> Result<()> {
    let mux = daemon::build(Profile::Release, Object::Best)?;
    let kernels: Vec<&Source> =
        if args.kernels.is_empty() { SOURCES.iter().collect() } else { args.kernels.clone() };
    let verdicts = test(&mux, &kernels, args)?;
    if args.json {
        println!("{:#}", json!(verdicts));
    } else {
        print!("{}", table::render(&verdicts));
    }
    succeed(&verdicts)
}

/// All kernels, with little torture, as a step of `cargo xtask test`. Gives the kernels that were not
/// to be had: if that is all of them, the archive is out of reach, which says nothing about mux.
///
/// # Errors
/// As [`command`]; a kernel on which mux splices by default was not to be had, and others were.
pub(crate) fn quick(mux: &Path) -> Result<Vec<&'static str>> {
    let args = VmArgs {
        kernels: Vec::new(),
        quick: true,
        keep: false,
        update: false,
        timeout: 600,
        json: false,
        arguments: Vec::new(),
    };
    let verdicts = test(mux, &SOURCES.iter().collect::<Vec<_>>(), &args)?;
    eprint!("{}", table::render(&verdicts));
    let missing: Vec<&str> = missing(&verdicts).collect();
    succeed(&binding(verdicts))?;
    Ok(missing)
}

fn missing(verdicts: &[Verdict]) -> impl Iterator<Item = &'static str> {
    verdicts.iter().filter(|verdict| verdict.missing.is_some()).map(|verdict| verdict.kernel)
}

/// Those that have to be good: all but the kernels that were not to be had where that is no failure.
fn binding(verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let is_out_of_reach = verdicts.iter().all(|verdict| verdict.missing.is_some());
    let splices = |verdict: &Verdict| {
        SOURCES.iter().any(|source| source.name == verdict.kernel && source.splices)
    };
    let binds =
        |verdict: &Verdict| verdict.missing.is_none() || (!is_out_of_reach && splices(verdict));
    verdicts.into_iter().filter(binds).collect()
}

/// Why this machine cannot run the others, if it cannot.
pub(crate) fn hindrance() -> Option<String> {
    let architecture = std::env::consts::ARCH;
    (architecture != "x86_64")
        .then(|| format!("the machines run this one's programs, which are for {architecture}"))
}

fn succeed(verdicts: &[Verdict]) -> Result<()> {
    let failed: Vec<String> = verdicts
        .iter()
        .filter(|verdict| !verdict.is_good())
        .map(|verdict| {
            let problems = verdict.problems.iter().chain(&verdict.missing);
            let problems: Vec<&str> = problems.map(String::as_str).collect();
            format!("{}: {}", verdict.kernel, problems.join("; "))
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    // The reasons once more, since the end of a long output is what one reads.
    bail!("{}\nhint: {} has what the machines said", failed.join("\n"), runs().display())
}

fn cache() -> PathBuf {
    sh::root().join(".cache/vm")
}

fn runs() -> PathBuf {
    cache().join("runs")
}

fn test(mux: &Path, kernels: &[&'static Source], args: &VmArgs) -> Result<Vec<Verdict>> {
    if let Some(hindrance) = hindrance() {
        bail!("{hindrance}");
    }
    let qemu = install()?;
    fs::create_dir_all(runs())?;
    // Two at once would write into each other's files.
    let lock = File::create(cache().join("lock"))?;
    lock.lock().context("cannot wait for another `cargo xtask vm`")?;

    let (content, payloads) = content(mux, args)?;
    let names: Vec<&str> = payloads.iter().map(|payload| payload.name).collect();
    let verdicts = kernels
        .iter()
        .map(|source| {
            let mut progress = Progress::new(source.name);
            progress.now("gets the kernel");
            let verdict = match debian::kernel(source, &cache(), args.update) {
                Ok(kernel) => match boot(&qemu, source, &kernel, &content, args, &mut progress) {
                    Ok(run) => Verdict::new(source, &run, &names),
                    Err(error) => Verdict::failed(source, &error),
                },
                Err(error) => Verdict::missing(source, &error),
            };
            if verdict.is_good() && !args.keep {
                // It is in nobody's way if it stays.
                let _ = fs::remove_dir_all(runs().join(source.name));
            }
            let word = match (&verdict.missing, verdict.is_good()) {
                (Some(_), _) => "not to be had",
                (None, true) => "good",
                (None, false) => "FAILED",
            };
            progress.end(&format!("{word}, {:.0} s", verdict.seconds));
            verdict
        })
        .collect();
    Ok(verdicts)
}

/// What the machines need of this one, and the Debian package of each.
fn install() -> Result<Qemu> {
    let programs = [
        ("apt-get", "apt"),
        ("dpkg-deb", "dpkg"),
        ("ip", "iproute2"),
        ("ldd", "libc-bin"),
        ("nft", "nftables"),
        ("tc", "iproute2"),
        ("xz", "xz-utils"),
        ("zstd", "zstd"),
    ];
    let mut missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| sh::find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !Path::new(debian::KEYRING).exists() {
        missing.push("debian-archive-keyring");
    }
    apt::install(&missing)?;
    Qemu::get(&cache())
}

/// Boots a Debian with the programs and the units that are in `root`, whose `init` is the first process,
/// and a kernel of its release; what it has written to its second serial line.
///
/// # Errors
/// There is no kernel or no emulator to be had ([`NotToBeHad`]), or it does not end in time.
pub(crate) fn boot_debian(root: &Path, limit: Duration) -> Result<String> {
    let not_to_be_had = |error: anyhow::Error| error.context(NotToBeHad);
    let source = kernels::by_name(DEBIAN).map_err(anyhow::Error::msg)?;
    let qemu = install().map_err(not_to_be_had)?;
    fs::create_dir_all(runs())?;
    let lock = File::create(cache().join("lock"))?;
    lock.lock().context("cannot wait for another `cargo xtask vm`")?;
    let kernel = debian::kernel(source, &cache(), false).map_err(not_to_be_had)?;
    let directory = runs().join("systemd");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    let initramfs = directory.join("initramfs.cpio");
    let mut archive = cpio::Archive::default();
    archive.tree(root)?;
    fs::write(&initramfs, archive.finish())?;
    let run = machine::run(&qemu, &kernel.image, &initramfs, &directory, limit, &mut |_| {})?;
    fs::remove_file(initramfs)?;
    let said = fs::read_to_string(directory.join("report.log")).unwrap_or_default();
    if run.end == machine::End::TimedOut {
        bail!("it does not end within {} s:\n{}\n{said}", limit.as_secs(), run.console);
    }
    Ok(said)
}

/// The kernel of Debian 12, which `root.rs` makes on Debian 12.
const DEBIAN: &str = "6.1";

/// Why nothing was booted: something cannot be got here, which is no failure of mux's.
#[derive(Debug)]
pub(crate) struct NotToBeHad;

impl std::fmt::Display for NotToBeHad {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("what a virtual machine needs is not to be had")
    }
}

/// Builds what runs in the machines.
fn content(mux: &Path, args: &VmArgs) -> Result<(Content, Vec<Payload>)> {
    let built = test_programs()?;
    let named = |name: &str| built.iter().find(|path| path.file_name() == Some(name.as_ref()));
    let init = named("mux-vm-init").context("mux-tests has no mux-vm-init")?.clone();
    let torture = named(payload::TORTURE);
    let mut programs = vec![mux.to_owned()];
    programs.extend(torture.cloned());
    for tests in payload::TESTS {
        programs.push(tests_of(&built, tests)?);
    }
    programs.extend(payload::HOST_PROGRAMS.iter().filter_map(|program| sh::find(program)));
    let size = if args.quick { Size::QUICK } else { Size::FULL };
    let payloads = payload::list(size, torture.is_some(), &args.arguments);
    Ok((Content { init, programs, payload: payload::file(&payloads) }, payloads))
}

/// A program of tests, under a name without a hash.
fn tests_of(built: &[PathBuf], tests: &str) -> Result<PathBuf> {
    let is_it = |path: &&PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.strip_prefix(tests).is_some_and(|rest| rest.starts_with('-')))
    };
    let from =
        built.iter().find(is_it).with_context(|| format!("mux-tests has no {tests} tests"))?;
    let to = cache().join(tests);
    fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
    Ok(to)
}

/// Builds the programs of `mux-tests`, and asks cargo where they are: what lies about
/// from an older build is not taken.
fn test_programs() -> Result<Vec<PathBuf>> {
    let mut cargo = sh::cargo();
    cargo.args(["build", "--release", "--package", "mux-tests", "--bins"]);
    cargo.args(payload::TESTS.iter().flat_map(|tests| ["--test", tests]));
    let messages = sh::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    Ok(messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect())
}

fn boot(
    qemu: &Qemu,
    source: &Source,
    kernel: &Kernel,
    content: &Content,
    args: &VmArgs,
    progress: &mut Progress,
) -> Result<Run> {
    progress.now("packs the machine");
    let directory = runs().join(source.name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    let initramfs = directory.join("initramfs.cpio");
    fs::write(&initramfs, content.archive(&modules::read(&kernel.modules)?)?)?;
    let limit = Duration::from_secs(args.timeout);
    machine::run(qemu, &kernel.image, &initramfs, &directory, limit, &mut |what| progress.now(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(missing: &[&str]) -> Vec<Verdict> {
        let one = |source: &'static Source| {
            if missing.contains(&source.name) {
                Verdict::missing(source, &anyhow::anyhow!("no archive"))
            } else {
                Verdict { kernel: source.name, ..Verdict::default() }
            }
        };
        SOURCES.iter().map(one).collect()
    }

    #[test]
    fn a_kernel_that_mux_splices_on_may_be_missing_only_with_all_others() {
        assert!(succeed(&binding(verdicts(&[]))).is_ok());
        assert!(succeed(&binding(verdicts(&["5.10"]))).is_ok());
        for splices in ["6.1", "6.12", "newest"] {
            assert!(succeed(&binding(verdicts(&[splices]))).is_err(), "{splices}");
        }
        let all = verdicts(&SOURCES.map(|source| source.name));
        assert_eq!(missing(&all).count(), SOURCES.len());
        assert!(succeed(&binding(all)).is_ok());
    }
}
