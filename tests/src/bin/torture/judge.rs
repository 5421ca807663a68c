//! Whether a flow went as it should, from what both ends and the daemon say of it.

use crate::{
    board::{Flow, Outcome},
    daemon::Entry,
    script::{End, Peer},
};

/// What is wrong with a flow; the first that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A wrong, repeated or missing byte, or a reset that arrived as a clean end.
    Wrong(String),
    /// Nothing moved any more.
    Hung(String),
    /// It ended early.
    Failed(String),
    /// The access log does not say what happened.
    Books(String),
}

impl Fault {
    /// Its kind's name.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Wrong(_) => "wrong",
            Self::Hung(_) => "hung",
            Self::Failed(_) => "failed",
            Self::Books(_) => "imbalance",
        }
    }

    /// What happened.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Wrong(text) | Self::Hung(text) | Self::Failed(text) | Self::Books(text) => text,
        }
    }
}

/// Close reasons that mean that the kernel relay's books do not add up.
const UNBALANCED: [&str; 2] = ["broken", "imbalance"];

/// Judges a flow that was begun.
pub(crate) fn judge(flow: &Flow, entry: Option<&Entry>) -> Option<Fault> {
    let client = flow.outcome(Peer::Client).unwrap_or_default();
    let server = flow.outcome(Peer::Server);
    for (name, outcome) in [("client", Some(&client)), ("server", server.as_ref())] {
        if let Some(wrong) = outcome.and_then(|outcome| outcome.wrong.as_ref()) {
            return Some(Fault::Wrong(format!("{name}: {wrong}")));
        }
    }
    for (name, outcome) in [("client", Some(&client)), ("server", server.as_ref())] {
        if let Some(outcome) = outcome.filter(|outcome| outcome.hung) {
            let Outcome { sent, received, ended, .. } = outcome;
            return Some(Fault::Hung(format!(
                "{name}: {sent} bytes sent, {received} received, end seen: {ended}"
            )));
        }
    }
    if let Some(entry) = entry.filter(|entry| UNBALANCED.contains(&&*entry.close)) {
        return Some(Fault::Books(format!("it was logged as {}: {}", entry.close, entry.error)));
    }
    let server_or_none = server.clone().unwrap_or_default();
    match flow.script.end {
        End::Reset { by, .. } => {
            let (sender, victim) = match by {
                Peer::Client => (&client, server),
                Peer::Server => (&server_or_none, Some(client.clone())),
            };
            reset(sender, victim.as_ref()).or_else(|| reset_books(&client, &server_or_none, entry))
        }
        End::Both | End::ClientFirst | End::ServerFirst => {
            complete(flow, &client, &server_or_none).or_else(|| books(flow, entry))
        }
    }
}

/// The end that was reset must have seen it, if it had a connection at all.
fn reset(sender: &Outcome, victim: Option<&Outcome>) -> Option<Fault> {
    if !sender.reset {
        let error = sender.error.as_deref().unwrap_or("it was never reached");
        return Some(Fault::Failed(format!("the end that was to reset could not: {error}")));
    }
    let victim = victim?;
    (victim.ended && victim.error.is_none())
        .then(|| Fault::Wrong("a reset arrived as a clean end of the stream".to_owned()))
}

fn complete(flow: &Flow, client: &Outcome, server: &Outcome) -> Option<Fault> {
    for (name, outcome, to_send, to_receive) in [
        ("client", client, flow.script.up.total, flow.script.down.total),
        ("server", server, flow.script.down.total, flow.script.up.total),
    ] {
        let Outcome { sent, received, ended, error, .. } = outcome;
        let so_far = format!("{sent} of {to_send} bytes sent, {received} of {to_receive} received");
        if let Some(error) = error {
            return Some(Fault::Failed(format!("{name}: {error}; {so_far}")));
        }
        if *ended && *received < to_receive {
            return Some(Fault::Wrong(format!("{name}: the stream ended early; {so_far}")));
        }
        if !ended || *sent < to_send {
            return Some(Fault::Failed(format!("{name}: not over; {so_far}")));
        }
    }
    None
}

fn books(flow: &Flow, entry: Option<&Entry>) -> Option<Fault> {
    let Some(entry) = entry else {
        return Some(Fault::Books("no line in the access log".to_owned()));
    };
    let (up, down) = (flow.script.up.total, flow.script.down.total);
    if (entry.bytes_up, entry.bytes_down) != (up, down) {
        return Some(Fault::Books(format!(
            "{up} bytes up and {down} down, the access log has {} and {}",
            entry.bytes_up, entry.bytes_down
        )));
    }
    (entry.close != "finished")
        .then(|| Fault::Books(format!("it was logged as {}: {}", entry.close, entry.error)))
}

/// Of a flow that was reset, the daemon gave on no more than was sent; less than what arrived it
/// may name, since a socket that is reset forgets how much it had sent.
fn reset_books(client: &Outcome, server: &Outcome, entry: Option<&Entry>) -> Option<Fault> {
    let entry = entry?;
    let served = server.sent > 0 || server.received > 0;
    let excess = entry.bytes_up > client.sent || served && entry.bytes_down > server.sent;
    excess.then(|| {
        Fault::Books(format!(
            "{} bytes up and {} down were sent, the access log has {} and {}",
            client.sent, server.sent, entry.bytes_up, entry.bytes_down
        ))
    })
}
