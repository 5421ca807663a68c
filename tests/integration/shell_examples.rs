//! The console sessions of the documentation print what the pages say.
//!
//! Those that begin with "```console run": each line after a `$ ` is a command for a shell in the
//! repository's root, and the lines up to the next are all that it prints.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{mux, repository, run};

const BEGIN: &str = "```console run";
const END: &str = "```";
/// Writes what is printed into the pages instead.
const BLESS: &str = "MUX_TESTS_BLESS";

#[test]
fn documented_sessions_print_what_the_pages_say() -> Result<()> {
    let bless = env::var_os(BLESS).is_some();
    let mut sessions = 0;
    for page in pages()? {
        let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        let (actual, found) = rerun(&text)?;
        sessions += found;
        if bless && actual != text {
            fs::write(&page, &actual)?;
        }
        let differs = text.lines().zip(actual.lines()).position(|(said, is)| said != is);
        ensure!(
            bless || actual == text,
            "{}: the sessions print something else from line {:?} on:\n{actual}",
            page.display(),
            differs.map(|line| line + 1),
        );
    }
    ensure!(sessions >= 4, "only {sessions} sessions: where have the others gone?");
    Ok(())
}

/// All pages with sessions.
fn pages() -> Result<Vec<PathBuf>> {
    let docs = repository().join("docs");
    let mut pages = vec![repository().join("README.md")];
    for directory in [docs.clone(), docs.join("reference"), docs.join("internals")] {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    Ok(pages)
}

/// The page with what its sessions print now, and how many there are.
fn rerun(page: &str) -> Result<(String, usize)> {
    let mut lines = page.lines();
    let mut output = String::new();
    let mut sessions = 0;
    while let Some(line) = lines.next() {
        output += line;
        output.push('\n');
        if line != BEGIN {
            continue;
        }
        sessions += 1;
        let session = lines.by_ref().take_while(|line| *line != END);
        for command in session.filter_map(|line| line.strip_prefix("$ ")) {
            output += &format!("$ {command}\n{}", shell(command)?);
        }
        output += END;
        output.push('\n');
    }
    Ok((output, sessions))
}

/// All that a command prints.
fn shell(command: &str) -> Result<String> {
    let daemon = mux()?;
    let directory = daemon.parent().unwrap_or(Path::new("/"));
    let path = format!("{}:{}", directory.display(), env::var("PATH").unwrap_or_default());
    let command = format!("{{ {command}\n}} 2>&1");
    let output =
        run(Command::new("sh").args(["-c", &command]).env("PATH", path).current_dir(repository()))?;
    String::from_utf8(output.stdout).context("a session prints something else than text")
}
