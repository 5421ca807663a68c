//! The reference of the command names every subcommand and option, and none that there is not. (That of
//! the rules file is compared by a unit test of the parser, that of the metrics by one of theirs.)

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use mux_tests::{mux, repository, run_ok};

const REFERENCE: &str = "docs/reference/cli.md";
/// Options of every command, which need no words.
const OF_ALL: [&str; 2] = ["--help", "--version"];

/// Subcommands, with the long options of each; the daemon is ``.
type Commands = BTreeMap<String, BTreeSet<String>>;

/// The long options in a text.
fn options(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text.split(|c: char| !is_part(c));
    let options = words.filter(|word| word.starts_with("--") && word.len() > 3);
    options.map(str::to_owned).filter(|option| !OF_ALL.contains(&option.as_str())).collect()
}

/// What the program says of itself.
fn there_are() -> Result<Commands> {
    let help = |arguments: &[&str]| run_ok(Command::new(mux()?).args(arguments).arg("--help"));
    let usage = |help: &str| -> BTreeSet<String> {
        // An option stands at the beginning of its line; after that, others are only mentioned.
        let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        lines.flat_map(|line| options(line.split("  ").next().unwrap_or_default())).collect()
    };
    let all = help(&[])?;
    let mut commands = Commands::from([(String::new(), usage(&all))]);
    let list = all.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in list.take_while(|line| !line.is_empty()) {
        // What a long description continues with is indented further.
        let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) else {
            continue;
        };
        let name = name.split_whitespace().next().context("a name")?;
        if name != "help" {
            commands.insert(name.to_owned(), usage(&help(&[name])?));
        }
    }
    Ok(commands)
}

/// What the reference's first block says: a line for each command, or for several (`a | b`).
fn documented(page: &str) -> Result<Commands> {
    let block = page.split("```").nth(1).context("no block")?;
    let mut commands = Commands::new();
    for line in block.lines().filter_map(|line| line.strip_prefix("mux ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut names: Vec<&str> =
            words.first().copied().filter(|word| !word.starts_with('-')).into_iter().collect();
        for pair in words.get(1..).unwrap_or_default().chunks_exact(2) {
            let ["|", other] = pair else { break };
            names.push(other);
        }
        if names.is_empty() {
            names.push("");
        }
        for name in names {
            let twice = commands.insert(name.to_owned(), options(line));
            ensure!(twice.is_none(), "`{name}` is there twice");
        }
    }
    Ok(commands)
}

#[test]
fn the_reference_has_every_command_and_option() -> Result<()> {
    let page = fs::read_to_string(repository().join(REFERENCE))?;
    let (there, documented) = (there_are()?, documented(&page)?);
    ensure!(there.len() > 10, "{there:?}");
    for (name, options) in &there {
        let said = documented.get(name).with_context(|| format!("`mux {name}` is not there"))?;
        ensure!(said == options, "`mux {name}`: the reference has {said:?}, mux has {options:?}");
    }
    for name in documented.keys() {
        ensure!(there.contains_key(name), "there is no `mux {name}`");
    }
    // Beyond the summary, each has its words.
    let words = page.splitn(3, "```").nth(2).context("words")?;
    for (name, options) in &there {
        let is_told = name.is_empty()
            || [format!("## {name}\n"), format!("| `{name}"), format!("`{name}` |")]
                .iter()
                .any(|form| words.contains(form.as_str()));
        ensure!(is_told, "nothing is said of `mux {name}`");
        for option in options {
            let is_told = [format!("`{option}`"), format!("`{option} ")]
                .iter()
                .any(|form| words.contains(form.as_str()));
            ensure!(is_told, "nothing is said of `{option}`");
        }
    }
    Ok(())
}
