//! `cargo xtask doctor`: what building and testing need, then what running needs, which the
//! daemon's own `mux doctor` tells.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    daemon::{self, Object, Profile},
    ebpf,
    run::Privileges,
    sh, steps,
};

/// `cargo xtask doctor`.
#[derive(clap::Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    name: &'static str,
    found: String,
    /// What to do; `None`: all is well.
    remedy: Option<String>,
}

/// Prints what is there and what to do about what is not.
///
/// # Errors
/// The daemon cannot be built or its `doctor` fails: then running it would, too.
pub(crate) fn command(args: &DoctorArgs) -> Result<()> {
    let checks = [rust(), components(), ebpf_toolchain(), object(), programs(), cargo_deny()];
    if !args.json {
        println!("Building and testing");
        for check in &checks {
            println!("  {:4} {:16} {}", check.verdict(), check.name, indented(&check.found));
            if let Some(remedy) = &check.remedy {
                println!("       {:16} hint: {}", "", indented(remedy));
            }
        }
    }
    let daemon = doctor_of_the_daemon(args.json);
    if args.json {
        let daemon = match &daemon {
            Ok(report) => report.clone(),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        let toolchain: Vec<Value> = checks.iter().map(Check::json).collect();
        println!("{:#}", json!({ "toolchain": toolchain, "daemon": daemon }));
    }
    daemon.map(drop)
}

impl Check {
    fn new(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, found: found.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    fn verdict(&self) -> &'static str {
        if self.remedy.is_none() { "ok" } else { "--" }
    }

    fn json(&self) -> Value {
        json!({
            "check": self.name,
            "ok": self.remedy.is_none(),
            "found": self.found,
            "remedy": self.remedy,
        })
    }
}

/// Builds the daemon and lets it speak, with the privileges that `cargo xtask run` would give it.
fn doctor_of_the_daemon(as_json: bool) -> Result<Value> {
    let mux = daemon::build(Profile::Release, Object::Best)?;
    let privileges = Privileges::here();
    let mut command = privileges.command(&mux);
    command.arg("doctor");
    if !as_json {
        println!("\nRunning ({})", privileges.explanation());
        sh::run(&mut command)?;
        return Ok(Value::Null);
    }
    // A doctor that found something missing says so by its exit code too; its report counts.
    let output = command
        .arg("--json")
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", sh::shown(&command)))?;
    match serde_json::from_slice(&output.stdout) {
        Ok(report) => Ok(report),
        Err(_) => bail!("`{}` printed no JSON: {}", sh::shown(&command), output.status),
    }
}

fn rust() -> Check {
    match sh::output(sh::cargo().arg("--version")) {
        Ok(version) => Check::new("rust", version),
        Err(error) => Check::new("rust", format!("{error:#}")).remedy("install Rust: rustup.rs"),
    }
}

fn components() -> Check {
    let missing: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(command, _)| !sh::succeeds(sh::cargo().args([command, "--version"])))
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Check::new("rustfmt, clippy", "here");
    }
    let list = missing.join(" ");
    Check::new("rustfmt, clippy", format!("missing: {list}"))
        .remedy(format!("rustup component add {list}"))
}

fn ebpf_toolchain() -> Check {
    match ebpf::select(false) {
        Ok(t) => Check::new(
            "eBPF toolchain",
            format!("{}: {}, {}, {}", t.name, t.version, t.linker_version, t.llvm.display()),
        ),
        Err(error) => {
            let text = format!("{error:#}");
            let (found, remedy) = text.split_once("\nhint: ").unwrap_or((&text, "see above"));
            Check::new("eBPF toolchain", found)
                .remedy(format!("needed only to change the eBPF half: {remedy}"))
        }
    }
}

fn object() -> Check {
    match daemon::is_current() {
        Ok(true) => Check::new("eBPF object", "the committed one is of this source"),
        Ok(false) => {
            Check::new("eBPF object", "the committed one is of another source, or missing")
                .remedy("`cargo xtask ebpf` builds and replaces it")
        }
        Err(error) => Check::new("eBPF object", format!("{error:#}")).remedy("`cargo xtask ebpf`"),
    }
}

fn programs() -> Check {
    let missing = steps::missing_packages();
    if missing.is_empty() {
        return Check::new("test programs", "here");
    }
    Check::new("test programs", format!("missing packages: {}", missing.join(" ")))
        .remedy("needed only by `cargo xtask test`, which installs them when it is root")
}

fn cargo_deny() -> Check {
    match sh::find("cargo-deny") {
        Some(path) => Check::new("cargo-deny", path.display().to_string()),
        None => Check::new("cargo-deny", "not installed (its test step is skipped)")
            .remedy("cargo install cargo-deny --locked"),
    }
}

/// Keeps what has several lines under its own column.
fn indented(text: &str) -> String {
    text.replace('\n', &format!("\n       {:16} ", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_with_a_remedy_is_not_ok() {
        assert_eq!(Check::new("rust", "cargo 1.95.0").json()["ok"], json!(true));
        let check = Check::new("rust", "old").remedy("newer");
        assert_eq!(check.verdict(), "--");
        assert_eq!(check.json()["remedy"], json!("newer"));
    }

    #[test]
    fn lines_stay_in_their_column() {
        assert_eq!(indented("a\nb"), format!("a\n{}b", " ".repeat(24)));
    }
}
