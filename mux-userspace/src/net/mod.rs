//! Sockets as the rest of mux sees them: one type for TCP and Unix streams, addresses that
//! print as logs want them, the kernel's timers.

use std::io;

use socket2::SockRef;

mod peer;
pub mod route;
mod stream;
mod tcp;
mod timers;

pub(crate) use self::tcp::Registered;
pub use self::{
    peer::Peer,
    stream::{Parked, Stream, Taken, Then},
    tcp::Tcp,
    timers::TcpTimers,
};

/// Sets a TCP socket up for being relayed; a listening one for all connections that it accepts, which
/// inherit this.
///
/// # Errors
/// setsockopt(2)'s.
pub fn set_up(socket: &SockRef<'_>) -> io::Result<()> {
    // What was a segment of the peer's must not wait for the ACK of the one before.
    socket.set_tcp_nodelay(true)?;
    set_up_reads(socket)
}

/// The same, but for Nagle's algorithm, which whoever writes a second time switches off.
///
/// # Errors
/// setsockopt(2)'s.
pub fn set_up_reads(socket: &SockRef<'_>) -> io::Result<()> {
    // The urgent byte is a byte of the stream. Without this a read leaves it out, and the count of
    // received bytes does not.
    socket.set_out_of_band_inline(true)
}
