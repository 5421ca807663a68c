//! What is wrong with a configuration that is otherwise valid: rules that can never be used.

use super::{
    compile::Places,
    config::{Config, ListenerConfig, Otherwise, RuleId},
    diagnostic::Diagnostic,
    table::Problems,
};

/// Reports rules that no connection can reach.
pub(super) fn lint(config: &Config, places: &Places, problems: &Problems) {
    for id in (0..config.rules.len()).map(RuleId) {
        let complaint = if stands_in(config, id) {
            never_matches(config, id)
        } else {
            unused(config, id)
                .or_else(|| never_matches(config, id))
                .or_else(|| unreachable(config, id))
        };
        if let (Some((message, hint)), Some(span)) = (complaint, places.rules.get(id.0)) {
            problems.add(Diagnostic::new(span.clone(), message).hint(hint));
        }
    }
}

/// Whether another rule uses this one's upstream when its own cannot be had. What that other rule
/// is reached by is looked at there.
fn stands_in(config: &Config, id: RuleId) -> bool {
    config.rules.iter().any(|rule| rule.on_no_upstream == Otherwise::Rule(id))
}

/// A message and a hint.
type Complaint = (String, String);

/// A rule that no listener names.
fn unused(config: &Config, id: RuleId) -> Option<Complaint> {
    let is_used = config
        .listeners
        .iter()
        .any(|listener| listener.rules.contains(id) || is_otherwise(listener, id));
    (!is_used).then(|| {
        let name = &config.rules[id.0].name;
        (
            format!("rule `{name}` is unreachable: no listener has it"),
            "name it in a listener's `rules`, or leave it out".to_owned(),
        )
    })
}

/// A rule whose condition cannot hold with what its listeners sniff.
fn never_matches(config: &Config, id: RuleId) -> Option<Complaint> {
    let rule = &config.rules[id.0];
    let name = &rule.name;
    let Some(shortest) = rule.matcher.shortest_match() else {
        return Some((
            format!("rule `{name}` can never match"),
            "its condition contradicts itself".to_owned(),
        ));
    };
    let listener = config
        .listeners
        .iter()
        .find(|listener| listener.rules.contains(id) && listener.sniff_limit < shortest)?;
    Some((
        format!("rule `{name}` can never match on listener `{}`", listener.name),
        format!(
            "it needs {shortest} bytes: raise `sniff_limit`, which is {} there",
            listener.sniff_limit
        ),
    ))
}

/// A rule that comes, on one of its listeners, after one that takes all its connections.
fn unreachable(config: &Config, id: RuleId) -> Option<Complaint> {
    config.listeners.iter().find_map(|listener| {
        if !listener.rules.contains(id) {
            return None;
        }
        let rule = &config.rules[id.0];
        let earlier = listener
            .rules
            .rules()
            .take_while(|(earlier, _)| *earlier != id)
            .map(|(_, earlier)| earlier)
            .find(|earlier| {
                // Where another rule is certain, not even the timeout is ever reached.
                earlier.matcher.is_certain()
                    || (!is_otherwise(listener, id) && earlier.matcher.covers(&rule.matcher))
            })?;
        let what = if earlier.matcher.is_certain() {
            "matches every connection at once"
        } else {
            "matches all that it does"
        };
        Some((
            format!("rule `{}` is unreachable on listener `{}`", rule.name, listener.name),
            format!("rule `{}`, before it, {what}: put it after, or leave one out", earlier.name),
        ))
    })
}

/// Whether the listener falls back to this rule.
fn is_otherwise(listener: &ListenerConfig, id: RuleId) -> bool {
    [listener.on_timeout, listener.on_no_match].contains(&Otherwise::Rule(id))
}
