//! `[[upstream]]`: endpoints, and how connections are spread over them.

use std::{num::NonZeroU32, ops::Range, time::Duration};

use toml::{Spanned, de::DeValue};

use super::{
    config::{
        Address, Balance, DEFAULT_CONNECT_TIMEOUT, DEFAULT_RESOLVE, EjectConfig, EndpointConfig,
        Expect, HalfClosed, HealthConfig, QueueConfig, Source,
    },
    diagnostic::Diagnostic,
    identity,
    matches::hex,
    raw::address,
    table::{Problems, Table, Value, into_table},
    values::{boolean, choice, count, integer, list, name, positive_duration, string},
};
use crate::net::TcpTimers;

/// More attempts than this, one after the other, are a mistake.
const MAX_RETRIES: u64 = 100;
const DEFAULT_RETRIES: u32 = 2;
/// Largest weight that can be written.
const MAX_WEIGHT: u64 = 65_535;
/// Longest queue; each place in it holds a connection's descriptor and what was sniffed of it.
const MAX_QUEUE: u64 = 65_536;
const DEFAULT_QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// Most checks, or failures, in a row that `rise`, `fall` and `failures` can ask for.
const MAX_STREAK: u64 = 1000;
/// Longest `send` and `expect`, bytes.
const MAX_CHECK_BYTES: usize = 4096;
/// Most memory that `expect_regex` may take compiled, bytes; as for a rule's `regex`.
const REGEX_LIMIT: usize = 1 << 20;

const BALANCES: [(&str, Balance); 5] = [
    ("round-robin", Balance::RoundRobin),
    ("least-connections", Balance::LeastConnections),
    ("random-two", Balance::RandomTwo),
    ("source-hash", Balance::SourceHash),
    ("first", Balance::First),
];
const HALF_CLOSED: [(&str, HalfClosed); 2] =
    [("leaves", HalfClosed::Leaves), ("waits", HalfClosed::Waits)];

/// An `[[upstream]]`.
pub(super) struct RawUpstream {
    pub(super) name: Option<Spanned<String>>,
    pub(super) endpoints: Vec<EndpointConfig>,
    pub(super) balance: Balance,
    pub(super) retries: u32,
    pub(super) resolve: Duration,
    pub(super) max_connections: Option<NonZeroU32>,
    pub(super) queue: Option<QueueConfig>,
    pub(super) health: Option<HealthConfig>,
    pub(super) eject: Option<EjectConfig>,
    pub(super) source: Option<Source>,
    pub(super) timers: TcpTimers,
}

/// Reads an `[[upstream]]`.
pub(super) fn upstream(mut table: Table<'_, '_>) -> RawUpstream {
    let problems = table.problems();
    let name = table.require("name", "name = \"web\"", name);
    let connect_timeout = table.take("connect_timeout", positive_duration);
    let connect_timeout = connect_timeout.map_or(DEFAULT_CONNECT_TIMEOUT, Spanned::into_inner);
    let example = "endpoints = [\"10.0.0.5:443\"]";
    let endpoints = table
        .require("endpoints", example, |value| endpoints(value, connect_timeout, problems))
        .map(Spanned::into_inner)
        .unwrap_or_default();
    let balance = table.take("balance", |value| choice(value, &BALANCES));
    let retries = table.take("retries", |value| number(value, 0, MAX_RETRIES));
    let resolve = table.take("resolve", positive_duration);
    let max_connections = table.take("max_connections", count);
    let queue = queue(&mut table);
    let health = table.table("health", "`health`").map(health);
    let eject = eject(&mut table);
    let source = identity::source(&mut table, &endpoints);
    let timers = identity::timers(&mut table);
    table.finish();

    if let Some(queue) = &queue
        && max_connections.is_none()
        && endpoints.iter().all(|endpoint| endpoint.max_connections.is_none())
    {
        problems.add(
            Diagnostic::new(queue.span(), "nobody can ever wait in this queue")
                .hint("add `max_connections`, to the upstream or to its endpoints"),
        );
    }
    let default_eject = (endpoints.len() > 1).then(EjectConfig::default);
    RawUpstream {
        name,
        endpoints,
        balance: balance.map_or(Balance::default(), Spanned::into_inner),
        retries: retries.map_or(DEFAULT_RETRIES, Spanned::into_inner),
        resolve: resolve.map_or(DEFAULT_RESOLVE, Spanned::into_inner),
        max_connections: max_connections.map(Spanned::into_inner),
        queue: queue.map(Spanned::into_inner),
        health,
        eject: eject.unwrap_or(default_eject),
        source,
        timers,
    }
}

/// A number of at most 32 bits.
fn number(value: Value<'_>, least: u64, most: u64) -> Result<u32, Diagnostic> {
    integer(value, least..=most).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

fn endpoints(
    value: Value<'_>,
    connect_timeout: Duration,
    problems: &Problems,
) -> Result<Vec<EndpointConfig>, Diagnostic> {
    let span = value.span();
    let values = list(value)?;
    if values.is_empty() {
        return Err(Diagnostic::new(span, "an upstream without endpoints goes nowhere")
            .hint("name at least one, such as \"10.0.0.5:443\""));
    }
    let mut endpoints: Vec<EndpointConfig> = Vec::new();
    for value in values {
        let span = value.span();
        if let Some(new) = endpoint(value, connect_timeout, problems) {
            problems.keep(add(&mut endpoints, new, span));
        }
    }
    if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.backup) {
        return Err(Diagnostic::new(span, "every endpoint is a backup, and none has a backup")
            .hint("leave `backup = true` out of at least one"));
    }
    Ok(endpoints)
}

/// Adds an endpoint; one that is written again gets that much more of the connections.
fn add(
    endpoints: &mut Vec<EndpointConfig>,
    new: EndpointConfig,
    span: Range<usize>,
) -> Result<(), Diagnostic> {
    let Some(earlier) = endpoints.iter_mut().find(|earlier| earlier.address == new.address) else {
        endpoints.push(new);
        return Ok(());
    };
    let weight = earlier.weight;
    if (EndpointConfig { weight, ..new.clone() }) != *earlier {
        let message = format!("`{}` stands twice, with different settings", new.address);
        return Err(Diagnostic::new(span, message).hint("write it once; `weight` sets its share"));
    }
    earlier.weight = weight.saturating_add(new.weight);
    Ok(())
}

/// `"10.0.0.5:443"`, `80` or `{ address = "10.0.0.5:443", weight = 2 }`.
fn endpoint(
    value: Value<'_>,
    connect_timeout: Duration,
    problems: &Problems,
) -> Option<EndpointConfig> {
    let plain =
        |address: Address| EndpointConfig { connect_timeout, ..EndpointConfig::new(address) };
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        return problems.keep(address(value)).map(plain);
    }
    let mut table = problems.keep(into_table(value, "an endpoint", problems))?;
    let address = table.require("address", "address = \"10.0.0.5:443\"", address);
    let weight = table.take("weight", weight);
    let backup = table.take("backup", boolean);
    let own_timeout = table.take("connect_timeout", positive_duration);
    let max_connections = table.take("max_connections", count);
    table.finish();
    Some(EndpointConfig {
        weight: weight.map_or(1, Spanned::into_inner),
        backup: backup.is_some_and(Spanned::into_inner),
        connect_timeout: own_timeout.map_or(connect_timeout, Spanned::into_inner),
        max_connections: max_connections.map(Spanned::into_inner),
        ..plain(address?.into_inner())
    })
}

fn weight(value: Value<'_>) -> Result<u32, Diagnostic> {
    if let DeValue::Integer(number) = value.get_ref()
        && u64::from_str_radix(number.as_str(), number.radix()) == Ok(0)
    {
        return Err(Diagnostic::new(
            value.span(),
            "an endpoint of weight 0 would never get a connection",
        )
        .hint("leave the endpoint out, or make it a reserve with `backup = true`"));
    }
    number(value, 1, MAX_WEIGHT)
}

/// `queue = { length = 100, timeout = "1s" }`
fn queue(upstream: &mut Table<'_, '_>) -> Option<Spanned<QueueConfig>> {
    let mut table = upstream.table("queue", "`queue`")?;
    let span = table.span();
    let length = table.require("length", "length = 100", |value| number(value, 1, MAX_QUEUE));
    let timeout = table.take("timeout", positive_duration);
    let half_closed = table.take("half_closed", |value| choice(value, &HALF_CLOSED));
    table.finish();
    let queue = QueueConfig {
        length: length?.into_inner(),
        timeout: timeout.map_or(DEFAULT_QUEUE_TIMEOUT, Spanned::into_inner),
        half_closed: half_closed.map_or(HalfClosed::default(), Spanned::into_inner),
    };
    Some(Spanned::new(span, queue))
}

/// `health = { interval = "2s", send = "PING\r\n", expect = "+PONG" }`
fn health(mut table: Table<'_, '_>) -> HealthConfig {
    let problems = table.problems();
    let interval = table.take("interval", positive_duration);
    let timeout = table.take("timeout", positive_duration);
    let rise = table.take("rise", |value| number(value, 1, MAX_STREAK));
    let fall = table.take("fall", |value| number(value, 1, MAX_STREAK));
    let send = one_of([
        ("send", table.take("send", bytes)),
        ("send_hex", table.take("send_hex", check_hex)),
    ]);
    let text = one_of([
        ("expect", table.take("expect", bytes)),
        ("expect_hex", table.take("expect_hex", check_hex)),
    ]);
    let regex = ("expect_regex", table.take("expect_regex", regex));
    table.finish();
    let send = problems.keep(send).flatten();
    let text = problems.keep(text).flatten();
    if let (Some((name, _)), (other, Some(regex))) = (&text, &regex) {
        problems.add(excludes(regex.span(), name, other));
    }
    let expect = match (text, regex.1) {
        (_, Some(regex)) => Expect::Regex(regex.into_inner()),
        (Some((_, text)), None) if !text.is_empty() => Expect::Contains(text.into()),
        (Some(_) | None, None) => Expect::Connection,
    };
    HealthConfig {
        interval: interval.map_or(Duration::from_secs(2), Spanned::into_inner),
        timeout: timeout.map_or(Duration::from_secs(1), Spanned::into_inner),
        rise: rise.map_or(2, Spanned::into_inner),
        fall: fall.map_or(3, Spanned::into_inner),
        send: send.map(|(_, bytes)| bytes).unwrap_or_default().into(),
        expect,
    }
}

/// Of two ways to write bytes the one that is there, with its name.
fn one_of(
    [(text, plain), (hex, digits)]: [(&'static str, Option<Spanned<Vec<u8>>>); 2],
) -> Result<Option<(&'static str, Vec<u8>)>, Diagnostic> {
    match (plain, digits) {
        (Some(_), Some(digits)) => Err(excludes(digits.span(), text, hex)),
        (Some(plain), None) => Ok(Some((text, plain.into_inner()))),
        (None, Some(digits)) => Ok(Some((hex, digits.into_inner()))),
        (None, None) => Ok(None),
    }
}

fn excludes(span: Range<usize>, one: &str, other: &str) -> Diagnostic {
    Diagnostic::new(span, format!("`{one}` and `{other}` exclude each other"))
        .hint("leave one of them out")
}

/// Bytes as hexadecimal digits.
fn check_hex(value: Value<'_>) -> Result<Vec<u8>, Diagnostic> {
    let span = value.span();
    fits_a_check(hex(value)?, span)
}

fn fits_a_check(bytes: Vec<u8>, span: Range<usize>) -> Result<Vec<u8>, Diagnostic> {
    if bytes.len() > MAX_CHECK_BYTES {
        return Err(Diagnostic::new(span, "this is too long for a check")
            .label(format!("{} bytes, of at most {MAX_CHECK_BYTES}", bytes.len())));
    }
    Ok(bytes)
}

/// Text, as UTF-8. A character from U+0080 to U+009F is a raw byte by mistake, as in `match`.
fn bytes(value: Value<'_>) -> Result<Vec<u8>, Diagnostic> {
    let span = value.span();
    let text = string(value)?;
    if text.contains(|c| matches!(c, '\u{80}'..='\u{9f}')) {
        let message = "in TOML, `\\x80` to `\\x9f` are characters of two bytes each";
        return Err(Diagnostic::new(span, message)
            .hint("write raw bytes as `send_hex` or `expect_hex`, or as a pattern: '^\\xff'"));
    }
    fits_a_check(text.into_bytes(), span)
}

/// A pattern with the meaning that it has in `match`.
fn regex(value: Value<'_>) -> Result<regex::bytes::Regex, Diagnostic> {
    let span = value.span();
    let pattern = string(value)?;
    let built =
        regex::bytes::RegexBuilder::new(&pattern).unicode(false).size_limit(REGEX_LIMIT).build();
    built.map_err(|error| {
        let (label, hint) = match &error {
            regex::Error::CompiledTooBig(_) => (
                format!("compiled, it would be larger than {REGEX_LIMIT} bytes"),
                "use smaller counts in `{…}`",
            ),
            other => {
                // The last line says what is wrong; those before draw the pattern, as we do.
                let text = other.to_string();
                let line = text.lines().last().unwrap_or_default().trim();
                let line = line.strip_prefix("error: ").unwrap_or(line);
                (line.to_owned(), "the syntax is that of https://docs.rs/regex, on bytes")
            }
        };
        Diagnostic::new(span, "this regular expression does not compile").label(label).hint(hint)
    })
}

/// `eject = { failures = 3, backoff = "1s", max = "1m" }`, or `true`, or `false`. `None`: there is
/// no such key.
fn eject(upstream: &mut Table<'_, '_>) -> Option<Option<EjectConfig>> {
    let problems = upstream.problems();
    let value = upstream.value("eject")?;
    if let DeValue::Boolean(on) = value.get_ref() {
        return Some(on.then(EjectConfig::default));
    }
    let mut table = problems.keep(into_table(value, "`eject`", problems))?;
    let failures = table.take("failures", |value| number(value, 1, MAX_STREAK));
    let backoff = table.take("backoff", positive_duration);
    let max = table.take("max", positive_duration);
    table.finish();
    let span = max.as_ref().or(backoff.as_ref()).map(Spanned::span);
    let default = EjectConfig::default();
    let eject = EjectConfig {
        failures: failures.map_or(default.failures, Spanned::into_inner),
        backoff: backoff.map_or(default.backoff, Spanned::into_inner),
        max: max.map_or(default.max, Spanned::into_inner),
    };
    if let Some(span) = span
        && eject.backoff > eject.max
    {
        let label = format!("with these, {:?} and {:?}", eject.backoff, eject.max);
        problems.add(
            Diagnostic::new(span, "`backoff` is longer than `max`")
                .label(label)
                .hint("lower `backoff`, or raise `max`"),
        );
    }
    Some(Some(eject))
}
