//! Sockets as the rest of mux sees them: one type for TCP and Unix streams, addresses that
//! print as logs want them, the kernel's timers.

mod peer;
pub mod route;
mod stream;
mod timers;

pub use self::{
    peer::Peer,
    stream::{Parked, Stream},
    timers::TcpTimers,
};
