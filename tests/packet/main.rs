//! The packet relay's kernel side by itself: the tc programs and `mux::kernel::packet`, with plain
//! sockets and a copying thread in the daemon's place, in network namespaces of the test's own.
//!
//! Needs root, iproute2 and nftables.

mod arming;
mod devices;
mod ends;
mod flow;
mod network;
mod place;
mod silence;
mod streams;
mod wire;
