//! The private epoll of a core's spliced flows.
//!
//! Every redirected message wakes whoever waits for `EPOLLIN` on its source, so a spliced
//! socket must not stay in the runtime's epoll: here only its end and its errors are watched,
//! and reading or writing while user space carries passed bytes.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What a spliced socket is watched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Passed bytes are awaited.
    pub read: bool,
    /// Room for passed bytes is awaited.
    pub write: bool,
}

impl Interest {
    fn flags(self) -> EventFlags {
        // Edge-triggered: an end that cannot be passed on yet must not spin. Every change of
        // interest reports the present state anew.
        let mut flags = EventFlags::RDHUP | EventFlags::ET;
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

/// A core's private epoll.
#[derive(Debug)]
pub struct Watch {
    epoll: OwnedFd,
}

impl Watch {
    /// An empty one.
    ///
    /// # Errors
    /// epoll_create1(2)'s.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches a socket; closing it ends that.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn add(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what a socket is watched for.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn modify(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(token), interest.flags())?)
    }

    /// Watches a socket no longer.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn remove(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    /// Hands what has happened to `deliver`: token and `EPOLL*` bits.
    ///
    /// # Errors
    /// epoll_wait(2)'s.
    pub fn collect(&self, mut deliver: impl FnMut(u64, u32)) -> io::Result<()> {
        let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
        loop {
            let ready = match epoll::wait(&self.epoll, &mut events, Some(&zero)) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            let full = ready == events.len();
            for event in &events[..ready] {
                let data = event.data;
                let flags = event.flags;
                deliver(data.u64(), flags.bits());
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// A descriptor that is readable when something has happened.
    ///
    /// # Errors
    /// fcntl(2)'s.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }
}
