//! `cargo xtask bench --syscalls`: what a unit of work costs mux in system calls, by relay.
//!
//! strace counts a run with few units and one with many; the difference has neither start nor end
//! in it. Times under strace mean nothing, so none are shown.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    backend::{self, Backends},
    child::Program,
    run::{self, Programs},
    subjects::{Mux, Relay, Stage, Subject as _},
    table, usage,
    work::Service,
};
use crate::{apt, sh};

/// Units of the two runs.
const FEW: u64 = 400;
const MANY: u64 = 1400;
/// How long mux may take to end.
const END: Duration = Duration::from_secs(20);
/// Calls a unit that are shown; fewer are the timers'.
const LEAST: f64 = 0.01;

/// A work, as the generator is told.
struct Work {
    about: &'static str,
    service: Service,
    arguments: &'static str,
}

const WORKS: [Work; 4] = [
    Work {
        about: "a connection with one HTTP request",
        service: Service::Http,
        arguments: "http --close",
    },
    Work { about: "a further request on a connection", service: Service::Http, arguments: "http" },
    Work {
        about: "an answer of 1 MiB on a connection",
        service: Service::Http,
        arguments: "http --size 1048576",
    },
    Work {
        about: "a connection that ends without a byte",
        service: Service::Http,
        arguments: "connect",
    },
];

const RELAYS: [Relay; 4] = [Relay::Copy, Relay::Splice, Relay::Sockmap, Relay::Auto];

/// Calls by name.
type Calls = BTreeMap<String, u64>;

/// Counts, and prints a table for each work.
///
/// # Errors
/// strace is missing, or something does not start.
pub(crate) fn count(programs: &Programs, processors: usize) -> Result<()> {
    if sh::find("strace").is_none() {
        apt::install(&["strace"])?;
    }
    let scratch = run::scratch()?;
    let backends = Backends::start(&programs.ends, 1, scratch.path())?;
    for work in &WORKS {
        let mut columns = Vec::new();
        for relay in RELAYS {
            let mux = Mux::new(&programs.mux, relay);
            let bench = Bench { programs, backends: &backends, processors };
            let few = bench.run(&mux, work, FEW)?;
            let many = bench.run(&mux, work, MANY)?;
            columns.push((mux.name(), per_unit(&few, &many, MANY - FEW)));
        }
        println!("{}:\n{}", work.about, render(&columns));
    }
    Ok(())
}

struct Bench<'a> {
    programs: &'a Programs,
    backends: &'a Backends,
    processors: usize,
}

impl Bench<'_> {
    /// One run under strace; what it counted.
    fn run(&self, mux: &Mux, work: &Work, units: u64) -> Result<Calls> {
        let scratch = run::scratch()?;
        let stage = Stage {
            directory: scratch.path(),
            address: backend::free_address()?,
            backends: self.backends,
            service: work.service,
            workers: self.processors,
        };
        let command = mux.command(&stage)?;
        let counts = scratch.path().join("calls");
        let mut strace = Command::new(sh::find("strace").context("strace is not installed")?);
        strace.args(["-f", "-c", "-U", "name,calls", "-o"]).arg(&counts).arg("--");
        strace.arg(command.get_program()).args(command.get_args());
        let mut program = Program::start("strace", &mut strace, scratch.path())?;
        program.wait_for(stage.address)?;
        self.load(&stage, work, units)?;
        end(&mut program)?;
        parse(&fs::read_to_string(&counts).context("strace's counts")?)
    }

    fn load(&self, stage: &Stage<'_>, work: &Work, units: u64) -> Result<()> {
        let output = Command::new(&self.programs.ends)
            .args(["load", "--target", &stage.address.to_string()])
            .args(["--count", &units.to_string()])
            .args(work.arguments.split_whitespace())
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let done = text.lines().last().unwrap_or_default();
        ensure!(
            done.contains("\"faults\":{}") && done.contains(&format!("\"units\":{units}}}")),
            "the generator says {done} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// Ends mux, whose tracer then writes its counts and ends, too.
fn end(program: &mut Program) -> Result<()> {
    let tracer = program.id();
    for process in usage::tree(tracer).iter().filter(|process| process.id != tracer) {
        let pid = Pid::from_raw(process.id.cast_signed()).context("a process id")?;
        kill_process(pid, Signal::TERM)?;
    }
    let end = Instant::now() + END;
    while program.is_running()? {
        if Instant::now() > end {
            bail!("mux does not end: {}", program.said());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Reads strace's table: a name and a count a line, a rule and a total at the end.
fn parse(text: &str) -> Result<Calls> {
    let calls: Calls = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().filter(|name| *name != "total")?;
            Some((name.to_owned(), words.next()?.parse().ok()?))
        })
        .collect();
    ensure!(!calls.is_empty(), "strace counted nothing: {text}");
    Ok(calls)
}

fn per_unit(few: &Calls, many: &Calls, units: u64) -> BTreeMap<String, f64> {
    many.iter()
        .map(|(name, count)| {
            let before = few.get(name).copied().unwrap_or(0);
            (name.clone(), (*count as f64 - before as f64) / units as f64)
        })
        .filter(|(_, calls)| *calls >= LEAST)
        .collect()
}

/// A line a call, a column a relay, the sum last.
fn render(columns: &[(&str, BTreeMap<String, f64>)]) -> String {
    let most = |name: &String| {
        columns.iter().filter_map(|(_, calls)| calls.get(name)).copied().fold(0.0, f64::max)
    };
    let mut names: Vec<&String> = columns.iter().flat_map(|(_, calls)| calls.keys()).collect();
    names.sort_by(|a, b| most(b).total_cmp(&most(a)).then(a.cmp(b)));
    names.dedup();
    let shown = |calls: Option<f64>| calls.map_or_else(String::new, |calls| format!("{calls:.2}"));
    let mut rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| {
            let cells = columns.iter().map(|(_, calls)| shown(calls.get(*name).copied()));
            std::iter::once(format!("`{name}`")).chain(cells).collect()
        })
        .collect();
    let sums = columns.iter().map(|(_, calls)| shown(Some(calls.values().sum())));
    rows.push(std::iter::once("all".to_owned()).chain(sums).collect());
    let mut head = vec!["call".to_owned()];
    head.extend(columns.iter().map(|(name, _)| format!("`{name}`")));
    table::render(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW_TEXT: &str = "syscall              calls\n---------------- ---------\nread                   110\n\
                            mmap                    50\n---------------- ---------\ntotal                  160\n";

    #[test]
    fn start_and_end_are_not_counted() {
        let few = parse(FEW_TEXT).unwrap();
        assert_eq!(few, Calls::from([("read".to_owned(), 110), ("mmap".to_owned(), 50)]));
        let many = Calls::from([
            ("read".to_owned(), 310),
            ("mmap".to_owned(), 50),
            ("write".to_owned(), 100),
        ]);
        let calls = per_unit(&few, &many, 100);
        assert_eq!(calls, BTreeMap::from([("read".to_owned(), 2.0), ("write".to_owned(), 1.0)]));
        assert!(parse("strace: …").is_err());
    }

    #[test]
    fn the_most_frequent_call_comes_first_and_the_sum_last() {
        let calls = |list: &[(&str, f64)]| {
            list.iter().map(|(name, calls)| ((*name).to_owned(), *calls)).collect()
        };
        let text = render(&[
            ("a", calls(&[("read", 1.0)])),
            ("b", calls(&[("read", 1.5), ("close", 2.0)])),
        ]);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert!(lines[0].starts_with("| `close`") && lines[1].starts_with("| `read`"), "{text}");
        assert!(lines[2].contains("1.00") && lines[2].contains("3.50"), "{text}");
    }
}
