//! `cargo xtask bench --syscalls`: what a unit of work costs in system calls: mux by relay, and those
//! of the others that are there.
//!
//! strace is attached when the subject is ready, and detached before it ends, so that neither start nor
//! end counts. Times under strace mean nothing, so none are shown.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::{
    backend::{self, Backends},
    child::Program,
    network::{Network, Places},
    run::{self, Programs},
    subjects::{self, Stage, Subject},
    table, usage,
    work::Service,
};
use crate::{apt, sh};

/// Units that are counted.
const UNITS: u64 = 2000;
/// How long strace may take to write its counts.
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

/// Subjects; those that are not installed are left out.
const SUBJECTS: [&str; 7] =
    ["mux", "mux-copy", "mux-splice", "mux-sockmap", "mux-packet", "haproxy", "nginx"];

/// Calls by name.
type Calls = BTreeMap<String, u64>;

/// Counts, and prints a table for each work. A subject that cannot be started has no column.
///
/// # Errors
/// strace is missing, or nothing can be started.
pub(crate) fn count(programs: &Programs, processors: usize) -> Result<()> {
    if sh::find("strace").is_none() {
        apt::install(&["strace"])?;
    }
    let scratch = run::scratch()?;
    let around = (Network::Loopback, &Places::default());
    let backends = Backends::start(&programs.ends, 1, scratch.path(), around)?;
    let bench = Bench { programs, backends: &backends, processors };
    let all = subjects::all(&programs.mux);
    for work in &WORKS {
        let mut columns = Vec::new();
        for subject in all.iter().filter(|subject| SUBJECTS.contains(&subject.name())) {
            match bench.run(subject.as_ref(), work) {
                Ok(calls) => columns.push((subject.name(), per_unit(&calls, UNITS))),
                Err(error) => sh::status(format!("{}, {}: {error:#}", work.about, subject.name())),
            }
        }
        ensure!(!columns.is_empty(), "nothing could be counted");
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
    /// One run; what strace counted.
    fn run(&self, subject: &dyn Subject, work: &Work) -> Result<Calls> {
        let scratch = run::scratch()?;
        let stage = Stage {
            directory: scratch.path(),
            address: backend::free_address(Network::Loopback.edge())?,
            backends: self.backends,
            service: work.service,
            workers: self.processors,
        };
        let running = subject.start(&stage)?;
        let root = running.program.as_ref().context("a subject that is a program")?.id();
        let counts = scratch.path().join("calls");
        let mut strace = Command::new(sh::find("strace").context("strace is not installed")?);
        strace.args(["-f", "-c", "-U", "name,calls", "-o"]).arg(&counts);
        let processes = usage::tree(root);
        for process in &processes {
            strace.args(["-p", &process.id.to_string()]);
        }
        let mut strace = Program::start("strace", &mut strace, scratch.path())?;
        for process in &processes {
            // Once for each, when it has all threads.
            strace.wait_until_said(&format!("Process {} attached", process.id))?;
        }
        self.load(&stage, work)?;
        interrupt(&mut strace)?;
        parse(&fs::read_to_string(&counts).context("strace's counts")?)
    }

    fn load(&self, stage: &Stage<'_>, work: &Work) -> Result<()> {
        let output = Command::new(&self.programs.ends)
            .args(["load", "--target", &stage.address.to_string()])
            .args(["--count", &UNITS.to_string()])
            .args(work.arguments.split_whitespace())
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let done = text.lines().last().unwrap_or_default();
        ensure!(
            done.contains("\"faults\":{}") && done.contains(&format!("\"units\":{UNITS}}}")),
            "the generator says {done} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// Ends strace, which lets go of the subject and writes its counts.
fn interrupt(strace: &mut Program) -> Result<()> {
    strace.signal(Signal::INT)?;
    let end = Instant::now() + END;
    while strace.is_running()? {
        if Instant::now() > end {
            bail!("strace does not end: {}", strace.said());
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

fn per_unit(calls: &Calls, units: u64) -> BTreeMap<String, f64> {
    calls
        .iter()
        .map(|(name, count)| (name.clone(), *count as f64 / units as f64))
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
    let sums = columns
        .iter()
        .map(|(_, calls)| shown(Some(calls.values().fold(0.0, |sum, calls| sum + calls))));
    rows.push(std::iter::once("all".to_owned()).chain(sums).collect());
    let mut head = vec!["call".to_owned()];
    head.extend(columns.iter().map(|(name, _)| format!("`{name}`")));
    table::render(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn straces_table_is_read() {
        let text = "syscall              calls\n---------------- ---------\nread                   110\n\
                    mmap                     1\n---------------- ---------\ntotal                  111\n";
        let calls = parse(text).unwrap();
        assert_eq!(calls, Calls::from([("read".to_owned(), 110), ("mmap".to_owned(), 1)]));
        // One call in two hundred units is not the units'.
        assert_eq!(per_unit(&calls, 200), BTreeMap::from([("read".to_owned(), 0.55)]));
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
            ("c", calls(&[])),
        ]);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert!(lines[0].starts_with("| `close`") && lines[1].starts_with("| `read`"), "{text}");
        assert!(lines[2].contains("1.00") && lines[2].ends_with("3.50 | 0.00 |"), "{text}");
    }
}
