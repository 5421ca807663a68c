//! epoll(7), and the socket calls that server and generator share. No runtime: what is to be
//! measured is between these two ends, and they should cost as little as can be.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
    net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};

/// Events taken at once.
const BATCH: usize = 256;

/// An epoll instance and room for its events.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let empty = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: vec![empty; BATCH] })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: u64, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), interest)?)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: u64, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token), interest)?)
    }

    /// Waits, for ever where `timeout` is `None`; copies token and flags of what happened to
    /// `ready`.
    pub(crate) fn wait(
        &mut self,
        ready: &mut Vec<(u64, EventFlags)>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        ready.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let count = match epoll::wait(&self.epoll, self.events.as_mut_slice(), timeout.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        ready.extend(self.events.iter().take(count).map(|event| {
            let Event { flags, data } = *event;
            (data.u64(), flags)
        }));
        Ok(())
    }
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        text.parse().map(Self::Tcp).map_err(|error| format!("{text}: {error}"))
    }
}

/// Whether a small write waits for the acknowledgement of the one before (RFC 896).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nagle {
    On,
    Off,
}

/// Begins to connect; the socket is non-blocking, and connected when it is writable.
pub(crate) fn connect(target: &Target, nagle: Nagle) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let result = match target {
        Target::Tcp(address) => {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
            if nagle == Nagle::Off {
                sockopt::set_tcp_nodelay(&socket, true)?;
            }
            (rustix::net::connect(&socket, address), socket)
        }
        Target::Unix(path) => {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            (rustix::net::connect(&socket, &SocketAddrUnix::new(path)?), socket)
        }
    };
    match result {
        (Ok(()) | Err(Errno::INPROGRESS), socket) => Ok(socket),
        (Err(error), _) => Err(error.into()),
    }
}

/// What a non-blocking call brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// So many bytes; 0 from a read is the end of the stream.
    Bytes(usize),
    /// Nothing can be done now.
    Later,
}

pub(crate) fn read(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Moved> {
    moved(|| rustix::io::read(&socket, &mut *buffer))
}

/// A socket that is still connecting is one that cannot be written to now.
pub(crate) fn write(socket: impl AsFd, bytes: &[u8]) -> io::Result<Moved> {
    moved(|| match rustix::net::send(&socket, bytes, SendFlags::NOSIGNAL) {
        Err(Errno::NOTCONN) => Err(Errno::AGAIN),
        result => result,
    })
}

fn moved(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Moved> {
    loop {
        return match call() {
            Ok(bytes) => Ok(Moved::Bytes(bytes)),
            Err(Errno::AGAIN) => Ok(Moved::Later),
            Err(Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_addresses_or_paths() {
        assert!(matches!("127.0.0.1:80".parse(), Ok(Target::Tcp(_))));
        assert!(matches!("unix:/x".parse(), Ok(Target::Unix(path)) if path.ends_with("x")));
        assert!("localhost".parse::<Target>().is_err());
    }
}
