//! What a run proves: the row of the table, and what is wrong with it.

use serde::Serialize;
use serde_json::Value;

use super::{
    kernels::Source,
    machine::{End, Run},
    payload::{AUTO, FORCE, LOSS, PACKET, TORTURE, WIRE},
    report::{self, Done, Report},
};

/// A kernel's row.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Verdict {
    /// Its name on the command line.
    pub(crate) kernel: &'static str,
    /// `uname -r`.
    pub(crate) release: String,
    /// `uname -v`.
    pub(crate) version: String,
    /// The self-test's, when forced.
    pub(crate) self_test: String,
    /// The relay in force by default.
    pub(crate) relay_auto: String,
    /// The relay in force when forced.
    pub(crate) relay_forced: String,
    /// What torture did; `None`: it was not run.
    pub(crate) torture: Option<Torture>,
    /// What the tests with a TCP of their own said at their end.
    pub(crate) wire: String,
    /// What those of the packet relay said at their end.
    pub(crate) packet: String,
    /// Tests that this kernel lacks something for, and what.
    pub(crate) skipped: Vec<String>,
    /// The kernel's complaints, the known one among them.
    pub(crate) complaints: Vec<String>,
    /// How long it took, with booting.
    pub(crate) seconds: f64,
    /// What is not as it should be.
    pub(crate) problems: Vec<String>,
    /// Why there is no such kernel to boot. It says nothing about mux.
    pub(crate) missing: Option<String>,
}

/// Sums over the torture runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Torture {
    pub(crate) flows: u64,
    pub(crate) bytes: u64,
    /// Flows with a wrong, missing or additional byte, that hung, or whose books did not balance.
    pub(crate) wrong: u64,
    /// Times that user space had to carry bytes.
    pub(crate) passes: u64,
    /// Bytes that came a second time and were cut off.
    pub(crate) trimmed: u64,
}

impl Verdict {
    /// Judges a run of `expected` commands.
    pub(crate) fn new(source: &'static Source, run: &Run, expected: &[&str]) -> Self {
        let Run { end, report, console, took } = run;
        let mut verdict = Self {
            kernel: source.name,
            release: report.release.clone(),
            version: report.version.clone(),
            complaints: report::complaints(console),
            seconds: took.as_secs_f64(),
            ..Self::default()
        };
        verdict.machine(*end, report);
        let unknown = verdict.complaints.iter().find(|line| !report::is_known(console, line));
        let problem = unknown.map(|line| format!("the kernel complained: {}", line.trim()));
        verdict.problems.extend(problem);
        let last_words = console.lines().filter(|line| line.contains(report::LAST_WORDS));
        verdict.problems.extend(last_words.map(|line| line.trim().to_owned()));
        verdict.doctors(source, report);
        for name in expected {
            match report.done(name) {
                None => verdict.problems.push(format!("{name}: was not run")),
                Some(done) if [TORTURE, LOSS].contains(name) => verdict.torture(done),
                Some(done) if *name == WIRE => verdict.wire = verdict.tests(done),
                Some(done) if *name == PACKET => verdict.packet = verdict.tests(done),
                Some(_) => {}
            }
        }
        verdict
    }

    /// A kernel that could not be booted.
    pub(crate) fn failed(source: &'static Source, error: &anyhow::Error) -> Self {
        Self { kernel: source.name, problems: vec![format!("{error:#}")], ..Self::default() }
    }

    fn machine(&mut self, end: End, report: &Report) {
        if end == End::TimedOut {
            let doing = report.running.as_deref().unwrap_or("booting");
            self.problems.push(format!("was ended while {doing}: time is up"));
        } else if !report.ended {
            self.problems.push("the machine ended before its work".to_owned());
        }
        self.problems.extend(report.failures.iter().map(|failure| format!("init: {failure}")));
    }

    fn doctors(&mut self, source: &Source, report: &Report) {
        let auto = Doctor::read(report.done(AUTO));
        let force = Doctor::read(report.done(FORCE));
        if !force.splices {
            self.problems.push(format!("forced, and not spliced: {}", force.reason));
        }
        if auto.splices != source.splices {
            let not = if source.splices { "not " } else { "" };
            self.problems.push(format!("{not}spliced by default: {}", auto.reason));
        }
        self.self_test = force.self_test;
        self.relay_auto = auto.relay;
        self.relay_forced = force.relay;
    }

    fn torture(&mut self, done: &Done) {
        let sums = self.torture.get_or_insert_default();
        let report: Value = serde_json::from_str(&done.out).unwrap_or_default();
        let count = |name: &str| report[name].as_u64().unwrap_or(0);
        let wrong = ["wrong", "hung", "failed", "imbalance", "strangers"];
        sums.flows += count("flows");
        sums.bytes += count("bytes_up") + count("bytes_down");
        sums.wrong += wrong.iter().map(|name| count(name)).sum::<u64>();
        sums.passes += count("passes");
        sums.trimmed += count("trimmed_bytes");
        if done.status != "exit:0" {
            let said = done.err.lines().rev().take(5).collect::<Vec<_>>();
            let said = said.into_iter().rev().collect::<Vec<_>>().join(" / ");
            self.problems.push(format!("{}: {} {said}", done.name, done.status));
        } else if count("flows") == 0 {
            self.problems.push(format!("{}: no flow was tried", done.name));
        }
    }

    /// Judges a program of tests; how many of them passed, and how many were skipped.
    fn tests(&mut self, done: &Done) -> String {
        let last = done.out.lines().rev().find(|line| line.starts_with("test result:"));
        let skipped: Vec<&str> =
            done.err.lines().filter_map(|line| line.strip_prefix("skipped: ")).collect();
        self.skipped.extend(skipped.iter().map(|skipped| format!("{}: {skipped}", done.name)));
        // To libtest a test that was skipped has passed.
        let passed = |line: &str| {
            let passed: usize = line.split_once(". ")?.1.split(' ').next()?.parse().ok()?;
            passed.checked_sub(skipped.len())
        };
        let passed = last.and_then(passed);
        if done.status != "exit:0" || passed.is_none_or(|passed| passed == 0) {
            let failed = done.out.lines().filter(|line| line.ends_with("FAILED"));
            let failed = failed.collect::<Vec<_>>().join(" / ");
            let errors = done.err.lines().filter(|line| !line.starts_with("skipped: "));
            let said: Vec<&str> = errors.map(str::trim).filter(|line| !line.is_empty()).collect();
            let said = said[said.len().saturating_sub(5)..].join(" / ");
            self.problems.push(format!("{}: {} {failed} {said}", done.name, done.status));
        }
        match (passed, skipped.len()) {
            (None, _) => String::new(),
            (Some(passed), 0) => format!("{passed} passed"),
            (Some(passed), skipped) => format!("{passed} passed, {skipped} skipped"),
        }
    }

    /// A kernel that could not be had.
    pub(crate) fn missing(source: &'static Source, error: &anyhow::Error) -> Self {
        let missing = Some(format!("{error:#}"));
        Self { kernel: source.name, missing, ..Self::default() }
    }

    /// Whether it was booted, and everything is as it should be.
    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty() && self.missing.is_none()
    }
}

/// What of `mux doctor --json` counts here.
#[derive(Debug, Default)]
struct Doctor {
    relay: String,
    splices: bool,
    self_test: String,
    /// The first problem that it found.
    reason: String,
}

impl Doctor {
    fn read(done: Option<&Done>) -> Self {
        let Some(done) = done else {
            return Self { reason: "doctor was not run".to_owned(), ..Self::default() };
        };
        let Ok(report) = serde_json::from_str::<Value>(&done.out) else {
            let said = done.err.lines().next().unwrap_or_default();
            let reason = format!("doctor printed no JSON: {} {said}", done.status);
            return Self { reason, ..Self::default() };
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let checks = || report["checks"].as_array().into_iter().flatten();
        let relay = text(&report["relay"]);
        let problem = checks().find(|check| check["status"] == "problem");
        let self_test = checks().find(|check| check["name"] == "self-test");
        Self {
            splices: relay == "sockmap",
            relay: relay.split(" (").next().unwrap_or_default().to_owned(),
            self_test: self_test.map(|check| text(&check["found"])).unwrap_or_default(),
            reason: problem.map_or(done.status.clone(), |check| text(&check["found"])),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::vm::kernels::SOURCES;

    const SPLICES: &str = "{\"relay\": \"sockmap\", \"checks\": \
        [{\"name\": \"self-test\", \"status\": \"ok\", \"found\": \"5 cases\"}]}";
    const REFUSES: &str = "{\"relay\": \"user space (splice, copy)\", \"checks\": \
        [{\"name\": \"kernel version\", \"status\": \"problem\", \"found\": \"old\"}]}";

    fn run(auto: &str, force: &str, torture: &str) -> Run {
        let done = |name: &str, out: &str| Done {
            name: name.to_owned(),
            status: "exit:0".to_owned(),
            out: out.to_owned(),
            ..Done::default()
        };
        let results = vec![done(AUTO, auto), done(FORCE, force), done(TORTURE, torture)];
        Run {
            end: End::PoweredOff,
            report: Report { results, ended: true, ..Report::default() },
            console: String::new(),
            took: Duration::from_secs(9),
        }
    }

    const ALL: [&str; 3] = [AUTO, FORCE, TORTURE];
    const GOOD: &str = "{\"flows\": 9, \"bytes_up\": 5, \"bytes_down\": 6, \"wrong\": 0}";

    #[test]
    fn what_is_expected_depends_on_the_kernel() {
        let (old, new) = (&SOURCES[0], &SOURCES[1]);
        assert!(Verdict::new(old, &run(REFUSES, SPLICES, GOOD), &ALL).is_good());
        assert!(!Verdict::new(new, &run(REFUSES, SPLICES, GOOD), &ALL).is_good());
        assert!(Verdict::new(new, &run(SPLICES, SPLICES, GOOD), &ALL).is_good());
        assert!(!Verdict::new(old, &run(REFUSES, REFUSES, GOOD), &ALL).is_good());
    }

    #[test]
    fn silence_is_no_success() {
        let source = &SOURCES[1];
        assert!(!Verdict::new(source, &run(SPLICES, "", GOOD), &ALL).is_good());
        assert!(!Verdict::new(source, &run(SPLICES, SPLICES, ""), &ALL).is_good());
        let mut cut = run(SPLICES, SPLICES, GOOD);
        cut.report.ended = false;
        assert!(!Verdict::new(source, &cut, &ALL).is_good());
        cut.report.ended = true;
        assert!(!Verdict::new(source, &cut, &[AUTO, FORCE, TORTURE, LOSS]).is_good());
    }

    #[test]
    fn a_warning_of_the_kernel_is_a_problem() {
        let mut warned = run(SPLICES, SPLICES, GOOD);
        warned.console = "WARNING: CPU: 0\n".to_owned();
        let verdict = Verdict::new(&SOURCES[1], &warned, &ALL);
        assert!(verdict.problems[0].contains("WARNING"), "{verdict:?}");
    }

    #[test]
    fn a_kernel_that_was_not_to_be_had_is_no_success() {
        let verdict = Verdict::missing(&SOURCES[1], &anyhow::anyhow!("no archive"));
        assert!(!verdict.is_good() && verdict.problems.is_empty());
    }

    #[test]
    fn tests_that_fail_or_do_not_run_are_problems() {
        let judged = |status: &str, out: &str| {
            let mut run = run(SPLICES, SPLICES, GOOD);
            for name in [WIRE, PACKET] {
                let (name, status, out) = (name.to_owned(), status.to_owned(), out.to_owned());
                let err = "Error: why\n\nCaused by: what\n".to_owned();
                run.report.results.push(Done { name, status, out, err, ..Done::default() });
            }
            let verdict = Verdict::new(&SOURCES[1], &run, &[WIRE, PACKET]);
            let all_say =
                verdict.problems.iter().all(|it| it.ends_with("Error: why / Caused by: what"));
            assert!(verdict.is_good() || (verdict.problems.len() == 2 && all_say), "{verdict:?}");
            verdict
        };
        let good = judged("exit:0", "test result: ok. 11 passed; 0 failed; 0 ignored\n");
        assert!(good.is_good(), "{good:?}");
        assert_eq!([good.wire, good.packet], ["11 passed"; 2]);
        assert!(
            !judged("exit:101", "test a ... FAILED\ntest result: FAILED. 1 passed; 1 failed\n")
                .is_good()
        );
        assert!(!judged("exit:0", "test result: ok. 0 passed; 0 failed\n").is_good());
        assert!(!judged("timeout", "").is_good());
    }

    #[test]
    fn what_a_kernel_lacks_is_said_and_is_no_success_by_itself() {
        let judged = |out: &str| {
            let mut verdict = Verdict::default();
            let err = "19 late bytes\nskipped: arming::look: an old kernel\n".to_owned();
            let (name, status) = (PACKET.to_owned(), "exit:0".to_owned());
            verdict.packet =
                verdict.tests(&Done { name, status, out: out.to_owned(), err, seconds: 1.0 });
            verdict
        };
        let some = judged("test result: ok. 20 passed; 0 failed\n");
        assert!(some.is_good(), "{some:?}");
        assert_eq!(some.packet, "19 passed, 1 skipped");
        assert_eq!(some.skipped, ["packet: arming::look: an old kernel"]);
        assert!(!judged("test result: ok. 1 passed; 0 failed\n").is_good());
    }

    #[test]
    fn torture_is_summed() {
        let verdict = Verdict::new(&SOURCES[1], &run(SPLICES, SPLICES, GOOD), &ALL);
        let sums = Torture { flows: 9, bytes: 11, ..Torture::default() };
        assert_eq!(verdict.torture, Some(sums));
    }
}
