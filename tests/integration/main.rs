//! Integration tests: one module per behaviour.

mod abi;
mod acl;
mod auto;
mod config_errors;
mod defects;
mod first_run;
mod health;
mod kernel;
mod kill;
mod leaks;
mod limits;
mod names;
mod portmux;
mod privileges;
mod queue;
mod real_peers;
mod relays;
mod shutdown;
mod sniffing;
mod stalled;
mod timeouts;
mod unix;
mod upstreams;
