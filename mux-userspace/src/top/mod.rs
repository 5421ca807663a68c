//! `mux top`: a terminal's view of a running daemon, renewed each second.
//!
//! | file | what it is |
//! |---|---|
//! | `model` | what is shown, and what was asked before it: rates |
//! | `table` | the rows of a view: sorted, filtered |
//! | `keys` | what a key does to the model |
//! | `draw` | the model on a screen; a pure function |

mod draw;
mod keys;
mod model;
mod table;

#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use http::Method;
use ratatui::{DefaultTerminal, crossterm::event};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use self::{
    keys::Effect,
    model::{Model, Sample},
};
use crate::remote::client::{Client, Failure};

/// Between two looks at the daemon.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks at what the other thread has brought.
const TURN: Duration = Duration::from_millis(50);
/// Flows that are asked for.
const FLOWS: &str = "/flows?limit=1000";

/// What the thread that asks has to tell.
enum News {
    Sample(Box<Sample>),
    Said(String),
    Failed(Failure),
    /// A signal asks us to end.
    End,
}

/// Shows the daemon until the user has seen enough.
///
/// # Errors
/// Nobody answers; the terminal's.
pub(crate) fn run(client: Client) -> Result<(), Failure> {
    let path = client.path().to_owned();
    let failed = |source| Failure::Io { path: "the terminal".into(), source };
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        let why = "mux top needs a terminal; `mux status` and `mux flows` do not";
        return Err(Failure::Invalid(why.into()));
    }
    // Before the screen is taken: why nobody answers is for the shell to show.
    let first = sample(&client)?;
    let mut model = Model::new(path.display().to_string());
    model.update(first);
    let (orders, ordered) = mpsc::channel();
    let (sender, news) = mpsc::channel();
    // Before the screen is taken, since a signal that nobody catches does not give it back.
    catch(sender.clone()).map_err(failed)?;
    thread::Builder::new()
        .name("mux-top".into())
        .spawn(move || ask(&client, &ordered, &sender))
        .map_err(failed)?;
    // Sets a panic hook that gives the screen back, too.
    let terminal = ratatui::try_init().map_err(failed)?;
    let shown = show(terminal, &mut model, &news, &orders);
    ratatui::try_restore().map_err(failed)?;
    shown.map_err(failed)
}

/// Tells of the signals that end a program.
fn catch(news: Sender<News>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let [mut terminate, mut hangup] =
        [signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    drop(guard);
    thread::Builder::new().name("mux-signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        // We may be ending already.
        let _ = news.send(News::End);
    })?;
    Ok(())
}

fn sample(client: &Client) -> Result<Sample, Failure> {
    Ok(Sample { status: client.read("/status")?, flows: client.read(FLOWS)? })
}

/// Asks each second, and has flows killed, until nobody wants to know any more.
fn ask(client: &Client, ordered: &Receiver<String>, news: &Sender<News>) {
    let mut next = Instant::now() + PERIOD;
    loop {
        let told = match ordered.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(id) => match client.send(Method::POST, &format!("/flows/{id}/kill"), "") {
                Ok(said) => news.send(News::Said(String::from_utf8_lossy(&said).trim().to_owned())),
                Err(failure) => news.send(News::Said(failure.to_string())),
            },
            Err(RecvTimeoutError::Timeout) => {
                next = Instant::now() + PERIOD;
                news.send(match sample(client) {
                    Ok(sample) => News::Sample(Box::new(sample)),
                    Err(failure) => News::Failed(failure),
                })
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if told.is_err() {
            return;
        }
    }
}

fn show(
    mut terminal: DefaultTerminal,
    model: &mut Model,
    news: &Receiver<News>,
    orders: &Sender<String>,
) -> io::Result<()> {
    let mut changed = true;
    loop {
        for news in news.try_iter() {
            changed = true;
            match news {
                News::Sample(sample) => model.update(*sample),
                News::Said(said) => model.say(said),
                News::Failed(failure) => model.lose(&failure.to_string()),
                News::End => return Ok(()),
            }
        }
        if changed {
            terminal.draw(|frame| draw::draw(frame, model))?;
            changed = false;
        }
        if !event::poll(TURN)? {
            continue;
        }
        changed = true;
        match event::read()? {
            event::Event::Key(key) if key.is_press() => match keys::press(model, key) {
                Effect::None => {}
                Effect::Quit => return Ok(()),
                // The thread that takes it ends after us.
                Effect::Kill(id) => drop(orders.send(id)),
            },
            _ => {}
        }
    }
}
