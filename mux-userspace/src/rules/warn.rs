//! What is odd in a configuration that can be used: it hardly does what is meant.
//!
//! Unlike [`lint`](super::lint), nothing here refuses a file, and guesses are allowed.

use std::{collections::HashSet, net::SocketAddr};

use super::{
    config::{Config, Limits, ListenAddress, ListenerConfig, Otherwise, RuleId},
    diagnostic::Diagnostic,
    places::Places,
};
use crate::{
    probe::Probe,
    route::{Matcher, NamePattern, Names, Patience, Regex, Sni},
};

/// Pairs of rules that are compared at most.
const MAX_PAIRS: usize = 100_000;
/// Probes of protocols in which the server speaks first.
const SERVER_FIRST: [&str; 3] = ["mysql", "smtp", "vnc"];
/// A ClientHello with a post-quantum key share (X25519MLKEM768, 1,216 bytes) and what browsers put
/// beside it: Chromium's takes 1,924 bytes.
const HELLO: usize = 2 << 10;

/// All warnings, in no order.
pub(super) fn warnings(config: &Config, places: &Places<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for index in 0..config.rules.len() {
        found.extend(accepts_everything(config, RuleId(index), places));
        found.extend(idle_parts(config, RuleId(index), places));
        found.extend(speaks_too_late(config, RuleId(index), places));
        found.extend(too_short_for_hellos(config, RuleId(index), places));
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
        .filter(|(_, regex)| regex.accepts_everything())
        .map(|(what, regex)| {
            let span = places.part(id.0, regex.as_str());
            let message = format!("this regular expression matches {}", what.everything());
            Diagnostic::warning(span, message).label(what.label()).hint(what.hint())
        })
        .collect()
}

/// What a regular expression is tried on.
#[derive(Clone, Copy)]
enum Text {
    FirstBytes,
    Sni,
    Host,
    Path,
    Header,
}

impl Text {
    const fn everything(self) -> &'static str {
        match self {
            Self::FirstBytes => "everything",
            Self::Sni | Self::Host => "every name",
            Self::Path => "every path",
            Self::Header => "every value",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::FirstBytes => "content with no byte at all",
            Self::Sni | Self::Host | Self::Path | Self::Header => "content with nothing of it",
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::FirstBytes => {
                "leave it out if that is meant; otherwise ask for something, as in `^.+`"
            }
            Self::Sni => "for any client that names a host, write `not = { tls = { sni = [] } }`",
            Self::Host => "leave `host` out, unless requests without one are to go elsewhere",
            Self::Path => "leave `path_regex` out",
            Self::Header => "to ask only that the field is there, write an empty pattern, `\"\"`",
        }
    }
}

fn regexes<'a>(matcher: &'a Matcher, found: &mut Vec<(Text, &'a Regex)>) {
    let of_names = |what: Text, names: &'a Names| {
        names.patterns().iter().filter_map(move |pattern| match pattern {
            NamePattern::Regex(regex) => Some((what, regex)),
            NamePattern::Exact(_) | NamePattern::Below(_) => None,
        })
    };
    match matcher {
        Matcher::Regex(regex) => found.push((Text::FirstBytes, regex)),
        Matcher::Tls(tls) => match tls.sni() {
            Some(Sni::Names(names)) => found.extend(of_names(Text::Sni, names)),
            Some(Sni::Absent) | None => {}
        },
        Matcher::Http(http) => {
            let conditions = http.conditions();
            found.extend(conditions.hosts.iter().flat_map(|names| of_names(Text::Host, names)));
            let paths = conditions.path_regexes.iter().flatten();
            found.extend(paths.map(|regex| (Text::Path, regex)));
            let headers = conditions.headers.iter().map(|(_, regex)| regex);
            let headers = headers.filter(|regex| !regex.as_str().is_empty());
            found.extend(headers.map(|regex| (Text::Header, regex)));
        }
        Matcher::Always
        | Matcher::Prefix(_)
        | Matcher::Bytes(_)
        | Matcher::Probe(_)
        | Matcher::Predicate(_)
        | Matcher::Client(_)
        | Matcher::All(_)
        | Matcher::Any(_)
        | Matcher::Not(_) => {}
    }
    for member in matcher.members() {
        regexes(member, found);
    }
}

/// Rules about a ClientHello on a listener that does not look at a whole one.
fn too_short_for_hellos(config: &Config, id: RuleId, places: &Places<'_>) -> Option<Diagnostic> {
    let rule = &config.rules[id.0];
    let about_tls = |part: &Matcher| {
        let is_probe = matches!(part, Matcher::Probe(probe) if *probe == Probe::tls());
        is_probe || matches!(part, Matcher::Tls(_))
    };
    let mut listeners = config.listeners.iter();
    let listener = listeners.find(|it| it.rules.contains(id) && it.sniff_limit < HELLO)?;
    if !has_part(&rule.matcher, &about_tls)
        || listener.sniff_limit < rule.matcher.shortest_match()?
    {
        return None;
    }
    let message = format!(
        "rule `{}` looks at ClientHellos, and listener `{}` at {} bytes",
        rule.name, listener.name, listener.sniff_limit
    );
    let hint = format!(
        "a browser's hello, with its post-quantum key share, has almost {HELLO} bytes: raise `sniff_limit`"
    );
    Some(Diagnostic::warning(places.condition(id.0), message).hint(hint))
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
