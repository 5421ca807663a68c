//! The packet relay's self-test: flows over loopback, through the parts that the daemon's flows go
//! through.
//!
//! Each flow is copied until it is on, then used, then ended in one of three ways. It takes some
//! milliseconds; a step that takes longer than [`PATIENCE`] has failed.

use std::{
    fmt,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream as StdStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Builder;

use super::packets::gate;
use crate::{
    kernel::packet::PacketKernel,
    net::{Stream, Tcp},
    relay::{
        Control, Ends, Plan, Tally,
        packet::{self, Gate, Packets, books::Standing},
        plan::{self, Offering, Unavailable},
        pool::Pool,
        user::{Duplex, Next},
    },
    rules::config::RelayChoice,
    upstream::opening::Opening,
};

/// For one step. A machine under load is slow, and that is no fault of the kernel's.
const PATIENCE: Duration = Duration::from_secs(5);
/// Times that a flow is looked at a second, in place of events.
const LOOK: Duration = Duration::from_millis(1);
const BULK: usize = 1 << 20;

type Outcome<T = ()> = Result<T, String>;

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

/// Runs it.
///
/// # Errors
/// Which case failed, and how.
pub(super) fn run(kernel: &PacketKernel) -> Result<Duration, String> {
    let start = Instant::now();
    let gate = gate(kernel).map_err(text)?;
    for (name, case) in [
        ("both streams end", ends as fn(&Gate) -> Outcome),
        ("a peer resets", peer_resets),
        ("mux resets", mux_resets),
    ] {
        case(&gate).map_err(|reason| format!("{name}: {reason}"))?;
    }
    Ok(start.elapsed())
}

/// What the peers hold.
struct Peers {
    client: StdStream,
    upstream: StdStream,
}

/// What is told from one side of a case to the other.
struct Signals {
    /// The flow is on.
    on: mpsc::Receiver<()>,
    /// Close it.
    close: mpsc::Sender<()>,
}

fn pair() -> std::io::Result<(StdStream, StdStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let connected = StdStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for stream in [&connected, &accepted] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((connected, accepted))
}

/// Runs `script` against the peers of a flow; returns how it ended and what was counted.
fn flow(gate: &Gate, script: fn(Peers, &Signals) -> Outcome) -> Outcome<(Standing, Tally)> {
    let (client, ours) = pair().map_err(text)?;
    let (theirs, upstream) = pair().map_err(text)?;
    let (tell, on) = mpsc::channel();
    let (close, closing) = mpsc::channel();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(text)?;
    thread::scope(|scope| {
        let script =
            scope.spawn(move || script(Peers { client, upstream }, &Signals { on, close }));
        let relayed = runtime.block_on(async {
            let relay = relay(gate, ours, theirs, tell, closing);
            let late = |_| "it did not end in time".to_owned();
            tokio::time::timeout(2 * PATIENCE, relay).await.map_err(late)?
        });
        let result = script.join().map_err(|_| "the script panicked".to_owned())?;
        match (result, relayed) {
            (Ok(()), Ok(relayed)) => Ok(relayed),
            (Err(peers), Err(flow)) => Err(format!("{flow}; its peers: {peers}")),
            (Err(error), Ok(_)) | (Ok(()), Err(error)) => Err(error),
        }
    })
}

async fn relay(
    gate: &Gate,
    client: StdStream,
    upstream: StdStream,
    on: mpsc::Sender<()>,
    close: mpsc::Receiver<()>,
) -> Outcome<(Standing, Tally)> {
    let stream = |stream: StdStream| -> Outcome<Stream> {
        stream.set_nonblocking(true).map_err(text)?;
        Ok(Stream::Tcp(Tcp::new(stream).map_err(text)?))
    };
    let mut ends = Ends { client: stream(client)?, upstream: stream(upstream)? };
    let mut plan = Plan::new(RelayChoice::Packet, &ends, false, Unavailable::default());
    let mut duplex = Duplex::new(Opening::default(), 0);
    let (control, pool) = (Control::default(), Pool::default());
    let mut tally = Tally::default();
    let mut packets: Option<Packets<'_>> = None;
    loop {
        let step = duplex.run(&mut ends, &mut tally, &control, &plan, &pool);
        match tokio::time::timeout(LOOK, step).await {
            Ok(Next::Offer) => {
                packets = Some(packet::offer(gate, &ends, &tally, 0).map_err(text)?);
                plan.packet = Offering::Offered { reads: tally.reads() };
            }
            Ok(Next::Packet) | Err(_) => {}
            Ok(Next::Over(close)) => return Err(format!("it ended as {close} before its moment")),
            Ok(Next::Withdraw | Next::Promote) => return Err("it wants another relay".into()),
        }
        let Some(offered) = &packets else { continue };
        let standing = offered.standing(&ends, control.told(), duplex.ended());
        if standing != Standing::Pending && !matches!(plan.packet, Offering::On { .. }) {
            Packets::silence(&ends);
            // A script that has failed says why itself.
            let _ = on.send(());
        }
        match standing {
            Standing::Pending => {}
            Standing::On => {
                let progress = plan::progress(&tally, duplex.ended());
                if plan.packet != (Offering::On { progress }) {
                    plan.packet = Offering::On { progress };
                    offered.await_acks(&tally, duplex.ended());
                }
            }
            Standing::Finished | Standing::Reset(_) | Standing::TooBig(_) => {
                offered.close(ends, &mut tally);
                return Ok((standing, tally));
            }
        }
        if close.try_recv().is_ok() {
            offered.close(ends, &mut tally);
            // What our RST has to say is said while the records are there.
            tokio::time::sleep(LOOK).await;
            return Ok((standing, tally));
        }
    }
}

/// One message, and its answer, until the flow is on; returns how many.
fn talk_until_on(peers: &mut Peers, signals: &Signals) -> Outcome<u64> {
    let deadline = Instant::now() + PATIENCE;
    let mut rounds = 0;
    while Instant::now() < deadline {
        exchange(peers, 100)?;
        rounds += 1;
        match signals.on.try_recv() {
            Ok(()) => return Ok(rounds),
            Err(mpsc::TryRecvError::Empty) => thread::sleep(Duration::from_micros(100)),
            Err(mpsc::TryRecvError::Disconnected) => return Err("the relay is gone".into()),
        }
    }
    Err("its packets were not translated after so many messages: ".to_owned() + &rounds.to_string())
}

fn exchange(peers: &mut Peers, length: usize) -> Outcome {
    let message = pattern(length);
    for (from, to) in [(&peers.client, &peers.upstream), (&peers.upstream, &peers.client)]
        as [(&StdStream, &StdStream); 2]
    {
        thread::scope(|scope| {
            let sending = scope.spawn(|| (&*from).write_all(&message).map_err(text));
            expect(to, &message)?;
            sending.join().map_err(|_| "a sender panicked".to_owned())?
        })?;
    }
    Ok(())
}

/// Bytes that differ at every position, so that a shift, a loss or a repetition shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn expect(mut stream: &StdStream, wanted: &[u8]) -> Outcome {
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got).map_err(text)?;
    match got.iter().zip(wanted).position(|(got, wanted)| got != wanted) {
        None => Ok(()),
        Some(at) => Err(format!("wrong byte at {at}")),
    }
}

fn expect_end(mut stream: &StdStream) -> Outcome {
    match stream.read(&mut [0]).map_err(text)? {
        0 => Ok(()),
        _ => Err("a byte after the end".into()),
    }
}

fn expect_reset(mut stream: &StdStream) -> Outcome {
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        other => Err(format!("no reset: {other:?}")),
    }
}

fn ends(gate: &Gate) -> Outcome {
    let (standing, tally) = flow(gate, |mut peers, signals| {
        let mut rounds = talk_until_on(&mut peers, signals)?;
        for _ in 0..8 {
            exchange(&mut peers, 100)?;
            rounds += 1;
        }
        exchange(&mut peers, BULK)?;
        let last = pattern(rounds as usize);
        (&peers.client).write_all(&last).map_err(text)?;
        peers.client.shutdown(Shutdown::Write).map_err(text)?;
        expect(&peers.upstream, &last)?;
        expect_end(&peers.upstream)?;
        (&peers.upstream).write_all(&last).map_err(text)?;
        drop(peers.upstream);
        expect(&peers.client, &last)?;
        expect_end(&peers.client)
    })?;
    if standing != Standing::Finished {
        return Err(format!("it ended as {standing:?}"));
    }
    // 101 bytes a round each way: a message, and one of the last words.
    let given = tally.up.given;
    if given != tally.down.given
        || given < BULK as u64
        || !(given - BULK as u64).is_multiple_of(101)
    {
        return Err(format!("the books say {tally:?}"));
    }
    Ok(())
}

fn peer_resets(gate: &Gate) -> Outcome {
    let (standing, _) = flow(gate, |mut peers, signals| {
        talk_until_on(&mut peers, signals)?;
        let socket = socket2::SockRef::from(&peers.upstream);
        socket.set_linger(Some(Duration::ZERO)).map_err(text)?;
        drop(peers.upstream);
        expect_reset(&peers.client)
    })?;
    match standing {
        Standing::Reset(_) => Ok(()),
        other => Err(format!("it ended as {other:?}")),
    }
}

fn mux_resets(gate: &Gate) -> Outcome {
    let (standing, _) = flow(gate, |mut peers, signals| {
        talk_until_on(&mut peers, signals)?;
        exchange(&mut peers, 1000)?;
        signals.close.send(()).map_err(text)?;
        expect_reset(&peers.client)?;
        expect_reset(&peers.upstream)
    })?;
    match standing {
        Standing::On | Standing::Reset(_) => Ok(()),
        other => Err(format!("it ended as {other:?}")),
    }
}
