//! The real libconfig and fnmatch(3), in a program of C that is compiled where they are to be had
//! (Debian: gcc, libconfig-dev).

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
};

use tempfile::TempDir;

const SOURCE: &str = include_str!("oracle.c");

/// The program; its directory lives as long as the tests.
struct Oracle {
    _directory: TempDir,
    program: PathBuf,
}

static ORACLE: OnceLock<Result<Oracle, String>> = OnceLock::new();

fn build() -> Result<Oracle, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let source = directory.path().join("oracle.c");
    let program = directory.path().join("oracle");
    std::fs::write(&source, SOURCE).map_err(|error| error.to_string())?;
    let mut command = Command::new("cc");
    command.args([OsStr::new("-Wall"), OsStr::new("-o")]).args([&program, &source]).arg("-lconfig");
    let output = command.output().map_err(|error| format!("there is no cc: {error}"))?;
    if output.status.success() {
        return Ok(Oracle { _directory: directory, program });
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| line.contains("error")).unwrap_or("cc fails");
    // Any other failure is one of the test.
    if said.contains("libconfig.h: No such file") || said.contains("cannot find -lconfig") {
        return Err("there is no libconfig (Debian: libconfig-dev)".to_owned());
    }
    panic!("the oracle does not compile: {first}\n{said}");
}

/// Asks the oracle; `None`: there is none here, which is said on the real standard error, past
/// libtest's capture.
///
/// # Panics
/// With `MUX_TESTS_NO_SKIP=1`, where there is none.
pub(in super::super) fn ask<'a>(
    arguments: impl IntoIterator<Item = &'a OsStr>,
    input: Vec<u8>,
) -> Option<String> {
    let oracle = match ORACLE.get_or_init(build) {
        Ok(oracle) => oracle,
        Err(reason) => {
            let forbidden = std::env::var("MUX_TESTS_NO_SKIP").is_ok_and(|value| value == "1");
            assert!(!forbidden, "skipped, which MUX_TESTS_NO_SKIP forbids: {reason}");
            let name = thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "skipped: {name}: {reason}");
            return None;
        }
    };
    let mut child = Command::new(&oracle.program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the oracle starts");
    let mut stdin = child.stdin.take().expect("it has a standard input");
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the oracle ends");
    let written = writer.join().expect("the writer does not panic");
    assert!(output.status.success() && written.is_ok(), "the oracle fails: {}", output.status);
    Some(String::from_utf8(output.stdout).expect("the oracle prints ASCII"))
}

/// What libconfig makes of each text: its settings, a line each, or an error.
pub(in super::super) fn libconfig(texts: &[Vec<u8>]) -> Option<Vec<Result<String, String>>> {
    let mut input = Vec::new();
    for text in texts {
        input.extend(format!("{}\n", text.len()).into_bytes());
        input.extend(text);
    }
    let results = results(&ask([OsStr::new("libconfig")], input)?);
    assert_eq!(results.len(), texts.len());
    Some(results)
}

/// What libconfig makes of a file and its includes.
pub(in super::super) fn libconfig_file(path: &Path) -> Option<Result<String, String>> {
    let output = ask([OsStr::new("file"), path.as_os_str()], Vec::new())?;
    results(&output).pop()
}

fn results(output: &str) -> Vec<Result<String, String>> {
    let ended = output.split_inclusive("end\n").filter_map(|result| result.strip_suffix("end\n"));
    ended
        .map(|result| match result.strip_prefix("error ") {
            Some(error) => Err(error.trim_end().to_owned()),
            None => Ok(result.to_owned()),
        })
        .collect()
}

/// Whether each pattern matches its name.
pub(in super::super) fn fnmatch(cases: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<bool>> {
    let hex = |text: &[u8]| -> String { text.iter().map(|byte| format!("{byte:02x}")).collect() };
    let line =
        |(pattern, name): &(Vec<u8>, Vec<u8>)| format!("2d{} 2d{}\n", hex(pattern), hex(name));
    let input: String = cases.iter().map(line).collect();
    let output = ask([OsStr::new("fnmatch")], input.into_bytes())?;
    let results: Vec<bool> = output.lines().map(|line| line == "1").collect();
    assert_eq!(results.len(), cases.len());
    Some(results)
}
