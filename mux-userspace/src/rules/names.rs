//! Host names in rules: `"a.example"`, `"*.b.example"`, `{ regex = "…" }`.

use std::{net::IpAddr, ops::Range};

use toml::de::DeValue;

use super::{
    diagnostic::Diagnostic,
    matches::pattern,
    table::{Problems, Value, into_table, wrong_type},
};
use crate::route::{Name, NameError, NamePattern};

/// Where a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `tls.sni`, where there are no addresses (RFC 6066 3).
    Sni,
    /// `http.host`.
    Host,
}

/// Reads one pattern. `None`: it is wrong, and the problems say how.
pub(super) fn name_pattern(
    value: Value<'_>,
    place: Place,
    problems: &Problems,
) -> Option<NamePattern> {
    let span = value.span();
    match value.get_ref() {
        DeValue::String(text) => problems.keep(named(span, text, place)),
        DeValue::Table(_) => {
            let mut table = problems.keep(into_table(value, "a name", problems))?;
            let before = problems.len();
            let regex = table.require("regex", "regex = '^a[0-9]+\\.example$'", pattern);
            table.finish();
            let regex = regex.filter(|_| problems.len() == before)?;
            Some(NamePattern::Regex(regex.into_inner()))
        }
        other => {
            problems.add(wrong_type(span, "a host name or `{ regex = \"…\" }`", other));
            None
        }
    }
}

fn named(span: Range<usize>, text: &str, place: Place) -> Result<NamePattern, Diagnostic> {
    if let Some(address) = address(text) {
        return match place {
            Place::Host => Ok(NamePattern::Exact(Name::address(address))),
            Place::Sni => Err(Diagnostic::new(span, format!("`{text}` is an address, not a name"))
                .hint("clients that connect to an address ask for no name: write `sni = []`")),
        };
    }
    NamePattern::host(text).map_err(|error| {
        Diagnostic::new(span, format!("`{text}` is not a host name"))
            .label(error.to_string())
            .hint(hint(text, error))
    })
}

/// `10.0.0.1`, `::1` or `[::1]`.
fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    inner.unwrap_or(text).parse().ok()
}

fn hint(text: &str, error: NameError) -> String {
    match error {
        NameError::Empty => "write a name, or leave it out".into(),
        NameError::TooLong => "no client can ask for it".into(),
        NameError::EmptyLabel => "leave out the dot too many".into(),
        NameError::Star | NameError::StarAlone => "`*.b.example` stands for every name below \
             `b.example`; anything else is a `{ regex = \"…\" }`"
            .into(),
        NameError::NotAscii => {
            "write its ASCII form, in which such a label begins with `xn--` (punycode)".into()
        }
        NameError::Character(_) if text.contains("://") => {
            "this is a URL: write its host alone".into()
        }
        NameError::Character('/') => "a path is no part of a name: use `path_prefix`".into(),
        NameError::Character(':' | '[') => match without_port(text) {
            Some(host) => format!("the port is no part of what is compared: write \"{host}\""),
            None => "a name has letters, digits, `-`, `_` and dots".into(),
        },
        NameError::Character(_) => "a name has letters, digits, `-`, `_` and dots".into(),
    }
}

/// The host of `host:port`.
fn without_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    let is_host = NamePattern::host(host).is_ok() || address(host).is_some();
    (is_port && is_host).then_some(host)
}
