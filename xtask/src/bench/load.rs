//! Runs the generator, and looks at the machine and the subject when the generator says that it
//! begins and ends to count.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    backend::Address,
    network::Places,
    results::{Latency, Round},
    usage::{self, Machine, Tree},
    work::Work,
};

/// How long a run may take beyond its window: thousands of connections to open, answers to wait
/// for, and the generator's own patience with both.
const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds that a look at a subject under load may take; the connections are used for so long.
const LOOKING: f64 = 1.0;

/// How to run the generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings<'a> {
    /// Where it is to run.
    pub(crate) places: &'a Places,
    /// `mux-bench`.
    pub(crate) ends: &'a Path,
    /// Its threads.
    pub(crate) threads: usize,
    /// Seconds before it counts.
    pub(crate) warm_up: f64,
    /// Seconds of counting.
    pub(crate) seconds: f64,
    /// Of the machine.
    pub(crate) processors: usize,
    /// What the machine does by itself, seconds of processor a second.
    pub(crate) background: f64,
}

/// Does a work once; `subject` is the process to look at. The result's `round` and `void` are 0.
///
/// # Errors
/// Anything that went wrong on a connection, which voids the round; or the generator itself.
pub(crate) fn run(
    settings: &Settings<'_>,
    work: &dyn Work,
    target: &Address,
    subject: Option<u32>,
) -> Result<Round> {
    let look = || subject.map(usage::used);
    let (own_before, free_before) = (look(), usage::available_kib()?);
    let mut generator = Generator::start(settings, work, target)?;
    let window = Duration::from_secs_f64(settings.warm_up + settings.seconds);
    let deadline = Instant::now() + window + PATIENCE;

    generator.expect("warm", deadline)?;
    let (own_warm, free_warm) = (look(), usage::available_kib()?);
    generator.expect("counting", deadline)?;
    let (own_start, start) = (look(), Machine::now()?);
    generator.expect("counted", deadline)?;
    let (end, own_end) = (Machine::now()?, look());
    let result = generator.expect("result", deadline)?;

    let found = Found::read(&result)?;
    let busy = end.since(&start, settings.processors);
    let rate = found.units / work.unit().size / found.seconds;
    let own = |value: fn(&Tree) -> f64| own_warm.as_ref().map(value);
    let grown = |value: fn(&Tree) -> f64| {
        Some((value(own_warm.as_ref()?) - value(own_before.as_ref()?)).max(0.0))
    };
    let flows = f64::from(work.connections());
    Ok(Round {
        round: 0,
        void: 0,
        seconds: found.seconds,
        rate,
        latency: found.latency,
        machine_cpu: (busy.seconds / busy.wall - settings.background).max(0.0),
        own_cpu: own_start
            .zip(own_end)
            .map(|(start, end)| (end.seconds - start.seconds).max(0.0) / busy.wall),
        resident_kib: own(|tree| tree.resident_kib as f64),
        proportional_kib: own(|tree| tree.proportional_kib as f64),
        flow_kib: own(|tree| tree.proportional_kib as f64).map(|kib| kib / flows),
        growth_kib: grown(|tree| tree.proportional_kib as f64).map(|kib| kib / flows),
        machine_flow_kib: (free_before as f64 - free_warm as f64) / flows,
        stolen: busy.stolen,
        packet_share: None,
    })
}

/// Does a work without measuring it, and looks at something when all connections have been in full use
/// for so long.
///
/// # Errors
/// As [`run`]; `look`'s.
pub(crate) fn look_under_load<T>(
    settings: &Settings<'_>,
    work: &dyn Work,
    target: &Address,
    after: Duration,
    look: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let settings = Settings { warm_up: after.as_secs_f64(), seconds: LOOKING, ..*settings };
    let mut generator = Generator::start(&settings, work, target)?;
    let deadline = Instant::now() + after + PATIENCE;
    generator.expect("warm", deadline)?;
    generator.expect("counting", deadline)?;
    let seen = look()?;
    generator.expect("counted", deadline)?;
    Found::read(&generator.expect("result", deadline)?)?;
    Ok(seen)
}

/// The generator's result.
struct Found {
    seconds: f64,
    units: f64,
    latency: Option<Latency>,
}

impl Found {
    fn read(result: &Value) -> Result<Self> {
        let faults = result["faults"].as_object().context("the generator's faults")?;
        if !faults.is_empty() {
            let list: Vec<String> =
                faults.iter().map(|(what, count)| format!("{what} ({count})")).collect();
            bail!("{}", list.join("; "));
        }
        let number = |value: &Value| value.as_f64().context("a number of the generator's");
        let latency = &result["latency_ns"];
        let microseconds = |name: &str| Ok::<_, anyhow::Error>(number(&latency[name])? / 1e3);
        let latency = if latency.is_null() {
            None
        } else {
            Some(Latency {
                p50: microseconds("p50")?,
                p90: microseconds("p90")?,
                p99: microseconds("p99")?,
                p999: microseconds("p999")?,
                max: microseconds("max")?,
            })
        };
        let (seconds, units) = (number(&result["seconds"])?, number(&result["units"])?);
        ensure!(seconds > 0.0 && units > 0.0, "nothing was done");
        Ok(Self { seconds, units, latency })
    }
}

/// The running generator; killed by `Drop`.
struct Generator {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Generator {
    fn start(settings: &Settings<'_>, work: &dyn Work, target: &Address) -> Result<Self> {
        let target = match target {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        let mut command = Command::new(settings.ends);
        command
            .args(["load", "--target", &target])
            .args(["--connections", &work.connections().to_string()])
            .args(["--threads", &settings.threads.to_string()])
            .args(["--warm-up", &settings.warm_up.to_string()])
            .args(["--seconds", &settings.seconds.to_string()])
            .args(work.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = settings
            .places
            .at_client(|| command.spawn())?
            .with_context(|| format!("cannot start {}", settings.ends.display()))?;
        let lines = child.stdout.take().map(gather).context("it was piped")?;
        let errors = child.stderr.take().map(gather).context("it was piped")?;
        Ok(Self { child, lines, errors })
    }

    /// Waits for an event. A result that comes before is one of a round that broke off.
    fn expect(&mut self, event: &str, deadline: Instant) -> Result<Value> {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = self.lines.recv_timeout(left) else {
            let _ = self.child.kill();
            let said: Vec<String> = self.errors.iter().collect();
            let said = if said.is_empty() { "no word of it".to_owned() } else { said.join("; ") };
            bail!("the generator does not get to `{event}`: {said}");
        };
        let value: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if value["event"] == event {
            return Ok(value);
        }
        Found::read(&value)?;
        bail!("the generator says {line}, not `{event}`")
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(source: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_voids_a_result_whatever_else_is_in_it() {
        let mut result = json!({ "seconds": 2.0, "units": 10, "faults": {}, "latency_ns": null });
        assert!(Found::read(&result).is_ok());
        result["faults"] = json!({ "connection reset": 1 });
        let error = Found::read(&result).err().unwrap().to_string();
        assert_eq!(error, "connection reset (1)");
        let nothing = json!({ "seconds": 2.0, "units": 0, "faults": {}, "latency_ns": null });
        assert!(Found::read(&nothing).is_err());
    }

    #[test]
    fn times_are_microseconds() {
        let latency = json!({ "p50": 1500, "p90": 2000, "p99": 3000, "p999": 4000, "max": 5000 });
        let result = json!({ "seconds": 2.0, "units": 10, "faults": {}, "latency_ns": latency });
        let latency = Found::read(&result).unwrap().latency.unwrap();
        assert_eq!((latency.p50, latency.max), (1.5, 5.0));
    }
}
