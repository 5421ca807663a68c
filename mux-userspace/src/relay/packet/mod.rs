//! The packet relay: user space's part of it.
//!
//! `PACKET-LIFECYCLE.md` has the states, who owns which byte at each instant, and the invariants.
//! A flow is [offered](offer) while user space goes on copying it; the kernel's program turns it on
//! at a packet that finds nothing under way, and from then on the two ends speak to each other.
//! What is left to do here is to carry what still comes to our sockets, to see the end, and to
//! close them.

pub mod books;
pub mod eligible;

use std::{io, os::fd::AsFd, time::Duration};

use mux_common::packet::Numbers;
use rustix::net::sockopt;
use socket2::{Protocol, SockRef};

use self::{
    books::{Mark, Standing, Told},
    eligible::{Facts, Ineligible},
};
use super::{Ends, Side, Tally, Way};
use crate::{
    kernel::packet::{self, Offered, PacketHandle, Snapshot},
    net::{Stream, Tcp, route::Routes},
    sys,
};

/// How long a flow that is over is still translated: what is on its way, or repeated, arrives.
pub const LINGER: Duration = Duration::from_secs(2);

/// A core's way to the packet relay.
#[derive(Debug)]
pub struct Gate {
    /// To the maps.
    pub handle: PacketHandle,
    /// To the routes.
    pub routes: Routes,
    /// Where the programs are attached, by number.
    pub devices: Box<[u32]>,
    /// The kernel gives packets from outside to any socket of this machine.
    pub assigns: bool,
}

/// A flow that is offered, or on. Given up by `Drop`.
#[derive(Debug)]
pub struct Packets<'a> {
    offered: Offered<'a>,
    /// Each way's at the offer: of what is taken from its source,
    marks: [Mark; 2],
    /// and of what its destination is given.
    written: [Mark; 2],
}

/// What becomes of a flow whose offer is taken back.
#[derive(Debug)]
pub enum Withdrawn<'a> {
    /// User space goes on with it.
    Back,
    /// Too late: it is on.
    On(Packets<'a>),
}

/// Offers a flow. No byte of it may be in user space's hands, and both streams must be open.
///
/// # Errors
/// [`Ineligible`]: it stays in user space, unchanged.
pub fn offer<'a>(
    gate: &'a Gate,
    ends: &Ends,
    tally: &Tally,
    cookie: u64,
) -> Result<Packets<'a>, Ineligible> {
    let client = facts(gate, &ends.client, Side::Downstream)?;
    let upstream = facts(gate, &ends.upstream, Side::Upstream)?;
    let eligible::Terms { client, upstream, timestamps } =
        eligible::judge(&client, &upstream, gate.assigns)?;
    let pair = gate.handle.take_pair().ok_or(Ineligible::Full)?;
    let sequences =
        gate.handle.look(&client.ends, &upstream.ends).map_err(failed("looking at the sockets"))?;
    let offer = packet::Offer { client, upstream, sequences, timestamps, cookie };
    let packet::Sequences { client: ours, upstream: theirs } = sequences;
    let (up, down) = (&tally.up, &tally.down);
    let marks = [
        Mark { taken: up.taken, seq: ours.copied_seq },
        Mark { taken: down.taken, seq: theirs.copied_seq },
    ];
    let written = [
        Mark { taken: up.given, seq: theirs.write_seq },
        Mark { taken: down.given, seq: ours.write_seq },
    ];
    let offered = gate.handle.offer(pair, &offer).map_err(|error| match error {
        packet::OfferError::Families => Ineligible::Families,
        packet::OfferError::Gone => Ineligible::Ending,
        packet::OfferError::Refused { action, source } => {
            Ineligible::Failed { action, reason: source.to_string() }
        }
    })?;
    Ok(Packets { offered, marks, written })
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> Ineligible {
    move |error| match error.raw_os_error() {
        Some(libc::ENOTCONN) => Ineligible::Ending,
        _ => Ineligible::Failed { action, reason: error.to_string() },
    }
}

fn facts(gate: &Gate, stream: &Stream, side: Side) -> Result<Facts, Ineligible> {
    let Stream::Tcp(socket) = stream else { return Err(Ineligible::NotPlain(side)) };
    let terms = sys::tcp_terms(socket.as_fd()).map_err(failed("reading TCP_INFO"))?;
    let own = socket.local_addr().map_err(failed("reading an address"))?;
    let peer = socket.peer_addr().map_err(failed("reading an address"))?;
    let protocol = SockRef::from(socket).protocol().map_err(failed("reading SO_PROTOCOL"))?;
    let device = SockRef::from(socket).device().map_err(failed("reading SO_BINDTODEVICE"))?;
    let ends = packet::Ends::new(peer, own);
    let route =
        gate.routes.find(ends.peer, Some(ends.own.ip())).map_err(|_| Ineligible::NoRoute(side))?;
    Ok(Facts {
        own,
        peer,
        terms,
        is_plain: protocol == Some(Protocol::TCP),
        is_bound: device.is_some(),
        route,
        is_attached: gate.devices.contains(&route.interface),
    })
}

/// The longest packet that the path to a socket's peer is known to take now.
fn path_mtu(gate: &Gate, socket: &Tcp) -> Option<u32> {
    let ends = packet::Ends::new(socket.peer_addr().ok()?, socket.local_addr().ok()?);
    let route = gate.routes.find(ends.peer, Some(ends.own.ip())).ok().and_then(|route| route.mtu);
    let known = if ends.own.is_ipv4() { sockopt::ip_mtu } else { sockopt::ipv6_mtu };
    let known = known(socket).ok().filter(|mtu| *mtu > 0);
    known.into_iter().chain(route).min()
}

impl<'a> Packets<'a> {
    /// The number of its records.
    #[must_use]
    pub const fn pair(&self) -> u32 {
        self.offered.pair().index()
    }

    fn snapshots(&self) -> [Snapshot; 2] {
        Way::BOTH.map(|way| self.offered.record(way).snapshot())
    }

    /// How the flow stands. `ended`: ways whose end user space has passed on.
    #[must_use]
    pub fn standing(&self, ends: &Ends, told: Told, ended: [bool; 2]) -> Standing {
        let ours = Way::BOTH.map(|way| {
            let destination = ends.end(Side::destination(way));
            // The end counts as a byte until it is acknowledged.
            ended[way.index()]
                && sys::unacknowledged(destination.as_fd()).is_ok_and(|count| count == 0)
        });
        books::standing(books::both(|| self.snapshots()), told, ours)
    }

    /// Takes the offer back.
    #[must_use]
    pub fn withdraw(self) -> Withdrawn<'a> {
        let Self { offered, marks, written } = self;
        match offered.withdraw() {
            Ok(()) => Withdrawn::Back,
            Err(offered) => Withdrawn::On(Self { offered, marks, written }),
        }
    }

    /// Makes our sockets fit for a flow that is on (P4): they must not probe a peer that no longer
    /// answers them, and whatever closes them, also the end of this process, must not send a FIN
    /// that is out of place.
    pub fn silence(ends: &Ends) {
        for socket in [ends.client.as_fd(), ends.upstream.as_fd()] {
            let socket = SockRef::from(&socket);
            // Neither fails on a TCP socket.
            let _ = socket.set_keepalive(false);
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Sees to it that what an interface, a route or a path has become too short for is not sent on,
    /// to vanish again and again (P11): the program tells of it, and the flow ends.
    ///
    /// Our sockets send nothing, so the kernel finds no new route for them: it is asked for that one
    /// as well.
    pub fn follow_paths(&self, gate: &Gate, ends: &Ends) {
        for way in Way::BOTH {
            let Stream::Tcp(socket) = ends.end(Side::destination(way)) else { continue };
            let record = self.offered.record(way);
            if record.is_bounded()
                && let Some(mtu) = path_mtu(gate, socket)
            {
                record.lower_mtu(mtu);
            }
        }
    }

    /// Bytes that went each way before the flow was on.
    #[must_use]
    pub fn before(&self, tally: &Tally) -> [u64; 2] {
        Way::BOTH.map(|way| {
            let start = self.offered.record(way).snapshot().start;
            self.marks[way.index()].before(tally.way(way).taken, start)
        })
    }

    /// Has the acknowledgements of what user space has carried late go to the sockets that wait for
    /// them (P6). `ended`: ways whose end it has passed on.
    pub fn await_acks(&self, tally: &Tally, ended: [bool; 2]) {
        let after = |mark: Mark, bytes: u64, way: Way| {
            let moved = bytes.wrapping_sub(mark.taken) as u32;
            mark.seq.wrapping_add(moved).wrapping_add(u32::from(ended[way.index()]))
        };
        for way in Way::BOTH {
            // The socket that this way's bytes are written to, and the other way's are read from. A
            // look would say the same, but for one whose stream has ended.
            let (here, back) = (way.index(), way.back());
            let own = Numbers {
                found: 1,
                write_seq: after(self.written[here], tally.way(way).given, way),
                rcv_nxt: after(self.marks[back.index()], tally.way(back).taken, back),
                ..Numbers::default()
            };
            self.offered.record(back).want_ack(&own);
        }
    }

    /// Ends the flow (P12), or what is left of one that has ended by itself, and brings its counts up to
    /// date. The flow itself is to be kept for [`LINGER`].
    pub fn close(&self, ends: Ends, tally: &mut Tally) {
        // Whatever `SO_LINGER` was before.
        Self::silence(&ends);
        self.offered.stop();
        drop(ends);
        // After the sockets were closed: a packet that was in the program's hands on another CPU when the
        // flow was stopped is counted by then.
        self.settle(tally);
    }

    fn settle(&self, tally: &mut Tally) {
        let before = self.before(tally);
        for way in Way::BOTH {
            let translated = self.offered.record(way).snapshot().bytes;
            let traffic = tally.way_mut(way);
            traffic.taken = books::carried(before[way.index()], traffic.taken, translated);
            traffic.given = books::carried(before[way.index()], traffic.given, translated);
        }
    }

    /// Why its moment has not come: what the last packet lacked.
    #[must_use]
    pub fn refusal(&self) -> &'static str {
        let [up, down] = self.snapshots();
        let last = if up.refusals >= down.refusals { up } else { down };
        packet::refusal_name(last.refusal)
    }
}

/// The core's name of a flow that events carry: its core, its key there, and so much of its id as
/// tells it from the key's former ones.
#[must_use]
pub const fn cookie(core: u16, key: usize, id: u64) -> u64 {
    (core as u64) << 48 | (key as u64 & 0xff_ffff) << 24 | id & 0xff_ffff
}

/// The core and the key there.
#[must_use]
pub const fn address(cookie: u64) -> (u16, usize) {
    ((cookie >> 48) as u16, (cookie >> 24 & 0xff_ffff) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_leads_back_to_its_flow() {
        let one = cookie(0xffff, 0xff_fffe, 0x1234_5678_9abc_def0);
        assert_eq!(address(one), (0xffff, 0xff_fffe));
        assert_ne!(one, cookie(0xffff, 0xff_fffe, 0x1234_5678_9abc_def1));
    }
}
