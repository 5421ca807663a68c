//! The rows of a view.

use super::model::{Model, Order, Rate, View};
use crate::{
    admin::view::{ByRelay, Ways},
    remote::print::{size, span},
};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) heading: &'static str,
    pub(super) number: bool,
    /// Left out where there is no room.
    pub(super) optional: bool,
}

/// A cell: its text, and what it is ordered by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) value: f64,
}

/// A line: what it is about, and its cells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// A name that stays: of a flow its id.
    pub(super) name: String,
    pub(super) cells: Vec<Cell>,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rows {
    pub(super) columns: Vec<Column>,
    pub(super) lines: Vec<Line>,
}

/// The rows of the model's view: those that its filter lets through, in its order.
pub(super) fn rows(model: &Model) -> Rows {
    let mut rows = match model.view {
        View::Rules => rules(model),
        View::Upstreams => upstreams(model),
        View::Relays => relays(model),
        View::Flows => flows(model),
    };
    let wanted = model.filter.to_lowercase();
    rows.lines
        .retain(|line| line.cells.iter().any(|cell| cell.text.to_lowercase().contains(&wanted)));
    sort(&mut rows, model.order());
    rows
}

/// Numbers from the largest, words from the first letter, unless it is reversed.
fn sort(rows: &mut Rows, order: Order) {
    if let Some(index) = order.column
        && let Some(column) = rows.columns.get(index)
    {
        let number = column.number;
        rows.lines.sort_by(|one, other| {
            let (Some(one), Some(other)) = (one.cells.get(index), other.cells.get(index)) else {
                return std::cmp::Ordering::Equal;
            };
            if number { other.value.total_cmp(&one.value) } else { one.text.cmp(&other.text) }
        });
    }
    if order.reversed {
        rows.lines.reverse();
    }
}

/// Columns with these headings; those that begin with `>` are of numbers, those with `?` optional.
fn columns(headings: &[&'static str]) -> Vec<Column> {
    let column = |heading: &&'static str| {
        let (optional, heading) = strip(heading, '?');
        let (number, heading) = strip(heading, '>');
        Column { heading, number, optional }
    };
    headings.iter().map(column).collect()
}

fn strip(text: &'static str, mark: char) -> (bool, &'static str) {
    text.strip_prefix(mark).map_or((false, text), |rest| (true, rest))
}

fn word(text: &str) -> Cell {
    Cell { text: text.to_owned(), value: 0.0 }
}

fn number(value: u64) -> Cell {
    Cell { text: value.to_string(), value: value as f64 }
}

fn bytes(value: u64) -> Cell {
    Cell { text: size(value), value: value as f64 }
}

fn rate(value: f64) -> Cell {
    Cell { text: format!("{}/s", size(value.round() as u64)), value }
}

fn rules(model: &Model) -> Rows {
    let lines = model.sample.status.rules.iter().map(|rule| {
        let key = (rule.rule.clone(), rule.upstream.clone());
        let Rate { up, down } = model.rule_rates.get(&key).copied().unwrap_or_default();
        Line {
            name: format!("{} {}", rule.rule, rule.upstream),
            cells: vec![
                word(&rule.rule),
                word(&rule.upstream),
                number(rule.flows.sum()),
                number(rule.ended.sum()),
                rate(up),
                rate(down),
                bytes(rule.bytes.up),
                bytes(rule.bytes.down),
            ],
        }
    });
    let headings =
        ["rule", "upstream", ">flows", ">ended", ">up", ">down", "?>bytes up", "?>bytes down"];
    Rows { columns: columns(&headings), lines: lines.collect() }
}

/// A rate is the whole upstream's, and stands in its first line.
fn upstreams(model: &Model) -> Rows {
    let mut lines = Vec::new();
    for upstream in &model.sample.status.upstreams {
        let Rate { up, down } =
            model.upstream_rates.get(&upstream.name).copied().unwrap_or_default();
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            let limit = endpoint.limit.or(upstream.limit);
            let rate = |value| match index {
                0 => rate(value),
                // In the order of the rates its lines stay together.
                _ => Cell { text: String::new(), value },
            };
            lines.push(Line {
                name: format!("{} {}", upstream.name, endpoint.address),
                cells: vec![
                    word(&upstream.name),
                    word(&endpoint.address),
                    word(&endpoint.state),
                    number(endpoint.flows),
                    limit.map_or_else(|| word("-"), number),
                    number(upstream.queue),
                    rate(up),
                    rate(down),
                    word(&endpoint.reason),
                ],
            });
        }
    }
    let headings =
        ["upstream", "endpoint", "state", ">flows", ">limit", ">queue", ">up", ">down", "reason"];
    Rows { columns: columns(&headings), lines }
}

fn relays(model: &Model) -> Rows {
    let status = &model.sample.status;
    let of = |name: &str, flows: ByRelay| match name {
        "copy" => flows.copy,
        "splice" => flows.splice,
        "packet" => flows.packet,
        _ => flows.sockmap,
    };
    let counter = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    let line = |name: &'static str| {
        let Rate { up, down } = model.relay_rates.get(name).copied().unwrap_or_default();
        let Ways { up: bytes_up, down: bytes_down } = match name {
            "copy" => status.relayed.copy,
            "splice" => status.relayed.splice,
            "packet" => status.relayed.packet,
            _ => status.relayed.sockmap,
        };
        let ended = status.rules.iter().map(|rule| of(name, rule.ended)).sum();
        let events: &[(&str, &str)] = match name {
            "sockmap" => &[
                ("promoted", "promotions"),
                ("demoted", "demotions"),
                ("promotion_refused", "refused"),
                ("passes", "passes"),
            ],
            "packet" => &[
                ("packet_offered", "offered"),
                ("packet_on", "on"),
                ("packet_withdrawn", "withdrawn"),
                ("packet_ineligible", "ineligible"),
                ("packet_late", "late"),
            ],
            _ => &[],
        };
        let events: Vec<_> =
            events.iter().map(|(key, word)| format!("{} {word}", counter(key))).collect();
        Line {
            name: name.to_owned(),
            cells: vec![
                word(name),
                number(of(name, status.flows)),
                number(ended),
                rate(up),
                rate(down),
                bytes(bytes_up),
                bytes(bytes_down),
                word(&events.join(", ")),
            ],
        }
    };
    let lines = ["copy", "splice", "sockmap", "packet"].map(line).into();
    let headings =
        ["relay", ">flows", ">ended", ">up", ">down", "?>bytes up", "?>bytes down", "events"];
    Rows { columns: columns(&headings), lines }
}

fn flows(model: &Model) -> Rows {
    let lines = model.sample.flows.flows.iter().map(|flow| {
        let Rate { up, down } = model.flow_rates.get(&flow.id).copied().unwrap_or_default();
        let or_dash = |value: &Option<String>| word(value.as_deref().unwrap_or("-"));
        Line {
            name: flow.id.clone(),
            cells: vec![
                word(&flow.client),
                or_dash(&flow.rule),
                or_dash(&flow.endpoint),
                or_dash(&flow.relay),
                word(&flow.state),
                Cell { text: span(flow.age_seconds), value: flow.age_seconds },
                rate(up),
                rate(down),
                bytes(flow.bytes_up),
                bytes(flow.bytes_down),
            ],
        }
    });
    let headings = [
        "client",
        "rule",
        "?endpoint",
        "relay",
        "?state",
        ">age",
        ">up",
        ">down",
        "?>bytes up",
        "?>bytes down",
    ];
    Rows { columns: columns(&headings), lines: lines.collect() }
}
