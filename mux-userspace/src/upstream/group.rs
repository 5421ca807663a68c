//! A group at run time: who may connect to which of its endpoints now, and who has to wait.

use std::{net::IpAddr, ops::Index, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    Refused,
    balance::{Balancer, Members},
    dial::{Failures, is_local},
    endpoint::{Condition, Endpoint, Seat, Wanted},
    health::Change,
    source::Manner,
    tally::{By, Fault, Tally},
};
use crate::{
    account::{Counter, Counters},
    limit::{
        reached::Kind,
        room::{End, Place, Room, Ticket},
    },
    net::{Peer, TcpTimers},
    rules::config::{Balance, Config, EndpointConfig, QueueConfig, UpstreamConfig, UpstreamId},
};

#[cfg(test)]
mod tests;

/// Lost races for a place after which a group counts as full.
const RACES: usize = 16;
/// Endpoints that a refusal describes.
const DESCRIBED: usize = 8;

/// The groups of a configuration, indexed as [`Config::upstreams`] is.
#[derive(Debug)]
pub struct Groups {
    groups: Vec<Arc<Group>>,
    changed: Arc<Notify>,
}

impl Groups {
    /// The groups of the first configuration: all endpoints up.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::build(config, Arc::default(), |_| None)
    }

    /// The groups of a configuration that takes over from another one: an endpoint that stays in a
    /// group of the same name keeps its flows, its health and its addresses.
    #[must_use]
    pub fn succeeding(&self, config: &Config) -> Self {
        Self::build(config, Arc::clone(&self.changed), |name| {
            self.groups.iter().find(|group| *group.config.name == *name)
        })
    }

    fn build<'a>(
        config: &Config,
        changed: Arc<Notify>,
        previous: impl Fn(&str) -> Option<&'a Arc<Group>>,
    ) -> Self {
        let wide = config.timeouts.tcp;
        let group = |config: &Arc<UpstreamConfig>| {
            let previous = previous(&config.name).map(Arc::as_ref);
            Arc::new(Group::new(config, wide, previous, &changed))
        };
        Self { groups: config.upstreams.iter().map(group).collect(), changed }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.iter()
    }

    /// Told when an endpoint goes down or comes up.
    pub(super) const fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }
}

impl Index<UpstreamId> for Groups {
    type Output = Arc<Group>;

    fn index(&self, id: UpstreamId) -> &Arc<Group> {
        &self.groups[id.0]
    }
}

/// A group of endpoints.
#[derive(Debug)]
pub struct Group {
    config: Arc<UpstreamConfig>,
    /// Its own, and where it has none, those of all connections.
    timers: TcpTimers,
    /// Indexed as the configuration's.
    endpoints: Vec<Arc<Endpoint>>,
    balancer: Balancer,
    room: Arc<Room>,
    tally: Arc<Tally>,
}

/// What a flow has of a group, and what it has seen of it.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// The client's address.
    pub(super) source: Option<IpAddr>,
    /// Endpoints that it has tried.
    pub(super) tried: Vec<usize>,
    /// Its place under the group's limit.
    pub(super) place: Option<Place>,
}

/// Why there is no seat now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shut {
    /// All are taken: of the group, or of each endpoint that is up.
    Full(Kind),
    /// No endpoint is up that this flow has not tried.
    NoneLeft,
}

impl Group {
    fn new(
        config: &Arc<UpstreamConfig>,
        wide: TcpTimers,
        previous: Option<&Self>,
        changed: &Arc<Notify>,
    ) -> Self {
        let endpoint = |endpoint: &EndpointConfig| {
            let mut known = previous.into_iter().flat_map(|group| &group.endpoints);
            match known.find(|known| *known.address() == endpoint.address) {
                Some(known) => {
                    known.forget(config.health.as_ref(), config.eject.as_ref());
                    Arc::clone(known)
                }
                None => Arc::new(Endpoint::new(endpoint.address.clone(), Arc::clone(changed))),
            }
        };
        Self {
            endpoints: config.endpoints.iter().map(endpoint).collect(),
            balancer: Balancer::new(config.balance, config.endpoints.len()),
            room: previous.map_or_else(Arc::default, |group| Arc::clone(&group.room)),
            tally: previous.map_or_else(Arc::default, |group| Arc::clone(&group.tally)),
            timers: config.timers.or(wide),
            config: Arc::clone(config),
        }
    }

    /// How its endpoints are connected to, for this client or for mux itself.
    pub(super) fn manner<'a>(&'a self, client: Option<Peer>, counters: &'a Counters) -> Manner<'a> {
        let by_source = self.config.balance == Balance::SourceHash;
        Manner {
            source: self.config.source.as_ref(),
            client,
            segment: None,
            sticky: client.filter(|_| by_source).and_then(|client| client.ip()),
            timers: self.timers,
            counters,
        }
    }

    /// What the rules file says of it.
    #[must_use]
    pub const fn config(&self) -> &Arc<UpstreamConfig> {
        &self.config
    }

    /// Its endpoints, indexed as the configuration's.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Its places.
    #[must_use]
    pub const fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// What happened at its endpoints.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether it has no other endpoint to try after one has failed.
    pub(super) fn has_one_endpoint(&self) -> bool {
        self.endpoints.len() == 1
    }

    /// A seat at the endpoint whose turn it is, and its number. Waits for one if the group has a
    /// queue, until `left` says that the client is gone.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn admit<F: Future<Output = ()>>(
        &self,
        flow: &mut Admission,
        counters: &Counters,
        left: impl FnOnce() -> F,
    ) -> Result<(usize, Seat), Refused> {
        // Nobody overtakes those who wait, but for those who have waited before.
        let is_new = flow.tried.is_empty();
        let met = if !is_new || self.room.waiting() == 0 {
            match self.try_admit(flow) {
                Ok(seat) => return Ok(seat),
                Err(Shut::NoneLeft) => return Err(self.none_up()),
                Err(Shut::Full(kind)) => kind,
            }
        } else if self.room.has_place(self.config.max_connections) {
            Kind::Endpoint
        } else {
            Kind::Upstream
        };
        let name = Some(&*self.config.name);
        counters.limits.met(met, name);
        let Some(queue) = self.config.queue else { return Err(Refused::Full) };
        let end = if is_new { End::Back } else { End::Front };
        let Some(ticket) = self.room.join(end, queue.length) else {
            counters.limits.met(Kind::Queue, name);
            return Err(Refused::QueueFull);
        };
        counters.count(Counter::UpstreamQueued);
        let since = Instant::now();
        // On the heap: a task is as large as its largest part, and most flows find a place.
        let result = Box::pin(self.wait(flow, &ticket, &queue, left())).await;
        let waited = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.add(Counter::UpstreamQueueMicros, waited);
        result
    }

    async fn wait(
        &self,
        flow: &mut Admission,
        ticket: &Ticket,
        queue: &QueueConfig,
        left: impl Future<Output = ()>,
    ) -> Result<(usize, Seat), Refused> {
        let timeout = sleep_until(Instant::now() + queue.timeout);
        tokio::pin!(left, timeout);
        let mut may_look = ticket.is_first();
        loop {
            if may_look {
                match self.try_admit(flow) {
                    Ok(seat) => return Ok(seat),
                    Err(Shut::NoneLeft) => return Err(self.none_up()),
                    // A place that is none for us, who have tried its endpoint, may do for others.
                    Err(Shut::Full(_)) if !flow.tried.is_empty() => ticket.pass_on(),
                    Err(Shut::Full(_)) => {}
                }
            }
            let trial = self.next_trial();
            tokio::select! {
                biased;
                () = ticket.turn() => may_look = true,
                () = &mut left => return Err(Refused::ClientLeft),
                () = &mut timeout => return Err(Refused::QueueTimeout),
                // The end of an ejection is a place that nobody has given back.
                () = sleep_until(trial.unwrap_or_else(Instant::now)), if trial.is_some() => {
                    may_look = ticket.is_first();
                }
            }
        }
    }

    /// When the next ejected endpoint may be tried again.
    fn next_trial(&self) -> Option<Instant> {
        let now = Instant::now();
        self.endpoints.iter().filter_map(|endpoint| endpoint.ejected_until(now)).min()
    }

    /// A seat, if there is one now, and the group's place with it.
    fn try_admit(&self, flow: &mut Admission) -> Result<(usize, Seat), Shut> {
        let now = Instant::now();
        let view = Tier::ALL
            .map(|tier| View { group: self, tier, now, tried: &flow.tried })
            .into_iter()
            .find(View::has_any)
            .ok_or(Shut::NoneLeft)?;
        for _ in 0..RACES {
            // Looked at before it is taken: giving it back at once would wake those who wait, us
            // among them, for nothing.
            if flow.place.is_none() && !self.room.has_place(self.config.max_connections) {
                return Err(Shut::Full(Kind::Upstream));
            }
            let full = Shut::Full(Kind::Endpoint);
            let index = self.balancer.pick(&view, flow.source).ok_or(full)?;
            let most = self.config.endpoints[index].max_connections;
            let Some(seat) = self.endpoints[index].enter(most, now, &self.room) else { continue };
            if flow.place.is_none() {
                match self.room.take(self.config.max_connections) {
                    Some(place) => flow.place = Some(place),
                    None => continue,
                }
            }
            return Ok((index, seat));
        }
        Err(Shut::Full(Kind::Endpoint))
    }

    /// That no endpoint is up, and what is the matter with each.
    fn none_up(&self) -> Refused {
        let mut parts: Vec<String> = self
            .endpoints
            .iter()
            .take(DESCRIBED)
            .map(|endpoint| {
                let address = endpoint.address();
                match endpoint.condition() {
                    Condition::Up => format!("{address}: being tried"),
                    Condition::Ejected { reason } => format!("{address}: ejected: {reason}"),
                    Condition::Down { reason } => format!("{address}: down: {reason}"),
                }
            })
            .collect();
        if let Some(more) = self.endpoints.len().checked_sub(DESCRIBED + 1) {
            parts.push(format!("and {} more", more + 1));
        }
        Refused::NoneUp(parts.join("; "))
    }

    /// Takes a failed attempt; why it failed.
    pub(super) fn failed(
        &self,
        seat: &mut Seat,
        failures: &Failures,
        counters: &Counters,
    ) -> Fault {
        counters.count(Counter::ConnectFailed);
        let reason = Fault::of_all(failures);
        self.tally.failures().count(reason);
        let fault = failures.iter().map(|(_, error)| error).find(|error| !is_local(error));
        if let (Some(error), Some(rules)) = (fault, &self.config.eject)
            && seat.endpoint().failed(&error.to_string(), rules)
        {
            counters.count(Counter::UpstreamEjections);
            self.tally.ejections().count(reason);
            // Those who wait may be the last to hear that there is nothing to wait for.
            self.room.wake_all();
        }
        seat.end_trial();
        reason
    }

    /// Takes that there will be another attempt after one that failed.
    pub(super) fn retries(&self, after: Fault, counters: &Counters) {
        counters.count(Counter::UpstreamRetries);
        self.tally.retries().count(after);
    }

    /// Takes a successful attempt.
    pub(super) fn succeeded(&self, seat: &mut Seat, counters: &Counters) {
        self.returned(seat.endpoint(), By::Attempt, counters);
        seat.end_trial();
    }

    fn returned(&self, endpoint: &Endpoint, by: By, counters: &Counters) {
        if endpoint.succeeded() {
            counters.count(Counter::UpstreamReturns);
            self.tally.returned(by);
            self.room.wake_all();
        }
    }

    /// Takes an active check's result.
    pub(super) fn checked(
        &self,
        endpoint: &Endpoint,
        result: &Result<(), String>,
        counters: &Counters,
    ) {
        let Some(health) = &self.config.health else { return };
        counters.count(match result {
            Ok(()) => Counter::UpstreamChecksPassed,
            Err(_) => Counter::UpstreamChecksFailed,
        });
        let change = endpoint.checked(result, health);
        if let Some(change) = change {
            counters.count(match change {
                Change::Up => Counter::UpstreamUp,
                Change::Down => Counter::UpstreamDown,
            });
            self.room.wake_all();
        }
        // What leaves it up is as good as a flow's success.
        if result.is_ok() && !matches!(endpoint.condition(), Condition::Down { .. }) {
            self.returned(endpoint, By::Check, counters);
        }
    }

    /// The time for one attempt at an endpoint.
    pub(super) fn connect_timeout(&self, index: usize) -> Duration {
        self.config.endpoints[index].connect_timeout
    }
}

/// Which endpoints are looked at, one kind after the other until there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Primary,
    Backup,
    /// Whatever is not down for sure: better than no endpoint at all.
    Ejected,
}

impl Tier {
    const ALL: [Self; 3] = [Self::Primary, Self::Backup, Self::Ejected];
}

/// The members of a group that a flow may be sent to.
struct View<'a> {
    group: &'a Group,
    tier: Tier,
    now: Instant,
    tried: &'a [usize],
}

impl View<'_> {
    /// Whether there is one, with or without a free place. While a primary endpoint is up but full,
    /// backups stay what they are.
    fn has_any(&self) -> bool {
        (0..self.count()).any(|index| self.is_candidate(index))
    }

    fn is_candidate(&self, index: usize) -> bool {
        let (config, endpoint) =
            (&self.group.config.endpoints[index], &self.group.endpoints[index]);
        let wanted = match self.tier {
            Tier::Primary if config.backup => return false,
            Tier::Backup if !config.backup => return false,
            Tier::Primary | Tier::Backup => Wanted::Up,
            Tier::Ejected => Wanted::Ejected,
        };
        let again = self.tried.contains(&index) && !self.group.has_one_endpoint();
        !again && endpoint.is(wanted, self.now)
    }
}

impl Members for View<'_> {
    fn count(&self) -> usize {
        self.group.endpoints.len()
    }

    fn is_open(&self, index: usize) -> bool {
        let most = self.group.config.endpoints[index].max_connections;
        self.is_candidate(index) && self.group.endpoints[index].has_place(most)
    }

    fn weight(&self, index: usize) -> u32 {
        self.group.config.endpoints[index].weight
    }

    fn load(&self, index: usize) -> u32 {
        self.group.endpoints[index].in_use()
    }

    fn seed(&self, index: usize) -> u64 {
        self.group.endpoints[index].seed()
    }
}
