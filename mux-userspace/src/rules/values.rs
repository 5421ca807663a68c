//! Reads single TOML values: each function takes one and gives a checked value or says,
//! with its position, why not.

use std::{
    num::NonZeroU32,
    ops::{Range, RangeInclusive},
    time::Duration,
};

use toml::de::{DeInteger, DeValue};

use super::{
    diagnostic::Diagnostic,
    suggest::did_you_mean_or_list,
    table::{Value, wrong_type},
    units::{UnitError, parse_duration, parse_size},
};

/// Longest name: it stands in every line of the logs.
const MAX_NAME: usize = 64;

/// A string.
pub(super) fn string(value: Value<'_>) -> Result<String, Diagnostic> {
    let span = value.span();
    match value.into_inner() {
        DeValue::String(text) => Ok(text.into_owned()),
        other => Err(wrong_type(span, "a string", &other)),
    }
}

/// A list of values.
pub(super) fn list(value: Value<'_>) -> Result<Vec<Value<'_>>, Diagnostic> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Array(members) => Ok(members.into_iter().collect()),
        other => Err(wrong_type(span, "a list", &other)),
    }
}

/// A name of ours: it goes into logs, metrics and other values of the same file.
pub(super) fn name(value: Value<'_>) -> Result<String, Diagnostic> {
    let span = value.span();
    let name = string(value)?;
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
        return Err(Diagnostic::new(span, "this cannot be a name").hint(format!(
            "names are 1 to {MAX_NAME} bytes of letters, digits, `-`, `_` and `.`"
        )));
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Diagnostic::new(span, "this cannot be a name: it looks like a port")
            .hint("begin it with a letter"));
    }
    Ok(name)
}

/// An integer in a range.
pub(super) fn integer(value: Value<'_>, range: RangeInclusive<u64>) -> Result<u64, Diagnostic> {
    let span = value.span();
    let number = match value.get_ref() {
        DeValue::Integer(number) => whole(number),
        other => return Err(wrong_type(span, "an integer", other)),
    };
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        Diagnostic::new(span, "this number is out of range")
            .label(format!("not from {least} to {most}"))
            .hint(format!("write a number from {least} to {most}"))
    })
}

/// A non-negative TOML integer that fits.
fn whole(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// `true` or `false`.
pub(super) fn boolean(value: Value<'_>) -> Result<bool, Diagnostic> {
    match value.get_ref() {
        DeValue::Boolean(value) => Ok(*value),
        other => Err(wrong_type(value.span(), "`true` or `false`", other)),
    }
}

/// A limit on connections: at least one.
pub(super) fn count(value: Value<'_>) -> Result<NonZeroU32, Diagnostic> {
    let span = value.span();
    let number = integer(value, 1..=u64::from(u32::MAX))?;
    u32::try_from(number).ok().and_then(NonZeroU32::new).ok_or_else(|| {
        Diagnostic::new(span, "this number is out of range")
            .hint(format!("write a number from 1 to {}", u32::MAX))
    })
}

/// One of several words.
pub(super) fn choice<T: Copy>(
    value: Value<'_>,
    choices: &[(&'static str, T)],
) -> Result<T, Diagnostic> {
    let span = value.span();
    let word = string(value)?;
    choices.iter().find(|(name, _)| *name == word).map(|&(_, choice)| choice).ok_or_else(|| {
        let names = choices.iter().map(|&(name, _)| name);
        let hint = did_you_mean_or_list(&word, names, "one of", "leave it out");
        Diagnostic::new(span, format!("unknown value `{word}`")).hint(hint)
    })
}

/// A duration, `"0s"` too.
pub(super) fn duration(value: Value<'_>) -> Result<Duration, Diagnostic> {
    let span = value.span();
    match value.into_inner() {
        DeValue::String(text) => {
            parse_duration(&text).map_err(|error| unit(span, &text, error, "\"3s\""))
        }
        DeValue::Integer(number) => Err(Diagnostic::new(span, "a duration needs a unit")
            .hint(format!("write \"{number}s\" for seconds, or \"{number}ms\" for milliseconds"))),
        other => Err(wrong_type(span, "a duration such as \"3s\"", &other)),
    }
}

/// A duration that is not zero.
pub(super) fn positive_duration(value: Value<'_>) -> Result<Duration, Diagnostic> {
    let span = value.span();
    let duration = duration(value)?;
    if duration.is_zero() {
        return Err(Diagnostic::new(span, "this duration cannot be zero")
            .hint("write how long to wait, such as \"3s\""));
    }
    Ok(duration)
}

/// A duration of which zero means "no limit".
pub(super) fn optional_duration(value: Value<'_>) -> Result<Option<Duration>, Diagnostic> {
    duration(value).map(|duration| (!duration.is_zero()).then_some(duration))
}

/// A size in bytes, in a range.
pub(super) fn size(value: Value<'_>, range: RangeInclusive<u64>) -> Result<u64, Diagnostic> {
    let span = value.span();
    let size = match value.get_ref() {
        DeValue::String(text) => {
            let size = parse_size(text);
            Some(size.map_err(|error| unit(span.clone(), text, error, "\"64KiB\""))?)
        }
        DeValue::Integer(number) => whole(number),
        other => return Err(wrong_type(span, "a size such as \"64KiB\"", other)),
    };
    size.filter(|size| range.contains(size)).ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        Diagnostic::new(span, "this size is out of range")
            .label(format!("not from {least} to {most} bytes"))
            .hint(format!("write a size from {least} to {most} bytes, such as \"64KiB\""))
    })
}

fn unit(span: Range<usize>, text: &str, error: UnitError, example: &str) -> Diagnostic {
    Diagnostic::new(span, format!("`{text}` is {error}")).hint(format!("write it as {example}"))
}
