//! Messages with descriptors between processes of ours: a pair of `SOCK_SEQPACKET` sockets, and
//! `SCM_RIGHTS` (unix(7)). A message is whole or not there; both sizes are bounded.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
        sendmsg, socketpair, sockopt,
    },
};

/// Most bytes of a message.
pub(super) const MAX_BYTES: usize = 16 << 10;
/// Most descriptors of a message; the kernel's limit is 253 (`SCM_MAX_FD`).
pub(super) const MAX_DESCRIPTORS: usize = 64;

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// A message.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Both ends; they are closed on exec.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), other))
    }

    /// An end that this process was given; fails if it is something else.
    pub(super) fn new(end: OwnedFd) -> io::Result<Self> {
        let is_ours = sockopt::socket_type(&end)? == SocketType::SEQPACKET
            && sockopt::socket_domain(&end)? == AddressFamily::UNIX;
        if is_ours { Ok(Self(end)) } else { Err(Errno::INVAL.into()) }
    }

    /// How long sending and receiving may each take, from here on; `None`: for ever.
    pub(super) fn set_timeout(&self, most: Option<Duration>) -> io::Result<()> {
        // Zero would be for ever.
        let most = most.map(|most| most.max(Duration::from_millis(1)));
        for which in [sockopt::Timeout::Send, sockopt::Timeout::Recv] {
            sockopt::set_socket_timeout(&self.0, which, most)?;
        }
        Ok(())
    }

    /// Sends a message.
    pub(super) fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = bytes.len() <= MAX_BYTES
            // The control buffer is rounded up, and may take one more.
            && descriptors.len() <= MAX_DESCRIPTORS
            && (descriptors.is_empty()
                || control.push(SendAncillaryMessage::ScmRights(descriptors)));
        if !fits {
            return Err(Errno::MSGSIZE.into());
        }
        let bytes = [IoSlice::new(bytes)];
        loop {
            match sendmsg(&self.0, &bytes, &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                result => return result.map(drop).map_err(Into::into),
            }
        }
    }

    /// Receives a message; `None`: there are no more, the other end is closed.
    pub(super) fn receive(&self) -> io::Result<Option<Received>> {
        self.receive_with(RecvFlags::CMSG_CLOEXEC)
    }

    /// Receives a message that has arrived; `None`: none has.
    pub(super) fn receive_now(&self) -> io::Result<Option<Received>> {
        match self.receive_with(RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            result => result,
        }
    }

    /// Whether the other end is closed.
    pub(super) fn is_closed(&self) -> bool {
        let mut wait = [PollFd::new(&self.0, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut wait, Some(&now)).is_ok() && wait[0].revents().contains(PollFlags::HUP)
    }

    fn receive_with(&self, flags: RecvFlags) -> io::Result<Option<Received>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = vec![0; MAX_BYTES];
        let message = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
                // CONNRESET is told once, before what has arrived, if the other end was closed with
                // something unread (`unix_release_sock`, net/unix/af_unix.c).
                Err(Errno::INTR | Errno::CONNRESET) => {}
                result => break result?,
            }
        };
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Errno::MSGSIZE.into());
        }
        if message.bytes == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        bytes.truncate(message.bytes);
        Ok(Some(Received { bytes, descriptors }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn messages_arrive_with_their_descriptors_then_the_end() {
        let (one, other) = Channel::pair().unwrap();
        let other = Channel::new(other).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        one.send(b"a", &[]).unwrap();
        one.send(b"b", &[listener.as_fd(); MAX_DESCRIPTORS]).unwrap();
        drop(one);
        let first = other.receive().unwrap().unwrap();
        assert_eq!((&*first.bytes, first.descriptors.len()), (&b"a"[..], 0));
        let second = other.receive().unwrap().unwrap();
        assert_eq!((&*second.bytes, second.descriptors.len()), (&b"b"[..], MAX_DESCRIPTORS));
        let again = TcpListener::from(second.descriptors.into_iter().next().unwrap());
        assert_eq!(again.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let (one, _other) = Channel::pair().unwrap();
        assert!(one.send(&vec![0; MAX_BYTES + 1], &[]).is_err());
        let fd = one.as_fd();
        assert!(one.send(b"", &[fd; MAX_DESCRIPTORS + 1]).is_err());
    }

    #[test]
    fn waiting_ends() {
        let (one, other) = Channel::pair().unwrap();
        assert!(one.receive_now().unwrap().is_none());
        one.set_timeout(Some(Duration::ZERO)).unwrap();
        assert_eq!(one.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!one.is_closed());
        drop(other);
        assert!(one.is_closed());
        assert!(one.receive().unwrap().is_none());
    }

    #[test]
    fn what_was_said_arrives_though_the_other_end_has_not_listened() {
        let (one, other) = Channel::pair().unwrap();
        let other = Channel::new(other).unwrap();
        other.send(b"never read", &[]).unwrap();
        one.send(b"said", &[]).unwrap();
        drop(one);
        assert_eq!(other.receive().unwrap().unwrap().bytes, b"said");
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn another_socket_is_no_end_of_a_channel() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Channel::new(listener.into()).is_err());
    }
}
