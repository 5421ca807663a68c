//! Every block of TOML is a rules file that passes the check, or a part of one. What a part leaves out
//! is added: where to listen, and the rules and upstreams that it names.

use std::{collections::BTreeSet, process::Command, thread};

use anyhow::{Context, Result, ensure};
use mux_tests::{Scratch, mux, run};
use toml::{Table, Value};

use super::page::{Block, pages};

/// `toml upstream`: keys of an `[[upstream]]`.
const UPSTREAM: &str = "[[upstream]]\nname = \"fragment\"\nendpoints = [\"127.0.0.1:1\"]\n";

#[test]
fn every_rules_file_in_the_documentation_passes_the_check() -> Result<()> {
    let mut blocks = Vec::new();
    for page in pages()? {
        let found = page.blocks()?.into_iter().filter(|block| block.language() == "toml");
        blocks.extend(found.map(|block| (page.at(block.line), block)));
    }
    ensure!(blocks.len() > 25, "only {} blocks: where have the others gone?", blocks.len());
    // Names are looked up, which may take its time.
    let wrong: Vec<String> = thread::scope(|scope| {
        let checks: Vec<_> = blocks
            .iter()
            .map(|(at, block)| scope.spawn(move || check(block).with_context(|| at.clone())))
            .collect();
        let errors = checks.into_iter().filter_map(|check| check.join().expect("no panic").err());
        errors.map(|error| format!("{error:#}")).collect()
    });
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn check(block: &Block) -> Result<()> {
    let fragment = match block.info.as_str() {
        "toml" => block.text.clone(),
        "toml upstream" => UPSTREAM.to_owned() + &block.text,
        other => anyhow::bail!("what is a block of `{other}`?"),
    };
    let rules = complete(&fragment)?;
    let scratch = Scratch::new()?;
    let file = scratch.write("rules.toml", &rules)?;
    let output = run(Command::new(mux()?).args(["check", "--rules"]).arg(file))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}\nof\n{rules}");
    Ok(())
}

/// The whole of a part.
fn complete(fragment: &str) -> Result<String> {
    let table: Table = fragment.parse()?;
    let tables = |key: &str| -> Vec<&Table> {
        let list = table.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_table).collect()
    };
    let text = |table: &Table, key: &str| table.get(key).and_then(Value::as_str).map(str::to_owned);
    let (listeners, rules) = (tables("listener"), tables("rule"));
    let named = |tables: &[&Table]| -> BTreeSet<String> {
        tables.iter().filter_map(|table| text(table, "name")).collect()
    };

    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for listener in &listeners {
        let list = listener.get("rules").and_then(Value::as_array);
        wanted.extend(list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
        wanted.extend(text(listener, "on_timeout"));
        wanted.extend(text(listener, "on_no_match"));
    }
    wanted.extend(rules.iter().filter_map(|rule| text(rule, "on_no_upstream")));
    wanted.retain(|name| !["close", "reset"].contains(&name.as_str()));
    let missing_rules: Vec<String> = wanted.difference(&named(&rules)).cloned().collect();

    let groups: BTreeSet<String> = rules
        .iter()
        .filter_map(|rule| text(rule, "upstream"))
        .filter(|name| is_name(name))
        .collect();
    let missing_groups =
        groups.difference(&named(&tables("upstream"))).cloned().collect::<Vec<_>>();

    // Rules in front, so that one without a condition leaves them something.
    let mut stubs = String::new();
    for name in missing_rules {
        stubs += &format!(
            "[[rule]]\nname = \"{name}\"\nmatch = {{ prefix = \"\\u0001{name}\" }}\nupstream = \"builtin:discard\"\n"
        );
    }
    let listens = !listeners.is_empty() || table.contains_key("listen");
    let listen = if listens { "" } else { "listen = \"127.0.0.1:0\"\n" };
    let mut whole = if table.contains_key("listen") {
        format!("{fragment}{stubs}")
    } else {
        format!("{listen}{stubs}{fragment}")
    };
    if rules.is_empty() && stubs.is_empty() {
        whole += "[[rule]]\nupstream = \"builtin:discard\"\n";
    }
    for name in missing_groups {
        whole += &format!("[[upstream]]\nname = \"{name}\"\nendpoints = [\"127.0.0.1:1\"]\n");
    }
    Ok(whole)
}

/// Whether an `upstream` names a group rather than an address.
fn is_name(upstream: &str) -> bool {
    !upstream.contains([':', '/']) && !upstream.bytes().all(|byte| byte.is_ascii_digit())
}
