//! What is refused, where, and in which words.

use std::path::PathBuf;

use super::{
    super::{MAX_DEPTH, MAX_INCLUDE_DEPTH, parse},
    settings,
};
use crate::import::source::Sources;

/// The report on this text.
#[track_caller]
fn report(text: &[u8]) -> String {
    let mut sources = Sources::default();
    let file = sources.add("x.cfg".into(), PathBuf::new(), text.to_vec()).expect("it is small");
    match parse(&mut sources, file) {
        Ok(settings) => panic!("this should be refused: {settings}"),
        Err(problem) => sources.reports(vec![problem])[0].to_string(),
    }
}

#[test]
fn the_report_has_place_line_caret_and_hint() {
    assert_eq!(
        report(b"user: 'nobody';\n"),
        "error: `'` has no meaning here
 --> x.cfg:1:7
  |
1 | user: 'nobody';
  |       ^
  |
  = hint: strings stand in double quotes: `\"…\"`"
    );
}

#[test]
fn errors_are_where_they_are() {
    for (text, place, message) in [
        ("a", "1:2", "expected `:` or `=`, found the end of the file"),
        ("a 1", "1:3", "expected `:` or `=`, found a number"),
        ("a = ;", "1:5", "expected a value, found `;`"),
        ("a = b", "1:5", "expected a value, found `b`"),
        ("a = 1;;", "1:7", "expected a setting, found `;`"),
        ("1 = 2", "1:1", "expected a setting, found a number"),
        ("true = 2", "1:1", "expected a setting, found a boolean"),
        ("a = 1\na = 2", "2:1", "a second setting is named `a`"),
        ("a = { b = 1; b = 2; }", "1:14", "a second setting is named `b`"),
        ("a = (1 2)", "1:8", "expected `,` or `)`, found a number"),
        ("a = (, 1)", "1:6", "expected a value, found `,`"),
        ("a = (1,, 2)", "1:8", "expected a value, found `,`"),
        ("a = [1, 2)", "1:10", "expected `,` or `]`, found `)`"),
        ("a = { b = 1; ]", "1:14", "expected a setting or `}`, found `]`"),
        ("a = ( 1,\n", "1:5", "this is not closed"),
        ("a = {\nb = 1;\n", "1:5", "this is not closed"),
        ("a = [ 1", "1:5", "this is not closed"),
        ("a = { b", "1:8", "expected `:` or `=`, found the end of the file"),
        ("a = [ 1, 2.0 ]", "1:10", "the members of an array are of one type"),
        ("a = [ 1, 2L ]", "1:10", "the members of an array are of one type"),
        ("a = [ ( ) ]", "1:7", "a list `(…)` cannot stand in an array"),
        ("a = \"x", "1:5", "this string does not end"),
        ("a = \"x\\\"", "1:5", "this string does not end"),
        ("a = 1; /* x", "1:8", "this comment does not end"),
        ("/*/", "1:1", "this comment does not end"),
        ("a = 9223372036854775808", "1:5", "this integer does not fit into 64 bits"),
        ("a = 0x10000000000000000L", "1:5", "this integer does not fit into 64 bits"),
        ("a = 1e999", "1:5", "this number is too large"),
        ("a = -", "1:5", "`-` has no meaning here"),
        ("a = .", "1:5", "`.` has no meaning here"),
        ("_a = 1", "1:1", "`_` has no meaning here"),
        ("a / 1", "1:3", "`/` has no meaning here"),
        ("a = ä", "1:5", "`ä` has no meaning here"),
        ("a = \u{7f}", "1:5", "`\\u{7f}` has no meaning here"),
        ("@include", "1:1", "this is no include"),
        ("@include \"\"x", "1:10", "this file cannot be included"),
        ("@include\"x.cfg\"", "1:1", "this is no include"),
        ("a = 1; @include \"x.cfg\"", "1:8", "this is no include"),
        ("@include \"/no/such.cfg\"", "1:10", "this file cannot be included"),
        ("@include \"x.cfg", "1:10", "this string does not end"),
    ] {
        let report = report(text.as_bytes());
        let at = format!("--> x.cfg:{place}\n");
        assert!(report.starts_with(&format!("error: {message}\n")), "{text}: {report}");
        assert!(report.contains(&at), "{text}: {report}");
        assert!(report.contains("hint: ") && report.contains('^'), "{text}: {report}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_no_reason_to_panic() {
    assert!(report(b"a = \xff\n").contains("--> x.cfg:1:5"));
    assert!(report(b"a = \"\xff\" \xe4\xbd\n").contains("--> x.cfg:1:9"));
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("a = {}{};", "(".repeat(depth), ")".repeat(depth));
    assert!(settings(nested(MAX_DEPTH)).is_ok());
    let refused = settings(nested(MAX_DEPTH + 1)).expect_err("one too many");
    assert_eq!(refused.message(), "this is nested too deeply");
    assert!(settings(format!("a = {}", "{ a = ".repeat(100_000))).is_err());
    assert!(settings(format!("a = {}", "[".repeat(100_000))).is_err());
}

#[test]
fn includes_are_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |index: usize| directory.path().join(format!("{index}.cfg"));
    for index in 0..=MAX_INCLUDE_DEPTH {
        let text = format!("a{index} = 1;\n@include \"{}.cfg\"\n", index + 1);
        std::fs::write(path(index), text).expect("it can be written");
    }
    let mut sources = Sources::default();
    let last = path(MAX_INCLUDE_DEPTH);
    std::fs::write(&last, "z = 1;").expect("it can be written");
    let file = sources.open(&path(0)).expect("it is there");
    let settings = parse(&mut sources, file).expect("as deep as it may be");
    assert_eq!(settings.0.len(), MAX_INCLUDE_DEPTH + 1);

    std::fs::write(&last, "@include \"0.cfg\"\n").expect("it can be written");
    let mut sources = Sources::default();
    let file = sources.open(&path(0)).expect("it is there");
    let problem = parse(&mut sources, file).expect_err("it includes itself");
    assert_eq!(problem.message(), "includes are nested too deeply");
    let report = sources.reports(vec![problem])[0].to_string();
    assert!(report.contains(&format!("{MAX_INCLUDE_DEPTH}.cfg:1:1")), "{report}");
}
