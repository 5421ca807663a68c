//! mux: a TCP port multiplexer whose data path is the Linux kernel.
//!
//! A connection's life, which is also the reading order of the modules: [`listener`] accepts,
//! [`sniff`] reads its first bytes, [`probe`] recognises protocols, [`route`] finds the rule,
//! [`upstream`] connects, [`flow`] replays what was sniffed, [`relay`] moves the rest, and
//! [`account`] keeps the record. ARCHITECTURE.md has the picture.

pub mod account;
pub mod cli;
pub mod core;
pub mod doctor;
pub mod flow;
pub mod import;
pub mod kernel;
pub mod limit;
pub mod listener;
pub mod net;
pub mod probe;
pub mod relay;
pub mod route;
pub mod rules;
pub mod server;
pub mod shared;
pub mod sniff;
pub mod sys;
pub mod upstream;
