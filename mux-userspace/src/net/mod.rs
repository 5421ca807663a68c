//! Sockets as the rest of mux sees them: one type for TCP and Unix streams, addresses that
//! print as logs want them.

mod peer;
mod stream;

pub use self::{
    peer::Peer,
    stream::{Parked, Stream},
};
