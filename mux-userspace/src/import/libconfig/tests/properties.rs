//! Whatever the text, the parser does not panic, and what it reads it prints as it is.

use proptest::prelude::*;

use super::{
    super::{Kind, Setting, Settings, Value},
    settings,
};
use crate::import::source::Span;

fn value(kind: Kind) -> Value {
    Value { kind, place: Span::new(0, 0, 0) }
}

fn scalar() -> impl Strategy<Value = Kind> {
    prop_oneof![
        any::<bool>().prop_map(Kind::Bool),
        (any::<i64>(), any::<bool>()).prop_map(|(value, long)| Kind::Int { value, long }),
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(Kind::Float),
        any::<Vec<u8>>().prop_map(Kind::String),
        "\\PC{0,8}".prop_map(|text| Kind::String(text.into_bytes())),
    ]
}

/// Scalars of one type.
fn array() -> impl Strategy<Value = Kind> {
    proptest::collection::vec(scalar(), 0..6).prop_map(|mut members| {
        if let Some(first) = members.first().map(Kind::name) {
            members.retain(|member| member.name() == first);
        }
        Kind::Array(members.into_iter().map(value).collect())
    })
}

fn group(members: impl Strategy<Value = Kind>) -> impl Strategy<Value = Settings> {
    let setting = ("[A-Za-z*][A-Za-z0-9_*-]{0,6}", members);
    proptest::collection::vec(setting, 0..5).prop_map(|settings| {
        let mut names = std::collections::HashSet::new();
        let is_new = |(name, _): &(String, Kind)| {
            let is_boolean = matches!(&*name.to_ascii_lowercase(), "true" | "false");
            !is_boolean && names.insert(name.clone())
        };
        let setting =
            |(name, kind)| Setting { name, place: Span::new(0, 0, 0), value: value(kind) };
        Settings(settings.into_iter().filter(is_new).map(setting).collect())
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![scalar(), array()].prop_recursive(4, 24, 4, |inner| {
        let members = proptest::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            members.prop_map(|members| Kind::List(members.into_iter().map(value).collect())),
            group(inner).prop_map(Kind::Group),
        ]
    })
}

/// Text that is nearly right: pieces of the syntax in any order.
pub(super) fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => proptest::sample::select(vec!["a", "b-1", "host", "*", "x_", "trueish"]),
        6 => proptest::sample::select(vec!["=", ":"]),
        6 => proptest::sample::select(vec!["1", "-7", "0x1f", "5L", "1.5", ".5e1", "tRue", "false"]),
        6 => proptest::sample::select(vec![r#""x""#, r#""\n\x41\d""#, r#""""#, "\"a\nb\""]),
        8 => proptest::sample::select(vec!["{", "}", "[", "]", "(", ")", ";", ",", ";", ","]),
        2 => proptest::sample::select(vec!["# c\n", "// c\n", "/* c */", "\n", "\t"]),
        1 => proptest::sample::select(vec!["@", "'", "_", "-", "/", "@include \"x\""]),
    ];
    proptest::collection::vec(piece, 0..14).prop_map(|pieces| format!("{}\n", pieces.join(" ")))
}

proptest! {
    #[test]
    fn what_is_printed_reads_as_it_was(settings_in in group(kind())) {
        let printed = settings_in.to_string();
        let read = settings(printed.as_str())
            .map_err(|error| TestCaseError::fail(format!("{printed}: {error:?}")))?;
        prop_assert_eq!(&read, &settings_in, "{}", printed);
        prop_assert_eq!(read.to_string(), printed.clone());
        prop_assert!(!printed.chars().any(char::is_control), "{}", printed);
    }

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in any::<Vec<u8>>()) {
        // An include could name a file of this machine.
        bytes.retain(|byte| *byte != b'@');
        stable(bytes)?;
    }

    #[test]
    fn pieces_of_syntax_are_read_or_refused(text in pieces()) {
        stable(text)?;
    }
}

fn stable(text: impl Into<Vec<u8>>) -> Result<(), TestCaseError> {
    if let Ok(read) = settings(text) {
        let printed = read.to_string();
        let again = settings(printed.as_str()).expect("what is printed can be read");
        prop_assert_eq!(&again, &read);
        prop_assert_eq!(again.to_string(), printed);
    }
    Ok(())
}
