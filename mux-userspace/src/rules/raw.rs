//! The shape of a rules file before its names are resolved: checked values, with the
//! places where they stand.

use std::{num::NonZeroU32, ops::Range, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    address::{local_port, parse_address, parse_listen},
    config::{
        Acl, Address, AdminConfig, KernelConfig, Limits, ListenAddress, ListenerConfig, LogConfig,
        RelayChoice, SecurityConfig, Timeouts,
    },
    diagnostic::Diagnostic,
    identity, matches, settings,
    table::{Problems, Table, Value, wrong_type},
    upstream::{RawUpstream, upstream},
    values::{choice, count, integer, list, name, positive_duration, size, string},
};
use crate::{
    net::TcpTimers,
    proxy::{Trusted, Version},
    route::Matcher,
};

/// What `sniff_limit` can be, bytes; the connection's buffer is as large.
const SNIFF_LIMIT: std::ops::RangeInclusive<u64> = 1..=1 << 20;

/// A whole file.
pub(super) struct RawConfig {
    pub(super) listeners: Vec<RawListener>,
    pub(super) rules: Vec<RawRule>,
    pub(super) upstreams: Vec<RawUpstream>,
    pub(super) timeouts: Timeouts,
    pub(super) limits: Limits,
    pub(super) log: LogConfig,
    pub(super) admin: AdminConfig,
    pub(super) security: SecurityConfig,
    pub(super) kernel: KernelConfig,
}

/// A `[[listener]]`, or one address of `listen`.
pub(super) struct RawListener {
    pub(super) name: Option<Spanned<String>>,
    pub(super) address: Option<Spanned<ListenAddress>>,
    pub(super) sniff_timeout: Duration,
    pub(super) sniff_limit: usize,
    pub(super) on_timeout: Option<Spanned<String>>,
    pub(super) on_no_match: Option<Spanned<String>>,
    pub(super) max_connections: Option<NonZeroU32>,
    pub(super) acl: Acl,
    pub(super) accept_proxy: Option<Trusted>,
    pub(super) timers: TcpTimers,
    pub(super) rules: Option<Spanned<Vec<Spanned<String>>>>,
}

/// A `[[rule]]`.
pub(super) struct RawRule {
    /// Of `match`, or of the whole rule where there is none.
    pub(super) span: Range<usize>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) matcher: Matcher,
    pub(super) upstream: Option<Spanned<RawTarget>>,
    pub(super) on_no_upstream: Option<Spanned<String>>,
    pub(super) relay: RelayChoice,
    pub(super) proxy_protocol: Option<Spanned<Version>>,
    pub(super) max_connections: Option<NonZeroU32>,
    pub(super) acl: Acl,
}

/// A rule's `upstream`.
pub(super) enum RawTarget {
    /// A group's name or an address: which one is known when all groups are.
    Text(String),
    /// An address for sure.
    Address(Address),
}

/// Reads a file's root table.
pub(super) fn read(root: Spanned<DeTable<'_>>, problems: &Problems) -> RawConfig {
    let mut root = Table::new("a rules file", root, problems);
    if !root.has("listen") && !root.has("listener") {
        let diagnostic = Diagnostic::new(0..0, "this file does not say where to listen")
            .hint("add `listen = \"0.0.0.0:3000\"` as its first line");
        problems.add(diagnostic);
    }
    if !root.has("rule") {
        let diagnostic = Diagnostic::new(0..0, "this file has no rule")
            .hint("add a `[[rule]]` with at least an `upstream`");
        problems.add(diagnostic);
    }
    let mut listeners = listen(&mut root);
    listeners.extend(root.tables("listener", "[[listener]]").into_iter().map(listener));
    let rules = root.tables("rule", "[[rule]]").into_iter().map(rule).collect();
    let upstreams = root.tables("upstream", "[[upstream]]").into_iter().map(upstream).collect();
    let config = RawConfig {
        listeners,
        rules,
        upstreams,
        timeouts: settings::timeouts(&mut root),
        limits: settings::limits(&mut root),
        log: settings::log(&mut root),
        admin: settings::admin(&mut root),
        security: settings::security(&mut root),
        kernel: settings::kernel(&mut root),
    };
    root.finish();
    config
}

/// `listen = "addr"` or `listen = ["addr", …]`.
fn listen(root: &mut Table<'_, '_>) -> Vec<RawListener> {
    let problems = root.problems();
    let Some(value) = root.value("listen") else { return Vec::new() };
    let values = match value.get_ref() {
        DeValue::Array(members) if members.is_empty() => {
            let diagnostic = Diagnostic::new(value.span(), "an empty list listens nowhere")
                .hint("name an address, such as \"0.0.0.0:3000\"");
            problems.add(diagnostic);
            return Vec::new();
        }
        DeValue::Array(_) => problems.keep(list(value)).unwrap_or_default(),
        _ => vec![value],
    };
    values
        .into_iter()
        .map(|value| {
            let span = value.span();
            let address = problems.keep(listen_address(value));
            RawListener {
                address: address.map(|address| Spanned::new(span, address)),
                name: None,
                sniff_timeout: ListenerConfig::SNIFF_TIMEOUT,
                sniff_limit: ListenerConfig::SNIFF_LIMIT,
                on_timeout: None,
                on_no_match: None,
                max_connections: None,
                acl: Acl::default(),
                accept_proxy: None,
                timers: TcpTimers::default(),
                rules: None,
            }
        })
        .collect()
}

fn listener(mut table: Table<'_, '_>) -> RawListener {
    let name = table.take("name", name);
    let address = table.require("address", "address = \"0.0.0.0:3000\"", listen_address);
    let sniff_timeout = table.take("sniff_timeout", positive_duration);
    let sniff_limit = table.take("sniff_limit", |value| {
        size(value, SNIFF_LIMIT).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    });
    let on_timeout = table.take("on_timeout", string);
    let on_no_match = table.take("on_no_match", string);
    let max_connections = table.take("max_connections", count);
    let acl = acl(&mut table);
    let place = address.as_ref().map(Spanned::get_ref);
    let accept_proxy = identity::accept_proxy(&mut table, place);
    let timers = identity::listener_timers(&mut table, place);
    let rules = table.take("rules", rule_names);
    table.finish();
    RawListener {
        name,
        address,
        sniff_timeout: sniff_timeout.map_or(ListenerConfig::SNIFF_TIMEOUT, Spanned::into_inner),
        sniff_limit: sniff_limit.map_or(ListenerConfig::SNIFF_LIMIT, Spanned::into_inner),
        on_timeout,
        on_no_match,
        max_connections: max_connections.map(Spanned::into_inner),
        acl,
        accept_proxy,
        timers,
        rules,
    }
}

/// `allow` and `deny`.
fn acl(table: &mut Table<'_, '_>) -> Acl {
    let problems = table.problems();
    let allow = table.take("allow", |value| matches::networks(value, problems));
    let deny = table.take("deny", |value| matches::networks(value, problems));
    Acl { allow: allow.map(Spanned::into_inner), deny: deny.map(Spanned::into_inner) }
}

fn listen_address(value: Value<'_>) -> Result<ListenAddress, Diagnostic> {
    let span = value.span();
    if let DeValue::Integer(port) = value.get_ref() {
        return Err(Diagnostic::new(
            span,
            "a port alone does not say on which addresses to listen",
        )
        .hint(format!("write \"0.0.0.0:{port}\", \"[::]:{port}\" or \"127.0.0.1:{port}\"")));
    }
    let text = string(value)?;
    parse_listen(&text).map_err(|error| {
        Diagnostic::new(span, format!("`{text}` is not an address to listen on"))
            .hint(error.to_string())
    })
}

fn rule_names(value: Value<'_>) -> Result<Vec<Spanned<String>>, Diagnostic> {
    let span = value.span();
    let names: Vec<Spanned<String>> = list(value)?
        .into_iter()
        .map(|value| Ok(Spanned::new(value.span(), string(value)?)))
        .collect::<Result<_, Diagnostic>>()?;
    if names.is_empty() {
        return Err(Diagnostic::new(span, "a listener without rules can route nothing")
            .hint("name rules, or leave `rules` out to try all of them"));
    }
    Ok(names)
}

fn rule(mut table: Table<'_, '_>) -> RawRule {
    let problems = table.problems();
    let name = table.take("name", name);
    let condition = table.value("match");
    let span = condition.as_ref().map_or_else(|| table.span(), Spanned::span);
    // Where the condition is wrong the file is refused, so its stand-in is never tried.
    let matcher =
        condition.and_then(|value| matches::matcher(value, problems)).unwrap_or(Matcher::Always);
    let upstream = table.require("upstream", "upstream = \"127.0.0.1:80\"", target);
    let on_no_upstream = table.take("on_no_upstream", string);
    let relays = RelayChoice::ALL.map(|relay| (relay.name(), relay));
    let relay = table.take("relay", |value| choice(value, &relays));
    let max_connections = table.take("max_connections", count);
    let acl = acl(&mut table);
    let proxy_protocol = table.take("proxy_protocol", identity::proxy_protocol);
    table.finish();
    RawRule {
        span,
        name,
        matcher,
        upstream,
        on_no_upstream,
        relay: relay.map_or(RelayChoice::Auto, Spanned::into_inner),
        proxy_protocol,
        max_connections: max_connections.map(Spanned::into_inner),
        acl,
    }
}

fn target(value: Value<'_>) -> Result<RawTarget, Diagnostic> {
    if matches!(value.get_ref(), DeValue::String(_)) {
        string(value).map(RawTarget::Text)
    } else {
        address(value).map(RawTarget::Address)
    }
}

/// An address, as a string or as a port on this machine.
pub(super) fn address(value: Value<'_>) -> Result<Address, Diagnostic> {
    let span = value.span();
    match value.get_ref() {
        DeValue::Integer(_) => integer(value, 1..=u64::from(u16::MAX))
            .map(|port| local_port(u16::try_from(port).unwrap_or(u16::MAX))),
        DeValue::String(text) => {
            parse_address(text).map_err(|error| not_an_address(span, text, error))
        }
        other => Err(wrong_type(span, "an address or a port", other)),
    }
}

/// The diagnostic for a string that should have been an address.
pub(super) fn not_an_address(
    span: Range<usize>,
    text: &str,
    error: super::address::AddressError,
) -> Diagnostic {
    Diagnostic::new(span, format!("`{text}` is not an address")).hint(error.to_string())
}
