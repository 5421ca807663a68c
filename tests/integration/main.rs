//! Integration tests: one module per behaviour.

mod abi;
mod auto;
mod bench;
mod config_errors;
mod defects;
mod first_run;
mod kernel;
mod kill;
mod leaks;
mod limits;
mod portmux;
mod privileges;
mod real_peers;
mod relays;
mod shutdown;
mod sniffing;
mod stalled;
mod timeouts;
mod unix;
mod upstreams;
