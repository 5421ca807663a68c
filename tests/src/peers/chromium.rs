//! Chromium without a screen.

use std::{net::SocketAddr, process::Command};

use anyhow::{Result, ensure};

use crate::{Process, Scratch};

/// The page of `https://NAME/`, which is to be found at `address`, as Chromium has it after its
/// scripts have run. Certificates are not checked.
///
/// # Errors
/// It fails, or is not installed.
pub fn chromium(name: &str, address: SocketAddr) -> Result<String> {
    let scratch = Scratch::new()?;
    let mut browser = Process::start(
        Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args([
                "--disable-component-update",
                "--ignore-certificate-errors",
                "--no-proxy-server",
            ])
            .arg(format!("--user-data-dir={}", scratch.path().display()))
            // Nothing but this name is found, so that it talks to nobody else.
            .arg(format!("--host-resolver-rules=MAP {name} {address},MAP * ~NOTFOUND"))
            .arg("--dump-dom")
            .arg(format!("https://{name}/"))
            .env("HOME", scratch.path()),
    )?;
    // It starts a dozen processes, which a loaded machine takes its time for: three times the
    // usual deadline, of which `output` has the last.
    for _ in 0..2 {
        if browser.wait().is_ok() {
            break;
        }
    }
    let output = browser.output()?;
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "chromium failed, {}: {err}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
