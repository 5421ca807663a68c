//! Where packets to an address go: the kernel's answer over route netlink (rtnetlink(7)), which
//! needs no privileges.
//!
//! One question, one answer; nothing is dumped, cached or changed.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
};

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface that they leave by; `lo` for an address of this machine.
    pub interface: u32,
    /// The address is this machine's own.
    pub is_local: bool,
    /// The longest packet, if the route says one or the path was found to take no longer ones; else
    /// the interface's counts.
    pub mtu: Option<u32>,
}

/// Asks the kernel.
#[derive(Debug)]
pub struct Routes {
    socket: OwnedFd,
    sequence: Cell<u32>,
}

// include/uapi/linux/netlink.h and rtnetlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct rtmsg`.
const ROUTE: usize = 12;
/// `struct rtattr`.
const ATTRIBUTE: usize = 4;

impl Routes {
    /// Opens the way to ask.
    ///
    /// # Errors
    /// socket(2)'s.
    pub fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 of the family is NETLINK_ROUTE.
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Where packets to an address go that come from `from`, if that is given. The kernel answers
    /// before the system call that asks returns.
    ///
    /// # Errors
    /// The kernel's: `ENETUNREACH` where there is no route, …; an answer that makes no sense.
    pub fn find(&self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<Route> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let kernel = SocketAddrNetlink::new(0, 0);
        let question = question(sequence, to, from);
        rustix::net::sendto(&self.socket, &question, SendFlags::empty(), &kernel)?;
        let mut answer = [0; 1024];
        loop {
            let (length, _) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty())?;
            // What was left unread of an earlier question is passed over.
            if let Some(route) = read(&answer[..length], sequence)? {
                return Ok(route);
            }
        }
    }
}

fn question(sequence: u32, to: SocketAddr, from: Option<IpAddr>) -> Vec<u8> {
    let (family, bits) = if to.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
    let mut message = vec![0; HEADER];
    let source_bits = if from.is_some() { bits } else { 0 };
    message.extend([family as u8, bits, source_bits, 0, 0, 0, 0, 0]);
    message.extend(0_u32.to_ne_bytes());
    attribute(&mut message, RTA_DST, &octets(to.ip()));
    if let Some(from) = from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
        attribute(&mut message, RTA_SRC, &octets(from));
    }
    // A link-local address means nothing without its link.
    if let SocketAddr::V6(to) = to
        && to.scope_id() != 0
    {
        attribute(&mut message, RTA_OIF, &to.scope_id().to_ne_bytes());
    }
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_GETROUTE.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
    message
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Its length is a multiple of four.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
}

/// The value of the first attribute of this kind.
fn value(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some(([a, b, c, d], _)) = attributes.split_first_chunk::<ATTRIBUTE>() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = attributes.get(ATTRIBUTE..length)?;
        if u16::from_ne_bytes([*c, *d]) == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn number(attributes: &[u8], wanted: u16) -> Option<u32> {
    value(attributes, wanted)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The answer to the question of this number; `None`: it is to another one.
fn read(message: &[u8], sequence: u32) -> io::Result<Option<Route>> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "an odd answer over netlink");
    let u16_at = |at: usize| message.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let u32_at =
        |at: usize| message.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if u32_at(8).ok_or_else(odd)? != sequence {
        return Ok(None);
    }
    match u16_at(4).ok_or_else(odd)? {
        NLMSG_ERROR => {
            let code = u32_at(HEADER).ok_or_else(odd)? as i32;
            Err(io::Error::from_raw_os_error(code.wrapping_neg()))
        }
        RTM_NEWROUTE => {
            let kind = *message.get(HEADER + 7).ok_or_else(odd)?;
            if !matches!(kind, RTN_UNICAST | RTN_LOCAL) {
                return Err(io::Error::from_raw_os_error(libc::ENETUNREACH));
            }
            let attributes = message.get(HEADER + ROUTE..).unwrap_or_default();
            let interface = number(attributes, RTA_OIF).ok_or_else(odd)?;
            let metrics = value(attributes, RTA_METRICS).unwrap_or_default();
            let mtu = number(metrics, RTAX_MTU).filter(|mtu| *mtu > 0);
            Ok(Some(Route { interface, is_local: kind == RTN_LOCAL, mtu }))
        }
        _ => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_on_lo() {
        let routes = Routes::new().expect("no privileges are needed");
        let lo = nix::net::if_::if_nametoindex("lo").expect("there is one");
        for to in ["127.0.0.1:1", "127.9.9.9:80", "[::1]:1"] {
            let to: SocketAddr = to.parse().expect("valid");
            let found = routes.find(to, None).expect("a route");
            assert!(found.interface == lo && found.is_local, "{to}: {found:?}");
            assert_eq!(routes.find(to, Some(to.ip())).expect("a route"), found);
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_another_questions_answer_is_passed_over() {
        for length in 0..HEADER {
            assert!(read(&vec![0; length], 7).map_or(true, |route| route.is_none()));
        }
        let mut message = question(7, "127.0.0.1:1".parse().expect("valid"), None);
        assert!(read(&message, 7).is_err(), "it is no answer");
        assert_eq!(read(&message, 8).expect("passed over"), None);
        message[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        // Without an interface, of whatever length its attributes claim to be.
        for length in 0..=u8::MAX {
            message[HEADER + ROUTE] = length;
            assert!(read(&message, 7).is_err());
        }
    }
}
