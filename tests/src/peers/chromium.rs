//! Chromium without a screen.

use std::{net::SocketAddr, process::Command};

use anyhow::Result;

use crate::{Scratch, run_ok};

/// The page of `https://NAME/`, which is to be found at `address`, as Chromium has it after its
/// scripts have run. Certificates are not checked.
///
/// # Errors
/// It fails, or is not installed.
pub fn chromium(name: &str, address: SocketAddr) -> Result<String> {
    let scratch = Scratch::new()?;
    run_ok(
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
    )
}
