//! The queues of one TCP socket, by sock_diag(7): /proc/net/tcp lists every socket of the machine,
//! and takes long to while thousands are in TIME_WAIT.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::deadline;

/// include/uapi/linux: `AF_NETLINK`, `NETLINK_SOCK_DIAG`, `SOCK_DIAG_BY_FAMILY`, `NLM_F_REQUEST`,
/// `NLMSG_ERROR`, `IPPROTO_TCP`.
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IPPROTO_TCP: u8 = 6;
/// `struct nlmsghdr`, and in `struct inet_diag_msg` the place of `idiag_rqueue`, which
/// `idiag_wqueue` follows.
const HEADER: usize = 16;
const QUEUES: usize = HEADER + 4 + 48 + 4;

/// Bytes in the queues of the TCP socket `local` that is connected to `remote`: to be sent or not
/// acknowledged, and received but not read. `None`: there is no such socket.
///
/// # Errors
/// The kernel has no sock_diag.
pub(crate) fn tcp_queues(local: SocketAddr, remote: SocketAddr) -> Result<Option<(u32, u32)>> {
    let socket = Socket::new(
        Domain::from(AF_NETLINK),
        Type::DGRAM,
        Some(Protocol::from(NETLINK_SOCK_DIAG)),
    )?;
    socket.set_read_timeout(Some(deadline()))?;
    (&socket).write_all(&request(local, remote))?;
    let mut answer = [0; 4096];
    let length = (&socket).read(&mut answer)?;
    let answer = &answer[..length];
    ensure!(answer.len() >= HEADER, "a short answer of sock_diag");
    if u16::from_ne_bytes([answer[4], answer[5]]) == NLMSG_ERROR {
        return Ok(None);
    }
    ensure!(answer.len() >= QUEUES + 8, "a short answer of sock_diag");
    let word = |at: usize| {
        u32::from_ne_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]])
    };
    Ok(Some((word(QUEUES + 4), word(QUEUES))))
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`, which names one socket by its addresses.
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut body = vec![if local.is_ipv4() { 2 } else { 10 }, IPPROTO_TCP, 0, 0];
    body.extend(u32::MAX.to_ne_bytes()); // every state
    body.extend(local.port().to_be_bytes());
    body.extend(remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        let mut field = [0; 16];
        match address {
            IpAddr::V4(ip) => field[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => field = ip.octets(),
        }
        body.extend(field);
    }
    body.extend([0; 4]); // any interface
    body.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn unread_bytes_are_seen_and_an_unknown_socket_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, theirs) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let (_server, _) = listener.accept().unwrap();
        client.write_all(b"12345").unwrap();
        crate::eventually_true("the bytes are queued", || {
            tcp_queues(theirs, ours).unwrap() == Some((0, 5))
        })
        .unwrap();
        assert_eq!(tcp_queues(ours, "127.0.0.1:1".parse().unwrap()).unwrap(), None);
    }
}
