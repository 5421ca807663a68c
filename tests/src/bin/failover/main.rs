//! Kills, restarts and stops one of three real web servers under load, and prints what the clients
//! noticed: the share of failed requests in each phase, and how long it took to take the server
//! out of use and to use it again.
//!
//! `cargo build --release -p mux-userspace && cargo run --release -p mux-tests --bin failover`

mod load;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use mux_tests::{Daemon, eventually, peers::Web};
use rustix::process::Signal;

use self::load::{Done, Load};

#[derive(Debug, Parser)]
#[command(about = "What clients notice when a server dies, hangs and comes back")]
struct Arguments {
    /// Clients that ask at once, each one request after the other
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How long each phase lasts, seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only with the settings whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// Keys of the group under test.
const SETTINGS: [(&str, &str); 3] = [
    ("defaults", ""),
    ("retries = 0", "retries = 0\n"),
    (
        "health, every 500 ms",
        "health = { interval = \"500ms\", timeout = \"500ms\", rise = 2, fall = 2, \
         send = \"GET / HTTP/1.0\\r\\n\\r\\n\", expect = \"HTTP/1.1 200\" }\n",
    ),
];

/// What happens, one phase after the other.
const PHASES: [&str; 5] = ["all up", "a killed", "a restarted", "a stopped", "a continued"];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!(
        "{} clients, phases of {} s, three nginx; a request fails after {:?} and belongs to the phase\n\
         in which it began: the last failures of a phase were in progress when the next one came",
        arguments.clients,
        arguments.seconds,
        load::PATIENCE
    );
    for (name, keys) in SETTINGS.iter().filter(|(name, _)| name.contains(&arguments.only)) {
        println!("\n[[upstream]] with {name}");
        run(&arguments, keys)?;
    }
    Ok(())
}

fn run(arguments: &Arguments, keys: &str) -> Result<()> {
    let (mut a, b, c) = (Web::start("a")?, Web::start("b")?, Web::start("c")?);
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nmatch = {{ prefix = \"GET \" }}\nupstream = \"web\"\n\
         [[upstream]]\nname = \"web\"\nendpoints = [\"{}\", \"{}\", \"{}\"]\n{keys}\
         [log]\naccess = \"off\"\n",
        a.address(),
        b.address(),
        c.address()
    ))?;
    let load = &Load::default();
    let notes = thread::scope(|scope| {
        let address: SocketAddr = daemon.address();
        for _ in 0..arguments.clients {
            scope.spawn(move || load.ask(address));
        }
        let notes = phases(arguments, &mut a, &daemon, load);
        load.stop();
        notes
    })?;
    print(&load.done(), &notes);
    let stopped = daemon.stop()?;
    let names = ["connect_failed", "upstream_retries", "upstream_ejections", "upstream_returns"];
    let counters: Vec<String> =
        names.iter().map(|name| format!("{name}={}", stopped.counter(name))).collect();
    println!("  counters: {}", counters.join(" "));
    Ok(())
}

/// Goes through the phases; says of each when the server was out of use, or in use again.
fn phases(arguments: &Arguments, a: &mut Web, daemon: &Daemon, load: &Load) -> Result<Vec<String>> {
    let length = Duration::from_secs(arguments.seconds);
    let mut notes = vec![String::new()];
    thread::sleep(length);
    for phase in &PHASES[1..] {
        let said = lines(daemon);
        // The act belongs to the new phase, and so does what it breaks.
        let since = load.next_phase();
        match *phase {
            "a killed" => a.kill(),
            "a restarted" => a.restart()?,
            "a stopped" => a.signal(Signal::STOP)?,
            _ => a.signal(Signal::CONT)?,
        }
        let gone = matches!(*phase, "a killed" | "a stopped");
        notes.push(note(load, daemon, since, length, said, gone));
        thread::sleep(length.saturating_sub(since.elapsed()));
    }
    Ok(notes)
}

/// Lines that say that an endpoint is out of use.
fn lines(daemon: &Daemon) -> usize {
    daemon.log_count("endpoint is ejected") + daemon.log_count("endpoint is down")
}

/// How long after `since` the server was out of use, or answered again.
fn note(
    load: &Load,
    daemon: &Daemon,
    since: Instant,
    length: Duration,
    said: usize,
    gone: bool,
) -> String {
    let seen = eventually("a change", || {
        let change = if gone {
            (lines(daemon) > said).then(|| since.elapsed())
        } else {
            load.answered("a", since)
        };
        match change {
            Some(after) => Some(Some(after)),
            None => (since.elapsed() >= length).then_some(None),
        }
    });
    let what = if gone { "out of use" } else { "answers again" };
    match seen {
        Ok(Some(after)) => format!("{what} after {:.0} ms", after.as_secs_f64() * 1e3),
        Ok(None) | Err(_) => format!("not {what} in this phase"),
    }
}

fn print(done: &[Done], notes: &[String]) {
    println!("  phase        requests  failed   share  slowest answer  last failure   server a");
    for (index, phase) in PHASES.iter().enumerate() {
        let its: Vec<&Done> = done.iter().filter(|done| done.phase == index).collect();
        let failed: Vec<&&Done> = its.iter().filter(|done| done.by.is_none()).collect();
        let begin = its.iter().map(|done| done.began).min();
        let last = failed.iter().map(|done| done.began).max();
        let last = match (begin, last) {
            (Some(begin), Some(last)) => format!("{:.0} ms", (last - begin).as_secs_f64() * 1e3),
            _ => "-".to_owned(),
        };
        let answers = its.iter().filter(|done| done.by.is_some());
        let slowest = answers.map(|done| done.took).max().unwrap_or_default();
        println!(
            "  {phase:<12} {:>8} {:>7} {:>6.2}% {:>12.1} ms {:>13}   {}",
            its.len(),
            failed.len(),
            100.0 * failed.len() as f64 / its.len().max(1) as f64,
            slowest.as_secs_f64() * 1e3,
            last,
            notes.get(index).map_or("", String::as_str),
        );
    }
}
