//! Links between pages.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::page::{Page, pages};

fn parse(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

/// Where a page's links lead to.
fn links(text: &str) -> Vec<String> {
    let link = |event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
            Some(dest_url.into_string())
        }
        _ => None,
    };
    parse(text).filter_map(link).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let mut heading: Option<String> = None;
    for event in parse(text) {
        match (event, &mut heading) {
            (Event::Start(Tag::Heading { .. }), _) => heading = Some(String::new()),
            (Event::End(TagEnd::Heading(_)), Some(words)) => {
                let anchor = anchor(words);
                let time = times.entry(anchor.clone()).or_default();
                let again = if *time == 0 { String::new() } else { format!("-{time}") };
                *time += 1;
                anchors.insert(anchor + &again);
                heading = None;
            }
            (Event::Text(text) | Event::Code(text), Some(words)) => words.push_str(&text),
            _ => {}
        }
    }
    anchors
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Why a link leads nowhere, if it does.
fn broken(page: &Page, link: &str) -> Result<Option<String>> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(None);
    }
    let (path, fragment) = link.split_once('#').map_or((link, None), |(p, f)| (p, Some(f)));
    let directory = page.path.parent().context("a directory")?;
    let target: PathBuf =
        if path.is_empty() { page.path.clone() } else { directory.join(Path::new(path)) };
    if !target.exists() {
        return Ok(Some("there is no such file".to_owned()));
    }
    let Some(fragment) = fragment else { return Ok(None) };
    if target.extension().is_none_or(|extension| extension != "md") {
        return Ok(Some("only pages have anchors".to_owned()));
    }
    let there = anchors(&fs::read_to_string(&target)?);
    Ok((!there.contains(fragment)).then(|| format!("it has no #{fragment}, but {there:?}")))
}

#[test]
fn every_link_between_pages_leads_somewhere() -> Result<()> {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages()? {
        for link in links(&page.text) {
            count += 1;
            if let Some(why) = broken(&page, &link)? {
                wrong.push(format!("{}: {link}: {why}", page.path.display()));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(count > 100, "only {count} links were found");
    Ok(())
}

#[test]
fn anchors_are_githubs() {
    let text = "# The `mux` command\n## status, flows, top\n## relay\n## [[rule]]\n## relay\n";
    let expected = ["the-mux-command", "status-flows-top", "relay", "rule", "relay-1"];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
}

#[test]
fn links_in_code_are_none() {
    let text = "[a](b.md#c) `[d](e.md)`\n```\n[f](g.md)\n```\n| [h](i) |\n|---|\n";
    assert_eq!(links(text), ["b.md#c", "i"]);
}
