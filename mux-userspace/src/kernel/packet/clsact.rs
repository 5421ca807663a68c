//! What aya does not do with the clsact qdisc: saying whether it was there, and removing it, if nobody
//! uses it.

use std::{io, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

// include/uapi/linux/{netlink,rtnetlink,pkt_sched}.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `struct nlmsghdr` and `struct tcmsg`.
const HEADER: usize = 16;
const MESSAGE: usize = HEADER + 20;

/// Gives a device a clsact qdisc. `false`: it has one. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// The kernel's; it has an ingress qdisc, which takes the same place.
pub(super) fn add(device: u32) -> io::Result<bool> {
    let socket = open()?;
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    // `struct rtattr` with the kind, padded to four bytes.
    let kind = *b"\x0b\0\x01\0clsact\0\0";
    let mut request = Vec::from(message(RTM_NEWQDISC, flags, device, CLSACT_HANDLE, TC_H_CLSACT));
    request.extend_from_slice(&kind);
    let length = request.len() as u32;
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    send(&socket, &request, SendFlags::empty())?;
    match answers(&socket) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a device's clsact qdisc unless it has filters. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// The kernel's; there is none, it is an ingress qdisc.
pub(super) fn remove_if_unused(device: u32) -> io::Result<()> {
    let socket = open()?;
    for parent in [INGRESS, EGRESS] {
        let dump = message(RTM_GETTFILTER, NLM_F_REQUEST | NLM_F_DUMP, device, 0, parent);
        send(&socket, &dump, SendFlags::empty())?;
        if answers(&socket)? > 0 {
            return Ok(());
        }
    }
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    let remove = message(RTM_DELQDISC, flags, device, CLSACT_HANDLE, TC_H_CLSACT);
    send(&socket, &remove, SendFlags::empty())?;
    answers(&socket).map(|_| ())
}

fn open() -> io::Result<OwnedFd> {
    // NETLINK_ROUTE is protocol 0.
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?)
}

fn message(kind: u16, flags: u16, device: u32, handle: u32, parent: u32) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[0..4].copy_from_slice(&(MESSAGE as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    // tcm_family and its padding are zero.
    message[HEADER + 4..HEADER + 8].copy_from_slice(&device.to_ne_bytes());
    message[HEADER + 8..HEADER + 12].copy_from_slice(&handle.to_ne_bytes());
    message[HEADER + 12..HEADER + 16].copy_from_slice(&parent.to_ne_bytes());
    message
}

/// Reads until the end of a dump or an acknowledgement, and counts the filters in it.
fn answers(socket: &OwnedFd) -> io::Result<usize> {
    let mut filters = 0;
    // A dump's messages come in pieces of at most 32 KiB (netlink_dump, net/netlink/af_netlink.c).
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (_, length) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((header, _)) = rest.split_at_checked(HEADER) {
            let [a, b, c, d, k, l, ..] = *header else { break };
            let (size, kind) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([k, l]));
            let body = rest.get(HEADER..HEADER + 4).unwrap_or_default();
            match kind {
                NLMSG_DONE => return Ok(filters),
                NLMSG_ERROR => {
                    let code = body.try_into().map_or(0, i32::from_ne_bytes);
                    return if code == 0 {
                        Ok(filters)
                    } else {
                        Err(io::Error::from_raw_os_error(-code))
                    };
                }
                RTM_NEWTFILTER => filters += 1,
                _ => {}
            }
            let next = (size as usize).next_multiple_of(4).max(HEADER);
            rest = rest.get(next..).unwrap_or_default();
        }
    }
}
