//! The harness of mux's integration tests.
//!
//! A test starts its own [`Daemon`] on port 0, [`Upstream`]s behind it and [`Conn`]s through it,
//! and waits on conditions with deadlines, never on the clock. What it cannot do here it says with
//! [`skip()`], which `MUX_TESTS_NO_SKIP=1` turns into a failure.
//!
//! Environment: `MUX_BIN` (the daemon), `MUX_TEST_MIB` (size of the large transfers, default 200),
//! `MUX_TEST_SECONDS` (every deadline, default 20), `MUX_TEST_SOCKMAP` (`[kernel] sockmap` of tests
//! that need the kernel relay, default `auto`).

mod access;
pub mod admin;
mod binary;
pub mod bpf;
mod conn;
mod daemon;
mod deadline;
mod diag;
pub mod hold;
mod lines;
pub mod netns;
mod pattern;
pub mod peers;
mod process;
pub mod procfs;
pub mod proxy;
mod relay;
mod scratch;
mod skip;
mod starter;
pub mod sys;
mod three;
pub mod tun;
mod upstream;

pub use self::{
    access::Access,
    binary::mux,
    conn::{Conn, Sends, exchange, join},
    daemon::{Daemon, Stopped},
    deadline::{deadline, eventually, eventually_true},
    pattern::Pattern,
    process::{Process, run, run_ok},
    proxy::ProxyHeader,
    relay::Relay,
    scratch::{Scratch, repository},
    skip::{NOBODY, Need, skip},
    starter::Starter,
    three::{Family, Three},
    upstream::{Server, Upstream},
};

/// MiB that the large transfers move each way.
#[must_use]
pub fn large_transfer() -> u64 {
    let mib = std::env::var("MUX_TEST_MIB").ok().and_then(|text| text.parse().ok());
    mib.unwrap_or(200) << 20
}
