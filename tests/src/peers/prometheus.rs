//! Prometheus, which scrapes a daemon, and promtool.

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{curl, ports};
use crate::{Process, Scratch, eventually};

/// Attempts with other ports.
const ATTEMPTS: usize = 5;

/// A Prometheus with one target, `job="mux"`, asked every second.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    #[expect(dead_code, reason = "ends it")]
    process: Process,
    #[expect(dead_code, reason = "its directory")]
    scratch: Scratch,
}

impl Prometheus {
    /// Starts one that scrapes `target` and evaluates these rules.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn scraping(target: SocketAddr, rules: &Path) -> Result<Self> {
        let scratch = Scratch::new()?;
        let config = scratch.write(
            "prometheus.yml",
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
                 rule_files: [{:?}]\n\
                 scrape_configs:\n- {{job_name: mux, static_configs: [{{targets: [\"{target}\"]}}]}}\n",
                rules.display().to_string()
            ),
        )?;
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let port = ports::free_port()?;
            let process = Process::start(Command::new("prometheus").args([
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", scratch.join("data").display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
            ]))?;
            match process.wait_err("ready", |line| line.contains("ready to receive").then_some(()))
            {
                Ok(()) => return Ok(Self { port, process, scratch }),
                Err(error) => last = format!("{error:#}"),
            }
        }
        bail!("Prometheus does not start: {last}")
    }

    /// What its API answers.
    ///
    /// # Errors
    /// There is no answer, or it is an error.
    pub fn api(&self, path: &str) -> Result<Value> {
        let text = curl(&[&format!("http://127.0.0.1:{}/api/v1/{path}", self.port)])?;
        let answer: Value = serde_json::from_str(&text)?;
        ensure!(answer["status"] == "success", "{path}: {text}");
        Ok(answer["data"].clone())
    }

    /// The value of the one series that `query` selects, once there is one.
    ///
    /// # Errors
    /// There is none.
    pub fn value(&self, query: &str) -> Result<f64> {
        eventually(&format!("a value of {query}"), || {
            let data = self.api(&format!("query?query={query}")).ok()?;
            data["result"][0]["value"][1].as_str()?.parse().ok()
        })
    }
}

/// Runs promtool with this input; all that it prints.
///
/// # Errors
/// It is not installed, or fails.
pub fn promtool(arguments: &[&str], directory: &Path, input: &str) -> Result<String> {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool (Debian: prometheus)")?;
    // Dropped at once: its end is the end of the input.
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "promtool {arguments:?}: {}: {text}", output.status);
    Ok(text)
}
