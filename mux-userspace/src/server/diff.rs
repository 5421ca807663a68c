//! What is different between two configurations, by name, for the log.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use tracing::info;

use crate::rules::config::{
    Acl, AdminConfig, Config, EndpointConfig, Expect, HealthConfig, KernelConfig, Limits,
    ListenerConfig, LogConfig, Otherwise, Rule, SecurityConfig, SockmapMode, Timeouts,
    UpstreamConfig,
};

/// Lines that are written at most, for each kind of thing.
const LINES: usize = 100;

/// What is different.
#[derive(Debug, Default)]
pub(super) struct Diff {
    rules: Changes,
    listeners: Changes,
    upstreams: Changes,
    /// Keys of other tables.
    settings: Vec<String>,
}

/// What happened to things of one kind.
#[derive(Debug, Default)]
struct Changes {
    added: usize,
    removed: usize,
    changed: usize,
    /// One for each.
    lines: Vec<String>,
}

impl Diff {
    pub(super) fn new(before: &Config, after: &Config) -> Self {
        let world = World { before, after };
        let mut settings = timeouts(&before.timeouts, &after.timeouts);
        settings.extend(limits(&before.limits, &after.limits));
        settings.extend(log(&before.log, &after.log));
        if before.kernel.sockmap != after.kernel.sockmap {
            settings.push("[kernel] sockmap".to_owned());
        }
        Self {
            rules: Changes::new(
                "rule",
                before.rules.iter().map(|rule| (&*rule.name, &**rule)),
                after.rules.iter().map(|rule| (&*rule.name, &**rule)),
                |old, new| world.rule(old, new),
            ),
            listeners: Changes::new(
                "listener",
                before.listeners.iter().map(|listener| (&*listener.name, &**listener)),
                after.listeners.iter().map(|listener| (&*listener.name, &**listener)),
                |old, new| world.listener(old, new),
            ),
            upstreams: Changes::new("upstream", groups(before), groups(after), upstream),
            settings,
        }
    }

    /// The settings that cannot change while mux runs and do: `[kernel]`, `[security]` and
    /// `[admin]`. `loaded`: the kernel relay is, so that it can be left and entered again; it cannot
    /// be loaded later.
    pub(super) fn fixed(
        (kernel, security, admin): (&KernelConfig, &SecurityConfig, &AdminConfig),
        loaded: bool,
        after: &Config,
    ) -> Vec<&'static str> {
        let KernelConfig { sockmap, packet, interfaces, send_buffer, backlog_limit, flows } =
            kernel;
        let follows = loaded || after.kernel.sockmap == SockmapMode::Off;
        let SecurityConfig { user, landlock, seccomp, keeper } = security;
        let AdminConfig { socket, metrics } = admin;
        changed([
            ("[kernel] sockmap", follows || *sockmap == after.kernel.sockmap),
            ("[kernel] packet", *packet == after.kernel.packet),
            ("[kernel] interfaces", *interfaces == after.kernel.interfaces),
            ("[kernel] send_buffer", *send_buffer == after.kernel.send_buffer),
            ("[kernel] backlog_limit", *backlog_limit == after.kernel.backlog_limit),
            ("[kernel] flows", *flows == after.kernel.flows),
            ("[security] user", *user == after.security.user),
            ("[security] landlock", *landlock == after.security.landlock),
            ("[security] seccomp", *seccomp == after.security.seccomp),
            ("[security] keeper", *keeper == after.security.keeper),
            ("[admin] socket", *socket == after.admin.socket),
            ("[admin] metrics", *metrics == after.admin.metrics),
        ])
    }

    /// Writes a line for each change.
    pub(super) fn log(&self) {
        for changes in [&self.rules, &self.listeners, &self.upstreams] {
            for line in changes.lines.iter().take(LINES) {
                info!("{line}");
            }
            if let Some(more) = changes.lines.len().checked_sub(LINES + 1) {
                info!("… and {} more", more + 1);
            }
        }
        for key in &self.settings {
            info!("{key} changed");
        }
    }
}

/// In one line.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let kinds = [
            ("rules", &self.rules),
            ("listeners", &self.listeners),
            ("upstreams", &self.upstreams),
        ];
        for (name, changes) in kinds {
            let counts = [
                ("added", changes.added),
                ("removed", changes.removed),
                ("changed", changes.changed),
            ];
            let counts: Vec<String> = counts
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(what, count)| format!("{count} {what}"))
                .collect();
            if !counts.is_empty() {
                parts.push(format!("{name}: {}", counts.join(", ")));
            }
        }
        if !self.settings.is_empty() {
            parts.push(format!("settings: {} changed", self.settings.len()));
        }
        if parts.is_empty() {
            return f.write_str("nothing has changed");
        }
        f.write_str(&parts.join("; "))
    }
}

impl Changes {
    /// Compares things of the same name.
    fn new<'a, T: 'a>(
        kind: &str,
        before: impl Iterator<Item = (&'a str, &'a T)>,
        after: impl Iterator<Item = (&'a str, &'a T)>,
        compare: impl Fn(&T, &T) -> Vec<String>,
    ) -> Self {
        let mut changes = Self::default();
        // Sorted: what is left is told in the same order each time.
        let mut left: BTreeMap<&str, &T> = before.collect();
        for (name, new) in after {
            match left.remove(name) {
                None => {
                    changes.added += 1;
                    changes.lines.push(format!("{kind} {name}: added"));
                }
                Some(old) => {
                    let keys = compare(old, new);
                    if !keys.is_empty() {
                        changes.changed += 1;
                        changes.lines.push(format!("{kind} {name}: changed: {}", keys.join(", ")));
                    }
                }
            }
        }
        changes.removed = left.len();
        changes.lines.extend(left.keys().map(|name| format!("{kind} {name}: removed")));
        changes
    }
}

/// Named groups: an address that stands in a rule is the rule's.
fn groups(config: &Config) -> impl Iterator<Item = (&str, &UpstreamConfig)> {
    let groups = config.upstreams.iter().filter(|upstream| !upstream.name.contains(':'));
    groups.map(|upstream| (&*upstream.name, &**upstream))
}

/// The configurations that names are looked up in.
struct World<'a> {
    before: &'a Config,
    after: &'a Config,
}

impl World<'_> {
    fn rule(&self, old: &Rule, new: &Rule) -> Vec<String> {
        let Rule {
            name: _,
            matcher,
            upstream,
            on_no_upstream,
            relay,
            proxy_protocol,
            max_connections,
            acl,
        } = old;
        let mut keys = Vec::new();
        if *matcher != new.matcher {
            keys.push("match".to_owned());
        }
        let from = &self.before.upstreams[upstream.0].name;
        let to = &self.after.upstreams[new.upstream.0].name;
        if from != to {
            keys.push(format!("upstream {from} → {to}"));
        }
        keys.extend(owned(changed([
            ("on_no_upstream", self.is_same(*on_no_upstream, new.on_no_upstream)),
            ("relay", *relay == new.relay),
            ("proxy_protocol", *proxy_protocol == new.proxy_protocol),
            ("max_connections", *max_connections == new.max_connections),
        ])));
        keys.extend(owned(access_list(acl, &new.acl)));
        keys
    }

    fn listener(&self, old: &ListenerConfig, new: &ListenerConfig) -> Vec<String> {
        let ListenerConfig {
            name: _,
            address,
            sniff_timeout,
            sniff_limit,
            on_timeout,
            on_no_match,
            max_connections,
            acl,
            accept_proxy,
            timers,
            rules: _,
        } = old;
        let mut keys = changed([
            ("address", *address == new.address),
            ("sniff_timeout", *sniff_timeout == new.sniff_timeout),
            ("sniff_limit", *sniff_limit == new.sniff_limit),
            ("on_timeout", self.is_same(*on_timeout, new.on_timeout)),
            ("on_no_match", self.is_same(*on_no_match, new.on_no_match)),
            ("max_connections", *max_connections == new.max_connections),
            ("accept_proxy_protocol", *accept_proxy == new.accept_proxy),
            ("keepalive", timers.keepalive == new.timers.keepalive),
            ("user_timeout", timers.user_timeout == new.timers.user_timeout),
        ]);
        keys.extend(access_list(acl, &new.acl));
        if self.lasting_rules(old, self.after) != self.lasting_rules(new, self.before) {
            keys.push("rules");
        }
        owned(keys)
    }

    /// A listener's rules, in their order, but for those that the other configuration does not
    /// have: they are told by themselves.
    fn lasting_rules<'a>(&self, listener: &'a ListenerConfig, other: &Config) -> Vec<&'a str> {
        let names: HashSet<&str> = other.rules.iter().map(|rule| &*rule.name).collect();
        let rules = listener.rules.rules().map(|(_, rule)| &*rule.name);
        rules.filter(|name| names.contains(name)).collect()
    }

    fn is_same(&self, old: Otherwise, new: Otherwise) -> bool {
        match (old, new) {
            (Otherwise::Rule(old), Otherwise::Rule(new)) => {
                self.before.rules[old.0].name == self.after.rules[new.0].name
            }
            (old, new) => old == new,
        }
    }
}

fn upstream(old: &UpstreamConfig, new: &UpstreamConfig) -> Vec<String> {
    let UpstreamConfig {
        name: _,
        endpoints,
        balance,
        retries,
        resolve,
        max_connections,
        source,
        timers,
        // The rules say it.
        proxy_protocol: _,
        queue,
        health,
        eject,
    } = old;
    let mut keys = Vec::new();
    let of = |endpoint: &EndpointConfig| endpoint.address.to_string();
    let (old_addresses, new_addresses): (Vec<_>, Vec<_>) =
        (endpoints.iter().map(of).collect(), new.endpoints.iter().map(of).collect());
    for address in new_addresses.iter().filter(|address| !old_addresses.contains(address)) {
        keys.push(format!("endpoint {address} added"));
    }
    for address in old_addresses.iter().filter(|address| !new_addresses.contains(address)) {
        keys.push(format!("endpoint {address} removed"));
    }
    // What is left: their order, or something of one of them.
    if keys.is_empty() && *endpoints != new.endpoints {
        keys.push("endpoints".to_owned());
    }
    keys.extend(owned(changed([
        ("balance", *balance == new.balance),
        ("retries", *retries == new.retries),
        ("resolve", *resolve == new.resolve),
        ("max_connections", *max_connections == new.max_connections),
        ("source", *source == new.source),
        ("keepalive", timers.keepalive == new.timers.keepalive),
        ("user_timeout", timers.user_timeout == new.timers.user_timeout),
        ("queue", *queue == new.queue),
        ("health", is_same_health(health.as_ref(), new.health.as_ref())),
        ("eject", *eject == new.eject),
    ])));
    keys
}

fn is_same_health(old: Option<&HealthConfig>, new: Option<&HealthConfig>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return old.is_none() && new.is_none() };
    let HealthConfig { interval, timeout, rise, fall, send, expect } = old;
    let is_same_expect = match (expect, &new.expect) {
        (Expect::Connection, Expect::Connection) => true,
        (Expect::Contains(old), Expect::Contains(new)) => old == new,
        (Expect::Regex(old), Expect::Regex(new)) => old.as_str() == new.as_str(),
        (Expect::Connection | Expect::Contains(_) | Expect::Regex(_), _) => false,
    };
    is_same_expect
        && *interval == new.interval
        && *timeout == new.timeout
        && *rise == new.rise
        && *fall == new.fall
        && *send == new.send
}

fn access_list(old: &Acl, new: &Acl) -> Vec<&'static str> {
    let Acl { allow, deny } = old;
    changed([("allow", *allow == new.allow), ("deny", *deny == new.deny)])
}

fn timeouts(old: &Timeouts, new: &Timeouts) -> Vec<String> {
    let Timeouts { idle, half_closed, lifetime, drain, tcp } = old;
    owned(changed([
        ("[timeouts] idle", *idle == new.idle),
        ("[timeouts] half_closed", *half_closed == new.half_closed),
        ("[timeouts] lifetime", *lifetime == new.lifetime),
        ("[timeouts] drain", *drain == new.drain),
        ("[timeouts] keepalive", tcp.keepalive == new.tcp.keepalive),
        ("[timeouts] user_timeout", tcp.user_timeout == new.tcp.user_timeout),
    ]))
}

fn limits(old: &Limits, new: &Limits) -> Vec<String> {
    let Limits { max_connections, max_sniffing, per_source } = old;
    owned(changed([
        ("[limits] max_connections", *max_connections == new.max_connections),
        ("[limits] max_sniffing", *max_sniffing == new.max_sniffing),
        ("[limits] per_source", *per_source == new.per_source),
    ]))
}

fn log(old: &LogConfig, new: &LogConfig) -> Vec<String> {
    let LogConfig { level, access, access_file } = old;
    owned(changed([
        ("[log] level", *level == new.level),
        ("[log] access", *access == new.access),
        ("[log] access_file", *access_file == new.access_file),
    ]))
}

/// The keys of which it is not so that they are the same.
fn changed<const N: usize>(is_same: [(&'static str, bool); N]) -> Vec<&'static str> {
    is_same.into_iter().filter(|(_, is_same)| !is_same).map(|(key, _)| key).collect()
}

fn owned(keys: Vec<&'static str>) -> Vec<String> {
    keys.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
        [[listener]]
        name = 'edge'
        address = '127.0.0.1:1'
        rules = ['a', 'b']
        [[rule]]
        name = 'a'
        match = { prefix = 'a' }
        upstream = 80
        [[rule]]
        name = 'b'
        match = { regex = '^b' }
        upstream = 'g'
        on_no_upstream = 'a'
        [[upstream]]
        name = 'g'
        endpoints = ['127.0.0.1:1', '127.0.0.1:2']
        health = { expect_regex = 'x' }
        [timeouts]
        idle = '1m'
    ";

    fn config(text: &str) -> Config {
        crate::rules::parse("x", text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The lines, and the summary, of replacing a part of the file.
    fn diff(changes: &[(&str, &str)]) -> (Vec<String>, String) {
        let mut text = FILE.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        let diff = Diff::new(&config(FILE), &config(&text));
        let lines = [&diff.rules, &diff.listeners, &diff.upstreams];
        let lines = lines.into_iter().flat_map(|changes| changes.lines.clone());
        (lines.chain(diff.settings.clone()).collect(), diff.to_string())
    }

    #[test]
    fn the_same_file_is_no_change() {
        assert_eq!(diff(&[]), (Vec::new(), "nothing has changed".into()));
    }

    /// Each key of a rule, a listener, an upstream and the other tables: what is written in front
    /// of what there is, or instead of it.
    #[test]
    fn what_changed_is_named() {
        let added = [
            ("upstream = 80", "max_connections = 5", "rule a: changed: max_connections"),
            ("upstream = 80", "relay = 'copy'", "rule a: changed: relay"),
            ("upstream = 80", "proxy_protocol = 'v1'", "rule a: changed: proxy_protocol"),
            ("upstream = 80", "allow = ['::1']", "rule a: changed: allow"),
            ("upstream = 80", "deny = ['::1']", "rule a: changed: deny"),
            ("rules = [", "sniff_timeout = '1s'", "listener edge: changed: sniff_timeout"),
            ("rules = [", "sniff_limit = 9", "listener edge: changed: sniff_limit"),
            ("rules = [", "on_timeout = 'a'", "listener edge: changed: on_timeout"),
            ("rules = [", "on_no_match = 'b'", "listener edge: changed: on_no_match"),
            ("rules = [", "max_connections = 1", "listener edge: changed: max_connections"),
            (
                "rules = [",
                "accept_proxy_protocol = ['::1']",
                "listener edge: changed: accept_proxy_protocol",
            ),
            ("rules = [", "keepalive = '9s'", "listener edge: changed: keepalive"),
            ("rules = [", "user_timeout = '9s'", "listener edge: changed: user_timeout"),
            ("health = ", "balance = 'first'", "upstream g: changed: balance"),
            ("health = ", "retries = 7", "upstream g: changed: retries"),
            ("health = ", "resolve = '7s'", "upstream g: changed: resolve"),
            ("health = ", "max_connections = 7", "upstream g: changed: max_connections"),
            ("health = ", "source = '127.0.0.1'", "upstream g: changed: source"),
            ("health = ", "eject = false", "upstream g: changed: eject"),
            ("idle = ", "drain = '9s'", "[timeouts] drain"),
            ("[timeouts]", "[limits]\nmax_connections = 9", "[limits] max_connections"),
            ("[timeouts]", "[limits]\nmax_sniffing = 9", "[limits] max_sniffing"),
            ("[timeouts]", "[limits]\nper_source = { connections = 9 }", "[limits] per_source"),
            ("[timeouts]", "[log]\naccess = 'off'", "[log] access"),
        ];
        for (at, what, line) in added {
            assert_eq!(diff(&[(at, &format!("{what}\n{at}"))]).0, [line], "{what}");
        }
        let replaced = [
            ("prefix = 'a'", "prefix = 'A'", "rule a: changed: match"),
            ("'^b'", "'^c'", "rule b: changed: match"),
            ("= 80", "= 81", "rule a: changed: upstream 127.0.0.1:80 → 127.0.0.1:81"),
            ("on_no_upstream = 'a'", "on_no_upstream = 'close'", "rule b: changed: on_no_upstream"),
            ("['a', 'b']", "['b', 'a']", "listener edge: changed: rules"),
            (
                "address = '127.0.0.1:1'",
                "address = '127.0.0.1:9'",
                "listener edge: changed: address",
            ),
            (
                "127.0.0.1:2",
                "127.0.0.1:3",
                "upstream g: changed: endpoint 127.0.0.1:3 added, endpoint 127.0.0.1:2 removed",
            ),
            (
                "'127.0.0.1:1', '127.0.0.1:2'",
                "'127.0.0.1:2', '127.0.0.1:1'",
                "upstream g: changed: endpoints",
            ),
            ("regex = 'x'", "regex = 'y'", "upstream g: changed: health"),
            ("'1m'", "'2m'", "[timeouts] idle"),
        ];
        for (from, to, line) in replaced {
            assert_eq!(diff(&[(from, to)]).0, [line], "{to}");
        }
    }

    #[test]
    fn what_came_and_went_is_named_once() {
        let (lines, summary) = diff(&[
            ("['a', 'b']", "['a', 'c']"),
            ("name = 'b'", "name = 'c'"),
            ("name = 'g'", "name = 'h'"),
            ("upstream = 'g'", "upstream = 'h'"),
            ("'1m'", "'2m'"),
        ]);
        assert_eq!(
            lines,
            [
                "rule c: added",
                "rule b: removed",
                "upstream h: added",
                "upstream g: removed",
                "[timeouts] idle",
            ]
        );
        assert_eq!(
            summary,
            "rules: 1 added, 1 removed; upstreams: 1 added, 1 removed; settings: 1 changed"
        );
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let before = config(FILE);
        let after = config(&format!("{FILE}[kernel]\nflows = 7\n[security]\nuser = 'root'\n"));
        let settings = (&before.kernel, &before.security, &before.admin);
        for loaded in [false, true] {
            let fixed = Diff::fixed(settings, loaded, &after);
            assert_eq!(fixed, ["[kernel] flows", "[security] user"]);
        }
    }

    #[test]
    fn a_kernel_relay_that_is_loaded_can_be_left_and_one_that_is_not_needs_a_restart() {
        let with = |mode| config(&format!("{FILE}[kernel]\nsockmap = '{mode}'\n"));
        let fixed = |loaded, before, after| {
            let (before, after) = (with(before), with(after));
            Diff::fixed((&before.kernel, &before.security, &before.admin), loaded, &after)
        };
        for (before, after) in
            [("auto", "off"), ("force", "off"), ("off", "auto"), ("auto", "force")]
        {
            assert!(fixed(true, before, after).is_empty(), "{before} {after}");
        }
        assert!(fixed(false, "auto", "off").is_empty());
        assert_eq!(fixed(false, "off", "auto"), ["[kernel] sockmap"]);
        assert_eq!(Diff::new(&with("auto"), &with("off")).to_string(), "settings: 1 changed");
    }
}
