//! Pages, and the fenced blocks in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use mux_tests::repository;

/// A page of the documentation.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// A fenced block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The line of its first fence, from 1.
    pub(super) line: usize,
    /// How far it is indented, which its lines are without.
    pub(super) indent: usize,
    /// After the fence's backticks.
    pub(super) info: String,
    /// Its lines, each with an end.
    pub(super) text: String,
}

/// How a block is tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// `console run`, `sh run`: it is run. `with=NAME`: after what this name stands for in
    /// `sessions`; `above=PATH`: the rules that stand before it on the page are this file.
    Run { with: Option<String>, above: Option<String> },
    /// `not-run: REASON`.
    NotRun(String),
    /// Neither.
    None,
}

impl Page {
    /// How its failures begin.
    pub(super) fn at(&self, line: usize) -> String {
        let path = self.path.strip_prefix(repository()).unwrap_or(&self.path);
        format!("{}:{line}", path.display())
    }

    /// Its blocks.
    pub(super) fn blocks(&self) -> Result<Vec<Block>> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            let trimmed = line.trim_start();
            let indent = line.len() - trimmed.len();
            match (&mut open, trimmed.strip_prefix("```")) {
                (None, Some(info)) => {
                    let (info, text) = (info.trim().to_owned(), String::new());
                    open = Some(Block { line: number, indent, info, text });
                }
                (None, None) => {}
                (Some(_), Some("")) => blocks.extend(open.take()),
                (Some(block), _) => {
                    block.text += line.get(block.indent..).unwrap_or(trimmed);
                    block.text.push('\n');
                }
            }
        }
        ensure!(open.is_none(), "{}: no end of the block", self.at(open.map_or(0, |b| b.line)));
        Ok(blocks)
    }
}

impl Block {
    /// The language.
    pub(super) fn language(&self) -> &str {
        self.info.split(' ').next().unwrap_or_default()
    }

    /// What follows the language.
    pub(super) fn mark(&self) -> Mark {
        let (_, mark) = self.info.split_once(' ').unwrap_or_default();
        if let Some(reason) = mark.strip_prefix("not-run: ") {
            return Mark::NotRun(reason.trim().to_owned());
        }
        let mut words = mark.split(' ');
        if words.next() != Some("run") {
            return Mark::None;
        }
        let (mut with, mut above) = (None, None);
        for word in words {
            match word.split_once('=') {
                Some(("with", name)) => with = Some(name.to_owned()),
                Some(("above", path)) => above = Some(path.to_owned()),
                _ => return Mark::None,
            }
        }
        Mark::Run { with, above }
    }
}

/// All pages: every `*.md` that is in the repository.
pub(super) fn pages() -> Result<Vec<Page>> {
    let mut pages = Vec::new();
    gather(repository(), &mut pages)?;
    ensure!(pages.len() > 12, "only {} pages: where have the others gone?", pages.len());
    Ok(pages)
}

fn gather(directory: &Path, pages: &mut Vec<Page>) -> Result<()> {
    // What is made, what is kept, and what is git's.
    const OTHERS: [&str; 3] = ["target", ".cache", ".git"];
    let mut entries = fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !OTHERS.iter().any(|other| entry.file_name() == *other) {
                gather(&path, pages)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            pages.push(Page { path, text });
        }
    }
    Ok(())
}
