//! `cargo xtask bench`: mux against direct access and other multiplexers.
//!
//! `work` says what is done, `subjects` through what (with their `configs`, filled by `template`), `backend` is what is behind
//! them, and `load` runs the generator; both ends are `mux-bench` of `mux-tests`. `network` is where everybody is. `run` makes the rounds, `usage` and `environment` look
//! at the machine, `child` sees to the end of what was started. `syscalls` counts with strace. `results` is what is saved; `stats`, `table`,
//! `plot`, `docs`, `compare` and `targets` make something of it.

mod backend;
mod child;
mod compare;
mod docs;
mod environment;
mod load;
mod network;
mod plot;
mod progress;
mod results;
mod run;
mod stats;
mod subjects;
mod syscalls;
mod table;
mod targets;
mod template;
mod usage;
mod work;

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{
    network::Network,
    results::Results,
    subjects::Subject,
    work::{Service, Work},
};
use crate::{
    apt,
    daemon::{self, Object, Profile},
    sh,
};

/// `cargo xtask bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct BenchArgs {
    /// A part of it, in about two minutes
    #[arg(long)]
    quick: bool,
    /// Only these works, separated by commas; other numbers than the listed ones make a curve
    #[arg(long, value_name = "WORK", value_delimiter = ',', value_parser = work_name)]
    only: Vec<String>,
    /// Only these subjects, separated by commas
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',', value_parser = subject_name)]
    subjects: Vec<String>,
    /// Where load generator, multiplexers and servers are; others than loopback need root
    #[arg(long, value_enum, default_value_t)]
    network: Network,
    /// Rounds; 5, or 3 with --quick
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds that a round is measured for; 1
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,
    /// Seconds before that; 0.25, or 0.2 with --quick
    #[arg(long, value_name = "S", value_parser = seconds)]
    warm_up: Option<f64>,
    /// Threads of the load generator, and of the server; half as many as processors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
    /// Where to save the results; target/bench/results.json, or NETWORK-results.json there
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Do not measure: take this saved run
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "only", "subjects", "network", "rounds", "seconds"])]
    from: Option<PathBuf>,
    /// Put these works in place of a saved run's, which has to be of the same source, machine and settings
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    again: Option<PathBuf>,
    /// Compare with a saved run; fail where mux is worse by more than the tolerance
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// What --compare tolerates, percent of the saved value
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    tolerance: f64,
    /// Check what mux has to reach against other multiplexers and its own plain copy; fail where it does not
    #[arg(long)]
    targets: bool,
    /// Write docs/benchmarks.md, and its charts; what it has of other networks stays
    #[arg(long)]
    write_docs: bool,
    /// Do not measure: count the system calls that a unit of work costs, with strace
    #[arg(long, conflicts_with_all = ["quick", "only", "subjects", "network", "from", "compare", "write_docs", "targets"])]
    syscalls: bool,
    /// Print works and subjects, and end
    #[arg(long)]
    list: bool,
}

/// Where the programs are, once they are built: tells the process that measures, which is started anew in a network
/// namespace of its own, that it need not build.
const MUX: &str = "MUX_BENCH_DAEMON";
const ENDS: &str = "MUX_BENCH_ENDS";
/// Set inside that namespace.
const NAMESPACE: &str = "MUX_BENCH_NAMESPACE";

/// Measures, prints, saves.
///
/// # Errors
/// Something needed cannot be had; with `--compare`, mux became worse.
pub(crate) fn command(args: &BenchArgs) -> Result<()> {
    if args.list {
        list();
        return Ok(());
    }
    if args.syscalls {
        return syscalls::count(&programs()?, processors());
    }
    // Before measuring, which takes long: it may not be there.
    let saved = args.again.as_deref().map(Results::load).transpose()?;
    let results = match &args.from {
        Some(path) => Results::load(path)?,
        None => measure(args)?,
    };
    let results = match saved {
        Some(saved) => saved.measured_again(results).context("--again")?,
        None => results,
    };
    let network = results.settings.network;
    println!("Network: {}: {}", network.name(), network.about());
    for work in &results.works {
        println!("\n{}: {}\n{}", work.name, work.about, table::work(&results, work));
    }
    println!("Multiples of direct access:\n{}", table::summary(&results));
    if let Some(shares) = table::packet_shares(&results) {
        println!("{shares}");
    }
    if args.write_docs {
        docs::write(&results, sh::root())?;
        sh::status("docs/benchmarks.md is written");
    }
    if let Some(path) = &args.compare {
        compare_with(path, &results, args.tolerance / 100.0)?;
    }
    if args.targets {
        check_targets(&results)?;
    }
    let failed = results.failures();
    ensure!(failed.is_empty(), "no figures of:\n{}", failed.join("\n"));
    Ok(())
}

fn check_targets(results: &Results) -> Result<()> {
    let found = targets::check(results);
    println!("Targets:\n{}", targets::render_found(&found));
    let missed = found.iter().filter(|found| !found.is_reached()).count();
    ensure!(missed == 0, "{missed} of {} targets are not reached", found.len());
    Ok(())
}

fn list() {
    println!("works (* with --quick):");
    for work in work::all() {
        let quick = if work.is_quick() { "*" } else { " " };
        println!("  {:16}{quick} {}", work.name(), work.about());
    }
    println!("subjects:");
    for subject in subjects::all(Path::new("mux")) {
        let is_quick = subjects::is_default(subject.name(), Network::Loopback, true);
        let quick = if is_quick { "*" } else { " " };
        println!("  {:16}{quick}", subject.name());
    }
    println!("networks:");
    for network in Network::ALL {
        println!("  {:16}  {}", network.name(), network.about());
    }
}

fn measure(args: &BenchArgs) -> Result<Results> {
    let programs = programs()?;
    let namespace = enter_namespace(&programs)?;
    network::demand_own(args.network, namespace)?;
    let (fallback_rounds, fallback_seconds, fallback_warm_up) =
        if args.quick { (3, 1.0, 0.2) } else { (5, 1.0, 0.25) };
    let processors = processors();
    let plan = run::Plan {
        works: works(args)?,
        subjects: chosen_subjects(args, &programs.mux),
        rounds: args.rounds.unwrap_or(fallback_rounds),
        seconds: args.seconds.unwrap_or(fallback_seconds),
        warm_up: args.warm_up.unwrap_or(fallback_warm_up),
        threads: args.threads.map_or((processors / 2).max(1), usize::from),
        processors,
        namespace,
        network: args.network,
        programs,
    };
    let results = run::run(&plan)?;
    let output = args.output.clone().unwrap_or_else(|| {
        sh::target_dir().join("bench").join(args.network.prefixed("results.json"))
    });
    results.save(&output)?;
    sh::status(format!("saved: {}", output.display()));
    Ok(results)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn programs() -> Result<run::Programs> {
    match env::var_os(MUX).zip(env::var_os(ENDS)) {
        Some((mux, ends)) => Ok(run::Programs { mux: mux.into(), ends: ends.into() }),
        None => prepare(),
    }
}

/// Installs what is missing, and builds.
fn prepare() -> Result<run::Programs> {
    let mut missing: Vec<&str> = subjects::PACKAGES
        .iter()
        .filter(|(program, _)| sh::find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    missing.extend(apt::missing(&[subjects::NGINX_STREAM]));
    if let Err(error) = apt::install(&missing) {
        // Those that are here can be measured; the others will say that they are not.
        sh::status(format!("{error:#}"));
    }
    let mux = daemon::build(Profile::Release, Object::Best)?;
    let arguments = ["build", "--release", "--package", "mux-tests", "--bin", "mux-bench"];
    sh::run(sh::cargo().args(arguments))?;
    Ok(run::Programs { mux, ends: sh::target_dir().join("release/mux-bench") })
}

/// Starts this program anew in a network namespace of its own, where no firewall, no other
/// connection and no old TIME_WAIT is; only root can. Returns, in there, true.
fn enter_namespace(programs: &run::Programs) -> Result<bool> {
    if env::var_os(NAMESPACE).is_some() {
        sh::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        network::unpaced();
        return Ok(true);
    }
    let unshare = sh::find("unshare").filter(|_| sh::find("ip").is_some());
    let Some(unshare) = unshare.filter(|_| rustix::process::geteuid().is_root()) else {
        sh::status("no network namespace of its own: that needs root, unshare and ip");
        return Ok(false);
    };
    let error = Command::new(unshare)
        .arg("--net")
        .arg("--")
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(MUX, &programs.mux)
        .env(ENDS, &programs.ends)
        .env(NAMESPACE, "1")
        .exec();
    Err(error).context("cannot start unshare")
}

fn works(args: &BenchArgs) -> Result<Vec<Box<dyn Work>>> {
    let can_be_done =
        |work: &dyn Work| args.network.has_unix() || work.service() != Service::HttpUnix;
    if args.only.is_empty() {
        let chosen = |work: &dyn Work| can_be_done(work) && (!args.quick || work.is_quick());
        return Ok(work::all().into_iter().filter(|work| chosen(work.as_ref())).collect());
    }
    let works: Vec<Box<dyn Work>> = args.only.iter().filter_map(|name| work::named(name)).collect();
    if let Some(work) = works.iter().find(|work| !can_be_done(work.as_ref())) {
        bail!("{}: no Unix socket leads through --network {}", work.name(), args.network.name());
    }
    Ok(works)
}

fn chosen_subjects(args: &BenchArgs, mux: &Path) -> Vec<Box<dyn Subject>> {
    let is_chosen = |name: &str| {
        if args.subjects.is_empty() {
            subjects::is_default(name, args.network, args.quick)
        } else {
            args.subjects.iter().any(|chosen| chosen == name)
        }
    };
    subjects::all(mux).into_iter().filter(|subject| is_chosen(subject.name())).collect()
}

fn compare_with(path: &Path, results: &Results, tolerance: f64) -> Result<()> {
    let saved = Results::load(path)?;
    let [network, before] = [results, &saved].map(|run| run.settings.network.name());
    ensure!(
        network == before,
        "{} is of another network: {before}, and this run is of {network}",
        path.display()
    );
    let found = compare::compare(results, &saved, tolerance);
    ensure!(!found.lines.is_empty(), "{} has nothing to compare with", path.display());
    println!("Against {} ({}):", path.display(), saved.environment.commit);
    found.lines.iter().for_each(|line| println!("{line}"));
    if found.worse.is_empty() {
        return Ok(());
    }
    bail!("worse by more than {} %:\n{}", 100.0 * tolerance, found.worse.join("\n"))
}

fn work_name(text: &str) -> Result<String, String> {
    if work::named(text).is_some() {
        return Ok(text.to_owned());
    }
    known(text, work::all().iter().map(|work| work.name()).collect())
}

fn subject_name(text: &str) -> Result<String, String> {
    let names = subjects::all(Path::new("mux"));
    known(text, names.iter().map(|subject| subject.name().to_owned()).collect())
}

fn known(text: &str, names: Vec<String>) -> Result<String, String> {
    if names.iter().any(|name| name == text) {
        Ok(text.to_owned())
    } else {
        Err(format!("there are: {}", names.join(", ")))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("from 0 to 3600".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        assert!(work_name("http-keep-32").is_ok());
        assert!(work_name("http").unwrap_err().contains("http-keep-32"));
        assert!(work_name("echo-64-7").is_ok());
        assert!(subject_name("squid").unwrap_err().contains("haproxy"));
    }

    #[derive(clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parsed(line: &str) -> BenchArgs {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        <Parsed as clap::Parser>::parse_from(words).bench
    }

    #[test]
    fn unix_sockets_are_for_loopback() {
        let names = |line: &str| -> Result<Vec<String>> {
            Ok(works(&parsed(line))?.iter().map(|work| work.name()).collect())
        };
        let [loopback, routed] = ["", "--network routed"].map(|line| names(line).unwrap());
        assert_eq!(loopback.len(), routed.len() + 1);
        assert!(!routed.contains(&"http-unix-32".to_owned()));
        let error = names("--network client --only http-unix-32").unwrap_err().to_string();
        assert!(error.contains("--network client"), "{error}");
    }

    #[test]
    fn runs_of_different_networks_are_not_compared() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("saved.json");
        let mut results = results::example::results();
        results.save(&path).unwrap();
        assert!(compare_with(&path, &results, 0.1).is_ok());
        results.settings.network = Network::Routed;
        let error = compare_with(&path, &results, 0.1).unwrap_err().to_string();
        assert!(error.contains("loopback") && error.contains("routed"), "{error}");
    }
}
