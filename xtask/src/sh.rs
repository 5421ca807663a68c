//! Running other programs: where they are found, what environment they see, what is said
//! when they fail. Never a shell, so that no path needs quoting.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Says on standard error what xtask does next; standard output belongs to the programs it runs.
pub(crate) fn status(text: impl std::fmt::Display) {
    eprintln!("xtask: {text}");
}

/// The workspace's root, from where this crate was compiled.
pub(crate) fn root() -> &'static Path {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().unwrap_or(crate_dir)
}

/// Where cargo puts what it builds on the host: `CARGO_TARGET_DIR` or `target`.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that runs xtask, so that its children use the same toolchain.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    without_cargo_run(&mut command);
    command
}

/// A command in the workspace's root that does not see what `cargo run` set for xtask.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    without_cargo_run(&mut command);
    without_toolchain(&mut command);
    command
}

/// Takes out of `command`'s environment what `cargo run` put there about *this* crate, which
/// would otherwise leak into other crates' build scripts and into the daemon.
fn without_cargo_run(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if set_by_cargo_run(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    // cargo prepends directories of its own to it; what the user had there stays.
    match env::var_os("LD_LIBRARY_PATH").and_then(|paths| users_library_path(&paths)) {
        Some(paths) => command.env("LD_LIBRARY_PATH", paths),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
}

/// Takes the choice of a toolchain (rustup's, cargo's) out of `command`'s environment.
fn without_toolchain(command: &mut Command) {
    for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT"] {
        command.env_remove(name);
    }
}

/// Takes all of cargo's and rustup's variables out of `command`'s environment: a daemon has
/// nothing to do with how it was built.
pub(crate) fn without_rust(command: &mut Command) {
    without_cargo_run(command);
    without_toolchain(command);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_") || text.starts_with("RUSTUP_") {
            command.env_remove(name);
        }
    }
}

/// Takes everything out of `command`'s environment that could change what a compiler makes of
/// the same source: the eBPF object must come out the same for everybody.
pub(crate) fn without_compiler_settings(command: &mut Command) {
    const PREFIXES: [&str; 5] =
        ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_UNSTABLE_", "RUSTC"];
    const NAMES: [&str; 6] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "LD_LIBRARY_PATH",
        "RUSTDOC",
        "RUSTFLAGS",
        "__CARGO_TESTS_ONLY_SRC_ROOT",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if PREFIXES.iter().any(|prefix| text.starts_with(prefix)) || NAMES.contains(&&*text) {
            command.env_remove(name);
        }
    }
}

/// Whether `cargo run` sets this variable for the program it runs.
fn set_by_cargo_run(name: &str) -> bool {
    const PREFIXES: [&str; 4] = ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || ["CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&name)
}

/// `LD_LIBRARY_PATH` without the directories that cargo and rustup put in; `None`: nothing left.
fn users_library_path(paths: &OsStr) -> Option<OsString> {
    let kept: Vec<PathBuf> = env::split_paths(paths)
        .filter(|path| {
            let text = path.to_string_lossy();
            !(text.is_empty()
                || path.starts_with(target_dir())
                || text.contains("/toolchains/")
                || text.contains("/rustlib/"))
        })
        .collect();
    if kept.is_empty() { None } else { env::join_paths(kept).ok() }
}

/// A command as a person would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `command` with its output passed through.
///
/// # Errors
/// It cannot be started, or ends with anything but 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a `cargo test` with its output passed through, and says in the error which tests failed: a
/// log of thousands of lines may be cut in the middle.
///
/// # Errors
/// It cannot be started, or ends with anything but 0.
pub(crate) fn tests(command: &mut Command) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let mut failed = Vec::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            failed.extend(failed_test(&line).map(str::to_owned));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        let names =
            if failed.is_empty() { String::new() } else { format!(": {}", failed.join(" ")) };
        bail!("{} tests failed{names}; `{}`: {status}", failed.len(), shown(command));
    }
    Ok(())
}

/// The name in libtest's line about a test that failed.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Runs `command` and returns its standard output, trimmed; its standard error passes through.
///
/// # Errors
/// It cannot be started, or ends with anything but 0.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes(command)?).trim().to_owned())
}

/// As [`output`], for what is no text.
///
/// # Errors
/// It cannot be started, or ends with anything but 0.
pub(crate) fn bytes(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(command), output.status);
    }
    Ok(output.stdout)
}

/// Whether `command` ends with 0; silent.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Where `name` is: in `PATH`, where cargo installs programs, or where Debian keeps an
/// administrator's (which a user's `PATH` often lacks).
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Whether `file` is a regular file that somebody may execute.
pub(crate) fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// `CARGO_HOME`, or its default.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    home_of("CARGO_HOME", ".cargo")
}

/// `RUSTUP_HOME`, or its default.
pub(crate) fn rustup_home() -> Option<PathBuf> {
    home_of("RUSTUP_HOME", ".rustup")
}

fn home_of(variable: &str, default: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_path_keeps_only_what_the_user_set() {
        let mine = target_dir().join("debug/deps");
        let paths = format!("{}:/root/.rustup/toolchains/x/lib:/opt/lib", mine.display());
        assert_eq!(users_library_path(OsStr::new(&paths)), Some("/opt/lib".into()));
        assert_eq!(users_library_path(mine.as_os_str()), None);
    }

    #[test]
    fn failed_tests_are_told_by_libtests_lines() {
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failed_test("test a::b ... ok"), None);
        assert_eq!(failed_test("test result: FAILED. 1 passed; 1 failed"), None);
    }

    #[test]
    fn the_daemon_does_not_see_cargos_variables() {
        assert!(set_by_cargo_run("CARGO_PKG_NAME"));
        assert!(set_by_cargo_run("CARGO_MANIFEST_DIR"));
        assert!(!set_by_cargo_run("CARGO_HOME"));
        assert!(!set_by_cargo_run("PATH"));
    }
}
