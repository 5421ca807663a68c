//! Timeouts of established flows, on each relay: not before their time, not long after it, and what
//! was carried is counted to the byte.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mux_tests::{Conn, Daemon, Relay, Upstream, eventually_true, on_each_relay};

on_each_relay!(
    an_idle_flow_is_reset,
    a_busy_flow_is_not_idle,
    a_half_closed_flow_is_reset,
    a_quiet_flow_has_all_of_half_closed_from_its_half_close_on,
    a_lifetime_ends_even_a_busy_flow,
);

/// How much later than its time a flow may be closed: a look of the timer's, and what a busy machine
/// takes.
const LATE_MS: f64 = 3000.0;

/// What went through a flow, as its ends know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bytes {
    sent_up: u64,
    received_up: u64,
    sent_down: u64,
    received_down: u64,
}

/// A flow through a daemon of its own.
struct Flow {
    daemon: Daemon,
    relay: Relay,
    client: Conn,
    server: Conn,
    bytes: Bytes,
    /// It was not accepted before, and not after.
    began: [Instant; 2],
}

impl Flow {
    fn new(relay: Relay, timeouts: &str) -> Result<Self> {
        let upstream = Upstream::tcp()?;
        let rules = format!("{}[timeouts]\n{timeouts}\n", relay.rule(&upstream.name()));
        let daemon = Daemon::start(&rules, &[])?;
        let before = Instant::now();
        let client = daemon.connect()?;
        let server = upstream.accept()?;
        let began = [before, Instant::now()];
        relay.greet(&client, &server)?;
        let hello = relay.hello();
        let bytes =
            Bytes { sent_up: hello, received_up: hello, sent_down: hello, received_down: hello };
        Ok(Self { daemon, relay, client, server, bytes, began })
    }

    fn round_trip(&mut self) -> Result<()> {
        let Self { client, server, bytes, .. } = self;
        carry(client, server, "hello", &mut bytes.sent_up, &mut bytes.received_up)?;
        carry(server, client, "olleh", &mut bytes.sent_down, &mut bytes.received_down)
    }

    /// Ends the test: `close` is the reason, after `due_ms` of the whole flow and not much later; its
    /// bytes are exact.
    fn closed(self, close: &str, due_ms: f64) -> Result<()> {
        let Self { daemon, relay, client, bytes, began: [before, after], .. } = self;
        let access = daemon.access_of(client.local()?)?;
        let most = due_ms + LATE_MS + (after - before).as_secs_f64() * 1e3;
        ensure!(access.close() == close && access.relay() == relay.name(), "{access:?}");
        ensure!(access.duration_ms() >= due_ms, "before its time, {due_ms} ms: {access:?}");
        ensure!(access.duration_ms() <= most, "long after its time, {due_ms} ms: {access:?}");
        let (up, down) = access.bytes();
        // Equal, but for what was on its way when a reset came.
        ensure!((bytes.received_up..=bytes.sent_up).contains(&up), "{bytes:?}: {access:?}");
        ensure!((bytes.received_down..=bytes.sent_down).contains(&down), "{bytes:?}: {access:?}");
        let stopped = daemon.stop()?;
        ensure!(stopped.counter("flows") == 1);
        ensure!(stopped.counter("relay_imbalance") == 0 && stopped.counter("broken") == 0);
        Ok(())
    }

    /// Milliseconds from accept to now, at the least.
    fn age_ms(&self) -> f64 {
        self.began[1].elapsed().as_secs_f64() * 1e3
    }
}

fn carry(from: &Conn, to: &Conn, text: &str, sent: &mut u64, received: &mut u64) -> Result<()> {
    from.send(text)?;
    *sent += text.len() as u64;
    to.expect(text)?;
    *received += text.len() as u64;
    Ok(())
}

/// Waits until so much time has passed, in which nothing is said.
fn quiet(time: Duration) -> Result<()> {
    let start = Instant::now();
    eventually_true("time passes", || start.elapsed() >= time)
}

fn an_idle_flow_is_reset(relay: Relay) -> Result<()> {
    let flow = Flow::new(relay, "idle = \"200ms\"")?;
    ensure!(flow.client.expect_reset()? == 0 && flow.server.expect_reset()? == 0);
    flow.closed("idle-timeout", 200.0)
}

/// What the kernel carries counts, though user space sees nothing of it.
fn a_busy_flow_is_not_idle(relay: Relay) -> Result<()> {
    // Longer than a busy machine keeps a test waiting, and a third of what it is busy for.
    let mut flow = Flow::new(relay, "idle = \"1s\"")?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(3000) {
        flow.round_trip()?;
    }
    flow.client.finish()?;
    flow.server.expect_end()?;
    flow.server.finish()?;
    flow.client.expect_end()?;
    let age = flow.age_ms();
    flow.closed("finished", age.min(3000.0))
}

fn a_half_closed_flow_is_reset(relay: Relay) -> Result<()> {
    let flow = Flow::new(relay, "half_closed = \"200ms\"")?;
    flow.client.finish()?;
    flow.server.expect_end()?;
    ensure!(flow.client.expect_reset()? == 0);
    flow.closed("half-closed-timeout", 200.0)
}

/// It was measured from the last byte: a flow that had been quiet for longer was reset as soon as one
/// side had said all, and the answer was lost.
fn a_quiet_flow_has_all_of_half_closed_from_its_half_close_on(relay: Relay) -> Result<()> {
    let mut flow = Flow::new(relay, "half_closed = \"500ms\"")?;
    quiet(Duration::from_millis(1200))?;
    flow.client.finish()?;
    flow.server.expect_end()?;
    quiet(Duration::from_millis(200))?;
    let Flow { client, server, bytes, .. } = &mut flow;
    carry(server, client, "answer", &mut bytes.sent_down, &mut bytes.received_down)
        .context("the answer after the half-close")?;
    flow.server.finish()?;
    flow.client.expect_end()?;
    flow.closed("finished", 1400.0)
}

/// Its last bytes were in no count: the kernel went on redirecting between the last look at the books and the
/// reset (18 of 60 runs on a busy machine).
fn a_lifetime_ends_even_a_busy_flow(relay: Relay) -> Result<()> {
    let mut flow = Flow::new(relay, "lifetime = \"400ms\"")?;
    let start = Instant::now();
    while flow.round_trip().is_ok() {
        ensure!(start.elapsed() < mux_tests::deadline(), "it lives on");
    }
    flow.closed("lifetime", 400.0)
}

/// `idle` was measured from accept on, so that a short one closed silent clients before
/// `sniff_timeout` could send them to their rule.
#[test]
fn idle_does_not_end_the_sniffing_of_a_silent_client() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nsniff_timeout = \"1s\"\non_timeout = \"silent\"\n\
         [[rule]]\nname = \"silent\"\nmatch = \"ssh\"\nupstream = \"{}\"\n\
         [timeouts]\nidle = \"200ms\"\n",
        upstream.name()
    ))?;
    let client = daemon.connect()?;
    let server = upstream.accept().context("the silent client has no server")?;
    server.send("hello")?;
    client.expect("hello")?;
    server.finish()?;
    client.expect_end()?;
    client.finish()?;
    let access = daemon.access_of(client.local()?)?;
    ensure!(access.close() == "finished" && access.why() == "on_timeout", "{access:?}");
    Ok(())
}

/// Nor does it end the wait for a place at the upstream, which has its own time.
#[test]
fn idle_does_not_end_the_wait_in_a_queue() -> Result<()> {
    let upstream = Upstream::tcp()?;
    let daemon = Daemon::user_space(&format!(
        "[[rule]]\nupstream = \"one\"\n\
         [[upstream]]\nname = \"one\"\nendpoints = [\"{}\"]\nmax_connections = 1\n\
         queue = {{ length = 1, timeout = \"20s\" }}\n\
         [timeouts]\nidle = \"300ms\"\n",
        upstream.name()
    ))?;
    let first = daemon.connect()?;
    let first_server = upstream.accept()?;
    let waiting = daemon.connect()?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(900) {
        first.send("x")?;
        first_server.expect("x")?;
    }
    ensure!(!upstream.has_connection()?, "there is one place");
    drop((first, first_server));
    let server = upstream.accept().context("who waited has no server")?;
    waiting.send("hello")?;
    server.expect("hello")
}
