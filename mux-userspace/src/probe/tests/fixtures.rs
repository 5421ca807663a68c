//! Every fixture of every probe: files in `fixtures/probes`, one a probe.
//!
//! A fixture is the first bytes of a connection, captured or written by the specification,
//! with the count of bytes at which the probe is first sure, and of what. Near misses are
//! fixtures whose answer is no.

use std::{fmt::Write as _, fs, path::PathBuf};

use serde::Deserialize;

use super::{Verdict, decides_at};
use crate::probe::Probe;

/// A file of fixtures.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What the probe looks for on the wire, in hexadecimal, with offsets.
    constants: String,
    /// The RFC and section, or what else defines the protocol.
    source: String,
    fixture: Vec<Fixture>,
}

/// One connection's first bytes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// What it shows; may be left out where `from` says it.
    name: Option<String>,
    /// The program, its version and how it was called, that these bytes were captured from; without
    /// it, they were written by the specification.
    from: Option<String>,
    /// As text, or:
    text: Option<String>,
    /// As hexadecimal; white space is skipped.
    hex: Option<String>,
    /// Sure of a match at this many bytes, or:
    r#match: Option<usize>,
    /// Sure that it is none at this many.
    no: Option<usize>,
    /// What the probe tells of all the bytes, where it matches.
    #[serde(default)]
    details: String,
}

impl Fixture {
    fn name(&self) -> &str {
        self.name.as_deref().or(self.from.as_deref()).expect("`name` or `from`")
    }

    fn bytes(&self) -> Vec<u8> {
        match (&self.text, &self.hex) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(hex)) => {
                let digits: Vec<u32> = hex
                    .chars()
                    .filter(|c| !c.is_whitespace())
                    .map(|c| c.to_digit(16).unwrap_or_else(|| panic!("{}: {c:?}", self.name())))
                    .collect();
                assert_eq!(digits.len() % 2, 0, "{}: half a byte", self.name());
                digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
            }
            _ => panic!("{}: `text` or `hex`", self.name()),
        }
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/probes")
}

/// The fixtures of a probe.
fn file(probe: &Probe) -> File {
    let path = folder().join(format!("{probe}.toml"));
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Probes that are no family of others.
fn single() -> impl Iterator<Item = Probe> {
    Probe::all().filter(|probe| !probe.is_family())
}

/// All fixtures: the probe that each is of, its name, and its bytes.
pub(crate) fn all() -> Vec<(String, String, Vec<u8>)> {
    let of = |probe: Probe| {
        let fixtures = file(&probe).fixture.into_iter();
        fixtures.map(move |fixture| (probe.to_string(), fixture.name().to_owned(), fixture.bytes()))
    };
    single().flat_map(of).collect()
}

/// What was captured from programs that a probe matches: which, and its first bytes.
pub(super) fn captured(probe: &Probe) -> Vec<(String, Vec<u8>)> {
    let fixtures = file(probe).fixture.into_iter();
    let captured = fixtures.filter(|fixture| fixture.r#match.is_some());
    captured.filter_map(|fixture| Some((fixture.from.clone()?, fixture.bytes()))).collect()
}

#[test]
fn every_prefix_of_every_fixture() {
    for probe in single() {
        let name = probe.name();
        let file = file(&probe);
        let misses = file.fixture.iter().filter(|fixture| fixture.no.is_some()).count();
        assert!(misses >= 2, "{name}: {misses} near misses");
        let is_capture = |fixture: &Fixture| fixture.from.is_some() && fixture.r#match.is_some();
        assert!(file.fixture.iter().any(is_capture), "{name}: nothing captured from a program");
        for fixture in &file.fixture {
            let bytes = fixture.bytes();
            match (fixture.r#match, fixture.no) {
                (Some(at), None) => {
                    let details = decides_at(name, &bytes, at);
                    assert_eq!(
                        details.as_deref(),
                        Some(&*fixture.details),
                        "{name}: {}",
                        fixture.name()
                    );
                }
                (None, Some(at)) => {
                    assert_eq!(decides_at(name, &bytes, at), None, "{name}: {}", fixture.name());
                }
                _ => panic!("{name}: {}: `match` or `no`", fixture.name()),
            }
        }
    }
}

/// The probes that take other protocols' fixtures too, without including them, each with its
/// why.
const OVERLAPS: &[(&str, &str, &str)] =
    &[("socks4a", "socks4", "one of socks4's fixtures is a SOCKS4a request")];

#[test]
fn no_probe_takes_anothers_fixture() {
    for theirs in single() {
        for fixture in file(&theirs).fixture.iter().filter(|fixture| fixture.r#match.is_some()) {
            for mine in single().filter(|mine| !mine.includes(&theirs)) {
                let pair =
                    |(a, b, _): &(&str, &str, &str)| *a == mine.name() && *b == theirs.name();
                if OVERLAPS.iter().any(pair) {
                    continue;
                }
                let verdict = mine.examine(&fixture.bytes());
                assert!(!verdict.is_match(), "{mine} takes {theirs}: {}", fixture.name());
            }
        }
    }
}

#[test]
fn the_reference_has_the_table_that_the_fixtures_make() {
    let mut page = String::from(
        "# Probes\n\n<!-- Made by a test out of mux-userspace/fixtures/probes: \
         MUX_UPDATE_DOCS=1 cargo test -p mux-userspace --lib probe::tests::fixtures -->\n\n\
         What each probe looks for, and at which byte of first bytes it is sure. Captured ones \
         are what the program in question sent, the version of it that is named; the others were \
         written by the specification. A rule names a probe as `match = \"NAME\"`.\n",
    );
    for probe in single() {
        let file = file(&probe);
        let _ = write!(
            page,
            "\n## {probe}\n\n{}. Source: {}.\n\n| first bytes | captured | verdict | sure at byte | details |\n|---|---|---|---|---|\n",
            file.constants, file.source
        );
        for fixture in &file.fixture {
            let bytes = fixture.bytes();
            let sure = (0..=bytes.len())
                .find(|&len| !matches!(probe.examine(&bytes[..len]), Verdict::NeedMore(_)));
            let Some(sure) = sure else { panic!("{probe}: {}: never sure", fixture.name()) };
            let matches = probe.examine(&bytes).is_match();
            let details = if fixture.details.is_empty() {
                String::new()
            } else {
                format!("`{}`", fixture.details)
            };
            let _ = writeln!(
                page,
                "| {} | {} | {} | {sure} of {} | {} |",
                fixture.name(),
                if fixture.from.is_some() { "yes" } else { "" },
                if matches { "match" } else { "no" },
                bytes.len(),
                details.replace('|', "\\|")
            );
        }
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/probes.md");
    if std::env::var_os("MUX_UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/probes.md is old: run with MUX_UPDATE_DOCS=1");
}
