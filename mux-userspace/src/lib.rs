//! mux: a TCP port multiplexer whose data path is the Linux kernel.

pub mod probe;
pub mod route;
pub mod rules;
