//! Integration tests: one module per behaviour.

mod abi;
mod acl;
mod auto;
mod bench;
mod config_errors;
mod defects;
mod first_run;
mod heads;
mod kernel;
mod kill;
mod leaks;
mod limits;
mod many_clients;
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
