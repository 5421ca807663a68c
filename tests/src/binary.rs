//! Finding the daemon under test.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The daemon's path: `MUX_BIN`, else `release/mux` or `debug/mux` in the target directory that
/// this test binary is in.
///
/// # Errors
/// There is none; the message says what to build.
pub fn mux() -> Result<PathBuf> {
    if let Some(path) = env::var_os("MUX_BIN") {
        let path = PathBuf::from(path);
        if !path.is_absolute() || !path.is_file() {
            bail!("MUX_BIN={} is not the absolute path of a file", path.display());
        }
        return Ok(path);
    }
    let own = env::current_exe().context("where is this test?")?;
    // target/PROFILE/deps/integration-…
    let target = own.ancestors().nth(3).unwrap_or(Path::new("."));
    ["release/mux", "debug/mux"].into_iter().map(|name| target.join(name)).find(|path| path.is_file()).with_context(
        || {
            format!(
                "there is no daemon to test in {}\nhint: `cargo build --release -p mux-userspace`, or name one with MUX_BIN=/path/to/mux",
                target.display()
            )
        },
    )
}
