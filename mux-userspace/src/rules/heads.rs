//! `tls = { … }` and `http = { … }`: conditions on what a client's first message says.

use std::ops::Range;

use toml::de::DeValue;

use super::{
    diagnostic::Diagnostic,
    names::{Place, name_pattern},
    table::{Problems, Value, into_table},
    values::string,
};
use crate::{
    probe::TlsVersion,
    route::{EmptyMatcher, Names, Sni, TlsMatcher},
};

/// Longest name of an application protocol, bytes (RFC 7301 3.1).
const MAX_PROTOCOL: usize = 255;

/// `{ sni = ["a.example", "*.b.example"], alpn = ["h2"], version = ["1.3"] }`
pub(super) fn tls(value: Value<'_>, problems: &Problems) -> Option<TlsMatcher> {
    let span = value.span();
    let mut table = problems.keep(into_table(value, "`tls`", problems))?;
    let before = problems.len();
    let sni = table.value("sni").and_then(|value| sni(value, problems));
    let alpn = table.value("alpn").and_then(|value| at_least_one(value, problems, "h2", protocol));
    let version =
        table.value("version").and_then(|value| at_least_one(value, problems, "1.3", tls_version));
    table.finish();
    if problems.len() > before {
        return None;
    }
    let matcher = TlsMatcher::new(sni, alpn, version);
    problems.keep(matcher.map_err(|EmptyMatcher| says_nothing(span, "TLS", "tls")))
}

/// A list of names, or an empty one: no name sent.
fn sni(value: Value<'_>, problems: &Problems) -> Option<Sni> {
    let names = each(value, |value| name_pattern(value, Place::Sni, problems))?;
    Some(Names::new(names).map_or(Sni::Absent, Sni::Names))
}

/// A name of an application protocol (RFC 7301 6), registered or not.
fn protocol(value: Value<'_>) -> Result<Box<[u8]>, Diagnostic> {
    let span = value.span();
    let name = string(value)?.into_bytes();
    if (1..=MAX_PROTOCOL).contains(&name.len()) {
        return Ok(name.into());
    }
    Err(Diagnostic::new(span, "this cannot be a protocol's name")
        .label(format!("not 1 to {MAX_PROTOCOL} bytes"))
        .hint("write a name such as \"h2\" or \"http/1.1\""))
}

fn tls_version(value: Value<'_>) -> Result<TlsVersion, Diagnostic> {
    one_of(value, &TlsVersion::ALL.map(|version| (version.name(), version)), "TLS")
}

/// One of several versions. All are listed when it is none: each is like every other.
fn one_of<T: Copy>(
    value: Value<'_>,
    versions: &[(&str, T)],
    protocol: &str,
) -> Result<T, Diagnostic> {
    let span = value.span();
    let text = string(value)?;
    versions.iter().find(|(name, _)| *name == text).map(|&(_, version)| version).ok_or_else(|| {
        let names: Vec<String> = versions.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        Diagnostic::new(span, format!("unknown version `{text}` of {protocol}"))
            .hint(format!("one of: {}", names.join(", ")))
    })
}

/// Reads a list, or a value that stands for a list of it alone. `None`: some of it is wrong.
fn each<'i, T>(value: Value<'i>, read: impl Fn(Value<'i>) -> Option<T>) -> Option<Vec<T>> {
    let span = value.span();
    let values = match value.into_inner() {
        DeValue::Array(members) => members.into_iter().collect(),
        one => vec![toml::Spanned::new(span, one)],
    };
    // Not `collect::<Option<_>>`: it would stop at the first problem.
    let read: Vec<Option<T>> = values.into_iter().map(read).collect();
    read.into_iter().collect()
}

/// The same of a list that must not be empty.
fn at_least_one<'i, T>(
    value: Value<'i>,
    problems: &Problems,
    example: &str,
    read: impl Fn(Value<'i>) -> Result<T, Diagnostic>,
) -> Option<Vec<T>> {
    let span = value.span();
    let list = each(value, |value| problems.keep(read(value)))?;
    if list.is_empty() {
        let diagnostic = Diagnostic::new(span, "an empty list would match nobody")
            .hint(format!("name at least one, such as \"{example}\", or leave the key out"));
        problems.add(diagnostic);
        return None;
    }
    Some(list)
}

fn says_nothing(span: Range<usize>, protocol: &str, probe: &str) -> Diagnostic {
    Diagnostic::new(span, "this condition says nothing")
        .hint(format!("match every {protocol} client with `match = \"{probe}\"`"))
}
