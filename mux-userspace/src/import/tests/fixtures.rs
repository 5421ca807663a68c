//! The configurations in `tests/fixtures/sslh`, and what becomes of them.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::Known;
use crate::import::translate;
use crate::{import::source::Sources, rules};

/// `MUX_UPDATE_FIXTURES=1` writes the results anew; look at what has changed.
#[test]
fn results_are_as_expected() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sslh");
    for file in ["basic.cfg", "everything.cfg", "old.cfg", "default"] {
        let name = file.strip_suffix(".cfg").unwrap_or(file);
        let text = fs::read(fixtures.join(file)).expect("it can be read");
        let mut sources = Sources::default();
        let file = sources.add(file.to_owned(), fixtures.clone(), text);
        let imported = translate(sources, file.expect("it is small"), &Known);
        let imported = imported.unwrap_or_else(|error| panic!("{name}: {error}"));
        rules::parse("rules.toml", &imported.rules).unwrap_or_else(|error| panic!("{error}"));

        let mut result = imported.rules;
        for warning in imported.warnings {
            writeln!(result, "\n# On standard error: warning: {warning}").expect("it is a string");
        }
        let expected = fixtures.join(format!("{name}.toml"));
        if std::env::var_os("MUX_UPDATE_FIXTURES").is_some() {
            fs::write(&expected, &result).expect("it can be written");
        }
        let expected = fs::read_to_string(&expected).expect("MUX_UPDATE_FIXTURES=1 writes it");
        assert_eq!(result, expected, "{name}: see tests/fixtures/sslh/README.md");
    }
}
