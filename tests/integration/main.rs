//! Integration tests: one module per behaviour.

mod defects;
mod relays;
