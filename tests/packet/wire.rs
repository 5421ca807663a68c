//! A wire between client and relay that loses packets, repeats some and lets others overtake: two TUN
//! devices in the veth's place, and a thread that carries packets from one to the other. The programs
//! for devices without a link-layer header are on it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use mux::kernel::packet::What;
use mux_tests::{Family, Need, need, sys::agreed, tun};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    flow::Middle,
    place::{Kind, Place},
    streams::both_ways,
};

/// How long a packet is held back where no other comes to overtake it.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// What the wire has done.
#[derive(Debug, Default)]
struct Done {
    lost: AtomicU64,
    repeated: AtomicU64,
    overtaken: AtomicU64,
}

/// The wire; cut by `Drop`.
struct Wire {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    is_bad: AtomicBool,
    is_cut: AtomicBool,
    done: Done,
}

impl Wire {
    /// Puts one in the place of `down0`, with the same names and addresses.
    fn between(place: &Place) -> Result<Self> {
        let (client, relay) = (&place.three.client, place.relay());
        client.ip("link del down0")?;
        let files = [tun::device(client, "down0")?, tun::device(relay, "down0")?];
        for (namespace, address) in [(client, Family::client as fn(_) -> _), (relay, Family::mux)] {
            namespace.sysctl("net/ipv6/conf/down0/disable_ipv6", "0")?;
            for family in Family::ALL {
                let rest = if family == Family::V4 { "/24" } else { "/64 nodad" };
                let (network, options) = rest.split_once(' ').unwrap_or((rest, ""));
                let address = address(family);
                namespace.ip(&format!("address add {address}{network} dev down0 {options}"))?;
            }
            namespace.ip("link set down0 up")?;
        }
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || carry(files, &theirs));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From now on it is one that nobody would want.
    fn turn_bad(&self) {
        self.shared.is_bad.store(true, Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.is_cut.store(true, Ordering::SeqCst);
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("the wire: {error:#}"),
            Some(Err(_)) => eprintln!("the wire panicked"),
            Some(Ok(Ok(()))) | None => {}
        }
    }
}

/// Packets of one way that others are to overtake, with how many.
type Held = VecDeque<(usize, Vec<u8>)>;

fn carry(mut files: [File; 2], shared: &Shared) -> Result<()> {
    let Shared { is_bad, is_cut, done } = shared;
    let mut held: [Held; 2] = Default::default();
    let mut state = 1_u64;
    // Numerical Recipes' generator: the same at each run.
    let mut random = move |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    let mut buffer = vec![0; 1 << 16];
    while !is_cut.load(Ordering::SeqCst) {
        let [a, b] = &files;
        let mut fds = [PollFd::new(a, PollFlags::IN), PollFd::new(b, PollFlags::IN)];
        if poll(&mut fds, Some(&TICK))? == 0 {
            for (from, held) in held.iter_mut().enumerate() {
                for (_, packet) in held.drain(..) {
                    files[1 - from].write_all(&packet)?;
                }
            }
            continue;
        }
        for from in 0..2 {
            // All that is there, or what others overtake would be overtaken by nothing.
            loop {
                let length = match files[from].read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("reading a packet"),
                };
                let packet = &buffer[..length];
                let is_bad = is_bad.load(Ordering::Relaxed);
                match random(100) {
                    0..2 if is_bad => {
                        count(&done.lost);
                        continue;
                    }
                    2..12 if is_bad => {
                        held[from].push_back((1 + random(4) as usize, packet.to_vec()));
                        continue;
                    }
                    12..17 if is_bad => {
                        count(&done.repeated);
                        files[1 - from].write_all(packet)?;
                    }
                    _ => {}
                }
                files[1 - from].write_all(packet)?;
                for (overtakers, _) in &mut held[from] {
                    *overtakers -= 1;
                }
                while let Some(at) = held[from].iter().position(|(overtakers, _)| *overtakers == 0)
                {
                    let (_, packet) = held[from].remove(at).context("it is there")?;
                    count(&done.overtaken);
                    files[1 - from].write_all(&packet)?;
                }
            }
        }
    }
    Ok(())
}

/// With and without selective acknowledgements and timestamps, which are translated apart.
#[test]
fn packets_that_are_overtaken_lost_or_repeated_change_no_byte() -> Result<()> {
    need!(Need::Root);
    const LENGTH: u64 = 1 << 20;
    for family in Family::ALL {
        let place = Place::new(Kind::Routed, family)?;
        let wire = Wire::between(&place)?;
        for (sack, timestamps) in [("1", "1"), ("1", "0"), ("0", "1"), ("0", "0")] {
            let around = || format!("{family:?}, SACK {sack}, timestamps {timestamps}");
            for namespace in [&place.three.client, &place.three.server, &place.three.mux] {
                namespace.sysctl("net/ipv4/tcp_sack", sack)?;
                namespace.sysctl("net/ipv4/tcp_timestamps", timestamps)?;
            }
            let middle = Middle::new(&place)?;
            let mut flow = middle.open().with_context(around)?;
            let agreed = agreed(&flow.server)?;
            ensure!(agreed.sack == (sack == "1") && agreed.timestamps == (timestamps == "1"));
            wire.shared.is_bad.store(false, Ordering::SeqCst);
            middle.turn_on(&mut flow).with_context(around)?;
            wire.turn_bad();
            let flow = both_ways(flow, LENGTH).with_context(around)?;
            middle.wait_for(&flow, What::Ended).with_context(around)?;
            let stats = middle.stats();
            ensure!(sack == "0" || stats.slow_options > 0, "{}: {stats:?}", around());
            ensure!(stats.dropped == 0 && stats.untranslatable == 0, "{}: {stats:?}", around());
        }
        let Done { lost, repeated, overtaken } = &wire.shared.done;
        for counter in [lost, repeated, overtaken] {
            ensure!(counter.load(Ordering::Relaxed) > 20, "{:?}", wire.shared.done);
        }
    }
    Ok(())
}
