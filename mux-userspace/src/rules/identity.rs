//! Keys about who is at the other end, as both ends see it: `accept_proxy_protocol`,
//! `proxy_protocol`, `source`, and the kernel's timers `keepalive` and `user_timeout`.

use std::{net::IpAddr, ops::Range, time::Duration};

use toml::{Spanned, de::DeValue};

use super::{
    config::{Address, ListenAddress, Source},
    diagnostic::Diagnostic,
    matches::network_list,
    table::{Problems, Table, Value, wrong_type},
    values::{choice, duration, list, string},
};
use crate::{
    net::TcpTimers,
    proxy::{Trusted, Version},
};

/// In `accept_proxy_protocol`: the peers of a Unix socket.
const UNIX: &str = "unix";
/// In `source`: the client's address.
const TRANSPARENT: &str = "transparent";

/// Reads `accept_proxy_protocol = ["10.0.0.0/8"]` of a listener on this address.
pub(super) fn accept_proxy(
    table: &mut Table<'_, '_>,
    address: Option<&ListenAddress>,
) -> Option<Trusted> {
    let problems = table.problems();
    let read = |value| trusted(value, address, problems);
    table.take("accept_proxy_protocol", read).map(Spanned::into_inner)
}

fn trusted(
    value: Value<'_>,
    address: Option<&ListenAddress>,
    problems: &Problems,
) -> Result<Trusted, Diagnostic> {
    let span = value.span();
    let (unix, networks): (Vec<Value<'_>>, Vec<Value<'_>>) = list(value)?
        .into_iter()
        .partition(|member| matches!(member.get_ref(), DeValue::String(text) if text == UNIX));
    if networks.is_empty() && unix.is_empty() {
        return Err(Diagnostic::new(span, "this believes nobody")
            .hint("name the proxies, such as \"10.0.0.0/8\", or leave the key out"));
    }
    match address {
        Some(ListenAddress::Tcp(_)) if let Some(unix) = unix.first() => {
            return Err(Diagnostic::new(
                unix.span(),
                "nobody comes to a TCP port over a Unix socket",
            )
            .hint("name the networks of the proxies, such as \"10.0.0.0/8\""));
        }
        Some(ListenAddress::Unix(_)) if let Some(network) = networks.first() => {
            return Err(Diagnostic::new(
                network.span(),
                "peers of a Unix socket are in no network",
            )
            .hint("write `accept_proxy_protocol = [\"unix\"]` to believe all of them"));
        }
        Some(_) | None => {}
    }
    let networks = match networks.as_slice() {
        [] => None,
        [..] => Some(network_list(span, networks, problems)?),
    };
    Ok(Trusted::new(networks, !unix.is_empty()))
}

/// Reads `proxy_protocol = "v2"`.
pub(super) fn proxy_protocol(value: Value<'_>) -> Result<Version, Diagnostic> {
    choice(value, &[Version::V1, Version::V2].map(|version| (version.name(), version)))
}

/// The diagnostic for a rule that would send a header to a server in the daemon.
pub(super) fn header_to_builtin(span: Range<usize>, endpoint: &Address) -> Diagnostic {
    let message = format!("`{endpoint}` takes no PROXY header");
    Diagnostic::new(span, message)
        .hint("leave `proxy_protocol` out: what is built in knows the client")
}

/// Reads `source` of an upstream with these endpoints.
pub(super) fn source(table: &mut Table<'_, '_>, endpoints: &[Address]) -> Option<Source> {
    let source = table.take("source", read_source)?;
    let span = source.span();
    let source = source.into_inner();
    if let Some(problem) = useless(&source, endpoints) {
        table.problems().add(Diagnostic::new(span, problem.0).hint(problem.1));
    }
    Some(source)
}

/// `"transparent"`, `"192.0.2.1"` or `["192.0.2.1", "2001:db8::1"]`.
fn read_source(value: Value<'_>) -> Result<Source, Diagnostic> {
    let span = value.span();
    let values = match value.get_ref() {
        DeValue::String(text) if text == TRANSPARENT => return Ok(Source::Transparent),
        DeValue::String(_) => vec![value],
        DeValue::Array(_) => list(value)?,
        other => {
            let found = wrong_type(span, "an address or a list of them", other);
            return Err(found.hint(SOURCE_HINT));
        }
    };
    let (mut v4, mut v6) = (None, None);
    for value in values {
        let span = value.span();
        let text = string(value)?;
        let twice = match source_address(&text, &span)? {
            IpAddr::V4(address) => v4.replace(address).is_some(),
            IpAddr::V6(address) => v6.replace(address).is_some(),
        };
        if twice {
            return Err(Diagnostic::new(span, "a second address of this family")
                .hint("name at most one IPv4 and one IPv6 address"));
        }
    }
    if v4.is_none() && v6.is_none() {
        return Err(Diagnostic::new(span, "an empty list of addresses").hint(SOURCE_HINT));
    }
    Ok(Source::Addresses { v4, v6 })
}

const SOURCE_HINT: &str =
    "write an address of this machine without a port, such as \"192.0.2.1\", or \"transparent\"";

fn source_address(text: &str, span: &Range<usize>) -> Result<IpAddr, Diagnostic> {
    text.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast()).ok_or_else(
        || {
            let message = format!("`{text}` is no address to connect from");
            Diagnostic::new(span.clone(), message).hint(SOURCE_HINT)
        },
    )
}

/// Why a source cannot serve one of the endpoints, or any of them; and what to do.
fn useless(source: &Source, endpoints: &[Address]) -> Option<(String, &'static str)> {
    let is_tcp = |address: &Address| matches!(address, Address::Ip(_) | Address::Name { .. });
    if !endpoints.is_empty() && !endpoints.iter().any(is_tcp) {
        let hint = "leave `source` out: it is for TCP";
        return Some(("no endpoint of this upstream is connected to by TCP".into(), hint));
    }
    let Source::Addresses { v4, v6 } = source else { return None };
    let lacks = |address: &&Address| match address {
        Address::Ip(ip) if ip.is_ipv4() => v4.is_none(),
        Address::Ip(_) => v6.is_none(),
        Address::Name { .. } | Address::Unix(_) | Address::Builtin(_) => false,
    };
    let lacking = endpoints.iter().find(lacks)?;
    let family = if v4.is_none() { "IPv4" } else { "IPv6" };
    Some((
        format!("`source` has no {family} address, which `{lacking}` needs"),
        "add one: `source = [\"192.0.2.1\", \"2001:db8::1\"]`",
    ))
}

/// Reads `keepalive` and `user_timeout`.
pub(super) fn timers(table: &mut Table<'_, '_>) -> TcpTimers {
    let keepalive =
        |value| whole(value, Duration::from_secs(1), TcpTimers::MOST_KEEPALIVE, "1s to 32767s");
    let user_timeout =
        |value| whole(value, Duration::from_millis(1), TcpTimers::MOST_USER_TIMEOUT, "1ms to 24d");
    TcpTimers {
        keepalive: table.take("keepalive", keepalive).map(Spanned::into_inner),
        user_timeout: table.take("user_timeout", user_timeout).map(Spanned::into_inner),
    }
}

/// The same of a listener, which for a Unix socket has none.
pub(super) fn listener_timers(
    table: &mut Table<'_, '_>,
    address: Option<&ListenAddress>,
) -> TcpTimers {
    let present = ["keepalive", "user_timeout"].into_iter().find(|key| table.has(key));
    let timers = timers(table);
    if let (Some(key), Some(ListenAddress::Unix(_))) = (present, address) {
        table.problems().add(
            Diagnostic::new(table.span(), format!("`{key}` is for TCP"))
                .hint("leave it out of a listener on a Unix socket"),
        );
    }
    timers
}

/// Zero, or a duration in a range, rounded up to whole `unit`s.
fn whole(
    value: Value<'_>,
    unit: Duration,
    most: Duration,
    range: &str,
) -> Result<Duration, Diagnostic> {
    let span = value.span();
    let duration = duration(value)?;
    let units = duration.as_nanos().div_ceil(unit.as_nanos());
    let rounded = unit.saturating_mul(u32::try_from(units).unwrap_or(u32::MAX));
    if rounded > most {
        return Err(Diagnostic::new(span, "this duration is out of range")
            .hint(format!("write {range}, or \"0s\" to switch it off")));
    }
    Ok(rounded)
}
