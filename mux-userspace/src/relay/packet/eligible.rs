//! Which flows may be offered to the packet relay, and why the others may not.
//!
//! After the hand-over the client and the upstream speak TCP to each other, so what each agreed on
//! with us must be what the two would have agreed on with each other. Pure: what is judged was
//! asked of the kernel before.

use std::net::SocketAddr;

use thiserror::Error;

use crate::{
    kernel::packet::{self, Out, Scales},
    net::route::Route,
    relay::Side,
    sys::TcpTerms,
};

/// `TCP_ESTABLISHED` (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
// `tcpi_options` (include/uapi/linux/tcp.h).
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const ECN: u8 = 8;
/// Timestamps in microseconds (6.7, commit 614e8316aa4c): the peer's and ours tick differently.
const MICROSECONDS: u8 = 64;
/// Bytes of the timestamps option, padded, in each segment.
const TIMESTAMPS_LENGTH: u32 = 12;
/// `TCP_MAXSEG` takes no more (`MAX_TCP_WINDOW`, include/net/tcp.h), and where more is possible,
/// on loopback, nothing has to be kept short.
const LONGEST_SETTABLE: u32 = 32_767;
/// `TCP_MIN_MSS`.
const SHORTEST_SETTABLE: u32 = 88;

/// What is known of one of a flow's connections.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Our socket's address and the peer's.
    pub own: SocketAddr,
    /// The peer's.
    pub peer: SocketAddr,
    /// What the two agreed on.
    pub terms: TcpTerms,
    /// It is TCP and nothing on top of it, such as MPTCP.
    pub is_plain: bool,
    /// Our socket is bound to an interface, as those of link-local addresses are.
    pub is_bound: bool,
    /// Where packets to the peer go.
    pub route: Route,
    /// The programs are attached there.
    pub is_attached: bool,
}

/// Why a flow may not be offered; what it prints is stable.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Ineligible {
    /// One of the streams has ended or failed already.
    #[error("a stream was ending already")]
    Ending,
    /// IPv4 here and IPv6 there.
    #[error("the client and the upstream speak different versions of IP")]
    Families,
    /// MPTCP.
    #[error("the {}'s connection is not plain TCP", end(*.0))]
    NotPlain(Side),
    /// Selective acknowledgements.
    #[error("one of the client and the upstream has SACK and the other has not")]
    Sack,
    /// Timestamps.
    #[error("one of the client and the upstream has timestamps and the other has not")]
    Timestamps,
    /// Explicit congestion notification.
    #[error("one of the client and the upstream has ECN and the other has not")]
    Ecn,
    /// `TCPI_OPT_USEC_TS`.
    #[error("a connection's timestamps are in microseconds")]
    Microseconds,
    /// `source = "transparent"`.
    #[error("the upstream is connected to from the client's address")]
    Transparent,
    /// `mux_look` runs on loopback, and finds no socket that is bound to another interface.
    #[error("the {}'s connection is bound to an interface (a link-local address, a VRF)", end(*.0))]
    Bound(Side),
    /// Packets from outside for a socket of this machine at an address that is not a loopback one:
    /// `bpf_sk_assign` refuses sockets with `SO_REUSEPORT` before 6.6 (commit 9c02bec95954), and
    /// whether the peer's has it cannot be seen from here.
    #[error("the {} is at an address of this machine that is not a loopback one, which needs Linux 6.6", end(*.0))]
    Assign(Side),
    /// The peer is behind an interface without the programs.
    #[error("packets to the {} use an interface that the packet relay is not attached to ([kernel] interfaces)", end(*.0))]
    NotAttached(Side),
    /// There is none, or it changed.
    #[error("there is no route to the {}", end(*.0))]
    NoRoute(Side),
    /// What we told the client to send at most is more than the upstream's path takes.
    #[error("the client may send longer packets than the way to the upstream takes")]
    ClientTooLong,
    /// The reverse.
    #[error("the upstream may send longer packets than the way to the client takes")]
    UpstreamTooLong,
    /// All records are in use.
    #[error("the maps are full")]
    Full,
    /// A system call or the kernel's half failed.
    #[error("{action}: {reason}")]
    Failed {
        /// What was done.
        action: &'static str,
        /// What was said.
        reason: String,
    },
}

const fn end(side: Side) -> &'static str {
    match side {
        Side::Downstream => "client",
        Side::Upstream => "upstream",
    }
}

/// The two connections as the kernel's half wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// M1, our socket towards the client.
    pub client: packet::Side,
    /// M2, our socket towards the upstream.
    pub upstream: packet::Side,
    /// Whether there are timestamps.
    pub timestamps: bool,
}

/// Judges a flow by its connections. `assigns`: the kernel gives packets from outside to any socket of
/// this machine.
///
/// # Errors
/// Why it may not be offered.
pub fn judge(client: &Facts, upstream: &Facts, assigns: bool) -> Result<Terms, Ineligible> {
    for (side, facts) in [(Side::Downstream, client), (Side::Upstream, upstream)] {
        if facts.terms.state != ESTABLISHED {
            return Err(Ineligible::Ending);
        }
        if !facts.is_plain {
            return Err(Ineligible::NotPlain(side));
        }
        if facts.is_bound {
            return Err(Ineligible::Bound(side));
        }
    }
    let ends = |facts: &Facts| packet::Ends::new(facts.peer, facts.own);
    if ends(client).own.is_ipv4() != ends(upstream).own.is_ipv4() {
        return Err(Ineligible::Families);
    }
    let both = client.terms.options | upstream.terms.options;
    let differ = client.terms.options ^ upstream.terms.options;
    if both & MICROSECONDS != 0 {
        return Err(Ineligible::Microseconds);
    }
    for (option, why) in
        [(SACK, Ineligible::Sack), (TIMESTAMPS, Ineligible::Timestamps), (ECN, Ineligible::Ecn)]
    {
        if differ & option != 0 {
            return Err(why);
        }
    }
    for (side, facts) in [(Side::Downstream, client), (Side::Upstream, upstream)] {
        if !facts.is_attached {
            return Err(Ineligible::NotAttached(side));
        }
    }
    for (side, facts, other) in
        [(Side::Downstream, client, upstream), (Side::Upstream, upstream, client)]
    {
        let is_here = facts.route.is_local && !ends(facts).peer.ip().is_loopback();
        if is_here && !other.route.is_local && !assigns {
            return Err(Ineligible::Assign(side));
        }
    }
    // An end may send what we told it to send at most, to the other one.
    let headers = if ends(client).own.is_ipv4() { 40 } else { 60 };
    if !client.takes(headers + upstream.terms.advertised_mss) {
        return Err(Ineligible::UpstreamTooLong);
    }
    if !upstream.takes(headers + client.terms.advertised_mss) {
        return Err(Ineligible::ClientTooLong);
    }
    let side = |facts: &Facts| packet::Side {
        ends: ends(facts),
        out: facts.out(),
        scales: Scales { peer: facts.terms.peer_scale, own: facts.terms.our_scale },
    };
    Ok(Terms { client: side(client), upstream: side(upstream), timestamps: both & TIMESTAMPS != 0 })
}

impl Facts {
    /// Whether the way to the peer takes IP packets of this length.
    const fn takes(&self, length: u32) -> bool {
        self.route.is_local || length <= self.terms.path_mtu
    }

    const fn out(&self) -> Out {
        if self.route.is_local {
            Out::Local
        } else {
            Out::Device { device: self.route.interface, mtu: self.terms.path_mtu }
        }
    }
}

/// The longest segment that the upstream must be told to send, so that the client's path takes it
/// (`TCP_MAXSEG`); `None`: nothing needs to be said.
///
/// Only while our socket towards the upstream is not connected this can be said. What we may send to
/// the client is what its SYN and its path allow.
#[must_use]
pub fn longest_segment(client: &TcpTerms) -> Option<u32> {
    if client.advertised_mss > LONGEST_SETTABLE {
        return None;
    }
    let options = if client.options & TIMESTAMPS == 0 { 0 } else { TIMESTAMPS_LENGTH };
    let longest = client.send_mss + options;
    (SHORTEST_SETTABLE..=LONGEST_SETTABLE).contains(&longest).then_some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: TcpTerms = TcpTerms {
        state: ESTABLISHED,
        options: TIMESTAMPS | SACK | 4,
        peer_scale: 7,
        our_scale: 9,
        send_mss: 1448,
        advertised_mss: 1460,
        path_mtu: 1500,
    };

    fn facts(own: &str, peer: &str) -> Facts {
        Facts {
            own: own.parse().expect("valid"),
            peer: peer.parse().expect("valid"),
            terms: ETHERNET,
            is_plain: true,
            is_bound: false,
            route: Route { interface: 2, is_local: false, mtu: None },
            is_attached: true,
        }
    }

    fn pair() -> (Facts, Facts) {
        (facts("10.0.0.1:443", "10.0.0.2:5000"), facts("10.1.0.1:6000", "10.1.0.2:80"))
    }

    #[test]
    fn a_flow_of_two_alike_is_eligible() {
        let (client, upstream) = pair();
        let Terms { client: ours, timestamps, .. } =
            judge(&client, &upstream, true).expect("eligible");
        assert!(timestamps);
        assert_eq!(ours.out, Out::Device { device: 2, mtu: 1500 });
        assert_eq!(ours.scales, Scales { peer: 7, own: 9 });
    }

    #[test]
    fn each_difference_has_its_reason() {
        let why = |change: &dyn Fn(&mut Facts, &mut Facts)| {
            let (mut client, mut upstream) = pair();
            change(&mut client, &mut upstream);
            judge(&client, &upstream, true).expect_err("not eligible")
        };
        let (down, up) = (Side::Downstream, Side::Upstream);
        assert_eq!(why(&|_, other| other.terms.state = 8), Ineligible::Ending);
        assert_eq!(why(&|one, _| one.is_plain = false), Ineligible::NotPlain(down));
        assert_eq!(why(&|_, other| other.is_bound = true), Ineligible::Bound(up));
        assert_eq!(why(&|one, _| one.terms.options ^= SACK), Ineligible::Sack);
        assert_eq!(why(&|_, other| other.terms.options ^= TIMESTAMPS), Ineligible::Timestamps);
        assert_eq!(why(&|one, _| one.terms.options |= ECN), Ineligible::Ecn);
        let microseconds = |one: &mut Facts, other: &mut Facts| {
            one.terms.options |= MICROSECONDS;
            other.terms.options |= MICROSECONDS;
        };
        assert_eq!(why(&microseconds), Ineligible::Microseconds);
        assert_eq!(why(&|_, other| other.is_attached = false), Ineligible::NotAttached(up));
        let families = |_: &mut Facts, other: &mut Facts| {
            *other = facts("[fd00::1]:6000", "[fd00::2]:80");
        };
        assert_eq!(why(&families), Ineligible::Families);
        assert_eq!(why(&|_, other| other.terms.path_mtu = 1499), Ineligible::ClientTooLong);
        assert_eq!(why(&|one, _| one.terms.path_mtu = 1499), Ineligible::UpstreamTooLong);
        // Loopback's packets are too long for any other interface, and not for itself.
        let loopback = |one: &mut Facts, _: &mut Facts| {
            one.terms.advertised_mss = 65_495;
            one.route.is_local = true;
        };
        assert_eq!(why(&loopback), Ineligible::ClientTooLong);
        let (mut one, mut other) = pair();
        loopback(&mut one, &mut other);
        loopback(&mut other, &mut one);
        assert_eq!(judge(&one, &other, true).expect("eligible").client.out, Out::Local);
    }

    #[test]
    fn before_6_6_packets_from_outside_go_to_no_socket_that_may_share_its_port() {
        let here = |facts: &mut Facts| facts.route.is_local = true;
        let (client, mut upstream) = pair();
        here(&mut upstream);
        assert!(judge(&client, &upstream, true).is_ok());
        let refused = Err(Ineligible::Assign(Side::Upstream));
        assert_eq!(judge(&client, &upstream, false), refused);
        let (mut client, upstream) = pair();
        here(&mut client);
        let refused = Err(Ineligible::Assign(Side::Downstream));
        assert_eq!(judge(&client, &upstream, false), refused);
        // Through the loopback device nothing is assigned.
        let (client, _) = pair();
        let mut upstream = facts("127.0.0.1:6000", "127.0.0.1:80");
        here(&mut upstream);
        assert!(judge(&client, &upstream, false).is_ok());
        let (mut client, mut upstream) = pair();
        here(&mut client);
        here(&mut upstream);
        assert!(judge(&client, &upstream, false).is_ok());
    }

    #[test]
    fn an_ipv4_address_in_ipv6s_clothes_is_ipv4() {
        let (_, upstream) = pair();
        let client = facts("[::ffff:10.0.0.1]:443", "[::ffff:10.0.0.2]:5000");
        let terms = judge(&client, &upstream, true).expect("eligible");
        assert!(terms.client.ends.own.is_ipv4() && terms.client.ends.peer.is_ipv4());
    }

    #[test]
    fn the_upstream_is_told_what_the_clients_path_takes() {
        assert_eq!(longest_segment(&ETHERNET), Some(1460));
        assert_eq!(longest_segment(&TcpTerms { options: 0, ..ETHERNET }), Some(1448));
        let loopback = TcpTerms { advertised_mss: 65_495, send_mss: 32_768, ..ETHERNET };
        assert_eq!(longest_segment(&loopback), None);
        assert_eq!(longest_segment(&TcpTerms { send_mss: 48, ..ETHERNET }), None);
    }
}
