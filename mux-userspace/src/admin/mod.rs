//! The daemon, seen and steered: HTTP over a Unix socket, and, for reading, over TCP.
//!
//! A thread of its own serves it, so that no question costs a flow more than a core's answer. What
//! a core knows it is asked for ([`crate::errand`]); what the daemon is to do goes over the desk
//! ([`crate::server`]'s `orders`) to the main thread.
//!
//! | file | what it is |
//! |---|---|
//! | `sockets` | bound before privileges are dropped |
//! | `serve` | the thread: connections, their number, their time |
//! | `body` | answers, and how much memory they may take together |
//! | `routes` | from a request to an answer |
//! | `state` | whom to ask |
//! | `status` | what `/status` says |
//! | `view` | the JSON, for both ends |

mod body;
mod routes;
mod serve;
mod sockets;
mod state;
mod status;
pub mod view;

pub(crate) use self::{
    serve::{Admin, CONNECTIONS, metrics_name, socket_name, spawn},
    sockets::{Sockets, bind},
    state::{Facts, Readers, State, alive},
    status::limits,
};
