//! `match = …`: from a string or a table to a [`Matcher`].

use std::{ops::Range, sync::Arc};

use ipnet::IpNet;
use toml::de::DeValue;

use super::{
    diagnostic::Diagnostic,
    heads,
    suggest::did_you_mean_or_list,
    table::{Problems, Table, Value, into_table, wrong_type},
    values::{integer, list, string},
};
use crate::route::{
    EmptyMatcher, Group, MaskedBytes, Matcher, NetworkFile, NetworkFileError, Networks, Prefix,
    Regex, RegexError, parse_network,
};

/// Protocols whose clients are silent until the server has spoken: no probe can see them.
const SERVER_FIRST: &[&str] = &["ftp", "imap", "pop3"];

/// Reads a matcher. `None`: it is wrong, and the problems say how.
pub(super) fn matcher(value: Value<'_>, problems: &Problems) -> Option<Matcher> {
    let span = value.span();
    match value.into_inner() {
        DeValue::String(name) => problems.keep(probe(span, &name, problems)),
        DeValue::Table(table) => {
            condition(Table::new("`match`", toml::Spanned::new(span, table), problems))
        }
        other => {
            let diagnostic = wrong_type(span, "a probe's name or a table", &other)
                .hint("write `match = \"tls\"` or `match = { prefix = \"GET \" }`");
            problems.add(diagnostic);
            None
        }
    }
}

fn probe(span: Range<usize>, name: &str, problems: &Problems) -> Result<Matcher, Diagnostic> {
    let probes = &problems.surroundings().probes;
    if let Some(probe) = probes.get(name) {
        return Ok(Matcher::Probe(probe.clone()));
    }
    if SERVER_FIRST.contains(&name) {
        return Err(Diagnostic::new(span, format!("no probe can see `{name}`"))
            .label("its clients wait for the server to speak first")
            .hint("name a rule in the listener's `on_timeout`, and leave it out of its `rules`"));
    }
    let hint = did_you_mean_or_list(name, probes.names(), "probes", "write a table instead");
    Err(Diagnostic::new(span, format!("unknown probe `{name}`")).hint(hint))
}

/// Reads a table: all of its keys have to hold.
fn condition(mut table: Table<'_, '_>) -> Option<Matcher> {
    let problems = table.problems();
    let span = table.span();
    let before = problems.len();

    // The order of evaluation: what needs no byte first, what costs most last.
    let mut members: Vec<Matcher> = Vec::new();
    let client = table.take("client", |value| networks(value, problems));
    members.extend(client.map(|networks| Matcher::Client(networks.into_inner())));
    members.extend(table.take("prefix", prefix).map(toml::Spanned::into_inner));
    members.extend(table.take("prefix_hex", prefix_hex).map(toml::Spanned::into_inner));
    if let Some(value) = table.value("bytes") {
        members.extend(bytes(value, problems));
    }
    if let Some(value) = table.value("tls") {
        members.extend(heads::tls(value, problems).map(Matcher::Tls));
    }
    if let Some(value) = table.value("http") {
        members.extend(heads::http(value, problems).map(Matcher::Http));
    }
    members.extend(table.take("regex", pattern).map(|regex| Matcher::Regex(regex.into_inner())));
    if let Some(value) = table.value("all") {
        members.extend(group(value, problems).map(Matcher::All));
    }
    if let Some(value) = table.value("any") {
        members.extend(group(value, problems).map(Matcher::Any));
    }
    if let Some(value) = table.value("not") {
        members.extend(matcher(value, problems).map(|inner| Matcher::Not(Box::new(inner))));
    }
    for key in table.take_keys(|key| problems.surroundings().probes.get(key).is_some()) {
        problems.add(
            Diagnostic::new(key.span(), format!("the probe `{}` takes no value", key.get_ref()))
                .hint(format!(
                    "write `match = \"{0}\"`, or `all = [\"{0}\", …]` with other conditions",
                    key.get_ref()
                )),
        );
    }
    table.finish();

    if problems.len() > before {
        return None;
    }
    match members.len() {
        0 => {
            let diagnostic = Diagnostic::new(span, "this condition says nothing")
                .hint("leave `match` out to match every connection at once");
            problems.add(diagnostic);
            None
        }
        1 => members.pop(),
        _ => Group::new(members).map(Matcher::All).ok(),
    }
}

/// Text, as UTF-8. A character from U+0080 to U+009F is a raw byte by mistake: nobody's
/// protocol begins with a C1 control code in UTF-8.
fn prefix(value: Value<'_>) -> Result<Matcher, Diagnostic> {
    let span = value.span();
    let text = string(value)?;
    if text.contains(|c| matches!(c, '\u{80}'..='\u{9f}')) {
        return Err(Diagnostic::new(
            span,
            "in TOML, `\\x80` to `\\x9f` are characters of two bytes each",
        )
        .hint("write raw bytes in `prefix_hex`"));
    }
    Prefix::new(text.into_bytes()).map(Matcher::Prefix).map_err(|error| empty_prefix(span, error))
}

fn prefix_hex(value: Value<'_>) -> Result<Matcher, Diagnostic> {
    let span = value.span();
    let bytes = hex(value)?;
    Prefix::new(bytes).map(Matcher::Prefix).map_err(|error| empty_prefix(span, error))
}

fn empty_prefix(span: Range<usize>, EmptyMatcher: EmptyMatcher) -> Diagnostic {
    Diagnostic::new(span, "an empty prefix would match everything")
        .hint("leave `match` out to match every connection at once")
}

/// `"16 03 01"` or `"160301"`.
pub(super) fn hex(value: Value<'_>) -> Result<Vec<u8>, Diagnostic> {
    let span = value.span();
    let text = string(value)?;
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let pair = |pair: &[u8]| match *pair {
        [high, low] => Some(hex_digit(high)? << 4 | hex_digit(low)?),
        _ => None,
    };
    digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>().ok_or_else(|| {
        Diagnostic::new(span, "this is not hexadecimal")
            .label("not pairs of 0-9 and a-f")
            .hint("two digits a byte, as in \"160301\"")
    })
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A regular expression.
pub(super) fn pattern(value: Value<'_>) -> Result<Regex, Diagnostic> {
    let span = value.span();
    let pattern = string(value)?;
    Regex::new(&pattern).map_err(|error| {
        let hint = match error {
            RegexError::Syntax(_) => "the syntax is that of https://docs.rs/regex, on bytes",
            RegexError::TooLarge => "use smaller counts in `{…}`",
        };
        Diagnostic::new(span, "this regular expression does not compile")
            .label(error.to_string())
            .hint(hint)
    })
}

/// `{ offset = 2, hex = "0102", mask = "ff0f" }`
fn bytes(value: Value<'_>, problems: &Problems) -> Option<Matcher> {
    let span = value.span();
    let mut table = problems.keep(into_table(value, "`bytes`", problems))?;
    let before = problems.len();
    let offset = table.take("offset", |value| integer(value, 0..=MaskedBytes::MAX_END as u64));
    let value = table.require("hex", "hex = \"0102\"", hex);
    let mask = table.take("mask", hex);
    table.finish();
    if problems.len() > before {
        return None;
    }

    let offset =
        offset.map_or(0, |offset| usize::try_from(*offset.get_ref()).unwrap_or(usize::MAX));
    let mask = mask.as_ref().map(|mask| mask.get_ref().as_slice());
    let masked = MaskedBytes::new(offset, value?.get_ref(), mask);
    let masked = masked.map_err(|error| {
        Diagnostic::new(span, "these bytes cannot be compared").label(error.to_string())
    });
    problems.keep(masked).map(Matcher::Bytes)
}

/// `["10.0.0.0/8", "::1", "file:allow.txt"]`
pub(super) fn networks(value: Value<'_>, problems: &Problems) -> Result<Networks, Diagnostic> {
    let span = value.span();
    network_list(span, list(value)?, problems)
}

/// The members of such a list.
pub(super) fn network_list(
    span: Range<usize>,
    values: Vec<Value<'_>>,
    problems: &Problems,
) -> Result<Networks, Diagnostic> {
    let (mut written, mut files) = (Vec::new(), Vec::new());
    for value in values {
        let span = value.span();
        let text = string(value)?;
        match text.strip_prefix("file:") {
            Some(path) => files.push(network_file(span, path, problems)?),
            None => written.push(network(span, &text)?),
        }
    }
    Networks::with_files(written, files).map_err(|EmptyMatcher| {
        Diagnostic::new(span, "an empty list of networks would match nobody")
            .hint("name at least one, such as \"10.0.0.0/8\"")
    })
}

fn network_file(
    span: Range<usize>,
    path: &str,
    problems: &Problems,
) -> Result<Arc<NetworkFile>, Diagnostic> {
    if path.is_empty() || path.contains('\0') {
        return Err(Diagnostic::new(span, "this cannot be a path")
            .hint("write \"file:/etc/mux/allow.txt\""));
    }
    problems.network_file(path).map_err(|error| {
        let hint = match error {
            NetworkFileError::Io { .. } => {
                "relative paths are taken from the rules file's directory"
            }
            NetworkFileError::NotAFile(_) => "name a file that can be read more than once",
            NetworkFileError::TooLarge(_) => "join its networks into larger ones",
            NetworkFileError::Line { .. } => {
                "a line has one network or address, such as 10.0.0.0/8; `#` begins a comment"
            }
        };
        Diagnostic::new(span, "this file of networks cannot be used")
            .label(error.to_string())
            .hint(hint)
    })
}

fn network(span: Range<usize>, text: &str) -> Result<IpNet, Diagnostic> {
    parse_network(text).ok_or_else(|| {
        Diagnostic::new(span, format!("`{text}` is neither an IP address nor a network")).hint(
            "write \"10.0.0.0/8\", \"2001:db8::/32\", \"10.0.0.1\" or \"file:/etc/mux/allow.txt\"",
        )
    })
}

/// The members of `all` and `any`.
fn group(value: Value<'_>, problems: &Problems) -> Option<Group> {
    let span = value.span();
    let values = problems.keep(list(value))?;
    // Not `collect::<Option<_>>`: it would stop at the first problem.
    let members: Vec<Option<Matcher>> =
        values.into_iter().map(|value| matcher(value, problems)).collect();
    let members: Vec<Matcher> = members.into_iter().collect::<Option<_>>()?;
    let group = Group::new(members).map_err(|EmptyMatcher| {
        Diagnostic::new(span, "an empty list says nothing").hint("name at least one condition")
    });
    problems.keep(group)
}
