//! Every block of commands is run, or says why not.

use anyhow::{Result, ensure};

use super::page::{Block, Mark, pages};

/// Blocks that are for a shell.
const SHELL: [&str; 4] = ["bash", "console", "sh", "shell"];
/// Blocks that are something else: each is looked at by a test, or is a picture (`text`).
const OTHERS: [&str; 8] = ["dot", "json", "logrotate", "mermaid", "rust", "text", "toml", "yaml"];

#[test]
fn every_command_in_the_documentation_is_run_or_says_why_not() -> Result<()> {
    let mut wrong = Vec::new();
    let (mut run, mut not_run) = (0, 0);
    for page in pages()? {
        for block in page.blocks()? {
            match verdict(&block) {
                Ok(true) => run += 1,
                Ok(false) => not_run += 1,
                Err(why) => wrong.push(format!("{}: {why}", page.at(block.line))),
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(run > 12, "only {run} blocks are run, {not_run} are not");
    Ok(())
}

/// Whether commands in it are run.
fn verdict(block: &Block) -> Result<bool, String> {
    let language = block.language();
    if block.info.contains('`') {
        // CommonMark 4.5: it would be no fence at all.
        return Err(format!("a backtick in `{}`", block.info));
    }
    if !SHELL.contains(&language) {
        return if OTHERS.contains(&language) {
            Ok(false)
        } else {
            Err(format!("a block of {language:?}; pictures and such are `text`"))
        };
    }
    match block.mark() {
        Mark::Run { .. } => Ok(true),
        Mark::NotRun(reason) if reason.len() > 8 => Ok(false),
        Mark::NotRun(reason) => Err(format!("{reason:?} is no reason")),
        Mark::None => Err(format!(
            "neither `{language} run` nor `{language} not-run: REASON`, but `{}`",
            block.info
        )),
    }
}
