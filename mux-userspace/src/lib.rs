//! mux: a TCP port multiplexer whose data path is the Linux kernel.
//!
//! # In a program of one's own
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! mux::Mux::builder()
//!     .rule(mux::prefix("GET "), "127.0.0.1:80")
//!     .rule(mux::regex(r"^\x16\x03[\x00-\x03]")?, "192.168.1.1:443")
//!     .rule(|chunk: &[u8]| chunk.len() > 3 && chunk[0] == 5, "unix:/run/socks.sock")
//!     .on_connect(|flow| println!("{} -> {}", flow.client(), flow.upstream()))
//!     .listen("0.0.0.0:3000")
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! It serves on threads of its own until [`Serving::stop`] or the end of the process. A probe
//! of one's own can be a rule's condition, and be named in a rules file:
//!
//! ```
//! use std::{
//!     io::{Read, Write},
//!     net::TcpStream,
//!     sync::mpsc,
//! };
//!
//! use mux::{Mux, Probe, Verdict};
//!
//! // Version 1 of a protocol of ours: `ACME`, a version byte.
//! let acme = |bytes: &[u8]| match bytes {
//!     [b'A', b'C', b'M', b'E', 1, ..] => Verdict::Match(()),
//!     _ if bytes.len() < 5 && b"ACME".starts_with(&bytes[..bytes.len().min(4)]) => {
//!         Verdict::NeedMore(bytes.len() + 1)
//!     }
//!     _ => Verdict::NoMatch,
//! };
//! let (closed, was_closed) = mpsc::channel();
//! let serving = Mux::builder()
//!     .named_rule("acme", Probe::custom("acme", acme), "builtin:echo")
//!     .rule(mux::everything(), "builtin:discard")
//!     .on_close(move |flow| {
//!         let _ = closed.send((flow.rule().to_owned(), flow.bytes_down()));
//!     })
//!     .bind("127.0.0.1:0")
//!     .start_blocking()?;
//!
//! let address = serving.addresses().next().ok_or("no address")?;
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"ACME\x01")?;
//! let mut echo = [0; 5];
//! client.read_exact(&mut echo)?;
//! assert_eq!(&echo, b"ACME\x01");
//! drop(client);
//! assert_eq!(was_closed.recv()?, ("acme".to_owned(), 5));
//! serving.stop_blocking();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Inside
//!
//! A connection's life, which is also the reading order of the modules: [`listener`] accepts,
//! [`sniff`] reads its first bytes, [`mod@probe`] recognises protocols, [`route`] finds the rule,
//! [`upstream`] connects, [`flow`] replays what was sniffed, [`relay`] moves the rest, and
//! [`account`] keeps the record. ARCHITECTURE.md has the picture.

pub mod accept;
pub mod account;
pub mod admin;
pub mod builder;
pub mod check;
pub mod cli;
pub mod core;
pub mod doctor;
pub mod errand;
pub mod explain;
pub mod flow;
pub mod import;
pub mod kernel;
pub mod limit;
pub mod listener;
pub mod logging;
mod metrics;
pub mod net;
pub mod presence;
pub mod probe;
pub mod proxy;
pub mod relay;
mod remote;
pub mod route;
pub mod rules;
pub mod server;
pub mod shared;
pub mod snapshot;
pub mod sniff;
pub mod sys;
pub mod throttle;
mod top;
pub mod upstream;

pub use self::{
    account::hooks::Flow,
    builder::{
        Builder, Condition, IntoCondition, Mux, Serving, StartError, everything, prefix, probe,
        regex,
    },
    probe::{Details, Probe, Probes, Recognise, Verdict},
    route::Matcher,
};
