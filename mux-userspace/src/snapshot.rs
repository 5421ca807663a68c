//! One configuration in force: what it says, and what is counted and kept for it.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc, time::SystemTime};

use crate::{
    accept::Listening,
    limit::{Limit, Trace, source::Sources},
    rules::config::{Config, ListenerConfig, Rule},
    server::Budget,
    upstream::Groups,
};

/// A configuration in force. A connection takes the one that is in force when it is accepted and
/// keeps it: its rules, its limits and its upstreams are those.
#[derive(Debug)]
pub struct Snapshot {
    /// 1 at start; one more each time that rules are loaded again.
    pub generation: u64,
    /// When it came into force.
    pub since: SystemTime,
    /// What the rules file says.
    pub config: Arc<Config>,
    /// The listeners' sockets and limits, indexed as the configuration's.
    pub listening: Vec<Arc<Listening>>,
    /// What is limited.
    pub limits: Limits,
    /// The upstreams' state, indexed as the configuration's.
    pub upstreams: Groups,
}

/// What a configuration limits, but for connections of all listeners
/// ([`crate::shared::Shared::connections`]) and of each ([`Listening::gate`]).
#[derive(Debug)]
pub struct Limits {
    /// Connections of all listeners at once, as the configuration or the budget says.
    pub connections: NonZeroU32,
    /// Connections a source; refused beyond. `None`: not limited.
    pub sources: Option<Sources>,
    /// Connections being sniffed; beyond, the oldest is closed.
    pub sniffing: NonZeroU32,
    /// Pipes for splice(2), a core; beyond, flows are copied.
    pub pipes_per_core: usize,
    /// Flows a rule; refused beyond. Indexed as the rules are.
    pub rules: Vec<Limit>,
    /// Of rules that are gone and have flows: they count should the rule come back.
    gone: HashMap<Arc<str>, Trace>,
}

impl Snapshot {
    /// The first configuration: all places are free, all endpoints are up.
    #[must_use]
    pub fn first(config: Arc<Config>, listening: Vec<Arc<Listening>>, budget: Budget) -> Self {
        let limits = Limits {
            sources: Sources::new(config.limits.per_source),
            rules: config.rules.iter().map(|rule| Limit::new(rule.max_connections)).collect(),
            gone: HashMap::new(),
            ..Limits::of(&config, budget)
        };
        Self {
            generation: 1,
            since: SystemTime::now(),
            limits,
            upstreams: Groups::new(&config),
            listening,
            config,
        }
    }

    /// The next configuration. What is known of its upstreams stays known, and what holds a place
    /// under a limit of this one holds it under the limit of the same name of that one.
    #[must_use]
    pub fn succeeded_by(
        &self,
        config: Arc<Config>,
        listening: Vec<Arc<Listening>>,
        budget: Budget,
    ) -> Self {
        let per_source = config.limits.per_source;
        let limits = Limits {
            sources: match &self.limits.sources {
                Some(sources) => sources.resized(per_source),
                None => Sources::new(per_source),
            },
            rules: self.rule_limits(&config.rules),
            gone: self.gone_limits(&config.rules),
            ..Limits::of(&config, budget)
        };
        Self {
            generation: self.generation + 1,
            since: SystemTime::now(),
            limits,
            upstreams: self.upstreams.succeeding(&config),
            listening,
            config,
        }
    }

    /// The limits of rules, which are known by their names.
    fn rule_limits(&self, rules: &[Arc<Rule>]) -> Vec<Limit> {
        let limits = self.config.rules.iter().zip(&self.limits.rules);
        let known: HashMap<&str, &Limit> =
            limits.map(|(rule, limit)| (&*rule.name, limit)).collect();
        let limit = |rule: &Arc<Rule>| {
            let most = rule.max_connections;
            let gone = || self.limits.gone.get(&rule.name)?.revive(most);
            let known = known.get(&*rule.name).map(|limit| limit.resized(most));
            known.or_else(gone).unwrap_or_else(|| Limit::new(most))
        };
        rules.iter().map(limit).collect()
    }

    fn gone_limits(&self, rules: &[Arc<Rule>]) -> HashMap<Arc<str>, Trace> {
        let limits = self.config.rules.iter().zip(&self.limits.rules);
        let mut gone = self.limits.gone.clone();
        gone.extend(limits.map(|(rule, limit)| (Arc::clone(&rule.name), limit.trace())));
        gone.retain(|_, trace| trace.revive(None).is_some_and(|limit| limit.in_use() > 0));
        rules.iter().for_each(|rule| drop(gone.remove(&rule.name)));
        gone
    }
}

/// What serves a connection: the configuration that was in force when it was accepted, and where it
/// came in.
#[derive(Clone, Debug)]
pub struct Service {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// The listener, an index into [`Config::listeners`].
    listener: usize,
}

impl Service {
    /// By what a configuration says of a listener; `None`: nothing.
    #[must_use]
    pub fn find(snapshot: &Arc<Snapshot>, listening: &Arc<Listening>) -> Option<Self> {
        let listener = snapshot.listening.iter().position(|mine| Arc::ptr_eq(mine, listening))?;
        snapshot.config.listeners.get(listener)?;
        Some(Self { snapshot: Arc::clone(snapshot), listener })
    }

    /// The listener.
    ///
    /// # Panics
    /// Never: it was looked for.
    #[must_use]
    pub fn listener(&self) -> &Arc<ListenerConfig> {
        &self.snapshot.config.listeners[self.listener]
    }
}

impl Limits {
    /// Those that count nothing.
    fn of(config: &Config, budget: Budget) -> Self {
        Self {
            connections: budget.connections,
            sources: None,
            sniffing: config.limits.sniffing(budget.connections),
            pipes_per_core: budget.pipes_per_core,
            rules: Vec::new(),
            gone: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { connections: NonZeroU32::MIN, pipes_per_core: 1 };

    fn config(rules: &str) -> Arc<Config> {
        let text = format!("listen = \"127.0.0.1:0\"\n{rules}");
        Arc::new(crate::rules::parse("x", &text).unwrap_or_else(|error| panic!("{error}")))
    }

    fn rule(name: &str, most: u32) -> String {
        format!(
            "[[rule]]\nname = \"{name}\"\nmatch = {{ prefix = \"{name}\" }}\nupstream = 1\nmax_connections = {most}\n"
        )
    }

    fn first(rules: &str) -> Snapshot {
        Snapshot::first(config(rules), Vec::new(), BUDGET)
    }

    fn next(before: &Snapshot, rules: &str) -> Snapshot {
        before.succeeded_by(config(rules), Vec::new(), BUDGET)
    }

    fn limit<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Limit {
        let index = snapshot.config.rules.iter().position(|rule| &*rule.name == name);
        &snapshot.limits.rules[index.expect("such a rule")]
    }

    #[test]
    fn a_rules_places_are_known_by_its_name() {
        let before = first(&(rule("a", 1) + &rule("b", 1)));
        let _a = limit(&before, "a").try_acquire().expect("free");
        let after = next(&before, &(rule("b", 1) + &rule("a", 2)));
        assert_eq!(after.generation, 2);
        assert!(limit(&after, "b").try_acquire().is_some());
        let _more = limit(&after, "a").try_acquire().expect("1 of 2 is taken");
        assert!(limit(&after, "a").try_acquire().is_none());
    }

    #[test]
    fn a_rule_that_comes_back_finds_its_flows() {
        let before = first(&(rule("a", 2) + &rule("b", 1)));
        let a = limit(&before, "a").try_acquire().expect("free");
        let without = next(&next(&before, &rule("b", 1)), &rule("b", 1));
        assert_eq!(without.limits.gone.len(), 1);
        let back = next(&without, &rule("a", 1));
        assert!(back.limits.gone.is_empty());
        assert!(limit(&back, "a").try_acquire().is_none());
        drop(a);
        assert!(limit(&back, "a").try_acquire().is_some());
        assert!(next(&back, &rule("b", 1)).limits.gone.is_empty(), "nothing to remember");
    }
}
