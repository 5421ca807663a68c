//! The upgrade, as the daemon sees it that is to be succeeded.
//!
//! Until the successor says that it serves, nothing changes here. Then this process stops accepting
//! and keeps its flows to their end, and stays for a while in any case; it keeps its handles to the
//! listening sockets, too, so that it can accept again if the successor dies meanwhile.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::sleep_until,
};
use tracing::{error, info, warn};

use super::{
    channel::Channel,
    handover::{Message, Offer, Offered, Predecessor},
    keeper::{self, Keeper},
    orders::Outcome,
    signals::Reply,
    systemd,
};
use crate::{account::Counter, shared::Shared};

/// How long the successor may be silent before it serves: it makes its self-test meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long this process stays without a connection, for the case that the successor dies of its
/// first ones.
const PROBATION: Duration = Duration::from_secs(3);

/// What becomes of a successor.
#[derive(Debug)]
enum Event {
    /// It serves.
    Serving { pid: u32, taken: Vec<String> },
    /// It does not, and will not.
    Failed(String),
    /// It needs us no more.
    Goodbye,
    /// It is gone.
    Gone,
}

/// Where this process stands.
#[derive(Debug)]
enum State {
    /// No successor.
    Alone,
    /// One is starting.
    Waiting(Waiting),
    /// One serves, and has some of these. Until then this process stays in any case.
    Succeeded(Vec<Offered>, Instant),
}

/// For a successor, and who wants to know what becomes of it.
#[derive(Debug)]
struct Waiting {
    successor: Arc<Channel>,
    offered: Vec<Offered>,
    who: &'static str,
    reply: Option<Reply>,
}

/// Upgrades of this process, one at a time.
#[derive(Debug)]
pub(super) struct Upgrades {
    shared: Arc<Shared>,
    /// `None`: `[security] keeper = "off"`.
    keeper: Option<Keeper>,
    /// Whom this process has succeeded, as long as it may be needed.
    predecessor: Option<Predecessor>,
    state: State,
    sender: UnboundedSender<Event>,
    events: UnboundedReceiver<Event>,
}

impl Upgrades {
    pub(super) fn new(
        shared: Arc<Shared>,
        keeper: Option<Keeper>,
        predecessor: Option<Predecessor>,
    ) -> Self {
        let (sender, events) = unbounded_channel();
        Self { shared, keeper, predecessor, state: State::Alone, sender, events }
    }

    /// Has the predecessor, if it is there, let go of all that it keeps in case this process dies.
    pub(super) fn leave_predecessor(&mut self) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.goodbye();
        }
    }

    /// Whether a successor serves, or did when this process began to drain.
    pub(super) fn is_succeeded(&self) -> bool {
        matches!(self.state, State::Succeeded(..))
    }

    /// Why the listeners must stay as they are.
    pub(super) fn obstacle(&self) -> Option<&'static str> {
        match self.state {
            State::Alone => None,
            State::Waiting(_) => Some("an upgrade is under way"),
            State::Succeeded(..) => Some("a successor serves already"),
        }
    }

    /// Has a successor started, which can have these; the outcome is told later.
    pub(super) fn start(&mut self, offered: Vec<Offered>, who: &'static str, reply: Option<Reply>) {
        let started = match self.obstacle() {
            None => self.try_start(&offered).map_err(|error| error.to_string()),
            Some(obstacle) => Err(obstacle.to_owned()),
        };
        match started {
            Ok(successor) => {
                self.state = State::Waiting(Waiting { successor, offered, who, reply });
            }
            Err(why) => self.failed(who, reply, why),
        }
    }

    fn try_start(&self, offered: &[Offered]) -> io::Result<Arc<Channel>> {
        let no_keeper = || io::Error::other("nobody may start one: [security] keeper = \"off\"");
        let control = self.keeper.as_ref().ok_or_else(no_keeper)?.control();
        let (ours, theirs) = Channel::pair()?;
        let ours = Arc::new(ours);
        let offers: Vec<Offer> = offered.iter().map(Offered::offer).collect::<io::Result<_>>()?;
        let talk = Talk { successor: Arc::clone(&ours), control, events: self.sender.clone() };
        thread::Builder::new()
            .name("mux-upgrade".into())
            .spawn(move || talk.hold(theirs, offers))?;
        Ok(ours)
    }

    fn failed(&self, who: &str, reply: Option<Reply>, why: String) {
        self.shared.counters.count(Counter::UpgradeFailures);
        for line in why.lines() {
            error!("{who}: upgrade failed, nothing has changed: {line}");
        }
        answer(reply, Err(why));
    }

    /// Deals with what becomes of successors; returns when one serves, and has for a while, and this
    /// process has no flow left.
    pub(super) async fn finished(&mut self) {
        loop {
            let until = match &self.state {
                State::Alone | State::Waiting(_) => None,
                State::Succeeded(_, until) => Some(*until),
            };
            let presence = Arc::clone(&self.shared.presence);
            let over = async {
                let Some(until) = until else { return std::future::pending().await };
                sleep_until(until.into()).await;
                presence.nobody().await;
            };
            tokio::select! {
                biased;
                // `self` keeps a sender, so that there is always a next one.
                Some(event) = self.events.recv() => self.deal_with(event),
                () = over => return,
            }
        }
    }

    fn deal_with(&mut self, event: Event) {
        match (event, std::mem::replace(&mut self.state, State::Alone)) {
            (Event::Serving { pid, taken }, State::Waiting(Waiting { offered, reply, .. })) => {
                self.shared.counters.count(Counter::Upgrades);
                // What nobody accepts from must not look open.
                for left in offered.iter().filter(|one| !taken.contains(&one.address)) {
                    left.spares.close();
                }
                self.shared.presence.pause(true);
                let flows = self.shared.presence.connections();
                info!(
                    successor = pid,
                    flows, "upgraded: the successor serves, this process drains"
                );
                let text = format!("process {pid} serves; {flows} connections end in the old one");
                answer(reply, Ok(text));
                self.state = State::Succeeded(offered, Instant::now() + PROBATION);
                // If the successor dies it is this process's turn.
                self.leave_predecessor();
            }
            (Event::Failed(why), State::Waiting(Waiting { who, reply, .. })) => {
                self.failed(who, reply, why);
            }
            (Event::Gone, State::Succeeded(..)) => {
                self.shared.counters.count(Counter::UpgradeFailures);
                systemd::serving(&self.shared);
                self.shared.presence.pause(false);
                warn!("the successor is gone: this process accepts again");
            }
            (Event::Goodbye, State::Succeeded(offered, _)) => {
                for one in &offered {
                    one.spares.close();
                }
                self.state = State::Succeeded(offered, Instant::now());
            }
            // Of one that was cancelled.
            (_, state) => self.state = state,
        }
    }

    /// This process is to end: whoever is not serving yet must not begin.
    pub(super) fn drain(&mut self) {
        if let State::Waiting(Waiting { successor, reply, .. }) = &mut self.state {
            // It may have died.
            let _ = Message::Cancel.send(successor);
            answer(reply.take(), Err("mux was told to end".into()));
        }
    }
}

fn answer(reply: Option<Reply>, outcome: Outcome) {
    if let Some(reply) = reply {
        // Who asked may be gone.
        let _ = reply.send(outcome);
    }
}

/// The thread that talks to keeper and successor.
struct Talk {
    successor: Arc<Channel>,
    control: Arc<Channel>,
    events: UnboundedSender<Event>,
}

impl Talk {
    fn hold(self, theirs: OwnedFd, offers: Vec<Offer>) {
        // The main thread is there as long as anybody wants to know.
        match self.until_it_serves(theirs, offers) {
            Ok((pid, taken)) => {
                let _ = self.events.send(Event::Serving { pid, taken });
            }
            Err(why) => {
                let _ = self.events.send(Event::Failed(why));
                return;
            }
        }
        let _ = self.successor.set_timeout(None);
        loop {
            match Message::receive(&self.successor) {
                Ok(Some((Message::Goodbye, _))) => {
                    let _ = self.events.send(Event::Goodbye);
                    return;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    let _ = self.events.send(Event::Gone);
                    return;
                }
            }
        }
    }

    /// If it fails, the process is gone, so that another upgrade can begin at once.
    fn until_it_serves(
        &self,
        theirs: OwnedFd,
        offers: Vec<Offer>,
    ) -> Result<(u32, Vec<String>), String> {
        let pid = keeper::ask(&self.control, &theirs).inspect_err(|_| {
            // There may be one all the same, if it is the keeper that is gone.
            let _ = Message::Cancel.send(&self.successor);
        })?;
        // From here on its end is seen.
        drop(theirs);
        match self.hand_over(pid, &offers) {
            Ok(Some(taken)) => Ok((pid, taken)),
            Ok(None) => {
                let how = keeper::see_the_end(&self.control)?;
                Err(format!("process {pid}: {how} before it served"))
            }
            Err(why) => {
                let _ = Message::Cancel.send(&self.successor);
                match keeper::see_the_end(&self.control) {
                    Ok(_) => Err(why),
                    Err(trouble) => Err(format!("{why}\n{trouble}")),
                }
            }
        }
    }

    /// What the process took, once it serves; `None`: it is gone.
    fn hand_over(&self, pid: u32, offers: &[Offer]) -> Result<Option<Vec<String>>, String> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => format!("process {pid} says nothing for too long"),
            _ => format!("talking to process {pid}: {error}"),
        };
        self.successor.set_timeout(Some(PATIENCE)).map_err(failed)?;
        loop {
            let Some((message, _)) = Message::receive(&self.successor).map_err(failed)? else {
                return Ok(None);
            };
            match message {
                Message::Sockets => {
                    for offer in offers {
                        offer.send(&self.successor).map_err(failed)?;
                    }
                    Message::End.send(&self.successor).map_err(failed)?;
                }
                Message::Serving { taken } => return Ok(Some(taken)),
                Message::Failed { reason } => return Err(reason),
                Message::Listener { .. } | Message::End | Message::Cancel | Message::Goodbye => {}
            }
        }
    }
}
