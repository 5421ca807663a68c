//! Against libconfig itself.

use std::{fmt::Write as _, fs, path::PathBuf};

use proptest::{
    strategy::{Strategy, ValueTree as _},
    test_runner::TestRunner,
};

use super::{
    super::{Kind, Setting, Settings, Value, parse},
    properties::pieces,
    settings,
};
use crate::import::{source::Sources, tests::oracle};

/// What becomes of a NUL byte in a string, which libconfig holds as one of C.
#[derive(Clone, Copy)]
enum Nul {
    /// libconfig 1.5
    Lost,
    /// libconfig 1.7
    Ends,
}

/// Whether libconfig, in one of its versions, reads the same.
fn same(ours: &Settings, theirs: &str) -> bool {
    [Nul::Lost, Nul::Ends].into_iter().any(|nul| dump(ours, nul) == theirs)
}

/// Settings in the form that the oracle prints.
fn dump(settings: &Settings, nul: Nul) -> String {
    let mut out = String::from("0 - group\n");
    members(&mut out, settings, 1, nul);
    out
}

fn members(out: &mut String, settings: &Settings, depth: usize, nul: Nul) {
    for Setting { name, value, .. } in &settings.0 {
        dump_value(out, name, value, depth, nul);
    }
}

fn dump_value(out: &mut String, name: &str, value: &Value, depth: usize, nul: Nul) {
    let mut line = |text: String| writeln!(out, "{depth} {name} {text}").expect("it is a string");
    match &value.kind {
        Kind::Bool(value) => line(format!("bool {}", u8::from(*value))),
        Kind::Int { value, long: false } => line(format!("int {value}")),
        Kind::Int { value, long: true } => line(format!("long {value}")),
        Kind::Float(value) => line(format!("float {:016x}", value.to_bits())),
        Kind::String(text) => {
            let hex = |byte: &u8| format!("{byte:02x}");
            let text: String = match nul {
                Nul::Lost => text.iter().filter(|&&byte| byte != 0).map(hex).collect(),
                Nul::Ends => text.iter().take_while(|&&byte| byte != 0).map(hex).collect(),
            };
            line(format!("string {text}"));
        }
        Kind::Array(list) | Kind::List(list) => {
            let kind = if matches!(value.kind, Kind::Array(_)) { "array" } else { "list" };
            line(kind.to_owned());
            for member in list {
                dump_value(out, "-", member, depth + 1, nul);
            }
        }
        Kind::Group(settings) => {
            line("group".to_owned());
            members(out, settings, depth + 1, nul);
        }
    }
}

/// Both must take each text and read the same, or both refuse it.
fn agree(texts: Vec<Vec<u8>>) {
    let Some(expected) = oracle::libconfig(&texts) else { return };
    for (text, expected) in texts.into_iter().zip(expected) {
        let shown = String::from_utf8_lossy(&text).into_owned();
        match (settings(text), expected) {
            (Ok(ours), Ok(theirs)) if same(&ours, &theirs) => {}
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!("{shown:?}\nours: {ours:?}\nlibconfig's: {theirs:?}"),
        }
    }
}

#[test]
fn texts_are_read_as_libconfig_reads_them() {
    let texts = [
        "",
        "\n",
        "a = 1;\n",
        "a=1 b=2,c=3;d:4\n",
        "a=5b=6\n",
        "a = TRUE; b = False;\n",
        "a = truer;\n",
        "a = true1;\n",
        "a = 2147483647; b = -2147483648; c = 5L; d = 5LL; e = -9223372036854775808L;\n",
        "a = 0x7fffffff; b = 0XAbL; c = 0x;\n",
        "a = 1.; b = .5; c = 1e3; d = -1.5E-3; e = +2.25;\n",
        "a = 1e; b = 2;\n",
        "a = 0.1; b = 123456789.123456789; c = 1e300; d = 5e-324;\n",
        "a = \"\"; b = \"x\" \"y\"\n\"z\";\n",
        "a = \"\\n\\r\\t\\f\\\\\\\"\\x41\\X7e\\xff\";\n",
        "a = \"\\d\\.\\w\\x4g\\x\";\n",
        "a = \"^\\x00[\\x0D-\\xFF]$\";\n",
        "a = \"one\n# two /* three\";\n",
        "a = \"caf\u{e9}\";\n",
        "a = [ ]; b = ( ); c = { };\n",
        "a = [ 1, 2, 3 ]; b = [ \"x\", \"y\" \"z\" ]; c = [ true ];\n",
        "a = [ 1, \"x\" ];\n",
        "a = [ 1, 2.0 ];\n",
        "a = [ 1L, 2 ];\n",
        "a = [ [ 1 ] ];\n",
        "a = [ { } ];\n",
        "a = ( 1, 2.0, \"x\", true, [ 1 ], ( 2 ), { b = 3 } );\n",
        "a = ( 1 2 );\n",
        "a = ( , 1 );\n",
        "a = ( 1,, 2 );\n",
        "a = { b = { c = { d = 1; }; }, e = 2 }\n",
        "a = 1;;\n",
        ";\n",
        "{ a = 1; }\n",
        "a = 1; a = 2;\n",
        "a = { b = 1; b = 1; };\n",
        "a = { b = 1; }; b = 1;\n",
        "_a = 1;\n",
        "*a-b_c*9 = 1;\n",
        "1a = 1;\n",
        "a = ;\n",
        "a 1;\n",
        "a == 1;\n",
        "a = (1;\n",
        "a = { b = 1\n",
        "a = \"x\n",
        "# c\n// c\n/* c\n * c **/ a = 1; # c\nb = 2; // c\n",
        "a = /* c */ 1 /* d */ ;\n",
        "/**/ a = 1; /***/\n",
        "a = 1; */\n",
        "a = 'x';\n",
        "a = -;\n",
        "a = 1; @include \"x\"\n",
        "\r\n\ta\x0c=\r1\r\n",
    ];
    agree(texts.iter().map(|text| text.as_bytes().to_vec()).collect());
}

#[test]
fn pieces_of_syntax_are_read_as_libconfig_reads_them() {
    let mut runner = TestRunner::deterministic();
    let texts = (0..4_000).map(|_| {
        let tree = pieces().new_tree(&mut runner).expect("it generates");
        tree.current()
    });
    // Since 1.7 a comma may end a list, as here; before, it may not.
    let ends_list = |text: &str| {
        let bare = ["# c\n", "// c\n", "/* c */"]
            .iter()
            .fold(text.to_owned(), |text, comment| text.replace(comment, ""));
        let words: Vec<&str> = bare.split_whitespace().collect();
        words.windows(2).any(|pair| pair[0] == "," && matches!(pair[1], "]" | ")"))
    };
    // An include names a file, and each of the two reads it from elsewhere.
    let is_common = |text: &String| !ends_list(text) && !text.contains("@include");
    let texts: Vec<Vec<u8>> = texts.filter(is_common).map(String::into_bytes).collect();
    assert!(texts.len() > 2_000, "{}", texts.len());
    let read = texts.iter().filter(|text| settings((*text).clone()).is_ok()).count();
    assert!(read > 50, "only {read} of them are right");
    agree(texts);
}

#[test]
fn sslh_files_are_read_as_libconfig_reads_them() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sslh");
    let mut files: Vec<PathBuf> = ["basic.cfg", "everything.cfg", "old.cfg"]
        .into_iter()
        .map(|name| fixtures.join(name))
        .collect();
    // sslh's own, where Debian's package is installed.
    files.push("/usr/share/doc/sslh/examples/example.cfg".into());
    files.push("/etc/sslh/sslh.cfg".into());
    for path in files.into_iter().filter(|path| path.is_file()) {
        let text = fs::read_to_string(&path).expect("it can be read");
        let mut sources = Sources::default();
        let file = sources.open(&path).expect("it can be read");
        let ours = parse(&mut sources, file).unwrap_or_else(|error| panic!("{path:?}: {error:?}"));
        // libconfig includes from the working directory: paths are absolute for it.
        let directory = path.parent().expect("it is in a directory");
        let scratch = tempfile::tempdir().expect("a directory");
        let copy = copy_with_absolute_includes(&text, directory, scratch.path());
        let Some(theirs) = oracle::libconfig_file(&copy) else { return };
        let theirs = theirs.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(same(&ours, &theirs), "{}: {ours}\nlibconfig's: {theirs}", path.display());
    }
}

/// A copy of a file, and of what it includes, in which includes are absolute and the last line
/// ends.
fn copy_with_absolute_includes(
    text: &str,
    directory: &std::path::Path,
    scratch: &std::path::Path,
) -> PathBuf {
    let copy =
        tempfile::Builder::new().tempfile_in(scratch).expect("a file").keep().expect("kept").1;
    let lines = text.lines().map(|line| match line.strip_prefix("@include \"") {
        Some(rest) => {
            let (name, rest) = rest.split_once('"').expect("the name ends");
            let path = directory.join(name);
            let text = fs::read_to_string(&path).expect("it can be read");
            let directory = path.parent().expect("it is in a directory");
            let copy = copy_with_absolute_includes(&text, directory, scratch);
            format!("@include \"{}\"{rest}\n", copy.display())
        }
        None => format!("{line}\n"),
    });
    fs::write(&copy, lines.collect::<String>()).expect("it can be written");
    copy
}
