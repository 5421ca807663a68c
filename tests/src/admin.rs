//! A daemon's admin sockets, spoken to byte by byte, and the commands that use them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Conn, Daemon, Scratch, binary, eventually, run};

/// Where a daemon's admin socket is to be; its directory lives as long as this.
#[derive(Debug)]
pub struct AdminSocket {
    scratch: Scratch,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its fields, as they came.
    pub head: String,
    /// Its body.
    pub body: String,
}

impl AdminSocket {
    /// A place for one.
    ///
    /// # Errors
    /// The file system's.
    pub fn new() -> Result<Self> {
        Ok(Self { scratch: Scratch::new()? })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.scratch.join("admin.sock")
    }

    /// `[admin]` with this socket, and a TCP address beside it.
    #[must_use]
    pub fn rules(&self) -> String {
        format!(
            "[admin]\nsocket = \"{}\"\nmode = \"0666\"\nmetrics = \"127.0.0.1:0\"\n",
            self.path().display()
        )
    }

    /// A connection.
    ///
    /// # Errors
    /// connect(2)'s.
    pub fn connect(&self) -> Result<Conn> {
        Conn::unix(&self.path())
    }

    /// GET.
    ///
    /// # Errors
    /// There is no answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        ask(&self.connect()?, "GET", path, "")
    }

    /// GET, of a page for programs.
    ///
    /// # Errors
    /// There is no such answer.
    pub fn json(&self, path: &str) -> Result<Value> {
        let answer = self.get(path)?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        serde_json::from_str(&answer.body).context(answer.body)
    }

    /// POST.
    ///
    /// # Errors
    /// There is no answer.
    pub fn post(&self, path: &str, body: &str) -> Result<Answer> {
        ask(&self.connect()?, "POST", path, body)
    }

    /// The value of a series, as `/metrics` writes it; `None`: it is not there.
    ///
    /// # Errors
    /// There is no page, or the value is no number.
    pub fn metric(&self, series: &str) -> Result<Option<f64>> {
        let page = self.get("/metrics")?;
        ensure!(page.status == 200, "{page:?}");
        value(&page.body, series)
    }

    /// Waits until a series has a value.
    ///
    /// # Errors
    /// It gets another one, or there is no page.
    pub fn wait_metric(&self, series: &str, expected: f64) -> Result<()> {
        let mut last = None;
        let is_there = || {
            last = self.metric(series).transpose();
            matches!(&last, Some(Ok(now)) if (*now - expected).abs() < 1e-9).then_some(())
        };
        let waited = eventually(&format!("{series} is {expected}"), is_there);
        waited.with_context(|| format!("the last value: {last:?}"))
    }

    /// Runs `mux COMMAND --socket`.
    ///
    /// # Errors
    /// It does not end.
    pub fn mux(&self, arguments: &[&str]) -> Result<Output> {
        run(Command::new(binary::mux()?).args(arguments).arg("--socket").arg(self.path()))
    }

    /// The same, of a command that must do well; what it prints.
    ///
    /// # Errors
    /// It does not do well.
    pub fn mux_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.mux(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mux {arguments:?}: {}: {said}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Where a daemon's `[admin] metrics` is.
///
/// # Errors
/// The log does not say.
pub fn metrics_address(daemon: &Daemon) -> Result<SocketAddr> {
    let line = daemon.wait_log(" INFO metrics address=")?;
    let (_, address) = line.rsplit_once('=').context("an address")?;
    Ok(address.parse()?)
}

/// One request over a connection that ends with it.
///
/// # Errors
/// What comes is no answer.
pub fn ask(conn: &Conn, method: &str, path: &str, body: &str) -> Result<Answer> {
    conn.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: mux\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))?;
    answer(conn)
}

/// An answer that ends with its connection.
///
/// # Errors
/// What comes is none.
pub fn answer(conn: &Conn) -> Result<Answer> {
    let text = String::from_utf8(conn.to_end()?)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("no HTTP: {text:?}") };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no status: {head:?}"))?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// The value of a series on a page.
///
/// # Errors
/// It is no number.
pub fn value(page: &str, series: &str) -> Result<Option<f64>> {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|text| text.parse().with_context(|| text.to_owned())).transpose()
}

/// Runs a mux command as another user. Needs root.
///
/// # Errors
/// It does not end.
pub fn mux_as_nobody(scratch: &Path, arguments: &[&str]) -> Result<Output> {
    let mux = binary::for_others(&scratch.join("mux"))?;
    let id = crate::NOBODY.to_string();
    let who = ["--reuid", &id, "--regid", &id, "--clear-groups"];
    run(Command::new("setpriv").args(who).arg(mux).args(arguments))
}
