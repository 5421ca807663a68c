//! One core's state: its flows, its pools, its way to the kernel. Nothing in it is shared, so
//! nothing in it locks.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::{Receiver, UnboundedReceiver},
};
use tokio_util::task::TaskTracker;

use crate::{
    account::{Live, Record, Totals},
    errand::Errand,
    kernel::{
        Handle,
        books::Way,
        packet::{Report, Snapshot, State},
    },
    limit::sniffing::Sniffing,
    relay::{
        Control, Stop,
        control::KeptOut,
        demotion::{self, Before, Reason},
        evidence,
        packet::{self, Gate, books::carried},
        pool::Pool,
        watch::Watch,
    },
    rules::config::{SockmapMode, Timeouts},
    shared::Shared,
    sys,
};

/// A core.
#[derive(Debug)]
pub struct Core {
    /// Its number, from 0.
    pub index: u16,
    /// What all cores share.
    pub shared: Arc<Shared>,
    /// Its way to the kernel's maps, where the sockmap relay is in force.
    pub kernel: Option<Handle>,
    /// Its way to the packet relay, where that is in force.
    pub packets: Option<Gate>,
    /// The private epoll of its spliced flows.
    pub watch: Watch,
    /// Buffers and pipes.
    pub pool: Pool,
    /// Its connections that are being sniffed.
    pub sniffing: Sniffing,
    /// Its connections' tasks.
    pub tasks: TaskTracker,
    /// What it has carried.
    pub totals: Totals,
    flows: RefCell<Slab<Entry>>,
    sequence: Cell<u32>,
    /// `mux relay off`: flows stay out of the kernel.
    ordered_out: Cell<bool>,
    /// `[kernel] sockmap = "off"` in the configuration in force: the same.
    configured_out: Cell<bool>,
    /// When the flows in the kernel were last looked at.
    judged: Cell<Instant>,
}

/// A flow that wants a look, as an event of the kernel's says.
#[derive(Clone, Copy, Debug)]
pub enum Nudge {
    /// The flow of this key: its books.
    Books(u32),
    /// Its packets' records.
    Packets(Report),
}

/// How often the paths of a flow whose packets are translated are looked at, while it is not idle:
/// how long it may stand still where one has become shorter.
const PATHS: Duration = Duration::from_secs(5);

/// A flow as the core's timer sees it.
#[derive(Debug)]
struct Entry {
    control: Rc<Control>,
    live: Rc<Live>,
    last_activity: u64,
    active_at: Instant,
    /// What the books said at the last look, of a flow that chose the kernel by evidence.
    before: Before,
    /// When the packet relay's paths were looked at last.
    paths_at: Instant,
}

/// A flow's place in the core's table; given up by `Drop`.
#[derive(Debug)]
pub struct FlowHandle {
    core: Rc<Core>,
    key: usize,
    /// The flow's mailbox.
    pub control: Rc<Control>,
    /// What others can ask of it.
    pub live: Rc<Live>,
}

impl Core {
    /// A core without flows.
    ///
    /// # Errors
    /// epoll_create1(2)'s.
    pub fn new(
        index: u16,
        shared: Arc<Shared>,
        kernel: Option<Handle>,
        packets: Option<Gate>,
    ) -> io::Result<Rc<Self>> {
        let current = shared.current.load_full();
        let limits = &current.limits;
        Ok(Rc::new(Self {
            index,
            kernel,
            packets,
            watch: Watch::new()?,
            pool: Pool::new(limits.pipes_per_core),
            sniffing: Sniffing::new(Arc::clone(&shared.sniffing), index),
            tasks: TaskTracker::new(),
            shared,
            totals: Totals::default(),
            flows: RefCell::default(),
            sequence: Cell::new(0),
            ordered_out: Cell::new(false),
            configured_out: Cell::new(false),
            judged: Cell::new(Instant::now()),
        }))
    }

    /// An id for a new connection, unique in this process.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        self.shared.id_base | u64::from(self.index) << 32 | u64::from(sequence)
    }

    /// Enters a connection that has just been accepted in the table.
    #[must_use]
    pub fn enter(self: &Rc<Self>, record: &Record) -> FlowHandle {
        let control = Rc::new(Control::default());
        if let Some(why) = self.kept_out() {
            control.keep_out(Some(why));
        }
        let live = Rc::new(Live::new(record));
        let key = self.flows.borrow_mut().insert(Entry {
            control: Rc::clone(&control),
            live: Rc::clone(&live),
            last_activity: 0,
            active_at: Instant::now(),
            before: Before::default(),
            paths_at: Instant::now(),
        });
        FlowHandle { core: Rc::clone(self), key, control, live }
    }

    /// Flows in the table.
    #[must_use]
    pub fn flow_count(&self) -> usize {
        self.flows.borrow().len()
    }

    /// Where a look at the whole table ends.
    pub(crate) fn table_end(&self) -> usize {
        self.flows.borrow().capacity()
    }

    /// Shows the flow at this place of the table, if there is one.
    pub(crate) fn look<T>(&self, key: usize, look: impl FnOnce(&Live, &Control) -> T) -> Option<T> {
        self.flows.borrow().get(key).map(|entry| look(&entry.live, &entry.control))
    }

    /// Bytes given to upstream and client, of a flow that is alive.
    pub(crate) fn given(&self, control: &Control) -> [u64; 2] {
        let mut given = control.given();
        if let (Some(pair), Some(books)) = (control.pair(), &self.shared.books) {
            for way in Way::BOTH {
                given[way.index()] += books.record(pair, way).carried();
            }
        }
        if let (Some(pair), Some(records)) = (control.packets(), &self.shared.packets)
            && control.is_translated()
        {
            for way in Way::BOTH {
                let (given, before) = (&mut given[way.index()], control.before()[way.index()]);
                *given = carried(before, *given, records.record(pair, way).snapshot().bytes);
            }
        }
        given
    }

    /// Lets flows into the kernel, or takes all of them out and keeps them out. Returns how many
    /// were in it. What the configuration forbids it does not allow.
    pub(crate) fn switch_kernel(&self, allowed: bool) -> usize {
        self.ordered_out.set(!allowed);
        self.keep_flows_out(self.kept_out())
    }

    /// The same as `[kernel] sockmap` says, where it has changed. Returns how many were in it.
    pub(crate) fn follow_kernel_setting(&self, mode: SockmapMode) -> usize {
        let out = match mode {
            SockmapMode::Off => true,
            SockmapMode::Auto | SockmapMode::Force => false,
        };
        if self.configured_out.replace(out) == out {
            return 0;
        }
        self.keep_flows_out(self.kept_out())
    }

    fn kept_out(&self) -> Option<KeptOut> {
        if self.configured_out.get() {
            Some(KeptOut::Configured)
        } else {
            self.ordered_out.get().then_some(KeptOut::Ordered)
        }
    }

    fn keep_flows_out(&self, why: Option<KeptOut>) -> usize {
        let flows = self.flows.borrow();
        for (_, entry) in flows.iter() {
            entry.control.keep_out(why);
        }
        flows.iter().filter(|(_, entry)| entry.control.pair().is_some()).count()
    }

    /// Does what is asked of the core over the admin socket, for ever.
    pub async fn run_errands(self: Rc<Self>, mut errands: Receiver<Errand>) {
        while let Some(errand) = errands.recv().await {
            errand.run(&self).await;
        }
    }

    /// Orders every flow to end.
    pub fn stop_all(&self, stop: Stop) {
        for (_, entry) in self.flows.borrow().iter() {
            entry.control.stop(stop);
        }
    }

    /// What says that spliced sockets are ready. Made before the core accepts, since it takes a
    /// descriptor.
    ///
    /// # Errors
    /// fcntl(2)'s and epoll_ctl(2)'s.
    pub fn readiness(&self) -> io::Result<AsyncFd<OwnedFd>> {
        sys::register(self.watch.descriptor()?, Interest::READABLE)
    }

    /// Delivers the readiness of spliced sockets, for ever.
    ///
    /// # Errors
    /// epoll's, which nothing short of a closed descriptor causes.
    pub async fn run_watch(self: Rc<Self>, ready: AsyncFd<OwnedFd>) -> io::Result<()> {
        loop {
            let mut guard = ready.readable().await?;
            // Cleared first: what arrives while we collect makes it ready again.
            guard.clear_ready();
            self.watch.collect(|token, events| {
                let (key, socket) = from_token(token);
                if let Some(entry) = self.flows.borrow().get(key) {
                    entry.control.deliver(socket, events);
                }
            })?;
        }
    }

    /// Ends sniffed connections as other cores ask, for ever.
    pub async fn run_sniffing(self: Rc<Self>) {
        self.sniffing.run().await;
    }

    /// Delivers the kernel's events, which one thread reads for all cores.
    pub async fn run_nudges(self: Rc<Self>, mut nudges: UnboundedReceiver<Nudge>) {
        while let Some(nudge) = nudges.recv().await {
            let flows = self.flows.borrow();
            match nudge {
                Nudge::Books(key) => {
                    if let Some(entry) = flows.get(key as usize) {
                        entry.control.nudge();
                    }
                }
                Nudge::Packets(report) => {
                    let (_, key) = packet::address(report.cookie);
                    if let Some(entry) = flows.get(key) {
                        entry.control.tell(&report);
                    }
                }
            }
        }
    }

    /// Watches the flows' timeouts, for ever; also finds events that were lost.
    pub async fn run_timers(self: Rc<Self>) {
        loop {
            let period = sweep_period(&self.shared.current.load().config.timeouts);
            tokio::time::sleep(period).await;
            let now = Instant::now();
            self.sweep(now);
            self.judge(now);
            self.shared.throttles.settle(now);
            self.shared.counters.limits.settle(now);
        }
    }

    fn sweep(&self, now: Instant) {
        let current = self.shared.current.load();
        let timeouts = &current.config.timeouts;
        for (_, entry) in self.flows.borrow_mut().iter_mut() {
            let mut activity = entry.control.activity();
            if let (Some(pair), Some(books)) = (entry.control.pair(), &self.shared.books) {
                for way in Way::BOTH {
                    let record = books.record(pair, way);
                    activity = activity.wrapping_add(record.messages());
                    // Uneven books whose event was lost (a full ring), or was not sent (see
                    // the verdict's `pass`).
                    if record.is_uneven() {
                        entry.control.nudge();
                    }
                }
            }
            if let (Some(pair), Some(records)) = (entry.control.packets(), &self.shared.packets) {
                let look = Way::BOTH.map(|way| records.record(pair, way).snapshot());
                for record in look {
                    activity = activity.wrapping_add(record.packets);
                }
                if look.iter().any(|record| record.fin) {
                    entry.control.set_half_closed();
                }
                // An event that a full ring lost, or an end of which user space has carried a part.
                let is_news = |record: &Snapshot| match record.state {
                    State::Empty | State::Pending => false,
                    State::On => !entry.control.is_translated() || record.fin_acked,
                    State::Ended | State::Dead | State::Stopped => true,
                };
                let paths_are_due = entry.control.is_translated()
                    && activity != entry.last_activity
                    && now.duration_since(entry.paths_at) >= PATHS;
                if paths_are_due {
                    entry.paths_at = now;
                }
                if paths_are_due || look.iter().any(is_news) {
                    entry.control.packet_news();
                }
            }
            let is_flow = entry.live.stage().is_flow();
            if activity != entry.last_activity || !is_flow {
                entry.last_activity = activity;
                entry.active_at = now;
            }
            let idle = now.duration_since(entry.active_at);
            let over = |limit: Option<Duration>| limit.is_some_and(|limit| idle >= limit);
            if entry.control.half_closed() && over(timeouts.half_closed) {
                entry.control.stop(Stop::HalfClosed);
            } else if is_flow && over(timeouts.idle) {
                entry.control.stop(Stop::Idle);
            } else if timeouts
                .lifetime
                .is_some_and(|limit| now.duration_since(entry.live.accepted) >= limit)
            {
                entry.control.stop(Stop::Lifetime);
            }
        }
    }

    /// Orders flows out of the kernel that user space serves better by now.
    fn judge(&self, now: Instant) {
        let Some(books) = &self.shared.books else { return };
        if now.duration_since(self.judged.get()) < demotion::EVERY {
            return;
        }
        self.judged.set(now);
        let mut busy = Vec::new();
        for (_, entry) in self.flows.borrow_mut().iter_mut() {
            let Some(pair) = entry.control.pair() else { continue };
            if !entry.control.goes_by_evidence() {
                continue;
            }
            let look = entry.before.look(Way::BOTH.map(|way| books.record(pair, way).kernel()));
            if let Some(reason) = look.reason {
                entry.control.demote(reason);
            } else if look.messages >= demotion::BUSY {
                busy.push(Rc::clone(&entry.control));
            }
        }
        evidence::are_busy(busy.len());
        if busy.len() > demotion::MOST_BUSY {
            busy.iter().for_each(|control| control.demote(Reason::Crowd));
        }
    }
}

/// Often enough for the shortest timeout, and no more than that.
fn sweep_period(timeouts: &Timeouts) -> Duration {
    [timeouts.idle, timeouts.half_closed, timeouts.lifetime]
        .into_iter()
        .flatten()
        .min()
        .map_or(Duration::from_secs(1), |shortest| shortest / 4)
        .clamp(Duration::from_millis(10), Duration::from_secs(1))
}

impl FlowHandle {
    /// The token of its sockets in the private epoll: the client's; the upstream's is one more.
    #[must_use]
    pub const fn token(&self) -> u64 {
        (self.key as u64) << 1
    }

    /// Says that the flow is spliced, with this pair of records.
    pub fn spliced(&self, pair: u32) {
        self.control.set_pair(Some(pair));
        self.core.shared.owners.set(pair, self.core.index, self.key as u32);
    }

    /// Says that it no longer is.
    pub fn unspliced(&self) {
        if let Some(pair) = self.control.pair() {
            self.core.shared.owners.clear(pair);
            self.control.set_pair(None);
        }
    }

    /// What the packet relay's events are to call the flow.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        packet::cookie(self.core.index, self.key, self.live.id)
    }
}

impl Drop for FlowHandle {
    fn drop(&mut self) {
        if !self.live.is_accounted() {
            // Its task was dropped in the middle: its bytes were carried all the same.
            self.core.totals.carried(self.control.mode(), self.core.given(&self.control));
        }
        self.unspliced();
        self.core.flows.borrow_mut().remove(self.key);
    }
}

const fn from_token(token: u64) -> (usize, usize) {
    ((token >> 1) as usize, (token & 1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_look_four_times_in_the_shortest_timeout() {
        let mut timeouts = Timeouts::default();
        assert_eq!(sweep_period(&timeouts), Duration::from_secs(1));
        timeouts.idle = Some(Duration::from_millis(200));
        assert_eq!(sweep_period(&timeouts), Duration::from_millis(50));
        timeouts.idle = Some(Duration::from_millis(1));
        assert_eq!(sweep_period(&timeouts), Duration::from_millis(10));
    }
}
