//! A TCP of our own over a TUN device, that sends whatever segments a test wants: overlaps,
//! duplicates, gaps, resets, a window of zero. It does nothing by itself but read: a test says
//! when to acknowledge.

mod packet;

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};

pub use self::packet::{ACK, FIN, PSH, RST, SYN, Segment};
use crate::{netns::Netns, sys};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest segment that we accept, bytes: kind 2, length 4.
const MSS: [u8; 4] = [2, 4, (1400_u16 >> 8) as u8, (1400_u16 & 0xff) as u8];

/// Makes the TUN device `name` in a namespace, down and without an address; it is there until the file
/// is closed. Each read and write is one IP packet. Non-blocking.
///
/// # Errors
/// Not root, or no /dev/net/tun.
pub fn device(namespace: &Netns, name: &str) -> Result<File> {
    let file = namespace.within(|| sys::open_tun(name))?.context("making a TUN device")?;
    // Router solicitations would only disturb.
    namespace.sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1").ok();
    Ok(file)
}

/// A TUN device with this machine at one end and a test at the other.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// This machine's address on it.
    pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
    /// The test's.
    pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

    /// Makes one in a namespace.
    ///
    /// # Errors
    /// Not root, or no /dev/net/tun.
    pub fn new(namespace: &Netns) -> Result<Self> {
        let file = device(namespace, "tun0")?;
        namespace.ip(&format!("address add {} peer {} dev tun0", Self::HOST, Self::PEER))?;
        namespace.ip("link set tun0 up")?;
        Ok(Self { file })
    }

    fn send(&mut self, segment: &Segment) -> Result<()> {
        self.file.write_all(&segment.to_bytes()).context("writing a packet")
    }

    /// The next TCP segment; `None`: none came until `deadline`.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Segment>> {
        let mut packet = [0; 65_536];
        loop {
            match self.file.read(&mut packet) {
                Ok(length) => {
                    if let Some(segment) = Segment::from_bytes(&packet[..length]) {
                        return Ok(Some(segment));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    let timeout = left.try_into().context("a short time")?;
                    poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&timeout))?;
                }
                Err(error) => return Err(error).context("reading a packet"),
            }
        }
    }
}

/// A connection from the test's end of a TUN device. Nothing is sent but what a method says.
#[derive(Debug)]
pub struct Connection {
    tun: Tun,
    local: SocketAddrV4,
    remote: SocketAddrV4,
    /// Sequence number of the first byte of our stream.
    start: u32,
    /// What the peer has acknowledged of our stream, bytes.
    acked: u32,
    /// The next sequence number that we expect.
    next: u32,
    /// The window that we offer, bytes.
    pub window: u16,
    /// The peer's stream, as far as it came in order.
    pub received: Vec<u8>,
    /// The peer's stream has ended.
    pub finished: bool,
    /// The peer has reset the connection.
    pub reset: bool,
}

impl Connection {
    /// Shakes hands with a listener; our stream starts at the sequence number `start`.
    ///
    /// # Errors
    /// No answer.
    pub fn open(tun: Tun, to: SocketAddrV4, start: u32, window: u16) -> Result<Self> {
        let mut connection = Self {
            tun,
            local: SocketAddrV4::new(Tun::PEER, 40_000),
            remote: to,
            start,
            acked: 0,
            next: 0,
            window,
            received: Vec::new(),
            finished: false,
            reset: false,
        };
        let mut syn = connection.segment(0, SYN, b"");
        syn.seq = start.wrapping_sub(1);
        syn.ack = 0;
        syn.options = MSS.to_vec();
        connection.tun.send(&syn)?;
        let deadline = Instant::now() + PATIENCE;
        let Some(answer) = connection.tun.receive(deadline)? else { bail!("no answer to a SYN") };
        if answer.flags != SYN | ACK {
            bail!("not a SYN-ACK: {answer:?}");
        }
        connection.next = answer.end();
        connection.acknowledge()?;
        Ok(connection)
    }

    /// A segment of ours whose data starts at `offset` of our stream.
    fn segment(&self, offset: u32, flags: u8, data: &[u8]) -> Segment {
        Segment {
            from: self.local,
            to: self.remote,
            seq: self.start.wrapping_add(offset),
            ack: self.next,
            flags,
            window: self.window,
            options: Vec::new(),
            data: data.to_vec(),
        }
    }

    /// Sends data that stands at `offset` of our stream, whatever was sent before.
    ///
    /// # Errors
    /// write(2)'s.
    pub fn send(&mut self, offset: u32, data: &[u8]) -> Result<()> {
        self.send_flags(offset, PSH | ACK, data)
    }

    /// The same with these flags.
    ///
    /// # Errors
    /// write(2)'s.
    pub fn send_flags(&mut self, offset: u32, flags: u8, data: &[u8]) -> Result<()> {
        let segment = self.segment(offset, flags, data);
        self.tun.send(&segment)
    }

    /// Acknowledges what came, and says how large the window is.
    ///
    /// # Errors
    /// write(2)'s.
    pub fn acknowledge(&mut self) -> Result<()> {
        // Where the peer expects us to be.
        let segment = self.segment(self.acked, ACK, b"");
        self.tun.send(&segment)
    }

    /// Takes what comes, and acknowledges it, until `done` holds; segments out of order are
    /// dropped.
    ///
    /// # Errors
    /// It does not hold in time.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let Some(segment) = self.tun.receive(deadline)? else {
                bail!("{what}: did not come; {}", self.state())
            };
            self.take(&segment)?;
        }
        Ok(())
    }

    /// Takes what comes for a while, as [`Connection::until`] does.
    ///
    /// # Errors
    /// read(2)'s and write(2)'s.
    pub fn for_a_while(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        while let Some(segment) = self.tun.receive(deadline)? {
            self.take(&segment)?;
        }
        Ok(())
    }

    fn take(&mut self, segment: &Segment) -> Result<()> {
        if segment.to != self.local || segment.from != self.remote {
            return Ok(());
        }
        if segment.flags & RST != 0 {
            self.reset = true;
            return Ok(());
        }
        let acked = segment.ack.wrapping_sub(self.start);
        if (acked.wrapping_sub(self.acked) as i32) > 0 {
            self.acked = acked;
        }
        let is_probe = segment.seq != self.next;
        if segment.data.is_empty() && segment.flags & FIN == 0 && !is_probe {
            return Ok(());
        }
        // Data that was on its way when the window closed is welcome all the same: a window that
        // shrinks costs the peer seconds of timeouts (RFC 9293, 3.8.6).
        if segment.seq == self.next {
            self.next = segment.end();
            self.received.extend(&segment.data);
            self.finished |= segment.flags & FIN != 0;
        }
        self.acknowledge()
    }

    /// What the peer has acknowledged of our stream, bytes; its FIN counts as one.
    #[must_use]
    pub const fn acked(&self) -> u32 {
        self.acked
    }

    fn state(&self) -> String {
        let Self { acked, window, received, finished, reset, .. } = self;
        format!(
            "{acked} bytes acknowledged, {} received, window {window}, finished {finished}, reset {reset}",
            received.len()
        )
    }

    /// How the daemon names us.
    #[must_use]
    pub const fn local(&self) -> SocketAddrV4 {
        self.local
    }
}
