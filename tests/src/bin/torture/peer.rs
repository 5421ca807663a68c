//! One end of a flow: sends and checks what its script says, both ways at once.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

use crate::{
    board::{Board, Flow, Outcome},
    random::{Pattern, Random},
    script::{Buffers, END, End, Peer, ResetAt, Way},
};

/// Longest pause of a sender.
const PAUSE_MS: u64 = 50;
/// Most pauses of a sender, so that a stream of tiny writes ends in time.
const PAUSES: u64 = 20;

/// Why an end stops before its script is over.
#[derive(Debug)]
enum Stop {
    /// The script says so.
    Reset,
    /// A system call failed.
    Failed(String),
    /// A byte was not what belonged there.
    Wrong(String),
}

/// What both halves of an end share.
struct Side<'a> {
    flow: &'a Flow,
    peer: Peer,
    sent: Cell<u64>,
    received: watch::Sender<u64>,
    counted: Cell<u64>,
    ended: Cell<bool>,
    reset: Option<ResetAt>,
    /// The reset is due: nothing more is sent.
    resetting: Cell<bool>,
    random: RefCell<Random>,
}

/// Plays one end of a flow of `board`; `received` bytes of its stream (right ones) were read before.
pub(crate) async fn play(
    mut stream: TcpStream,
    flow: &Flow,
    peer: Peer,
    received: u64,
    board: &Board,
) -> Outcome {
    let reset = match flow.script.end {
        End::Reset { by, at } if by == peer => Some(at),
        End::Reset { .. } | End::Both | End::ClientFirst | End::ServerFirst => None,
    };
    let end = Side {
        flow,
        peer,
        sent: Cell::new(0),
        received: watch::Sender::new(received),
        counted: Cell::new(received),
        ended: Cell::new(false),
        reset,
        resetting: Cell::new(false),
        random: RefCell::new(Random::new(flow.seed, flow.number, 2 + peer as u64)),
    };
    let (source, sink) = match peer {
        Peer::Client => (&flow.script.down, &flow.script.up),
        Peer::Server => (&flow.script.up, &flow.script.down),
    };
    let _ = stream.set_nodelay(sink.nodelay);
    let (reader, writer) = stream.split();
    let result = {
        let both = async { tokio::try_join!(end.receive(reader, source), end.send(writer, sink)) };
        tokio::select! {
            result = both => Some(result),
            () = flow.stuck(board.deadline) => None,
        }
    };
    let mut outcome = Outcome {
        sent: end.sent.get(),
        received: end.counted.get(),
        ended: end.ended.get(),
        hung: result.is_none(),
        ..Outcome::default()
    };
    if outcome.hung {
        board.autopsy.of(flow);
    }
    match result {
        Some(Ok(((), ()))) => {}
        Some(Err(Stop::Reset)) => outcome.reset = true,
        Some(Err(Stop::Failed(error))) => outcome.error = Some(error),
        Some(Err(Stop::Wrong(what))) => outcome.wrong = Some(what),
        None => {}
    }
    if outcome.reset || outcome.hung || outcome.wrong.is_some() {
        // RST: the other end must not take this for the end of the stream.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
    outcome
}

impl Side<'_> {
    async fn send(&self, mut writer: WriteHalf<'_>, way: &Way) -> Result<(), Stop> {
        let failed = |error: std::io::Error| Stop::Failed(format!("write: {error}"));
        let pattern = self.flow.pattern(self.peer);
        let mut received = self.received.subscribe();
        let mut first = way.first.iter();
        let mut gates = way.gates.iter().peekable();
        let mut pauses = 0;
        let mut sent = 0;
        loop {
            if self.reset == Some(ResetAt::Sent(sent)) {
                return self.reset(writer.as_ref()).await;
            }
            if sent == way.total {
                break;
            }
            while let Some(gate) = gates.next_if(|gate| gate.at <= sent) {
                // It fails only if `self` is gone.
                let _ = received.wait_for(|received| *received >= gate.need).await;
            }
            let opening = first.next();
            let size = self.write_size(way, opening, sent, gates.peek().map(|gate| gate.at));
            let mut bytes = vec![0; size];
            pattern.fill(&mut bytes, sent);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                if self.resetting.get() {
                    return std::future::pending().await;
                }
                let written = writer.write(rest).await.map_err(failed)?;
                rest = &rest[written..];
                sent += written as u64;
                self.sent.set(sent);
                self.moved(written);
            }
            let pause = {
                let mut random = self.random.borrow_mut();
                let chance = if opening.is_some() { 300 } else { way.pauses };
                (pauses < PAUSES && random.chance(chance))
                    .then(|| Duration::from_millis(random.log_uniform(1, PAUSE_MS)))
            };
            if let Some(pause) = pause {
                pauses += 1;
                tokio::time::sleep(pause).await;
            }
        }
        if self.reset.is_some() {
            // A stream that has ended could not be told from one that was reset.
            return std::future::pending().await;
        }
        writer.shutdown().await.map_err(|error| Stop::Failed(format!("shutdown: {error}")))
    }

    /// How much to write next.
    fn write_size(&self, way: &Way, first: Option<&u64>, sent: u64, gate: Option<u64>) -> usize {
        let (low, high) = way.writes;
        let size =
            first.copied().unwrap_or_else(|| self.random.borrow_mut().log_uniform(low, high));
        let mut most = gate.unwrap_or(way.total).min(way.total) - sent;
        if let Some(ResetAt::Sent(at)) = self.reset {
            most = most.min(at - sent);
        }
        size.min(most) as usize
    }

    async fn receive(&self, mut reader: ReadHalf<'_>, way: &Way) -> Result<(), Stop> {
        let pattern = self.flow.pattern(self.peer.other());
        let mut buffer = vec![0; way.reads.max(1)];
        let mut scratch = Vec::new();
        let mut stalls = way.stalls.iter().peekable();
        let mut at = self.counted.get();
        loop {
            if matches!(self.reset, Some(ResetAt::Received(most)) if at >= most) {
                return self.reset(reader.as_ref()).await;
            }
            while let Some((_, pause)) = stalls.next_if(|(offset, _)| *offset <= at) {
                tokio::time::sleep(*pause).await;
            }
            let read = reader.read(&mut buffer).await;
            let read = read.map_err(|error| Stop::Failed(format!("read: {error}")))?;
            if read == 0 {
                self.ended.set(true);
                self.received.send_replace(END);
                return Ok(());
            }
            let bytes = &buffer[..read];
            if let Some(index) = pattern.first_wrong(bytes, at, &mut scratch) {
                self.counted.set(at + index as u64);
                return Err(Stop::Wrong(describe(&pattern, at, index, bytes, way.total)));
            }
            at += read as u64;
            if at > way.total {
                return Err(Stop::Wrong(format!("{at} bytes of {} came", way.total)));
            }
            self.counted.set(at);
            self.received.send_replace(at);
            self.moved(read);
        }
    }

    async fn reset(&self, stream: &TcpStream) -> Result<(), Stop> {
        let pause = self.random.borrow_mut().below(20);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if self.flow.lossy {
            // A reset behind a lost segment is not taken at its word but asked about (RFC 5961),
            // and where question or answer are lost, nobody repeats them: the other end may
            // never know. That is TCP's doing; so here the reset follows the last byte's
            // acknowledgement.
            self.resetting.set(true);
            while mux_tests::sys::unacknowledged(stream).is_ok_and(|bytes| bytes > 0) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Err(Stop::Reset)
    }

    fn moved(&self, bytes: usize) {
        self.flow.progress.fetch_add(bytes as u64, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Says what came instead of the right bytes.
fn describe(pattern: &Pattern, at: u64, index: usize, bytes: &[u8], total: u64) -> String {
    let offset = at + index as u64;
    let found = pattern.find(&bytes[index..], total);
    let from = found.map_or_else(
        || "bytes of no place in this stream".to_owned(),
        |place| match place.cmp(&offset) {
            std::cmp::Ordering::Less => format!("offset {place}: {} repeated", offset - place),
            _ => format!("offset {place}: {} missing", place - offset),
        },
    );
    format!("at offset {offset} came {from}")
}

/// Sizes a socket's buffers.
pub(crate) fn size(stream: SockRef<'_>, buffers: Buffers) {
    // A size that the kernel does not like is another one, and as good.
    if let Some(size) = buffers.receive {
        let _ = stream.set_recv_buffer_size(size as usize);
    }
    if let Some(size) = buffers.send {
        let _ = stream.set_send_buffer_size(size as usize);
    }
}
