//! `cargo xtask fuzz`: random inputs for every parser, with libFuzzer and the address sanitizer.
//!
//! The corpora in `mux-userspace/fuzz/corpus` are what earlier runs found worth keeping, made
//! small; a run starts from them and from the probes' fixtures.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

/// Every target: a file in `fuzz_targets`, a folder in `corpus`.
const TARGETS: [&str; 5] = ["probes", "route", "rules", "import", "proxy"];

/// `cargo xtask fuzz`.
#[derive(clap::Args, Debug)]
pub(crate) struct FuzzArgs {
    /// Targets; by default all of them, one after the other
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
    /// How long for each target
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
    /// Make the corpus small afterwards, and keep it
    #[arg(long)]
    keep: bool,
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
    let seeds = seeds()?;
    for target in chosen {
        sh::status(format!("fuzzing {target} for {} s", args.seconds));
        run(target, args.seconds, &seeds)?;
        if args.keep {
            keep(target)?;
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

/// Where this run's inputs gather, beside the committed ones.
fn work(target: &str) -> PathBuf {
    sh::target_dir().join("fuzz").join(target)
}

fn run(target: &str, seconds: u32, seeds: &Path) -> Result<()> {
    let (work, corpus) = (work(target), folder("corpus", target));
    fs::create_dir_all(&work)?;
    fs::create_dir_all(&corpus)?;
    let mut command = cargo_fuzz(&["run", target]);
    command.arg(work).arg(corpus).arg(seeds).args([
        "--",
        &format!("-max_total_time={seconds}"),
        "-max_len=4096",
        "-timeout=5",
        "-print_final_stats=1",
    ]);
    sh::run(&mut command).with_context(|| format!("{target} found something"))
}

/// Replaces the committed corpus by the fewest inputs that reach as much.
fn keep(target: &str) -> Result<()> {
    let corpus = folder("corpus", target);
    let all = work(target);
    for file in files(&corpus)? {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(&file, all.join(name))?;
    }
    let small = sh::target_dir().join("fuzz").join(format!("{target}-small"));
    if small.exists() {
        fs::remove_dir_all(&small)?;
    }
    fs::create_dir_all(&small)?;
    let mut command = cargo_fuzz(&["run", target]);
    command.arg(&small).arg(&all).args(["--", "-merge=1", "-max_len=512"]);
    sh::run(&mut command)?;
    fs::remove_dir_all(&corpus)?;
    fs::create_dir_all(&corpus)?;
    for file in files(&small)? {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(&file, corpus.join(name))?;
    }
    sh::status(format!("{}: {} inputs", corpus.display(), files(&corpus)?.len()));
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// A file for each of the probes' fixtures, and for each example of a rules file.
fn seeds() -> Result<PathBuf> {
    let seeds = sh::target_dir().join("fuzz/seeds");
    fs::create_dir_all(&seeds)?;
    for file in files(&sh::root().join("mux-userspace/fixtures/probes"))? {
        let text = fs::read_to_string(&file)?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let table: toml::Table = text.parse().with_context(|| file.display().to_string())?;
        let fixtures = table.get("fixture").and_then(toml::Value::as_array);
        for (index, fixture) in fixtures.into_iter().flatten().enumerate() {
            let bytes = fixture_bytes(fixture).with_context(|| file.display().to_string())?;
            // The target `route` takes two bytes off the front; this way both get whole ones.
            fs::write(seeds.join(format!("{stem}-{index}")), &bytes)?;
            fs::write(seeds.join(format!("{stem}-{index}-cut")), [&[9, 0], &bytes[..]].concat())?;
        }
    }
    let mut sslh = files(&sh::root().join("tests/fixtures/sslh")).unwrap_or_default();
    sslh.retain(|path| path.is_file());
    for file in files(&sh::root().join("examples"))?.into_iter().chain(sslh) {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(&file, seeds.join(name))?;
    }
    Ok(seeds)
}

fn fixture_bytes(fixture: &toml::Value) -> Result<Vec<u8>> {
    if let Some(text) = fixture.get("text").and_then(toml::Value::as_str) {
        return Ok(text.as_bytes().to_vec());
    }
    let Some(hex) = fixture.get("hex").and_then(toml::Value::as_str) else {
        bail!("a fixture has `text` or `hex`");
    };
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    ensure!(digits.len().is_multiple_of(2), "half a byte");
    let byte = |pair: &[u32]| u8::try_from(pair.iter().fold(0, |high, low| high << 4 | low));
    Ok(digits.chunks(2).map(byte).collect::<Result<_, _>>()?)
}
