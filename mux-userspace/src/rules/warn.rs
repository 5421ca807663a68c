//! What is odd in a configuration that can be used: it hardly does what is meant.
//!
//! Unlike [`lint`](super::lint), nothing here refuses a file, and guesses are allowed.

use std::{collections::HashSet, net::SocketAddr};

use super::{
    config::{Config, Limits, ListenAddress, ListenerConfig, Otherwise, RuleId},
    diagnostic::Diagnostic,
    places::Places,
};
use crate::route::{Matcher, Patience, Regex};

/// Pairs of rules that are compared at most.
const MAX_PAIRS: usize = 100_000;
/// Probes of protocols in which the server speaks first.
const SERVER_FIRST: [&str; 3] = ["mysql", "smtp", "vnc"];

/// All warnings, in no order.
pub(super) fn warnings(config: &Config, places: &Places<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for index in 0..config.rules.len() {
        found.extend(accepts_everything(config, RuleId(index), places));
        found.extend(idle_parts(config, RuleId(index), places));
        found.extend(speaks_too_late(config, RuleId(index), places));
    }
    found.extend(held_back(config, places));
    found.extend(overlaps(config, places));
    found.extend(all_may_be_slow(&config.limits, places));
    found
}

/// A limit of sniffed connections that leaves no place to anybody else.
fn all_may_be_slow(limits: &Limits, places: &Places<'_>) -> Option<Diagnostic> {
    let most = limits.max_connections.unwrap_or(Limits::DEFAULT_CONNECTIONS);
    limits.max_sniffing.filter(|sniffing| *sniffing >= most)?;
    let span = places.setting("limits", "max_sniffing");
    let message = format!("clients that say nothing can take all {most} places");
    let hint = format!("leave some to others: less than `max_connections`, which is {most}");
    Some(Diagnostic::warning(span, message).hint(hint))
}

/// Patterns that match whatever the bytes are.
fn accepts_everything(config: &Config, id: RuleId, places: &Places<'_>) -> Vec<Diagnostic> {
    let mut patterns = Vec::new();
    regexes(&config.rules[id.0].matcher, &mut patterns);
    patterns
        .into_iter()
        .filter(|regex| regex.accepts_everything())
        .map(|regex| {
            let span = places.part(id.0, regex.as_str());
            Diagnostic::warning(span, "this regular expression matches everything")
                .label("content with no byte at all")
                .hint("leave it out if that is meant; otherwise ask for something, as in `^.+`")
        })
        .collect()
}

fn regexes<'a>(matcher: &'a Matcher, found: &mut Vec<&'a Regex>) {
    if let Matcher::Regex(regex) = matcher {
        found.push(regex);
    }
    for member in matcher.members() {
        regexes(member, found);
    }
}

/// Parts of a condition that can never hold, although the whole can.
fn idle_parts(config: &Config, id: RuleId, places: &Places<'_>) -> Option<Diagnostic> {
    let rule = &config.rules[id.0];
    let listener = config.listeners.iter().filter(|listener| listener.rules.contains(id)).find(
        |listener| {
            let fits = |part: &Matcher| {
                part.shortest_match().is_some_and(|bytes| bytes <= listener.sniff_limit)
            };
            has_part(&rule.matcher, &|part| !fits(part))
        },
    )?;
    let message =
        format!("a part of rule `{}` can never match on listener `{}`", rule.name, listener.name);
    let hint = format!(
        "it contradicts itself, or needs more bytes than `sniff_limit`, which is {} there",
        listener.sniff_limit
    );
    Some(Diagnostic::warning(places.condition(id.0), message).hint(hint))
}

fn has_part(matcher: &Matcher, is_it: &dyn Fn(&Matcher) -> bool) -> bool {
    is_it(matcher) || matcher.members().iter().any(|member| has_part(member, is_it))
}

/// Rules for clients that wait for their server, to which no listener leads silent ones.
fn speaks_too_late(config: &Config, id: RuleId, places: &Places<'_>) -> Option<Diagnostic> {
    let rule = &config.rules[id.0];
    let serves_silence = config.listeners.iter().any(|listener| match listener.on_timeout {
        Otherwise::Rule(silent) => config.rules[silent.0].upstream == rule.upstream,
        Otherwise::Close | Otherwise::Reset => false,
    });
    let probe = waits_for_its_server(&rule.matcher).filter(|_| !serves_silence)?;
    let message = format!("clients of `{probe}` wait for their server to speak first");
    let hint = format!("name the rule for silent clients, too: `on_timeout = \"{}\"`", rule.name);
    Some(Diagnostic::warning(places.condition(id.0), message).hint(hint))
}

/// The probe for which this condition is one about clients that wait.
fn waits_for_its_server(matcher: &Matcher) -> Option<&str> {
    if let Matcher::Probe(probe) = matcher {
        return Some(probe.name()).filter(|name| SERVER_FIRST.contains(name));
    }
    if let Matcher::Not(_) = matcher {
        return None;
    }
    let mut members = matcher.members().iter().map(waits_for_its_server);
    if let Matcher::Any(_) = matcher {
        let first = members.next()??;
        return members.all(|member| member.is_some()).then_some(first);
    }
    members.find_map(|member| member)
}

/// Rules that make those after them wait for the sniff timeout.
fn held_back(config: &Config, places: &Places<'_>) -> Vec<Diagnostic> {
    let rules: Vec<Patience<'_>> =
        config.rules.iter().map(|rule| Patience::new(&rule.matcher)).collect();
    let mut pairs = MAX_PAIRS;
    let mut told = HashSet::new();
    let mut found = Vec::new();
    for listener in &config.listeners {
        let order: Vec<RuleId> = listener.rules.ids().collect();
        for (position, id) in order.iter().enumerate() {
            let Some(regex) = rules[id.0].waits() else { continue };
            let later = order[position + 1..].iter().take(pairs);
            pairs -= later.len();
            let held = later.filter(|later| rules[id.0].holds_back(&rules[later.0]));
            let names: Vec<&str> = held.map(|later| &*config.rules[later.0].name).collect();
            if names.is_empty() || !told.insert(*id) {
                continue;
            }
            let span = places.part(id.0, regex.as_str());
            found.push(holds_back(listener, &config.rules[id.0].name, &names, span));
        }
    }
    found
}

fn holds_back(
    listener: &ListenerConfig,
    rule: &str,
    held: &[&str],
    span: std::ops::Range<usize>,
) -> Diagnostic {
    let more = match held.len() - 1 {
        0 => String::new(),
        1 => " and another one".to_owned(),
        more => format!(" and {more} others"),
    };
    let message = format!("rule `{rule}` makes rule `{}`{more} wait", held[0]);
    let timeout = humantime::format_duration(listener.sniff_timeout);
    Diagnostic::warning(span, message)
        .label(format!("never says no before the sniff timeout, {timeout}"))
        .hint("anchor it with `^` and do without `.*`, or put the rule after those that wait")
}

/// Listeners of which one has a part of the other's connections.
fn overlaps(config: &Config, places: &Places<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (index, narrow) in config.listeners.iter().enumerate() {
        let (narrow, at) = match tcp(narrow) {
            Some(address) if !address.ip().is_unspecified() && address.port() != 0 => {
                (narrow, address)
            }
            Some(_) | None => continue,
        };
        let wide = config.listeners.iter().find(|wide| {
            tcp(wide).is_some_and(|wide| {
                wide.ip().is_unspecified()
                    && wide.port() == at.port()
                    && wide.is_ipv4() == at.is_ipv4()
            })
        });
        if let Some(wide) = wide {
            let message = format!("listeners `{}` and `{}` overlap", narrow.name, wide.name);
            let hint = format!("connections to {at} come in at `{}` only", narrow.name);
            found.push(Diagnostic::warning(places.listener(index), message).hint(hint));
        }
    }
    found
}

fn tcp(listener: &ListenerConfig) -> Option<SocketAddr> {
    match listener.address {
        ListenAddress::Tcp(address) => Some(address),
        ListenAddress::Unix(_) | ListenAddress::Systemd(_) => None,
    }
}
