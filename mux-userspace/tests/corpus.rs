//! Every input that fuzzing found worth keeping, through the check of its target: what the
//! fuzzer once reached stays right, without a fuzzer.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[path = "../fuzz/checks/heads.rs"]
mod heads;
#[path = "../fuzz/checks/import.rs"]
mod import;
#[path = "../fuzz/checks/networks.rs"]
mod networks;
#[path = "../fuzz/checks/probes.rs"]
mod probes;
#[path = "../fuzz/checks/proxy.rs"]
mod proxy;
#[path = "../fuzz/checks/route.rs"]
mod route;
#[path = "../fuzz/checks/rules.rs"]
mod rules;

/// Runs a check on each input of a target.
fn replay(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{target}: {error}"));
    let files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    assert!(files.len() >= 10, "{target} has {} inputs only", files.len());
    for file in files {
        let input = fs::read(&file).expect("readable");
        // A failed check names its input by this line.
        println!("{}", file.display());
        check(&input);
    }
}

#[test]
fn heads() {
    replay("heads", heads::check);
}

#[test]
fn import() {
    replay("import", import::check);
}

#[test]
fn networks() {
    replay("networks", networks::check);
}

#[test]
fn probes() {
    replay("probes", probes::check);
}

#[test]
fn proxy() {
    replay("proxy", proxy::check);
}

#[test]
fn route() {
    replay("route", route::check);
}

#[test]
fn rules() {
    // libFuzzer gives this target text only.
    replay("rules", |input| {
        if let Ok(text) = std::str::from_utf8(input) {
            rules::check(text);
        }
    });
}
