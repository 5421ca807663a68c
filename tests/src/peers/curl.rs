//! curl.

use std::process::Command;

use anyhow::Result;

use crate::{deadline, run_ok};

/// What curl gets, without a line end at the end; it fails for statuses from 400 on.
///
/// # Errors
/// It fails, or is not installed.
pub fn curl(arguments: &[&str]) -> Result<String> {
    let text = run_ok(
        Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--max-time"])
            .arg(deadline().as_secs().to_string())
            .args(arguments)
            // What the machine is told to use is no part of the test.
            .env_remove("http_proxy")
            .env_remove("https_proxy")
            .env_remove("HTTPS_PROXY")
            .env_remove("all_proxy")
            .env_remove("ALL_PROXY"),
    )?;
    Ok(text.trim_end().to_owned())
}
