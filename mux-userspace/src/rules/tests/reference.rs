//! docs/reference/rules.md has a row for every key that the parser takes, and none for another one, and
//! names the defaults.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::rules::config::Limits;

const REFERENCE: &str = include_str!("../../../../docs/reference/rules.md");
/// No key is like it, so that the parser lists those that there are.
const UNKNOWN: &str = "xxxxxxxxxxxxxxxxxxxxxxxx";

/// A table of keys: its heading in the reference, which of that section's tables it is, and a rules
/// file in two parts, with `@` where its keys are.
struct Keys(&'static str, usize, &'static str, &'static str);

/// A file to which tables can be added.
const SMALL: &str = "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = 80\n";
/// One that goes on in an `[[upstream]]`.
const GROUP: &str =
    "listen = \"127.0.0.1:0\"\n[[rule]]\nupstream = \"g\"\n[[upstream]]\nname = \"g\"\n";

const TABLES: [Keys; 17] = [
    Keys("## Top level", 0, "@\n", SMALL),
    Keys("## [[listener]]", 0, SMALL, "[[listener]]\naddress = \"127.0.0.1:0\"\n@\n"),
    Keys("## [[rule]]", 0, SMALL, "@\n"),
    Keys("## match", 0, SMALL, "match = { prefix = \"x\", @ }\n"),
    Keys("### tls", 0, SMALL, "match = { tls = { @ } }\n"),
    Keys("### http", 0, SMALL, "match = { http = { @ } }\n"),
    Keys("## [[upstream]]", 0, GROUP, "endpoints = [1, 2]\n@\n"),
    Keys("## [[upstream]]", 1, GROUP, "endpoints = [{ address = 1, @ }, 2]\n"),
    Keys(
        "### queue",
        0,
        GROUP,
        "endpoints = [1]\nmax_connections = 1\nqueue = { length = 1, @ }\n",
    ),
    Keys("### health", 0, GROUP, "endpoints = [1]\nhealth = { @ }\n"),
    Keys("### eject", 0, GROUP, "endpoints = [1, 2]\neject = { @ }\n"),
    Keys("## [timeouts]", 0, SMALL, "[timeouts]\n@\n"),
    Keys("## [limits]", 0, SMALL, "[limits]\n@\n"),
    Keys("## [log]", 0, SMALL, "[log]\n@\n"),
    Keys("## [admin]", 0, SMALL, "[admin]\n@\n"),
    Keys("## [security]", 0, SMALL, "[security]\n@\n"),
    Keys("## [kernel]", 0, SMALL, "[kernel]\n@\n"),
];

impl Keys {
    /// The file with these keys.
    fn file(&self, keys: &str) -> String {
        [self.2, self.3].concat().replace('@', keys)
    }
}

/// A row: its keys, and what it says of their default.
struct Row {
    keys: Vec<String>,
    default: Option<String>,
}

/// The words in backticks.
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The tables of a section, until the next heading.
fn tables(heading: &str) -> Vec<Vec<Row>> {
    let start = REFERENCE.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = REFERENCE[start + 1..].split_once('\n').map_or("", |(_, rest)| rest);
    let section = section.split("\n#").next().unwrap_or_default();
    let mut tables: Vec<Vec<Row>> = Vec::new();
    let mut columns = Vec::new();
    for line in section.lines() {
        let Some(line) = line.strip_prefix('|') else {
            columns.clear();
            continue;
        };
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if columns.is_empty() {
            columns = cells.iter().map(ToString::to_string).collect();
            if columns[0] == "key" {
                tables.push(Vec::new());
            }
        } else if columns[0] == "key" && !cells[0].starts_with("---") {
            let default = columns.iter().position(|column| column == "default");
            let default = default.map(|column| cells[column].to_owned());
            let row = Row { keys: code(cells[0]), default };
            tables.last_mut().expect("a table").push(row);
        }
    }
    tables
}

/// The keys that the parser lists for a table.
fn known(keys: &Keys) -> BTreeSet<String> {
    let report = report(&keys.file(&format!("{UNKNOWN} = 1")));
    let hint = report.split("hint: keys of ").nth(1).unwrap_or_else(|| panic!("{report}"));
    code(hint.lines().next().unwrap_or_default().split_once(": ").map_or("", |(_, keys)| keys))
        .into_iter()
        .collect()
}

#[test]
fn the_reference_has_a_row_for_every_key() {
    for keys in &TABLES {
        let Keys(heading, index, ..) = keys;
        let rows: BTreeSet<String> =
            tables(heading)[*index].iter().flat_map(|row| row.keys.clone()).collect();
        let mut known = known(keys);
        if *heading == "## Top level" {
            // The others have sections of their own.
            for section in known.clone() {
                let headings = [format!("\n## [[{section}]]\n"), format!("\n## [{section}]\n")];
                if headings.iter().any(|heading| REFERENCE.contains(heading)) {
                    known.remove(&section);
                }
            }
        }
        assert_eq!(rows, known, "{heading}, table {index}: the reference, and the parser");
    }
}

/// A key with its default is as no key.
#[test]
fn the_defaults_of_the_reference_are_the_parsers() {
    let mut compared: BTreeMap<&str, usize> = BTreeMap::new();
    for keys in &TABLES {
        let Keys(heading, index, ..) = keys;
        for row in &tables(heading)[*index] {
            let Some(default) = &row.default else { continue };
            // Of "`10000`, or fewer …" the rest is a matter of the machine; "none" is no value.
            let Some(value) = code(default).into_iter().next() else { continue };
            for key in &row.keys {
                if is_no_value(heading, key) {
                    continue;
                }
                let without = config(&keys.file(""));
                let with = config(&keys.file(&format!("{key} = {value}")));
                let (without, with) = (format!("{without:?}"), format!("{with:?}"));
                assert_eq!(without, with, "{heading}: the default of `{key}` is not {value}");
                *compared.entry(heading).or_default() += 1;
            }
        }
    }
    let all: usize = compared.values().sum();
    assert!(all > 30 && compared.len() > 10, "only {compared:?}");
    assert!(REFERENCE.contains(&format!(
        "| `max_connections` | 1 to 4,294,967,295 | `{}`, or fewer",
        Limits::DEFAULT_CONNECTIONS
    )));
}

/// Where the column says something else than a value that can be written.
fn is_no_value(heading: &str, key: &str) -> bool {
    [
        // It follows from the place among others.
        ("## [[listener]]", "name"),
        ("## [[rule]]", "name"),
        // By what `[timeouts]` says.
        ("## [[listener]]", "keepalive"),
        ("## [[listener]]", "user_timeout"),
        ("## [[upstream]]", "keepalive"),
        ("## [[upstream]]", "user_timeout"),
        // As many as fit, and by how many endpoints there are.
        ("## [limits]", "max_connections"),
    ]
    .contains(&(heading, key))
}
