//! What a key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Model, Order, Prompt, View};

/// Lines that Page Up and Page Down go.
const PAGE: usize = 10;
/// Longest filter.
const FILTER: usize = 64;

/// What is to be done beyond the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// Leave.
    Quit,
    /// Kill the flow of this id.
    Kill(String),
}

/// Takes a key.
pub(super) fn press(model: &mut Model, key: KeyEvent) -> Effect {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Effect::Quit } else { Effect::None };
    }
    model.message = None;
    match std::mem::take(&mut model.prompt) {
        Prompt::Filter(before) => {
            type_filter(model, key.code, before);
            Effect::None
        }
        Prompt::Kill { id, .. } => match key.code {
            KeyCode::Char('y' | 'Y') => Effect::Kill(id),
            _ => Effect::None,
        },
        Prompt::None if model.help => {
            model.help = false;
            if key.code == KeyCode::Char('q') { Effect::Quit } else { Effect::None }
        }
        Prompt::None => command(model, key.code),
    }
}

fn type_filter(model: &mut Model, key: KeyCode, before: String) {
    match key {
        KeyCode::Enter => return,
        KeyCode::Esc => {
            model.filter = before;
            model.select(model.selected);
            return;
        }
        KeyCode::Backspace => drop(model.filter.pop()),
        KeyCode::Char(c) if model.filter.len() < FILTER => model.filter.push(c),
        _ => {}
    }
    model.prompt = Prompt::Filter(before);
    model.select(0);
}

fn command(model: &mut Model, key: KeyCode) -> Effect {
    match key {
        KeyCode::Char('q') => return Effect::Quit,
        KeyCode::Char('?' | 'h') => model.help = true,
        KeyCode::Char('p' | ' ') => model.paused = !model.paused,
        KeyCode::Tab | KeyCode::Right => switch(model, 1),
        KeyCode::BackTab | KeyCode::Left => switch(model, View::ALL.len() - 1),
        KeyCode::Char('s') => sort(model),
        KeyCode::Char('r') => {
            let order = model.order_mut();
            order.reversed = !order.reversed;
        }
        KeyCode::Char('/') => model.prompt = Prompt::Filter(model.filter.clone()),
        KeyCode::Esc => model.filter.clear(),
        KeyCode::Char('k') => ask_to_kill(model),
        KeyCode::Up => model.select(model.selected.saturating_sub(1)),
        KeyCode::Down => model.select(model.selected + 1),
        KeyCode::PageUp => model.select(model.selected.saturating_sub(PAGE)),
        KeyCode::PageDown => model.select(model.selected + PAGE),
        KeyCode::Home => model.select(0),
        KeyCode::End => model.select(usize::MAX),
        _ => {}
    }
    Effect::None
}

fn switch(model: &mut Model, by: usize) {
    let next = (model.view.index() + by) % View::ALL.len();
    model.view = View::ALL[next];
    model.select(0);
}

/// By the next column; after the last one as the daemon has it.
fn sort(model: &mut Model) {
    let columns = model.rows().columns.len();
    let next = model.order().column.map_or(0, |column| column + 1);
    let column = (next < columns).then_some(next);
    *model.order_mut() = Order { column, reversed: false };
}

fn ask_to_kill(model: &mut Model) {
    if model.view != View::Flows {
        model.say("flows can be killed in the view of flows: Tab".into());
        return;
    }
    let Some(id) = model.marked() else { return };
    let flow = model.sample.flows.flows.iter().find(|flow| flow.id == id);
    let client = flow.map(|flow| flow.client.clone()).unwrap_or_default();
    model.prompt = Prompt::Kill { id, client };
}
