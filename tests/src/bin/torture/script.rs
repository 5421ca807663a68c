//! What a flow does: everything about it follows from the seed and its number.

use std::{fmt, time::Duration};

use crate::random::{HEAD, Random};

/// `Gate::need` for "the peer's stream has ended".
pub(crate) const END: u64 = u64::MAX;

/// A flow.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Its kind, for the report.
    pub(crate) shape: Shape,
    /// Which of the two listeners it connects to: the other one sniffs a few bytes only, so that
    /// the handoff finds a segment half-read.
    pub(crate) short_sniff: bool,
    /// Client to server, the head included.
    pub(crate) up: Way,
    /// Server to client.
    pub(crate) down: Way,
    /// How it ends.
    pub(crate) end: End,
    /// `SO_RCVBUF` and `SO_SNDBUF` of the client, bytes.
    pub(crate) client: Buffers,
    /// The same of the server.
    pub(crate) server: Buffers,
}

/// What a flow's traffic is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Both ways at once, all sizes of writes.
    Duplex,
    /// Requests and responses.
    Conversation,
    /// Many bytes each way, large writes.
    Bulk,
    /// A stream of writes of a few bytes.
    Tiny,
}

/// One way of a flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way {
    /// Bytes.
    pub(crate) total: u64,
    /// Sizes of the first writes.
    pub(crate) first: Vec<u64>,
    /// Smallest and largest of the others.
    pub(crate) writes: (u64, u64),
    /// Places where the sender waits for something to be received.
    pub(crate) gates: Vec<Gate>,
    /// Pauses of the sender after a write, per thousand.
    pub(crate) pauses: u64,
    /// Size of the receiver's reads.
    pub(crate) reads: usize,
    /// Places where the receiver stops reading, and for how long.
    pub(crate) stalls: Vec<(u64, Duration)>,
    /// `TCP_NODELAY` at the sender.
    pub(crate) nodelay: bool,
}

/// The sender stops at an offset until so many bytes were received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    pub(crate) at: u64,
    pub(crate) need: u64,
}

/// Sizes of a socket's buffers, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) receive: Option<u32>,
    pub(crate) send: Option<u32>,
}

impl fmt::Display for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |size: Option<u32>| size.map_or("-".to_owned(), |size| size.to_string());
        write!(f, "{}/{}", size(self.receive), size(self.send))
    }
}

/// How a flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Each side ends its stream when it has sent everything.
    Both,
    /// The server sends its last quarter after the client's end.
    ClientFirst,
    /// The client sends its last quarter after the server's end.
    ServerFirst,
    /// One side resets the connection.
    Reset { by: Peer, at: ResetAt },
}

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Server,
}

impl Peer {
    /// The other one.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// When a reset is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetAt {
    /// After so many bytes sent.
    Sent(u64),
    /// After so many bytes received.
    Received(u64),
}

/// Bounds of the flows' sizes, bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Of one way of most flows.
    pub(crate) most: u64,
    /// Of one way of a bulk flow.
    pub(crate) bulk: u64,
    /// Largest write.
    pub(crate) write: u64,
    /// Flows out of a thousand whose peers have small socket buffers.
    pub(crate) small_buffers: u64,
}

impl Script {
    /// The script of a flow.
    pub(crate) fn new(seed: u64, flow: u64, sizes: Sizes) -> Self {
        let mut random = Random::new(seed, flow, 1);
        let shape = match random.below(100) {
            0..50 => Shape::Duplex,
            50..75 => Shape::Conversation,
            75..87 => Shape::Bulk,
            _ => Shape::Tiny,
        };
        let client = buffers(&mut random, sizes);
        let server = buffers(&mut random, sizes);
        let [mut up, mut down] = match shape {
            Shape::Conversation => conversation(&mut random),
            Shape::Duplex | Shape::Bulk | Shape::Tiny => {
                [(); 2].map(|()| stream(&mut random, shape, sizes))
            }
        };
        if shape != Shape::Conversation {
            up.total = up.total.min(bearable(client.send, server.receive));
            down.total = down.total.min(bearable(server.send, client.receive));
        }
        up.total += HEAD as u64;
        for gate in &mut up.gates {
            gate.at += HEAD as u64;
        }
        for gate in &mut down.gates {
            gate.need = gate.need.saturating_add(HEAD as u64);
        }
        up.first = first_writes(&mut random, sizes);
        for way in [&mut up, &mut down] {
            way.stalls = stalls(&mut random, way.total);
        }
        let end = end(&mut random, &up, &down);
        match end {
            End::ClientFirst => wait_for_end(&mut down),
            End::ServerFirst => wait_for_end(&mut up),
            End::Both | End::Reset { .. } => {}
        }
        let short_sniff = random.chance(400);
        Self { shape, short_sniff, up, down, end, client, server }
    }

    /// Whether it ends with a reset.
    pub(crate) const fn resets(&self) -> bool {
        matches!(self.end, End::Reset { .. })
    }
}

fn stream(random: &mut Random, shape: Shape, sizes: Sizes) -> Way {
    let way = Way {
        pauses: 20,
        reads: random.log_uniform(100, 128 << 10) as usize,
        nodelay: random.chance(500),
        ..Way::default()
    };
    match shape {
        Shape::Bulk => Way {
            total: random.log_uniform(sizes.bulk / 8, sizes.bulk),
            writes: (sizes.write / 8, sizes.write),
            pauses: 2,
            reads: random.log_uniform(4 << 10, 256 << 10) as usize,
            ..way
        },
        Shape::Tiny => Way {
            total: random.log_uniform(1, 50_000),
            writes: (1, random.log_uniform(1, 64)),
            nodelay: random.chance(900),
            ..way
        },
        Shape::Duplex | Shape::Conversation => {
            Way { total: random.log_uniform(1, sizes.most), writes: (1, sizes.write), ..way }
        }
    }
}

/// Requests (the first is sent with the head) and responses; both ways wait for each other.
fn conversation(random: &mut Random) -> [Way; 2] {
    let mut ways = [(); 2].map(|()| Way {
        writes: (1, 64 << 10),
        reads: 64 << 10,
        nodelay: true,
        ..Way::default()
    });
    let largest = random.log_uniform(64, 64 << 10);
    let [up, down] = &mut ways;
    for _ in 0..random.log_uniform(1, 150) {
        if up.total > 0 {
            up.gates.push(Gate { at: up.total, need: down.total });
        }
        up.total += random.log_uniform(1, largest);
        down.gates.push(Gate { at: down.total, need: up.total });
        down.total += random.log_uniform(1, largest);
    }
    ways
}

/// Bytes that go through buffers of these sizes in a few seconds: a window of less than a
/// loopback segment moves a few times a second only, without mux as well as with it.
fn bearable(send: Option<u32>, receive: Option<u32>) -> u64 {
    let smallest = send.into_iter().chain(receive).min();
    smallest.map_or(u64::MAX, |size| u64::from(size) * 16)
}

/// Adds a last part to a way, which is sent after the other way's end.
fn wait_for_end(way: &mut Way) {
    way.gates.push(Gate { at: way.total, need: END });
    way.total += 1 + way.total / 4;
}

fn first_writes(random: &mut Random, sizes: Sizes) -> Vec<u64> {
    let head = HEAD as u64;
    match random.below(4) {
        0 => vec![head],
        1 => vec![1, random.log_uniform(1, 10), 3],
        _ => vec![head + random.log_uniform(1, sizes.write)],
    }
}

fn stalls(random: &mut Random, total: u64) -> Vec<(u64, Duration)> {
    let count = if random.chance(600) { 0 } else { 1 + random.below(2) };
    let mut stalls: Vec<_> = (0..count)
        .map(|_| (random.below(total), Duration::from_millis(random.log_uniform(50, 800))))
        .collect();
    stalls.sort_unstable();
    stalls
}

fn end(random: &mut Random, up: &Way, down: &Way) -> End {
    match random.below(100) {
        0..25 => End::ClientFirst,
        25..50 => End::ServerFirst,
        50..80 => End::Both,
        _ => {
            let (by, sent, received) = if random.chance(500) {
                (Peer::Client, up.total, down.total)
            } else {
                (Peer::Server, down.total, up.total)
            };
            // The server learns which flow it is from the head, which must have gone before.
            let floor = if by == Peer::Client { HEAD as u64 } else { 0 };
            let at = if random.chance(500) {
                ResetAt::Sent(floor + random.below(sent - floor))
            } else {
                ResetAt::Received(1 + random.below(received))
            };
            End::Reset { by, at }
        }
    }
}

fn buffers(random: &mut Random, sizes: Sizes) -> Buffers {
    let mut size = || random.chance(sizes.small_buffers).then(|| random.log_uniform(2304, 65_536));
    Buffers { receive: size().map(|size| size as u32), send: size().map(|size| size as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes =
        Sizes { most: 1 << 20, bulk: 8 << 20, write: 256 << 10, small_buffers: 300 };

    #[test]
    fn no_script_waits_for_itself() {
        for flow in 0..3000 {
            let script = Script::new(1, flow, SIZES);
            let ways = [&script.up, &script.down];
            let mut sent = [0, 0];
            loop {
                let before = sent;
                for (index, way) in ways.iter().enumerate() {
                    let other = 1 - index;
                    let received = if sent[other] == ways[other].total { END } else { sent[other] };
                    let closed = way
                        .gates
                        .iter()
                        .find(|gate| gate.at >= sent[index] && gate.need > received);
                    sent[index] = closed.map_or(way.total, |gate| gate.at.min(way.total));
                }
                if sent == before {
                    break;
                }
            }
            assert_eq!(sent, [script.up.total, script.down.total], "{flow}: {script:?}");
        }
    }

    #[test]
    fn every_shape_and_end_comes_up() {
        let scripts: Vec<_> = (0..500).map(|flow| Script::new(2, flow, SIZES)).collect();
        for shape in [Shape::Duplex, Shape::Conversation, Shape::Bulk, Shape::Tiny] {
            assert!(scripts.iter().any(|script| script.shape == shape), "{shape:?}");
        }
        for end in [End::Both, End::ClientFirst, End::ServerFirst] {
            assert!(scripts.iter().any(|script| script.end == end), "{end:?}");
        }
        assert!(scripts.iter().filter(|script| script.resets()).count() > 50);
        assert!(scripts.iter().all(|script| script.up.total > HEAD as u64));
    }
}
