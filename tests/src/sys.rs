//! The system calls that no crate of ours wraps.
#![allow(unsafe_code, reason = "the one place for system calls")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
};

/// Makes the TUN device `name` in the calling thread's network namespace; it is there until the
/// file is closed. Each read and write is one IP packet. Non-blocking.
///
/// # Errors
/// No /dev/net/tun, no CAP_NET_ADMIN, or a name that is too long or taken.
pub(crate) fn open_tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // IFF_NO_PI: packets as they are, with nothing before them.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Bytes in a TCP socket's write queue: unsent and unacknowledged (`SIOCOUTQ`, tcp(7)).
///
/// # Errors
/// Not a connected TCP socket.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    let mut length: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the request writes one int.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut length) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(u64::try_from(length).unwrap_or(0))
    }
}

/// What a TCP connection's ends have agreed on, of `struct tcp_info` (include/uapi/linux/tcp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `TCPI_OPT_TIMESTAMPS`.
    pub timestamps: bool,
    /// `TCPI_OPT_SACK`.
    pub sack: bool,
    /// The window scale that the peer announced.
    pub peer_scale: u8,
    /// The one that this end announced.
    pub own_scale: u8,
}

/// Reads it.
///
/// # Errors
/// Not a TCP socket.
pub fn agreed(socket: impl AsFd) -> io::Result<Agreed> {
    let mut info = [0_u8; 8];
    let mut length = info.len() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `info`, of which the kernel fills what it holds.
    let result = unsafe {
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        libc::getsockopt(fd, level, name, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    let [_, _, _, _, _, options, scales, _] = info;
    Ok(Agreed {
        timestamps: options & 1 != 0,
        sack: options & 2 != 0,
        peer_scale: scales & 0xf,
        own_scale: scales >> 4,
    })
}

/// Takes a connection off a socket, whoever else holds the socket: with a RST if it is established
/// (`tcp_disconnect`), and its port is free.
///
/// # Errors
/// connect(2)'s.
pub fn disconnect(socket: impl AsFd) -> io::Result<()> {
    let nowhere =
        libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let fd = socket.as_fd().as_raw_fd();
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `nowhere`.
    let result = unsafe { libc::connect(fd, &raw const nowhere, length) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
