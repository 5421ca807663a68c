//! The parser: by itself, against libconfig, and on hostile text.

mod errors;
mod oracle;
mod properties;

use std::path::PathBuf;

use super::{Kind, Settings, parse};
use crate::import::source::{Problem, Sources};

/// Parses text that includes nothing.
fn settings(text: impl Into<Vec<u8>>) -> Result<Settings, Problem> {
    let mut sources = Sources::default();
    let file = sources.add("x.cfg".to_owned(), PathBuf::new(), text.into()).expect("it is small");
    parse(&mut sources, file)
}

/// The only value of `a`.
#[track_caller]
fn value(text: &str) -> Kind {
    let text = format!("a = {text};");
    let mut settings = settings(text.as_str()).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let setting = settings.0.pop().expect("there is one setting");
    assert_eq!((setting.name.as_str(), settings.0.len()), ("a", 0), "{text}");
    setting.value.kind
}

fn string(text: &[u8]) -> Kind {
    Kind::String(text.to_vec())
}

#[test]
fn scalars() {
    let int = |value| Kind::Int { value, long: false };
    let long = |value| Kind::Int { value, long: true };
    for (text, expected) in [
        ("true", Kind::Bool(true)),
        ("FaLsE", Kind::Bool(false)),
        ("0", int(0)),
        ("-12", int(-12)),
        ("+7", int(7)),
        ("0x1F", int(31)),
        ("0XfF", int(255)),
        ("010", int(10)),
        ("4294967296", int(1 << 32)),
        ("5L", long(5)),
        ("-5LL", long(-5)),
        ("0xFFFFFFFFFL", long(0xF_FFFF_FFFF)),
        ("9223372036854775807", int(i64::MAX)),
        ("-9223372036854775808", int(i64::MIN)),
        ("1.", Kind::Float(1.0)),
        (".5", Kind::Float(0.5)),
        ("-1.5e3", Kind::Float(-1500.0)),
        ("1E+2", Kind::Float(100.0)),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn strings() {
    for (text, expected) in [
        (r#""""#, &b""[..]),
        (r#""a\n\r\t\f\\\"""#, b"a\n\r\t\x0c\\\""),
        (r#""\x41\X7e\xfF\x00""#, b"A~\xff\x00"),
        // What is no escape is a backslash.
        (r#""\d\.\x4g\x""#, br"\d\.\x4g\x"),
        (r#""one" "two" /* and */ "" "three""#, b"onetwothree"),
        ("\"one\n # two\"", b"one\n # two"),
        (r#""ä""#, "ä".as_bytes()),
    ] {
        assert_eq!(value(text), string(expected), "{text}");
    }
    let latin1 = settings(b"a = \"caf\xe9\"; # caf\xe9\n".to_vec()).expect("bytes are bytes");
    assert_eq!(latin1.0[0].value.kind, string(b"caf\xe9"));
}

#[test]
fn aggregates() {
    let strings = |kind: &Kind| kind.to_owned();
    assert_eq!(value("[]"), Kind::Array(Vec::new()));
    assert_eq!(value("( )"), Kind::List(Vec::new()));
    assert_eq!(value("{ }"), Kind::Group(Settings::default()));
    let Kind::List(members) =
        value(r#"(1, "two" "2", [ 3L, 4L, ], ( ), { b: true, c = 1; d: 2 },)"#)
    else {
        panic!("this is a list");
    };
    let kinds: Vec<&Kind> = members.iter().map(|member| &member.kind).collect();
    assert_eq!(kinds.len(), 5);
    assert_eq!(strings(kinds[1]), string(b"two2"));
    assert!(matches!(kinds[2], Kind::Array(members) if members.len() == 2));
    assert!(matches!(kinds[4], Kind::Group(Settings(settings)) if settings.len() == 3));
}

#[test]
fn terminators_and_comments_are_optional() {
    let text = "# one\na:1;b=2,c=3 d : 4e=5 // two\n/* three\n * four **/*-_x9:6;#five";
    let settings = settings(text).expect("this is right");
    let names: Vec<&str> = settings.0.iter().map(|setting| setting.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e", "*-_x9"]);
}

#[test]
fn places_are_those_of_the_text() {
    let text = "timeout: 2;\nlisten: ( { host: \"a\" \"b\"; } );\n";
    let mut sources = Sources::default();
    let file = sources.add("x.cfg".into(), PathBuf::new(), text.into()).expect("it is small");
    let settings = parse(&mut sources, file).expect("this is right");
    let place = |span| sources.place(span).to_string();
    assert_eq!(place(settings.0[0].value.place), "x.cfg:1:10");
    assert_eq!(place(settings.0[1].place), "x.cfg:2:1");
    let Kind::List(members) = &settings.0[1].value.kind else { panic!("this is a list") };
    assert_eq!(place(members[0].place), "x.cfg:2:11");
}

#[test]
fn includes_stand_for_their_text() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("it can be written");
    };
    std::fs::create_dir(directory.path().join("d")).expect("a directory");
    write(
        "top.cfg",
        "a = (\n @include \"d/one.cfg\"\n);\n\t@include \"d/two.cfg\" # comment\nz = 1;",
    );
    write("d/one.cfg", "1, 2,\n@include \"three.cfg\"\n");
    write("d/two.cfg", "b = 3;");
    write("d/three.cfg", "# a comment, and no line feed");
    let mut sources = Sources::default();
    let file = sources.open(&directory.path().join("top.cfg")).expect("it is there");
    let settings = parse(&mut sources, file).expect("this is right");
    assert_eq!(settings.to_string(), "a: ( 1, 2 ); b: 3; z: 1;");
    let place = sources.place(settings.0[1].place);
    assert!(place.file.ends_with("d/two.cfg"), "{place}");
    assert_eq!((place.line, place.column), (1, 1));
}
