//! `tls = { … }` and `http = { … }`: conditions on what a client's first message says.

use std::ops::Range;

use toml::de::DeValue;

use super::{
    diagnostic::Diagnostic,
    matches::pattern,
    names::{Place, name_pattern},
    table::{Problems, Value, into_table},
    values::string,
};
use crate::{
    probe::{HttpVersion, MAX_METHOD, TlsVersion, http::is_token},
    route::{EmptyMatcher, FieldName, HttpConditions, HttpMatcher, Names, Regex, Sni, TlsMatcher},
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

/// `{ method = ["GET"], host = ["a.example"], path_prefix = "/", header = { accept = "json" } }`
pub(super) fn http(value: Value<'_>, problems: &Problems) -> Option<HttpMatcher> {
    let span = value.span();
    let mut table = problems.keep(into_table(value, "`http`", problems))?;
    let before = problems.len();
    let mut list = |key, example, read: fn(Value<'_>) -> Result<Box<str>, Diagnostic>| {
        table.value(key).and_then(|value| at_least_one(value, problems, example, read))
    };
    let methods = list("method", "GET", method);
    let paths = list("path", "/", path);
    let path_prefixes = list("path_prefix", "/", path);
    let path_regexes =
        table.value("path_regex").and_then(|value| at_least_one(value, problems, "^/a", pattern));
    let versions =
        table.value("version").and_then(|value| at_least_one(value, problems, "1.1", http_version));
    let hosts = table.value("host").and_then(|value| hosts(value, problems));
    let headers = table.value("header").and_then(|value| headers(value, problems));
    table.finish();
    if problems.len() > before {
        return None;
    }
    let headers = headers.unwrap_or_default();
    let conditions =
        HttpConditions { versions, methods, hosts, paths, path_prefixes, path_regexes, headers };
    let matcher = HttpMatcher::new(conditions);
    problems.keep(matcher.map_err(|EmptyMatcher| says_nothing(span, "HTTP", "http")))
}

fn hosts(value: Value<'_>, problems: &Problems) -> Option<Names> {
    let span = value.span();
    let names = each(value, |value| name_pattern(value, Place::Host, problems))?;
    problems.keep(Names::new(names).map_err(|EmptyMatcher| matches_nobody(span, "a.example")))
}

/// `{ name = "regex", … }`
fn headers(value: Value<'_>, problems: &Problems) -> Option<Vec<(FieldName, Regex)>> {
    let span = value.span();
    let mut table = problems.keep(into_table(value, "`header`", problems))?;
    let fields: Vec<Option<(FieldName, Regex)>> = table
        .entries()
        .into_iter()
        .map(|(name, value)| {
            let name = problems.keep(field_name(&name));
            let regex = problems.keep(pattern(value));
            Some((name?, regex?))
        })
        .collect();
    if fields.is_empty() {
        let diagnostic = Diagnostic::new(span, "this condition says nothing")
            .hint("name a field, as in `header = { user-agent = \"^curl/\" }`");
        problems.add(diagnostic);
    }
    fields.into_iter().collect()
}

fn field_name(name: &toml::Spanned<String>) -> Result<FieldName, Diagnostic> {
    let text = name.get_ref();
    FieldName::new(text).ok_or_else(|| {
        let hint = match text.as_str() {
            ":authority" => "use `host`, which stands for it and for `Host`",
            ":path" => "use `path`, `path_prefix` or `path_regex`",
            ":method" => "use `method`",
            _ => "names have letters, digits, `-` and other ASCII signs, but no colon",
        };
        Diagnostic::new(name.span(), format!("`{text}` is not a field's name")).hint(hint)
    })
}

/// Any token: new methods need no new version of mux.
fn method(value: Value<'_>) -> Result<Box<str>, Diagnostic> {
    let span = value.span();
    let method = string(value)?;
    let is_method = (1..=MAX_METHOD).contains(&method.len()) && method.bytes().all(is_token);
    if !is_method {
        return Err(Diagnostic::new(span, format!("`{method}` is not a method"))
            .label(format!("not 1 to {MAX_METHOD} letters and the like"))
            .hint("write a method such as \"GET\""));
    }
    let upper = method.to_ascii_uppercase();
    if upper != method && COMMON_METHODS.contains(&&*upper) {
        return Err(Diagnostic::new(span, format!("no client says `{method}`: methods have case"))
            .hint(format!("write \"{upper}\"")));
    }
    Ok(method.into())
}

/// Methods that nobody means in lower case.
const COMMON_METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// A path, or the beginning of one.
fn path(value: Value<'_>) -> Result<Box<str>, Diagnostic> {
    let span = value.span();
    let path = string(value)?;
    let hint = if !path.starts_with('/') && path != "*" {
        "a path begins with `/`"
    } else if path.contains(['?', '#']) {
        "only what is before `?` is compared: leave the rest out"
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        "write it as it is sent, with `%20` for a space and the like"
    } else {
        return Ok(path.into());
    };
    Err(Diagnostic::new(span, format!("`{path}` is not a path")).hint(hint))
}

fn http_version(value: Value<'_>) -> Result<HttpVersion, Diagnostic> {
    one_of(value, &HttpVersion::ALL.map(|version| (version.name(), version)), "HTTP")
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
        problems.add(matches_nobody(span, example));
        return None;
    }
    Some(list)
}

fn matches_nobody(span: Range<usize>, example: &str) -> Diagnostic {
    Diagnostic::new(span, "an empty list would match nobody")
        .hint(format!("name at least one, such as \"{example}\", or leave the key out"))
}

fn says_nothing(span: Range<usize>, protocol: &str, probe: &str) -> Diagnostic {
    Diagnostic::new(span, "this condition says nothing")
        .hint(format!("match every {protocol} client with `match = \"{probe}\"`"))
}
