//! Where things stand in the text of a rules file that has been found right.
//!
//! Only warnings want to know, so it is looked up in the text again rather than carried through
//! all steps of compiling.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{
    address::{local_port, parse_address},
    config::Address,
    table::Value,
};

/// The tables of a file.
#[derive(Debug)]
pub(super) struct Places<'t>(DeTable<'t>);

impl<'t> Places<'t> {
    /// Of a text; what is wrong with it has been said already.
    pub(super) fn of(text: &'t str) -> Self {
        let (root, _) = DeTable::parse_recoverable(text);
        Self(root.into_inner())
    }

    /// The condition of a rule, by its index; of a rule without one, its head.
    pub(super) fn condition(&self, rule: usize) -> Range<usize> {
        let Some(rule) = self.rule(rule) else { return 0..0 };
        let condition = table(rule).and_then(|table| table.get("match"));
        condition.unwrap_or(rule).span()
    }

    /// The first string in the condition of a rule that says this; else the condition.
    pub(super) fn part(&self, rule: usize, text: &str) -> Range<usize> {
        self.rule(rule)
            .and_then(table)
            .and_then(|table| table.get("match"))
            .and_then(|condition| find(condition, text))
            .unwrap_or_else(|| self.condition(rule))
    }

    /// The address of a listener, by its index.
    pub(super) fn listener(&self, index: usize) -> Range<usize> {
        let short = self.0.get("listen").map(members).unwrap_or_default();
        if let Some(address) = short.get(index) {
            return address.span();
        }
        let listener = self.tables("listener").get(index - short.len());
        let address = listener.and_then(table).and_then(|table| table.get("address"));
        address.map_or(0..0, Value::span)
    }

    /// The value of a key in a section of single values.
    pub(super) fn setting(&self, section: &str, key: &str) -> Range<usize> {
        let value = self.0.get(section).and_then(table).and_then(|table| table.get(key));
        value.map_or(0..0, Value::span)
    }

    /// Every address of an upstream, in the order of the text.
    pub(super) fn addresses(&self) -> Vec<(Range<usize>, Address)> {
        let upstreams = || self.tables("upstream").iter().filter_map(table);
        let names: Vec<&str> =
            upstreams().filter_map(|upstream| upstream.get("name").and_then(string)).collect();
        let endpoints = upstreams()
            .filter_map(|upstream| upstream.get("endpoints"))
            .flat_map(members)
            .filter_map(|endpoint| match table(endpoint) {
                Some(table) => table.get("address"),
                None => Some(endpoint),
            });
        let targets = self
            .tables("rule")
            .iter()
            .filter_map(|rule| table(rule)?.get("upstream"))
            .filter(|target| string(target).is_none_or(|text| !names.contains(&text)));
        let written = endpoints.chain(targets);
        let mut all: Vec<_> =
            written.filter_map(|value| Some((value.span(), address(value)?))).collect();
        all.sort_by_key(|(span, _)| span.start);
        all
    }

    fn rule(&self, index: usize) -> Option<&Value<'t>> {
        self.tables("rule").get(index)
    }

    /// All `[[key]]`.
    fn tables(&self, key: &str) -> &[Value<'t>] {
        self.0.get(key).map(members).unwrap_or_default()
    }
}

/// The members of a list; of anything else, itself.
fn members<'a, 't>(value: &'a Value<'t>) -> &'a [Value<'t>] {
    match value.get_ref() {
        DeValue::Array(members) => members,
        _ => std::slice::from_ref(value),
    }
}

fn table<'a, 't>(value: &'a Value<'t>) -> Option<&'a DeTable<'t>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn string<'a>(value: &'a Value<'_>) -> Option<&'a str> {
    match value.get_ref() {
        DeValue::String(text) => Some(text),
        _ => None,
    }
}

fn address(value: &Value<'_>) -> Option<Address> {
    match value.get_ref() {
        DeValue::String(text) => parse_address(text).ok(),
        DeValue::Integer(port) => port.as_str().parse().ok().map(local_port),
        _ => None,
    }
}

/// The first string in a value that is this.
fn find(value: &Value<'_>, text: &str) -> Option<Range<usize>> {
    match value.get_ref() {
        DeValue::String(found) => (found == text).then(|| value.span()),
        DeValue::Array(members) => members.iter().find_map(|member| find(member, text)),
        DeValue::Table(table) => {
            let found = table.values().filter_map(|member| find(member, text));
            found.min_by_key(|span| span.start)
        }
        _ => None,
    }
}
