//! `cargo xtask fuzz`: random inputs for every parser, with libFuzzer and the address sanitizer.
//!
//! The corpora in `mux-userspace/fuzz/corpus` are what earlier runs found worth keeping, made
//! small; a run starts from them and from the probes' fixtures, and a test replays them. How long
//! a run is, is counted in the fuzzer's processor time: on a busy machine, a minute on the clock
//! may be ten seconds of work.

mod record;
mod seeds;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use self::record::Run;
use crate::sh;

/// Every target: a file in `fuzz_targets`, one in `checks`, a folder in `corpus`.
const TARGETS: [&str; 7] = ["probes", "heads", "route", "rules", "import", "proxy", "networks"];

/// Seconds on the clock after which the fuzzer is started anew, from what it has found: its time
/// is known when it has ended.
const SLICE: u32 = 60;

/// Most bytes of an input that is kept.
const LONGEST_KEPT: usize = 1024;

/// `cargo xtask fuzz`.
#[derive(clap::Args, Debug)]
pub(crate) struct FuzzArgs {
    /// Targets; by default all of them, one after the other
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
    /// How long for each target, in seconds of processor time
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
    /// Make the corpus small afterwards, keep it, and write down in docs/internals/fuzzing.md what ran
    #[arg(long)]
    keep: bool,
    /// A command that runs the fuzzer, such as `nice`
    #[arg(long, value_name = "COMMAND")]
    with: Option<PathBuf>,
}

/// Fuzzes; an input that fails is in `mux-userspace/fuzz/artifacts`.
///
/// # Errors
/// A target fails, or cannot be built.
pub(crate) fn command(args: &FuzzArgs) -> Result<()> {
    ensure_cargo_fuzz()?;
    let chosen: Vec<&str> = if args.targets.is_empty() {
        TARGETS.to_vec()
    } else {
        args.targets.iter().map(String::as_str).collect()
    };
    for target in chosen {
        let fuzzer = Fuzzer::build(target, args.with.as_deref())?;
        sh::status(format!("fuzzing {target} for {} s of processor time", args.seconds));
        let run = fuzzer.run(Duration::from_secs(args.seconds.into()))?;
        sh::status(format!("{target}: {run}"));
        if args.keep {
            fuzzer.keep()?;
            record::write(target, &run)?;
        }
    }
    Ok(())
}

/// cargo-fuzz is for nightly compilers, for its sanitizer flags; a stable one takes them when it
/// is told to bootstrap.
fn cargo_fuzz(arguments: &[&str]) -> Command {
    let mut command = sh::cargo();
    command.env("RUSTC_BOOTSTRAP", "1").current_dir(sh::root().join("mux-userspace"));
    command.arg("fuzz").args(arguments);
    command
}

fn ensure_cargo_fuzz() -> Result<()> {
    if sh::succeeds(&mut cargo_fuzz(&["--version"])) {
        return Ok(());
    }
    sh::status("installing cargo-fuzz");
    sh::run(sh::cargo().args(["install", "cargo-fuzz", "--locked"]))
        .context("cargo-fuzz could not be installed; it needs g++ as well")
}

fn folder(name: &str, target: &str) -> PathBuf {
    sh::root().join("mux-userspace/fuzz").join(name).join(target)
}

/// A built target, and its folders.
struct Fuzzer<'a> {
    target: &'a str,
    program: PathBuf,
    with: Option<&'a Path>,
    /// What belongs to this target and is not committed.
    own: PathBuf,
    /// In it: where this run's inputs gather, beside the committed ones.
    work: PathBuf,
    /// The committed ones.
    corpus: PathBuf,
    seeds: PathBuf,
}

impl<'a> Fuzzer<'a> {
    fn build(target: &'a str, with: Option<&'a Path>) -> Result<Self> {
        let verbose = sh::output(Command::new("rustc").arg("-vV"))?;
        let host = verbose.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.context("`rustc -vV` names no host")?;
        let all = sh::root().join("mux-userspace/fuzz/target");
        let mut build = cargo_fuzz(&["build", "--target", host]);
        sh::run(build.arg("--target-dir").arg(&all).arg(target))?;
        let built = all.join(host).join("release");
        // A copy: what is built meanwhile does not change what runs.
        let own = sh::target_dir().join("fuzz").join(target);
        fs::create_dir_all(&own)?;
        let program = own.join("fuzzer");
        fs::copy(built.join(target), &program)?;
        let (work, corpus) = (own.join("work"), folder("corpus", target));
        for folder in [&work, &corpus, &folder("artifacts", target)] {
            fs::create_dir_all(folder)?;
        }
        let seeds = seeds::write(target, &own)?;
        Ok(Self { target, program, with, own, work, corpus, seeds })
    }

    /// The fuzzer on some folders; what it says goes into a file.
    fn command(&self, folders: &[&Path], log: File) -> Result<Command> {
        let mut command = match self.with {
            None => sh::program(&self.program),
            Some(with) => {
                let mut command = sh::program(with);
                command.arg(&self.program);
                command
            }
        };
        // Every crate has its own constants; the sanitizer takes them for double definitions.
        command.env("ASAN_OPTIONS", "detect_odr_violation=0");
        command.arg(format!("-artifact_prefix={}/", folder("artifacts", self.target).display()));
        command.args(folders).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Runs in slices until so much of its processor time has passed.
    fn run(&self, least: Duration) -> Result<Run> {
        let mut run = Run::default();
        while run.time < least {
            let log = self.own.join("log");
            let mut command =
                self.command(&[&self.work, &self.corpus, &self.seeds], File::create(&log)?)?;
            let left = (least - run.time).as_secs_f64().ceil() as u32;
            command.arg(format!("-max_total_time={}", left.clamp(1, SLICE)));
            command.args(["-max_len=4096", "-timeout=30", "-print_final_stats=1"]);
            if let Some(words) = seeds::dictionary(self.target, &self.own)? {
                command.arg(format!("-dict={}", words.display()));
            }
            let before = children_time()?;
            let status = command.status().with_context(|| sh::shown(&command))?;
            let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            if !status.success() {
                let lines: Vec<&str> = said.lines().collect();
                let tail = lines[lines.len().saturating_sub(40)..].join("\n");
                bail!("{} found something: {status}\n{tail}", self.target);
            }
            run.add(children_time()? - before, &said)
                .with_context(|| format!("{} says nothing of what ran", log.display()))?;
            sh::status(format!("{}: so far {run}", self.target));
        }
        Ok(run)
    }

    /// Replaces the committed corpus by a few inputs that reach as many branches.
    fn keep(&self) -> Result<()> {
        let small = self.own.join("small");
        if small.exists() {
            fs::remove_dir_all(&small)?;
        }
        fs::create_dir_all(&small)?;
        let log = File::create(self.own.join("merge-log"))?;
        let folders = [&small, &self.work, &self.corpus, &self.seeds].map(PathBuf::as_path);
        let mut command = self.command(&folders, log)?;
        // Branches, not how often each is taken: a twentieth of the inputs.
        command.args(["-set_cover_merge=1", "-use_counters=0", "-timeout=30"]);
        command.arg(format!("-max_len={LONGEST_KEPT}"));
        sh::run(&mut command)?;
        let kept = files(&small)?;
        ensure!(!kept.is_empty(), "nothing is left of {}'s corpus", self.target);
        fs::remove_dir_all(&self.corpus)?;
        fs::create_dir_all(&self.corpus)?;
        let mut size = 0;
        for file in &kept {
            let name = file.file_name().context("a file has a name")?;
            size += fs::copy(file, self.corpus.join(name))?;
        }
        sh::status(format!("{}: {} inputs, {size} bytes", self.corpus.display(), kept.len()));
        Ok(())
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

/// Processor time of all children that have ended and were waited for, and of theirs
/// (proc_pid_stat(5): cutime and cstime, the 16th and 17th field).
fn children_time() -> Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat")?;
    // The second field is a name in parentheses, with whatever in it.
    let (_, rest) = text.rsplit_once(") ").context("/proc/self/stat has a name in it")?;
    let ticks = rest.split(' ').skip(13).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>().context("/proc/self/stat has times in it")?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_files() {
        let fuzz = sh::root().join("mux-userspace/fuzz");
        for place in ["fuzz_targets", "checks"] {
            let mut names: Vec<String> = files(&fuzz.join(place))
                .expect(place)
                .iter()
                .map(|file| file.file_stem().unwrap_or_default().to_string_lossy().into_owned())
                .collect();
            names.sort();
            let mut targets = TARGETS.map(str::to_owned);
            targets.sort();
            assert_eq!(names, targets, "{place}");
        }
    }

    #[test]
    fn time_of_children_is_counted() {
        let before = children_time().expect("procfs");
        let mut work = Command::new("sh");
        work.args(["-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"]);
        sh::run(&mut work).expect("a shell");
        assert!(children_time().expect("procfs") >= before + Duration::from_millis(10));
    }
}
