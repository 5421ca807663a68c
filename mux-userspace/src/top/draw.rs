//! The model on a screen.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Block, Clear, Paragraph, Row, Sparkline, Table, TableState},
};

use super::{
    model::{History, Model, Prompt, View},
    table::{Column, Rows},
};
use crate::remote::print::{size, span};

/// Width of what stands before a sparkline.
const LABEL: u16 = 26;
/// Between two columns.
const GAP: usize = 2;
const KEYS: &str = "q quit  Tab view  s sort  r reverse  / filter  k kill  p pause  ? help";
const HELP: &str = "\
q, Ctrl-C     quit
Tab, arrows   rules, upstreams, relays, flows; the line
s             order by the next column
r             the other way round
/             show lines that contain a text; Esc: all
k             kill the marked flow (asks)
p             pause
? h           this

Bytes are those that were given to upstreams (up) and to
clients (down). A flow in the kernel is counted, too.";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let parts = [Constraint::Length(3), Constraint::Length(3), Constraint::Length(1)];
    let rest = [Constraint::Min(1), Constraint::Length(1)];
    let layout = Layout::vertical(parts.into_iter().chain(rest));
    let [header, rates, tabs, table, footer] = layout.areas(frame.area());
    frame.render_widget(self::header(model), header);
    self::rates(frame, model, rates);
    frame.render_widget(self::tabs(model), tabs);
    self::table(frame, model, table);
    frame.render_widget(self::footer(model), footer);
    if model.help {
        help(frame);
    }
}

fn bold(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Modifier::BOLD)
}

fn header(model: &Model) -> Text<'static> {
    let status = &model.sample.status;
    let mut first = vec![
        bold(format!("mux {}", status.version)),
        format!("  process {}, ", status.pid).into(),
        bold(status.state.clone()),
        format!(", up {}, {}", span(status.uptime_seconds), model.socket).into(),
    ];
    if model.paused {
        first.push(Span::styled("  PAUSED", Modifier::REVERSED));
    }
    let relay = &status.relay;
    let mut second = vec!["relay ".into(), bold(relay.in_force.clone())];
    if relay.switch.starts_with("off") {
        second.push(Span::styled(" SWITCHED OFF", Modifier::REVERSED));
    }
    match (&relay.why_not, relay.self_test_milliseconds) {
        (Some(why), _) => second.push(format!(": {why}").into()),
        (None, Some(took)) => second.push(format!(", self-test passed in {took:.0} ms").into()),
        (None, None) => {}
    }
    let mut third = format!(
        "cores {}, connections {} ({} sniffing), flows: {} copy, {} splice, {} sockmap",
        status.cores.len(),
        status.connections,
        status.sniffing,
        status.flows.copy,
        status.flows.splice,
        status.flows.sockmap
    );
    // Where it is used: 80 columns are full.
    if status.flows.packet > 0 {
        third.push_str(&format!(", {} packet", status.flows.packet));
    }
    Text::from(vec![Line::from(first), Line::from(second), Line::from(third)])
}

fn rates(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows: [Rect; 3] = Layout::vertical([Constraint::Length(1); 3]).areas(area);
    let bytes = |history: &History| format!("{}/s", size(history.last()));
    let accepted = format!("{}/s", model.accepted.last());
    for (area, (name, value, history)) in rows.into_iter().zip([
        ("accepted", accepted, &model.accepted),
        ("up", bytes(&model.up), &model.up),
        ("down", bytes(&model.down), &model.down),
    ]) {
        let parts = Layout::horizontal([Constraint::Length(LABEL), Constraint::Min(0)]);
        let [label, line]: [Rect; 2] = parts.areas(area);
        frame.render_widget(Paragraph::new(format!("{name:<9} {value:>14}")), label);
        let newest = history.newest(usize::from(line.width));
        // The newest at the right edge.
        let empty = line.width.saturating_sub(newest.len() as u16);
        let line = Rect { x: line.x + empty, width: line.width - empty, ..line };
        frame.render_widget(Sparkline::default().data(newest), line);
    }
}

fn tabs(model: &Model) -> Line<'static> {
    let mut spans = Vec::new();
    for view in View::ALL {
        let style = if view == model.view { Modifier::REVERSED.into() } else { Style::default() };
        spans.push(Span::styled(format!(" {} ", view.name()), style));
        spans.push(" ".into());
    }
    let order = model.order();
    let columns = model.rows().columns;
    let sorted = order.column.and_then(|column| columns.get(column)).map(|column| column.heading);
    if let Some(heading) = sorted {
        spans.push(format!(" by {heading}").into());
    }
    if order.reversed {
        spans.push(" reversed".into());
    }
    if !model.filter.is_empty() {
        spans.push(format!("  with “{}”", model.filter).into());
    }
    Line::from(spans)
}

fn table(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows = fitting(model.rows(), area.width);
    let widths = widths(&rows, area.width);
    let aligned = |text: &str, column: &Column| {
        let alignment = if column.number { Alignment::Right } else { Alignment::Left };
        Text::from(text.to_owned()).alignment(alignment)
    };
    let heading = rows.columns.iter().map(|column| aligned(column.heading, column));
    let heading = Row::new(heading.collect::<Vec<_>>()).style(Modifier::UNDERLINED);
    let lines = rows.lines.iter().map(|line| {
        let cells = line.cells.iter().zip(&rows.columns);
        Row::new(cells.map(|(cell, column)| aligned(&cell.text, column)).collect::<Vec<_>>())
    });
    let table = Table::new(lines, widths)
        .header(heading)
        .column_spacing(GAP as u16)
        .row_highlight_style(Modifier::REVERSED);
    let marked = (!rows.lines.is_empty()).then_some(model.selected);
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(marked));
}

/// Without the last optional columns that there is no room for.
fn fitting(mut rows: Rows, room: u16) -> Rows {
    while over(&natural(&rows), room) > 0
        && let Some(last) = rows.columns.iter().rposition(|column| column.optional)
    {
        rows.columns.remove(last);
        for line in &mut rows.lines {
            if last < line.cells.len() {
                line.cells.remove(last);
            }
        }
    }
    rows
}

/// How wide what is in the columns is.
fn natural(rows: &Rows) -> Vec<usize> {
    let width = |(index, column): (usize, &Column)| {
        let cells = rows.lines.iter().filter_map(|line| line.cells.get(index));
        let widest = cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
        widest.max(column.heading.len())
    };
    rows.columns.iter().enumerate().map(width).collect()
}

/// By how much columns of these widths are too wide.
fn over(widths: &[usize], room: u16) -> usize {
    let gaps = GAP * widths.len().saturating_sub(1);
    (widths.iter().sum::<usize>() + gaps).saturating_sub(usize::from(room))
}

/// As wide as what is in them; where that is too much, columns of words give way, the widest first.
fn widths(rows: &Rows, room: u16) -> Vec<Constraint> {
    let mut widths = natural(rows);
    loop {
        let words = widths.iter().zip(&rows.columns).enumerate();
        let widest = words
            .filter(|(_, (width, column))| !column.number && **width > column.heading.len())
            .max_by_key(|(_, (width, _))| **width)
            .map(|(index, _)| index);
        match widest {
            Some(index) if over(&widths, room) > 0 => widths[index] -= 1,
            Some(_) | None => break,
        }
    }
    widths.into_iter().map(|width| Constraint::Length(width as u16)).collect()
}

fn footer(model: &Model) -> Line<'static> {
    match &model.prompt {
        Prompt::Filter(_) => {
            format!("filter: {}▏  Enter keeps it, Esc undoes it", model.filter).into()
        }
        Prompt::Kill { id, client } => bold(format!("kill flow {id} of {client}? y/n")).into(),
        Prompt::None => {
            if let Some(why) = &model.lost {
                Span::styled(why.clone(), Modifier::REVERSED).into()
            } else if let Some(said) = &model.message {
                bold(said.clone()).into()
            } else {
                KEYS.into()
            }
        }
    }
}

fn help(frame: &mut Frame<'_>) {
    let text = Text::from(HELP);
    let area = frame.area();
    let width = (text.width() as u16 + 4).min(area.width);
    let height = (text.height() as u16 + 2).min(area.height);
    let area = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" mux top ");
    frame.render_widget(Paragraph::new(text).block(block), area);
}
