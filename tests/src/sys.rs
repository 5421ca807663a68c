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
