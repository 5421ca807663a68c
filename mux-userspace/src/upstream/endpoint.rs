//! An endpoint's state: its flows, whether it is up, the addresses of its name.
//!
//! It outlives the configuration that named it: a later one with the same endpoint in a group of the
//! same name takes it over. So nothing here is configuration. What every connection looks at is
//! atomic; the lock is for results that change something.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    balance,
    health::{Change, Checked, Ejection, Standing},
    resolve::Name,
};
use crate::{
    limit::room::Room,
    rules::config::{Address, EjectConfig, HealthConfig},
};

/// An endpoint's state, shared by all cores.
#[derive(Debug)]
pub struct Endpoint {
    address: Address,
    label: Arc<str>,
    seed: u64,
    name: Option<Name>,
    in_use: AtomicU32,
    /// Somebody is trying it while others must not.
    trial: AtomicBool,
    /// The checks have taken it down.
    down: AtomicBool,
    /// End of the last ejection, microseconds after `epoch`; 0: it is serving.
    ejected: AtomicU64,
    /// Whether a success would change `verdicts`.
    blemished: AtomicBool,
    verdicts: Mutex<Verdicts>,
    epoch: Instant,
    /// Told of every change of [`Condition`].
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Verdicts {
    checked: Checked,
    ejection: Ejection,
    /// The last failure of either kind.
    reason: String,
}

/// How an endpoint is, for logs and status pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Used.
    Up,
    /// Not used for a while, because connections to it failed; or on trial after that.
    Ejected {
        /// The last failure.
        reason: String,
    },
    /// Not used until its checks pass.
    Down {
        /// The last failure.
        reason: String,
    },
}

impl Condition {
    /// The stable names of all of them.
    pub const STATES: [&'static str; 3] = ["up", "ejected", "down"];

    /// Its stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ejected { .. } => "ejected",
            Self::Down { .. } => "down",
        }
    }
}

/// Which endpoints are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Those that are up.
    Up,
    /// Those that are merely ejected: for when there are no others.
    Ejected,
}

impl Endpoint {
    /// An endpoint that is up and has no flows.
    #[must_use]
    pub fn new(address: Address, changed: Arc<Notify>) -> Self {
        let name = match &address {
            Address::Name { host, port } => Some(Name::new(Arc::clone(host), *port)),
            Address::Ip(_) | Address::Unix(_) | Address::Builtin(_) => None,
        };
        let label: Arc<str> = address.to_string().into();
        Self {
            seed: balance::seed(&label),
            label,
            address,
            name,
            in_use: AtomicU32::new(0),
            trial: AtomicBool::new(false),
            down: AtomicBool::new(false),
            ejected: AtomicU64::new(0),
            blemished: AtomicBool::new(false),
            verdicts: Mutex::default(),
            epoch: Instant::now(),
            changed,
        }
    }

    /// Where it is, as the rules file says.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The same, as logs print it.
    #[must_use]
    pub const fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Flows that it has, those being connected included.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Acquire)
    }

    /// How it is.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let verdicts = self.verdicts();
        let reason = || verdicts.reason.clone();
        if verdicts.checked.is_down() {
            Condition::Down { reason: reason() }
        } else if verdicts.ejection.until().is_some() {
            Condition::Ejected { reason: reason() }
        } else {
            Condition::Up
        }
    }

    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) const fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// Whether a flow may be sent there at `now`, if it has a place.
    pub(super) fn is(&self, wanted: Wanted, now: Instant) -> bool {
        if self.down.load(Ordering::Relaxed) {
            return false;
        }
        let idle = || !self.trial.load(Ordering::Relaxed);
        match (self.standing(now), wanted) {
            (Standing::Serving, Wanted::Up) => true,
            (Standing::OnTrial, Wanted::Up) | (Standing::Ejected(_), Wanted::Ejected) => idle(),
            (Standing::Serving | Standing::OnTrial, Wanted::Ejected)
            | (Standing::Ejected(_), Wanted::Up) => false,
        }
    }

    pub(super) fn has_place(&self, most: Option<NonZeroU32>) -> bool {
        most.is_none_or(|most| self.in_use() < most.get())
    }

    /// Takes a place for a flow, and the trial where the endpoint is not serving. `None`: others
    /// were faster.
    pub(super) fn enter(
        self: &Arc<Self>,
        most: Option<NonZeroU32>,
        now: Instant,
        room: &Arc<Room>,
    ) -> Option<Seat> {
        let most = most.map_or(u32::MAX, NonZeroU32::get);
        self.in_use
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < most).then_some(now + 1)
            })
            .ok()?;
        let mut seat =
            Seat { endpoint: Arc::clone(self), room: Arc::clone(room), has_trial: false };
        if self.standing(now) != Standing::Serving {
            if self.trial.swap(true, Ordering::AcqRel) {
                return None;
            }
            seat.has_trial = true;
        }
        Some(seat)
    }

    /// The end of its ejection, if it is ejected at `now`.
    pub(super) fn ejected_until(&self, now: Instant) -> Option<Instant> {
        match self.standing(now) {
            Standing::Ejected(until) => Some(until),
            Standing::Serving | Standing::OnTrial => None,
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        match self.ejected.load(Ordering::Acquire) {
            0 => Standing::Serving,
            micros => {
                let until = self.epoch + Duration::from_micros(micros);
                if now < until { Standing::Ejected(until) } else { Standing::OnTrial }
            }
        }
    }

    /// Takes a failed connection attempt; whether that ejects it.
    pub(super) fn failed(&self, reason: &str, rules: &EjectConfig) -> bool {
        let mut verdicts = self.verdicts();
        let ejected = verdicts.ejection.failed(Instant::now(), rules);
        reason.clone_into(&mut verdicts.reason);
        self.publish(&verdicts);
        drop(verdicts);
        if ejected {
            self.changed.notify_one();
        }
        ejected
    }

    /// Takes a successful attempt; whether that brings it back.
    pub(super) fn succeeded(&self) -> bool {
        // The usual case, without the lock.
        if !self.blemished.load(Ordering::Acquire) {
            return false;
        }
        let mut verdicts = self.verdicts();
        let returned = verdicts.ejection.succeeded(Instant::now());
        self.publish(&verdicts);
        drop(verdicts);
        if returned {
            self.changed.notify_one();
        }
        returned
    }

    /// Takes an active check's result.
    pub(super) fn checked(
        &self,
        result: &Result<(), String>,
        health: &HealthConfig,
    ) -> Option<Change> {
        let mut verdicts = self.verdicts();
        let change = verdicts.checked.record(result.is_ok(), health.rise, health.fall);
        if let Err(reason) = result {
            reason.clone_into(&mut verdicts.reason);
        }
        self.publish(&verdicts);
        drop(verdicts);
        if change.is_some() {
            self.changed.notify_one();
        }
        change
    }

    /// Forgets what the checks, or the attempts, have said: for a configuration that has none.
    pub(super) fn forget(&self, health: Option<&HealthConfig>, eject: Option<&EjectConfig>) {
        let mut verdicts = self.verdicts();
        if health.is_none() {
            verdicts.checked = Checked::default();
            self.name.iter().for_each(Name::forget_checks);
        }
        if eject.is_none() {
            verdicts.ejection = Ejection::default();
        }
        self.publish(&verdicts);
        drop(verdicts);
        self.changed.notify_one();
    }

    fn verdicts(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the atomics say what the verdicts do.
    fn publish(&self, verdicts: &Verdicts) {
        let micros = |until: Instant| {
            let micros = until.saturating_duration_since(self.epoch).as_micros();
            u64::try_from(micros).unwrap_or(u64::MAX).max(1)
        };
        self.down.store(verdicts.checked.is_down(), Ordering::Release);
        self.ejected.store(verdicts.ejection.until().map_or(0, micros), Ordering::Release);
        self.blemished.store(!verdicts.ejection.is_spotless(), Ordering::Release);
    }
}

/// A flow's place at an endpoint, and its trial, if it has that; given back by `Drop`.
#[derive(Debug)]
pub(super) struct Seat {
    endpoint: Arc<Endpoint>,
    room: Arc<Room>,
    has_trial: bool,
}

impl Seat {
    /// Where it is.
    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Gives back the trial: the attempt's result has been taken.
    pub(super) fn end_trial(&mut self) {
        if std::mem::take(&mut self.has_trial) {
            self.endpoint.trial.store(false, Ordering::Release);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.end_trial();
        self.endpoint.in_use.fetch_sub(1, Ordering::AcqRel);
        self.room.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EJECT: EjectConfig =
        EjectConfig { failures: 1, backoff: Duration::from_secs(60), max: Duration::from_secs(60) };

    fn endpoint() -> Arc<Endpoint> {
        let address = Address::Ip(([127, 0, 0, 1], 80).into());
        Arc::new(Endpoint::new(address, Arc::default()))
    }

    #[test]
    fn places_are_counted_and_come_back() {
        let (endpoint, room) = (endpoint(), Arc::new(Room::default()));
        let (two, now) = (NonZeroU32::new(2), Instant::now());
        let first = endpoint.enter(two, now, &room).expect("free");
        let second = endpoint.enter(two, now, &room).expect("free");
        assert!(endpoint.enter(two, now, &room).is_none() && !endpoint.has_place(two));
        assert!(endpoint.has_place(None));
        drop(first);
        assert_eq!(endpoint.in_use(), 1);
        assert!(endpoint.has_place(two));
        drop(second);
        assert_eq!(endpoint.in_use(), 0);
    }

    #[test]
    fn an_ejected_endpoint_is_tried_by_one_at_a_time() {
        let (endpoint, room) = (endpoint(), Arc::new(Room::default()));
        let now = Instant::now();
        assert!(endpoint.is(Wanted::Up, now) && !endpoint.is(Wanted::Ejected, now));
        assert!(endpoint.failed("refused", &EJECT));
        assert!(!endpoint.is(Wanted::Up, now) && endpoint.is(Wanted::Ejected, now));
        assert_eq!(endpoint.condition(), Condition::Ejected { reason: "refused".into() });

        let mut seat = endpoint.enter(None, now, &room).expect("nobody tries it");
        assert!(!endpoint.is(Wanted::Ejected, now));
        assert!(endpoint.enter(None, now, &room).is_none());
        assert_eq!(endpoint.in_use(), 1, "who was too late holds no place");
        seat.end_trial();
        assert!(endpoint.is(Wanted::Ejected, now));

        // Its time is over: among the others again, for one at a time.
        let later = now + Duration::from_secs(61);
        assert!(endpoint.is(Wanted::Up, later));
        let trial = endpoint.enter(None, later, &room).expect("nobody tries it");
        assert!(!endpoint.is(Wanted::Up, later));
        drop(trial);

        assert!(endpoint.succeeded() && !endpoint.succeeded());
        assert!(endpoint.is(Wanted::Up, now));
        assert_eq!(endpoint.condition(), Condition::Up);
    }

    #[test]
    fn checks_take_an_endpoint_down_for_everybody() {
        let endpoint = endpoint();
        let health = HealthConfig {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 1,
            send: Arc::default(),
            expect: crate::rules::config::Expect::Connection,
        };
        let now = Instant::now();
        assert_eq!(endpoint.checked(&Err("closed".into()), &health), Some(Change::Down));
        assert!(!endpoint.is(Wanted::Up, now) && !endpoint.is(Wanted::Ejected, now));
        assert_eq!(endpoint.condition(), Condition::Down { reason: "closed".into() });
        // A configuration without checks: nobody would ever bring it up.
        endpoint.forget(None, Some(&EJECT));
        assert!(endpoint.is(Wanted::Up, now));
    }
}
