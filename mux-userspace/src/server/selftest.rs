//! The self-test: the kernel relay proven on this very kernel, over real sockets, before the first
//! client depends on it. Takes well under a second.
//!
//! It uses the relay that flows use, not a model of it.

use std::{
    cell::RefCell,
    fmt,
    io::{self, Read, Write},
    net::{TcpListener as StdListener, TcpStream as StdStream},
    rc::Rc,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::{io::Interest, runtime::Builder};
use tracing::debug;

use crate::{
    account::Counters,
    kernel::{Handle, Kernel, books::Way},
    net::{Stream, Tcp},
    relay::{
        Close, Control, Ends, Plan, Tally,
        control::KeptOut,
        plan::Unavailable,
        pool::{BUFFER_SIZE, Pool},
        sockmap::{self, Entered, Exit, Sizes, Spliced},
        user::{Duplex, Next},
        watch::Watch,
    },
    rules::config::RelayChoice,
    sys,
    upstream::opening::Opening,
};

/// Longest that one case may take. It takes milliseconds; on a machine that is overloaded, or emulated,
/// seconds, and that is no reason to do without the kernel until the next start.
const PATIENCE: Duration = Duration::from_secs(15);
/// Maximum segment size, bytes: Ethernet's.
const SEGMENT: u32 = 1448;
/// Bytes of the bulk case.
const BULK: usize = 4 << 20;
/// `SO_SNDBUF` of the bulk case's destination, so that redirects meet a full buffer.
const SMALL_BUFFER: usize = 32 * 1024;
/// Sizes of the sockets in the other cases.
const SIZES: Sizes = Sizes { send_buffer: 2 << 20, backlog_limit: 512 << 10 };

/// It passed.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    cases: usize,
    took: Duration,
}

impl Report {
    /// How long it took.
    #[must_use]
    pub const fn took(&self) -> Duration {
        self.took
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cases passed in {} ms", self.cases, self.took.as_millis())
    }
}

/// It failed: the kernel relay stays off.
#[derive(Debug, Error)]
#[error("self-test `{case}` failed: {reason}")]
pub struct Failure {
    case: &'static str,
    reason: String,
}

type Outcome = Result<(), String>;

/// A name and what to run.
type Case = (&'static str, fn(&Kernel) -> Outcome);

/// Runs every case.
///
/// # Errors
/// [`Failure`] of the first case that failed.
pub fn run(kernel: &Kernel) -> Result<Report, Failure> {
    let start = Instant::now();
    let cases: &[Case] = &[
        ("echo", echo),
        ("half-read handoff", half_read),
        ("4 MB through a small send buffer", bulk),
        ("end of stream, both ways", ends),
        ("a reader that stops", stopped_reader),
        ("leaving the kernel relay", leaving),
    ];
    for &(case, test) in cases {
        let began = Instant::now();
        test(kernel).map_err(|reason| Failure { case, reason })?;
        debug!(case, took_ms = began.elapsed().as_millis() as u64, "self-test");
    }
    Ok(Report { cases: cases.len(), took: start.elapsed() })
}

/// A flow between two sockets of the test: what the peers hold.
struct Peers {
    client: StdStream,
    upstream: StdStream,
}

/// Our ends of the flow.
struct Ours {
    client: StdStream,
    upstream: StdStream,
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

fn pair() -> io::Result<(StdStream, StdStream)> {
    let listener = StdListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // As on a wire. With loopback's 64 KiB segments a small send buffer holds one, whose ACK is
    // delayed for 40 ms.
    socket.set_tcp_mss(SEGMENT)?;
    socket.connect(&address.into())?;
    let connected = StdStream::from(socket);
    let (accepted, _) = listener.accept()?;
    for stream in [&connected, &accepted] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((connected, accepted))
}

fn flow() -> io::Result<(Peers, Ours)> {
    let (client, our_client) = pair()?;
    let (our_upstream, upstream) = pair()?;
    Ok((Peers { client, upstream }, Ours { client: our_client, upstream: our_upstream }))
}

/// Splices `ours`, then runs `script` against the peers on a thread of its own, and relays until
/// the flow is over.
fn spliced<T: Send>(
    kernel: &Kernel,
    ours: Ours,
    taken: u64,
    sizes: Sizes,
    stay: Stay,
    script: impl FnOnce() -> Result<T, String> + Send,
) -> Result<(T, Settled), String> {
    let handle = kernel.handle().map_err(text)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(text)?;
    thread::scope(|scope| {
        // A FIN that comes before the insertion would have it refused, rightly.
        let (entered, entering) = mpsc::channel();
        let script = scope.spawn(move || match entering.recv() {
            Ok(()) => script(),
            Err(_) => Err("the flow did not enter the map".into()),
        });
        let settled = runtime.block_on(async {
            let relay = relay(&handle, ours, taken, sizes, stay, entered);
            tokio::time::timeout(2 * PATIENCE, relay)
                .await
                .map_err(|_| "the flow did not end".to_owned())?
        });
        // The peers have time-outs of their own.
        let result = script.join().map_err(|_| "the script panicked".to_owned())?;
        // Why the flow failed says more than what its peers made of it, but where it hung they know.
        match (result, settled) {
            (Ok(result), Ok(settled)) => Ok((result, settled)),
            (Err(peers), Err(flow)) => Err(format!("{flow}; its peers: {peers}")),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
        }
    })
}

/// Whether a flow stays in the kernel relay.
#[derive(Debug)]
enum Stay {
    ToTheEnd,
    /// It is ordered out at once, with bytes on their way. Each peer is told when it has left, and
    /// must not end its stream before: a flow with a FIN stays, rightly.
    Briefly([mpsc::Sender<()>; 2]),
}

/// How a flow ended.
struct Settled {
    close: Close,
    tally: Tally,
    first_seq_matched: bool,
}

async fn relay(
    handle: &Handle,
    ours: Ours,
    taken: u64,
    sizes: Sizes,
    stay: Stay,
    entered: mpsc::Sender<()>,
) -> Result<Settled, String> {
    let stream = |stream: StdStream| -> Result<Stream, String> {
        stream.set_nonblocking(true).map_err(text)?;
        Ok(Stream::Tcp(Tcp::new(stream).map_err(text)?))
    };
    let ends = Ends { client: stream(ours.client)?, upstream: stream(ours.upstream)? };
    let watch = Watch::new().map_err(text)?;
    let mut tally = Tally::default();
    tally.up.taken = taken;
    let mut spliced = match sockmap::enter(handle, &watch, 0, ends, &tally, sizes) {
        Entered::In(spliced) => spliced,
        Entered::Out(_, refusal) => return Err(text(refusal)),
        Entered::Lost(error) => return Err(text(error)),
    };
    // The script waits for this, and is there as long as we are.
    let _ = entered.send(());
    let control = Rc::new(Control::default());
    let pool = Pool::default();
    if let Stay::Briefly(_) = stay {
        control.keep_out(Some(KeptOut::Ordered));
    }
    let exit = accompany(&mut spliced, &watch, &control, &pool).await?;
    if let Exit::Over(Close::Finished) = exit {
        spliced.finish().map_err(text)?;
    }
    spliced.settle(&mut tally);
    let first_seq_matched = Way::BOTH.iter().all(|way| spliced.first_seq_matched(*way));
    let close = match (exit, stay) {
        (Exit::Over(close), Stay::ToTheEnd) => close,
        (Exit::Left, Stay::Briefly(peers)) => {
            let mut ends = spliced.into_user_space().map_err(text)?;
            for peer in peers {
                // One that has failed tells why itself.
                let _ = peer.send(());
            }
            user_space(&mut ends, &mut tally, &control, &pool).await?
        }
        (exit, _) => return Err(format!("unexpected: {exit:?}")),
    };
    Ok(Settled { close, tally, first_seq_matched })
}

/// Relays the rest of a flow by copy.
async fn user_space(
    ends: &mut Ends,
    tally: &mut Tally,
    control: &Control,
    pool: &Pool,
) -> Result<Close, String> {
    let plan = Plan::new(RelayChoice::Copy, ends, false, Unavailable::default());
    match Duplex::new(Opening::default(), 0).run(ends, tally, control, &plan, pool).await {
        Next::Over(close) => Ok(close),
        Next::Promote | Next::Offer | Next::Withdraw | Next::Packet => {
            Err("a flow that is to be copied wants the kernel".into())
        }
    }
}

/// Runs the relay and, in a core's place, delivers its readiness and looks at its books.
async fn accompany(
    spliced: &mut Spliced<'_>,
    watch: &Watch,
    control: &Rc<Control>,
    pool: &Pool,
) -> Result<Exit, String> {
    let counters = Counters::default();
    let ready =
        sys::register(watch.descriptor().map_err(text)?, Interest::READABLE).map_err(text)?;
    let failure = RefCell::new(None);
    let deliver = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        loop {
            tokio::select! {
                guard = ready.readable() => match guard {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(error) => { failure.replace(Some(text(error))); return; }
                },
                _ = ticks.tick() => control.nudge(),
            }
            let collected =
                watch.collect(|token, events| control.deliver(token as usize & 1, events));
            if let Err(error) = collected {
                failure.replace(Some(text(error)));
                return;
            }
        }
    };
    tokio::select! {
        exit = spliced.run(control, pool, &counters) => Ok(exit),
        () = deliver => Err(failure.take().unwrap_or_default()),
    }
}

fn finished(settled: &Settled) -> Outcome {
    match &settled.close {
        Close::Finished => Ok(()),
        other => Err(format!("the flow ended as {other}")),
    }
}

/// Bytes that differ at every position, so that a shift, a loss or a repetition shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn expect(stream: &mut StdStream, wanted: &[u8]) -> Outcome {
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got).map_err(text)?;
    match got.iter().zip(wanted).position(|(got, wanted)| got != wanted) {
        None => Ok(()),
        Some(at) => Err(format!("wrong byte at {at}")),
    }
}

fn expect_end(stream: &mut StdStream) -> Outcome {
    match stream.read(&mut [0]).map_err(text)? {
        0 => Ok(()),
        _ => Err("a byte after the end".into()),
    }
}

fn echo(kernel: &Kernel) -> Outcome {
    let (mut peers, ours) = flow().map_err(text)?;
    let ((), settled) = spliced(kernel, ours, 0, SIZES, Stay::ToTheEnd, move || {
        for round in 0..8 {
            let message = pattern(100 + round);
            peers.client.write_all(&message).map_err(text)?;
            expect(&mut peers.upstream, &message)?;
            peers.upstream.write_all(&message).map_err(text)?;
            expect(&mut peers.client, &message)?;
        }
        Ok(())
    })?;
    // The peers are gone, one after the other: both streams have ended.
    finished(&settled)?;
    let bytes: u64 = (100..108).sum();
    if (settled.tally.up.given, settled.tally.down.given) != (bytes, bytes) {
        return Err(format!("the books say {:?}", settled.tally));
    }
    if !settled.first_seq_matched {
        return Err("cb[0] of the first message was not copied_seq".into());
    }
    Ok(())
}

fn half_read(kernel: &Kernel) -> Outcome {
    let (mut peers, ours) = flow().map_err(text)?;
    let message = pattern(1000);
    peers.client.write_all(&message).map_err(text)?;
    // Half of the segment is read before the handoff; the rest is queued.
    let mut half = [0; 500];
    (&ours.client).read_exact(&mut half).map_err(text)?;
    let ((), settled) = spliced(kernel, ours, 500, SIZES, Stay::ToTheEnd, move || {
        expect(&mut peers.upstream, &message[500..])?;
        peers.client.write_all(b"and on").map_err(text)?;
        expect(&mut peers.upstream, b"and on")
    })?;
    finished(&settled)
}

fn bulk(kernel: &Kernel) -> Outcome {
    let (peers, ours) = flow().map_err(text)?;
    SockRef::from(&ours.upstream).set_send_buffer_size(SMALL_BUFFER).map_err(text)?;
    let sizes = Sizes { send_buffer: SMALL_BUFFER as u32, backlog_limit: 16 * 1024 };
    let Peers { mut client, mut upstream } = peers;
    let ((), settled) = spliced(kernel, ours, 0, sizes, Stay::ToTheEnd, move || {
        let sender = thread::spawn(move || {
            client.write_all(&pattern(BULK)).map_err(text)?;
            client.shutdown(std::net::Shutdown::Write).map_err(text)?;
            expect_end(&mut client)
        });
        expect(&mut upstream, &pattern(BULK))?;
        expect_end(&mut upstream)?;
        drop(upstream);
        sender.join().map_err(|_| "the sender panicked".to_owned())?
    })?;
    finished(&settled)
}

fn ends(kernel: &Kernel) -> Outcome {
    for client_first in [true, false] {
        let (peers, ours) = flow().map_err(text)?;
        let ((), settled) = spliced(kernel, ours, 0, SIZES, Stay::ToTheEnd, move || {
            let Peers { client, upstream } = peers;
            let (mut first, mut second) =
                if client_first { (client, upstream) } else { (upstream, client) };
            first.write_all(b"last words").map_err(text)?;
            first.shutdown(std::net::Shutdown::Write).map_err(text)?;
            expect(&mut second, b"last words")?;
            expect_end(&mut second)?;
            second.write_all(b"the answer").map_err(text)?;
            drop(second);
            expect(&mut first, b"the answer")?;
            expect_end(&mut first)
        })?;
        finished(&settled)?;
    }
    Ok(())
}

/// A reader that stops costs no more than the buffers, and gets every byte when it goes on.
fn stopped_reader(kernel: &Kernel) -> Outcome {
    const LIMIT: u32 = 64 * 1024;
    /// The largest message that is let by just below a limit, and what user space has in hand.
    const SLACK: usize = 64 * 1024 + BUFFER_SIZE;
    let (peers, ours) = flow().map_err(text)?;
    let sizes = Sizes { send_buffer: 128 * 1024, backlog_limit: LIMIT };
    let Peers { mut client, mut upstream } = peers;
    SockRef::from(&client).set_send_buffer_size(SMALL_BUFFER).map_err(text)?;
    SockRef::from(&ours.client).set_recv_buffer_size(2 * SMALL_BUFFER).map_err(text)?;
    SockRef::from(&upstream).set_recv_buffer_size(SMALL_BUFFER).map_err(text)?;
    // What the kernel has made of the sizes: twice as much, which is what it counts by. An own size
    // ends its tuning, so that this is all that the flow may hold.
    let mut bound = LIMIT as usize + 2 * sizes.send_buffer as usize + SLACK;
    bound += SockRef::from(&client).send_buffer_size().map_err(text)?;
    for socket in [&ours.client, &upstream] {
        bound += SockRef::from(socket).recv_buffer_size().map_err(text)?;
    }
    // One that has more already keeps it.
    SockRef::from(&ours.upstream).set_send_buffer_size(SMALL_BUFFER).map_err(text)?;
    client.set_nonblocking(true).map_err(text)?;
    let ((), settled) = spliced(kernel, ours, 0, sizes, Stay::ToTheEnd, move || {
        // Write until nothing has been taken for a while: TCP's back-pressure has reached us.
        let data = pattern(bound + 1);
        let mut sent = 0;
        let mut stuck_since = Instant::now();
        while sent < data.len() && stuck_since.elapsed() < Duration::from_millis(30) {
            match client.write(&data[sent..data.len().min(sent + 65_536)]) {
                Ok(0) => break,
                Ok(written) => {
                    sent += written;
                    stuck_since = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(text(error)),
            }
        }
        if sent > bound {
            return Err(format!("more than {bound} bytes went to a reader that does not read"));
        }
        drop_after(client, || expect(&mut upstream, &data[..sent]))
    })?;
    finished(&settled)
}

/// A flow that leaves the kernel relay while bytes go both ways loses none of them.
fn leaving(kernel: &Kernel) -> Outcome {
    const SOME: usize = 1 << 20;
    let (peers, ours) = flow().map_err(text)?;
    let ((to_client, client_told), (to_upstream, upstream_told)) =
        (mpsc::channel(), mpsc::channel());
    let stay = Stay::Briefly([to_client, to_upstream]);
    let ((), settled) = spliced(kernel, ours, 0, SIZES, stay, move || {
        thread::scope(|scope| {
            let talk = |mut stream: StdStream, left: mpsc::Receiver<()>| {
                let mut reader = stream.try_clone().map_err(text)?;
                let data = pattern(SOME);
                thread::scope(|scope| {
                    let reading = scope.spawn(|| {
                        expect(&mut reader, &data)?;
                        expect_end(&mut reader)
                    });
                    stream.write_all(&data[..SOME / 2]).map_err(text)?;
                    left.recv().map_err(|_| "the flow did not leave".to_owned())?;
                    stream.write_all(&data[SOME / 2..]).map_err(text)?;
                    stream.shutdown(std::net::Shutdown::Write).map_err(text)?;
                    reading.join().map_err(|_| "a reader panicked".to_owned())?
                })
            };
            let upstream = scope.spawn(move || talk(peers.upstream, upstream_told));
            talk(peers.client, client_told)?;
            upstream.join().map_err(|_| "a peer panicked".to_owned())?
        })
    })?;
    finished(&settled)
}

/// Runs `work`, with the end of `stream` (a FIN) before it.
fn drop_after(stream: StdStream, work: impl FnOnce() -> Outcome) -> Outcome {
    stream.shutdown(std::net::Shutdown::Write).map_err(text)?;
    let outcome = work();
    drop(stream);
    outcome
}
